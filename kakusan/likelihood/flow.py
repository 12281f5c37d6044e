"""Log density by the probability flow, an instantaneous change of variables (Song et al. 2021, arXiv 2011.13456,
eq. 39).

With u = sigma / alpha, n = sqrt(sigma_data^2 + u^2) and y = x_t / (alpha n) the flow is, against r = log u,

    dy/dr = u eps / n - (u / n)^2 y        div = sigma tr(d eps / d x_t) - (u / n)^2 D

on every schedule, and y is standard normal at the noise end. eps and x0 of a model of coupled noise still make up its
velocity, so its flow has a likelihood too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Scalar
from kakusan.likelihood.bound import log_snr_ends
from kakusan.likelihood.divergence import Divergence, Exact
from kakusan.noise import as_seeds
from kakusan.samplers.base import level_at_log_snr


@torch.no_grad()
def flow_log_prob(
    denoiser: BaseDenoiser,
    x: Tensor,
    cond: Condition | None = None,
    *,
    seeds: Sequence[int] | Tensor | None = None,
    num_steps: int = 64,
    divergence: Divergence | None = None,
    start_log_snr: float | None = None,
) -> Tensor:
    """Log density of x in nats, (B,) fp64, by `num_steps` steps of the classic Runge-Kutta method, even in log-SNR.

    Args:
        x: data (B, C, *spatial) in model units.
        cond: for B samples, or for one and shared.
        seeds: (B,), one for each sample; needed where the divergence draws.
        num_steps: of the solver; each evaluates the network four times.
        divergence: `Exact()` when None.
        start_log_snr: where the flow begins; log-SNR at t_min when None. The density is that of x_t / alpha there.

    Raises:
        ValueError: no seeds for a divergence that draws, or a start outside the schedule.
    """
    divergence = divergence or Exact()
    numbers = _seeds(seeds, len(x), divergence)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not x.is_floating_point():
        raise ValueError(f"x is data in model units (DataSpec.to_model), got integers of {x.dtype}")
    high, low = log_snr_ends(denoiser.schedule)
    start = high if start_log_snr is None else float(start_log_snr)
    if not low < start <= high + 1e-9:
        raise ValueError(f"the flow starts at a log-SNR above {low:.4g} and up to {high:.4g}, got {start:.4g}")
    if cond is not None:
        cond = cond.expand(len(x))
    dims, probes = x[0].numel(), divergence.probes(numbers, x)
    square = denoiser.sigma_data**2

    def rates(r: float, y: Tensor) -> tuple[Tensor, Tensor]:
        """(dy/dr, divergence (B,))."""
        level = level_at_log_snr(denoiser.schedule, -2.0 * r, x)
        u, share = math.exp(r), 1.0 / (1.0 + square * math.exp(-2.0 * r))
        norm = math.sqrt(square + u * u)
        alpha, sigma = _number(level.alpha), _number(level.sigma)
        eps, trace = divergence.evaluate(
            lambda point: denoiser(point, level, cond).eps, (y * (alpha * norm)).to(x.dtype), probes
        )
        return eps.to(torch.float64) * (u / norm) - y * share, sigma * trace - share * dims

    first, last = -0.5 * start, -0.5 * low
    norm = math.sqrt(square + math.exp(2.0 * first))
    y = x.to(torch.float64) / norm
    total = torch.full((len(x),), -dims * math.log(norm), dtype=torch.float64, device=x.device)
    h = (last - first) / num_steps
    for index in range(num_steps):
        r = first + index * h
        k1, d1 = rates(r, y)
        k2, d2 = rates(r + 0.5 * h, y + 0.5 * h * k1)
        k3, d3 = rates(r + 0.5 * h, y + 0.5 * h * k2)
        k4, d4 = rates(min(r + h, last), y + h * k3)
        y = y + (k1 + 2.0 * (k2 + k3) + k4) * (h / 6.0)
        total += (d1 + 2.0 * (d2 + d3) + d4) * (h / 6.0)
    return total - 0.5 * (y.flatten(1).square().sum(1) + dims * math.log(2.0 * math.pi))


def flow_with_error(
    denoiser: BaseDenoiser,
    x: Tensor,
    cond: Condition | None = None,
    *,
    seeds: Sequence[int] | Tensor | None = None,
    num_steps: int = 64,
    divergence: Divergence | None = None,
    start_log_snr: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(log density (B,), estimated error of the solver (B,)), from a second run of half the steps.

    The error of a fourth-order method falls sixteenfold from one to the other, so a fifteenth of the difference is
    what is left. It says nothing of the network's own error. Arguments as in `flow_log_prob`.
    """
    found = [
        flow_log_prob(denoiser, x, cond, seeds=seeds, num_steps=n, divergence=divergence, start_log_snr=start_log_snr)
        for n in (num_steps, max(1, num_steps // 2))
    ]
    return found[0], (found[0] - found[1]).abs() / 15.0


def _seeds(seeds: Sequence[int] | Tensor | None, count: int, divergence: Divergence) -> Tensor:
    if seeds is None:
        if not divergence.exact:
            raise ValueError(f"{type(divergence).__name__} draws random directions; give seeds, one for each sample")
        return torch.zeros(count, dtype=torch.int64)
    numbers = as_seeds(seeds)
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} seeds were given for {count} samples")
    return numbers


def _number(value: Scalar) -> float:
    return float(value) if not isinstance(value, Tensor) else float(value.reshape(-1)[0])
