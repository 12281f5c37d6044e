"""Dequantisation: from the density of continuous data to a bound on the probability of stored integers.

Stored value x owns the bin of width w around it. For any q on that bin, log P(x) >= E_q[log p(v) - log q(v)], and
log of the mean over several draws of p(v) / q(v) is tighter (Burda et al. 2016, arXiv 1509.00519).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.data.spec import DataSpec
from kakusan.denoiser import BaseDenoiser
from kakusan.likelihood.bound import log_snr_ends
from kakusan.likelihood.decoders import Categorical
from kakusan.likelihood.divergence import Divergence, Exact
from kakusan.likelihood.flow import flow_log_prob
from kakusan.noise import Stream, as_seeds, uniform
from kakusan.schedules import NoiseSchedule
from kakusan.specs import register


@dataclass(frozen=True)
class Dequantisation(ABC):
    """A distribution q within each bin.

    Args:
        levels: number of stored values.
    """

    levels: int = 256

    @property
    def half(self) -> float:
        """Half the width of a bin."""
        return Categorical(self.levels).width / 2.0

    def for_data(self, spec: DataSpec) -> Dequantisation:
        """The same for the levels of these data; refused as by the discrete decoder."""
        return type(self)(Categorical.for_data(spec).levels)

    def start_log_snr(self, schedule: NoiseSchedule) -> float:
        """The log-SNR whose density the flow states."""
        return log_snr_ends(schedule)[0]

    @abstractmethod
    def draw(self, u: Tensor, start_log_snr: float) -> tuple[Tensor, Tensor]:
        """From uniforms u (B, C, *spatial): (v - x of that shape, -log q(v) (B,))."""


@register
@dataclass(frozen=True)
class UniformNoise(Dequantisation):
    """Even over the bin (Theis et al. 2016, arXiv 1511.01844, section 3.1)."""

    def draw(self, u: Tensor, start_log_snr: float) -> tuple[Tensor, Tensor]:
        entropy = u[0].numel() * math.log(2.0 * self.half)
        return (2.0 * u - 1.0) * self.half, u.new_full((len(u),), entropy)


@register
@dataclass(frozen=True)
class TruncatedNormalNoise(Dequantisation):
    """A normal of standard deviation u = sigma / alpha cut at the bin's edges (Zheng et al. 2023, arXiv 2305.03935,
    section 4.2).

    What the flow then starts from is x_t at that noise level itself, cut only where neighbouring bins meet, so a model
    sees just what it was trained on. It starts where half a bin is `edge` standard deviations, or at t_min when that is
    noisier. With 256 levels and an edge of 3 that is log-SNR 13.3.

    Args:
        levels: number of stored values.
        edge: half a bin in standard deviations.
    """

    edge: float = 3.0

    def __post_init__(self) -> None:
        if not self.edge > 0.0:
            raise ValueError(f"edge must be positive, got {self.edge}")

    def for_data(self, spec: DataSpec) -> TruncatedNormalNoise:
        return TruncatedNormalNoise(Categorical.for_data(spec).levels, self.edge)

    def start_log_snr(self, schedule: NoiseSchedule) -> float:
        high, low = log_snr_ends(schedule)
        return max(min(high, -2.0 * math.log(self.half / self.edge)), low)

    def draw(self, u: Tensor, start_log_snr: float) -> tuple[Tensor, Tensor]:
        std = math.exp(-0.5 * start_log_snr)
        edge = self.half / std
        # Only the lower half of the normal is ever inverted: near 1 its quantiles lose their digits.
        below = 0.5 * math.erfc(edge / math.sqrt(2.0))
        inside = 1.0 - 2.0 * below
        lower = below + inside * torch.minimum(u, 1.0 - u)
        eps = torch.special.ndtri(lower).clamp(-edge, 0.0) * torch.where(u < 0.5, 1.0, -1.0)
        each = 0.5 * eps**2 + math.log(std * inside * math.sqrt(2.0 * math.pi))
        return std * eps, each.flatten(1).sum(1)


def dequantised_log_prob(
    denoiser: BaseDenoiser,
    x0: Tensor,
    cond: Condition | None = None,
    *,
    noise: Dequantisation,
    seeds: Sequence[int] | Tensor,
    draws: int = 1,
    num_steps: int = 64,
    divergence: Divergence | None = None,
) -> Tensor:
    """Lower bound on log P(x0) of discrete data in nats, (B,) fp64, by the probability flow.

    Args:
        x0: (B, C, *spatial), values of `noise.levels` evenly spaced levels on [-1, 1].
        noise: how a value is spread over its bin.
        seeds: (B,), one for each sample.
        draws: importance draws; more make the bound tighter.

    Raises:
        ValueError: data that are not discrete, or several draws with a random divergence.
    """
    divergence = divergence or Exact()
    Categorical(noise.levels).check(x0)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if draws > 1 and not divergence.exact:
        raise ValueError(
            "several importance draws need the exact divergence: the logarithm of a mean of noisy densities is no "
            "lower bound"
        )
    numbers, start = as_seeds(seeds), noise.start_log_snr(denoiser.schedule)
    if len(numbers) != len(x0):
        raise ValueError(f"{len(numbers)} seeds were given for {len(x0)} samples")
    found = []
    for draw in range(draws):
        u = uniform(numbers, Stream.DEQUANTISE, draw, shape=x0.shape[1:], device=x0.device)
        offset, entropy = noise.draw(u, start)
        v = (x0.to(torch.float64) + offset).to(x0.dtype)
        density = flow_log_prob(
            denoiser, v, cond, seeds=numbers, num_steps=num_steps, divergence=divergence, start_log_snr=start
        )
        found.append(density + entropy)
    return torch.stack(found).logsumexp(0) - math.log(draws)
