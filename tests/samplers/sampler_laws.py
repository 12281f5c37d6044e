"""Exact answers that samplers are measured against; shared by the tests and by benchmarks/sampler_order.py.

Deterministic samplers: in one dimension the probability flow moves every quantile of p_t to the same quantile of p_s,
so the exact end of a trajectory is a quantile of the mixture and no finer run is needed. Stochastic samplers: with a
Gaussian target every step is affine in the samples and its noise, so feeding unit impulses gives the exact mean and
variance of the end, without Monte Carlo.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kakusan.levels import Level, tabulate
from kakusan.oracles import GaussianMixture
from kakusan.samplers import Sampler, State, sample
from kakusan.schedules import NoiseSchedule

STEPS = (64, 128, 256, 512)
QUANTILES = torch.linspace(0.03, 0.97, 17, dtype=torch.float64)


def times(schedule: NoiseSchedule, high: float, low: float) -> tuple[float, float]:
    """The times between the log-SNRs `-high` and `low`."""
    ends = schedule.time(torch.tensor([-high, low], dtype=torch.float64)).tolist()
    return ends[0], ends[1]


def bumpy(schedule: NoiseSchedule) -> GaussianMixture:
    """A mixture of three unequal components on the line, samples of shape (1,)."""
    means = torch.tensor([[-1.0], [0.2], [1.1]])
    return GaussianMixture(means, torch.tensor([0.4, 0.25, 0.35]), torch.tensor([0.4, 0.25, 0.35]), schedule=schedule)


def quantile(mixture: GaussianMixture, probability: Tensor, t: float) -> Tensor:
    """The quantiles (B, 1) of a mixture on the line at time t, by bisection to the last bit."""
    level = Level.of(mixture.schedule, t)
    centre = level.alpha * mixture.means.flatten()
    spread = (level.alpha**2 * mixture.variance.flatten() + level.sigma**2).sqrt()
    weight = mixture.log_weights.exp()
    low = torch.full_like(probability, float((centre - 9.0 * spread).min()))
    high = torch.full_like(probability, float((centre + 9.0 * spread).max()))
    for _ in range(90):
        middle = 0.5 * (low + high)
        below = (weight * torch.special.ndtr((middle[:, None] - centre) / spread)).sum(1) < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (0.5 * (low + high)).view(-1, 1)


def flow_error(mixture: GaussianMixture, sampler: Sampler, grid: Tensor) -> float:
    """Mean distance between where a sampler and the exact flow take the quantiles of p_t, over the whole grid."""
    start = quantile(mixture, QUANTILES, float(grid[0]))
    exact = quantile(mixture, QUANTILES, float(grid[-1]))
    found = sample(mixture, sampler, grid, start.shape, x_start=start, dtype=torch.float64)
    return float((found - exact).abs().mean())


def slope(steps: tuple[int, ...], errors: list[float]) -> float:
    """Least-squares slope of -log(error) against log(steps): the order of convergence."""
    x = torch.tensor(steps, dtype=torch.float64).log()
    y = -torch.tensor(errors, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def flow_order(
    mixture: GaussianMixture, sampler: Sampler, grid: Callable[[int], Tensor], steps: tuple[int, ...] = STEPS
) -> float:
    """Measured order of a deterministic sampler."""
    return slope(steps, [flow_error(mixture, sampler, grid(count)) for count in steps])


class Impulse:
    """Stands for `StepNoise`: noise of the k-th step is 1 for member k + 2 of the batch and 0 for the rest."""

    def __init__(self, index: int, like: Tensor) -> None:
        self._noise = torch.zeros_like(like)
        self._noise[index + 2] = 1.0

    def __call__(self, draw: int = 0) -> Tensor:
        assert draw == 0
        return self._noise


def moments(target: GaussianMixture, sampler: Sampler, grid: Tensor) -> tuple[float, float]:
    """Exact (mean, variance) at the end of the grid of samples started at the exact moments of its first time.

    `target` is one Gaussian on the line.
    """
    levels = tabulate(target.schedule, grid)
    x = torch.zeros(len(grid) + 1, 1, dtype=torch.float64)
    x[1] = 1.0
    state = State(num_steps=len(grid) - 1)
    with torch.no_grad():
        for index in range(len(grid) - 1):
            noise = Impulse(index, x)
            x, state = sampler.step(target, x, levels[index], levels[index + 1], None, state, noise)  # type: ignore[arg-type]
    gains = (x - x[0])[1:, 0]
    mean, variance = exact_moments(target, float(grid[0]))
    return float(x[0, 0] + gains[0] * mean), float(gains[0] ** 2 * variance + gains[1:].square().sum())


def exact_moments(target: GaussianMixture, t: float) -> tuple[float, float]:
    """(mean, variance) of one Gaussian on the line at time t."""
    level = Level.of(target.schedule, t)
    mean, variance = float(target.means), float(target.variance)
    return float(level.alpha) * mean, float(level.alpha) ** 2 * variance + float(level.sigma) ** 2


def lone(schedule: NoiseSchedule, mean: float = 0.7, std: float = 0.6) -> GaussianMixture:
    """One Gaussian on the line."""
    return GaussianMixture(torch.tensor([[mean]]), std, schedule=schedule)


def moment_errors(
    target: GaussianMixture, sampler: Sampler, grid: Callable[[int], Tensor], steps: tuple[int, ...]
) -> tuple[list[float], list[float]]:
    """Errors of the mean and of the variance for every number of steps."""
    means, variances = [], []
    for count in steps:
        points = grid(count)
        mean, variance = moments(target, sampler, points)
        exact_mean, exact_variance = exact_moments(target, float(points[-1]))
        means.append(max(abs(mean - exact_mean), math.ulp(1.0)))
        variances.append(max(abs(variance - exact_variance), math.ulp(1.0)))
    return means, variances
