"""Decoders: log p(x | z), the last link of a bound, from the least noisy latent z = alpha x + sigma eps to the data.

Discrete data are `levels` values evenly spaced on [-1, 1], a distance of 2 / (levels - 1) apart. They are given either
as a floating tensor in model units or as an integer tensor of indices 0 ... levels - 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from kakusan.data.spec import DataSpec
from kakusan.gaussian import log_interval
from kakusan.levels import Level, Scalar
from kakusan.specs import register

_CHUNK = 2**22
_D = TypeVar("_D", bound="Discrete")


class Decoder(ABC):
    """The distribution of the data given a noisy latent."""

    levels: int | None = None
    """Of discrete data; None where the data are continuous and log p is a density."""

    @abstractmethod
    def log_prob(self, x: Tensor, z: Tensor, level: Level) -> Tensor:
        """log p(x | z) in nats, (B,).

        Args:
            x: data (B, C, *spatial).
            z: the latent (B, C, *spatial) at `level`.
            level: the level of z.

        Raises:
            ValueError: x is not what this decoder describes.
        """

    def expected(self, x: Tensor, level: Level) -> Tensor | None:
        """E log p(x | z) over z = alpha x + sigma eps, (B,), where it has a closed form."""
        return None

    def from_mean(self, x: Tensor, mean: Tensor, log_variance: Scalar) -> Tensor | None:
        """log p(x) (B,) when the model states the mean of x, as L_0 of Ho et al. does; None: decode from z instead."""
        return None

    def start_log_snr(self, high: float) -> float:
        """The log-SNR from which it decodes, on a path that goes up to `high`."""
        return high

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Refuse data that are not what this decoder describes.

        Raises:
            ValueError: with the reason.
        """


@dataclass(frozen=True)
class Discrete(Decoder):
    """Base of the decoders of discrete data.

    Any level may hand over to the decoder and the bound holds. Where a value is plain to see, more signal gains nothing
    and a network's small errors in eps cost: by default it decodes where half the distance between values is `edge`
    standard deviations, which for 256 levels is VDM's log-SNR of 13.3.
    """

    levels: int = 256
    edge: float = 3.0

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"discrete data have at least two levels, got {self.levels}")
        if not self.edge > 0.0:
            raise ValueError(f"edge must be positive, got {self.edge}")

    def start_log_snr(self, high: float) -> float:
        return min(high, 2.0 * math.log(self.edge * (self.levels - 1)))

    @classmethod
    def for_data(cls: type[_D], spec: DataSpec) -> _D:
        """The decoder of pictures stored as integers from `spec.low` to `spec.high`.

        Raises:
            ValueError: not 8-bit data, or a range whose ends are not integers.
        """
        if spec.bits != 8:
            raise ValueError(
                f"the discrete decoder is for 8-bit data, at most 256 levels; these have {spec.bits} bits. Store the "
                "pictures with 8 bits, or ask for the density of continuous data"
            )
        if spec.low != int(spec.low) or spec.high != int(spec.high):
            raise ValueError(
                f"the stored values run from {spec.low} to {spec.high}, which are not integers, so stored pictures are "
                "not evenly spaced values on [-1, 1] with both ends; the discrete decoder needs a range of integers"
            )
        return cls(int(spec.high) - int(spec.low) + 1)

    @property
    def width(self) -> float:
        """Distance between neighbouring values."""
        return 2.0 / (self.levels - 1)

    def index(self, x: Tensor) -> Tensor:
        """Indices 0 ... levels - 1 (int64) of the data, shaped like x.

        Raises:
            ValueError: values between the levels or outside the range.
        """
        if not x.is_floating_point():
            found = x.to(torch.int64)
        else:
            place = (x.detach() + 1.0) * (0.5 * (self.levels - 1))
            found = place.round().to(torch.int64)
            # Model units in fp32 stand within 1e-7 of their level, which a 256th of the range blows up to 2e-5.
            off = ~((place - found.to(place)).abs() <= 1e-3)
            if bool(off.any()):
                worst = x.detach()[off].flatten()[0]
                raise ValueError(
                    f"the discrete decoder needs one of {self.levels} evenly spaced values on [-1, 1] in every "
                    f"element, got {float(worst):.6g}; give stored pictures in model units, not noisy or resized ones"
                )
        if found.numel() and not (int(found.min()) >= 0 and int(found.max()) < self.levels):
            raise ValueError(
                f"values {int(found.min())} to {int(found.max())} leave the range 0 to {self.levels - 1} of the "
                "discrete decoder; the data are not of the range that was recorded with the model"
            )
        return found

    def check(self, x: Tensor) -> None:
        self.index(x)

    def values(self, like: Tensor) -> Tensor:
        """The values (levels,) on [-1, 1]."""
        return torch.linspace(-1.0, 1.0, self.levels, dtype=torch.float64).to(like)


@register
@dataclass(frozen=True)
class Categorical(Discrete):
    """p(x_i | z_i) proportional to N(z_i; alpha v, sigma^2) over the values v (Kingma et al. 2021, section 4.1 and
    appendix E): the exact posterior of one element under a uniform prior.

    Args:
        levels: number of values.
        edge: where it decodes, in standard deviations for half the distance between values.
    """

    def log_prob(self, x: Tensor, z: Tensor, level: Level) -> Tensor:
        index = self.index(x)
        parts = [
            self.log_probs(z[rows], _part(level, rows)).gather(-1, index[rows].unsqueeze(-1)).flatten(1).sum(1)
            for rows in _blocks(len(z), z[0].numel() * self.levels)
        ]
        return torch.cat(parts)

    def log_probs(self, z: Tensor, level: Level) -> Tensor:
        """log p of every value, (B, C, *spatial, levels)."""
        centre = (z / _like(level.alpha, z)).unsqueeze(-1)
        rate = _like(level.alpha, z) / _like(level.sigma, z)
        rate = rate.unsqueeze(-1) if isinstance(rate, Tensor) else rate
        return (-0.5 * ((centre - self.values(z)) * rate) ** 2).log_softmax(-1)


@register
@dataclass(frozen=True)
class DiscretizedGaussian(Discrete):
    """The mass of a Gaussian in the bin of each value, the outer bins open (Ho et al. 2020, eq. 13).

    In the chain of T steps its mean is the model's x0 and its variance that of the last reverse step; in continuous
    time they are those of z, z / alpha and sigma^2 / alpha^2.

    Args:
        levels: number of values.
        edge: where it decodes, in standard deviations for half the distance between values.
    """

    def log_prob(self, x: Tensor, z: Tensor, level: Level) -> Tensor:
        log_variance = 2.0 * (_like(level.sigma, z).log() - _like(level.alpha, z).log())
        return self.from_mean(x, z / _like(level.alpha, z), log_variance)

    def from_mean(self, x: Tensor, mean: Tensor, log_variance: Scalar) -> Tensor:
        index = self.index(x)
        value = self.values(mean)[index]
        rate = (-0.5 * _like(log_variance, mean)).exp()
        low = (value - 0.5 * self.width - mean) * rate
        high = (value + 0.5 * self.width - mean) * rate
        low = low.masked_fill(index == 0, -torch.inf)
        high = high.masked_fill(index == self.levels - 1, torch.inf)
        return log_interval(low, high).flatten(1).sum(1)


@register
@dataclass(frozen=True)
class Density(Decoder):
    """log N(x; z / alpha, sigma^2 / alpha^2): the density of continuous data."""

    def log_prob(self, x: Tensor, z: Tensor, level: Level) -> Tensor:
        alpha, sigma = _like(level.alpha, z), _like(level.sigma, z)
        log_u = sigma.log() - alpha.log()
        error = ((x - z / alpha) * (alpha / sigma)) ** 2
        return -0.5 * (error + 2.0 * log_u + math.log(2.0 * math.pi)).flatten(1).sum(1)

    def expected(self, x: Tensor, level: Level) -> Tensor | None:
        alpha, sigma = (torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (level.alpha, level.sigma))
        each = -(sigma.log() - alpha.log()) - 0.5 * (math.log(2.0 * math.pi) + 1.0)
        return (x[0].numel() * each).expand(len(x)).to(x.device)

    def check(self, x: Tensor) -> None:
        if not x.is_floating_point() or not bool(x.isfinite().all()):
            raise ValueError("the density is of finite real numbers; integers and NaN have none")


def _like(value: Scalar, like: Tensor) -> Tensor:
    return value.to(like) if isinstance(value, Tensor) else like.new_tensor(value)


def _part(level: Level, rows: slice) -> Level:
    """A level of some samples of the batch."""
    several = isinstance(level.t, Tensor) and level.t.dim() > 0 and len(level.t) > 1
    if not several:
        return level
    t, alpha, sigma, log_snr = (v[rows] for v in (level.t, level.alpha, level.sigma, level.log_snr))  # type: ignore[index]
    return Level(t, alpha, sigma, log_snr)


def _blocks(count: int, size: int) -> list[slice]:
    """Runs of samples that need about 4 million numbers each."""
    tall = max(1, _CHUNK // max(size, 1))
    return [slice(start, start + tall) for start in range(0, max(count, 1), tall)]
