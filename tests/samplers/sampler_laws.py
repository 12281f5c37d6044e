"""Exact answers that samplers are measured against; shared by the tests and by benchmarks/sampler_order.py.

Deterministic samplers: in one dimension the probability flow moves every quantile of p_t to the same quantile of p_s,
so the exact end of a trajectory is a quantile of the mixture and no finer run is needed. Stochastic samplers: with a
Gaussian target every step is affine in the samples and its noise, so feeding unit impulses gives the exact mean and
variance of the end, without Monte Carlo; on a mixture on the line expectations are carried backwards through the steps
by quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
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
    """Stands for `StepNoise`: draw d of step k is 1 for member 2 + k * draws + d of the batch and 0 for the rest."""

    def __init__(self, index: int, like: Tensor, draws: int = 1) -> None:
        self._first, self._like, self._draws = 2 + index * draws, like, draws

    def __call__(self, draw: int = 0) -> Tensor:
        assert 0 <= draw < self._draws
        noise = torch.zeros_like(self._like)
        noise[self._first + draw] = 1.0
        return noise


def moments(target: GaussianMixture, sampler: Sampler, grid: Tensor, *, draws: int = 1) -> tuple[float, float]:
    """Exact (mean, variance) at the end of the grid of samples started at the exact moments of its first time.

    `target` is one Gaussian on the line, `draws` how many draws a step makes.
    """
    levels = tabulate(target.schedule, grid)
    x = torch.zeros(2 + draws * (len(grid) - 1), 1, dtype=torch.float64)
    x[1] = 1.0
    state = State(num_steps=len(grid) - 1)
    with torch.no_grad():
        for index in range(len(grid) - 1):
            noise = Impulse(index, x, draws)
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
    target: GaussianMixture,
    sampler: Sampler,
    grid: Callable[[int], Tensor],
    steps: tuple[int, ...],
    *,
    draws: int = 1,
) -> tuple[list[float], list[float]]:
    """Errors of the mean and of the variance for every number of steps."""
    means, variances = [], []
    for count in steps:
        points = grid(count)
        mean, variance = moments(target, sampler, points, draws=draws)
        exact_mean, exact_variance = exact_moments(target, float(points[-1]))
        means.append(max(abs(mean - exact_mean), math.ulp(1.0)))
        variances.append(max(abs(variance - exact_variance), math.ulp(1.0)))
    return means, variances


class Fixed:
    """Stands for `StepNoise`: draw d is `values[d]`."""

    def __init__(self, *values: Tensor) -> None:
        self._values = values

    def __call__(self, draw: int = 0) -> Tensor:
        return self._values[draw]


FREQUENCIES = torch.tensor([0.7, 1.5, 2.5], dtype=torch.float64)


def weak_error(
    mixture: GaussianMixture, sampler: Sampler, grid: Tensor, *, draws: int = 1, points: int = 1201, nodes: int = 7
) -> float:
    """Weak error of a one-step sampler on a mixture on the line: mean |E cos(w x + p) - exact|, without Monte Carlo.

    The expectation is carried backwards, u_t(x) = E[u_s(step(x, noise))], on an even grid of points with interpolation
    of order 6; the noise of a step is integrated by Gauss-Hermite quadrature with `nodes` points for each draw.
    """
    levels = tabulate(mixture.schedule, grid)

    def window(level: Level) -> Tensor:
        centre = level.alpha * mixture.means.flatten()
        spread = (level.alpha**2 * mixture.variance.flatten() + level.sigma**2).sqrt()
        return torch.linspace(
            float((centre - 8.0 * spread).min()), float((centre + 8.0 * spread).max()), points, dtype=torch.float64
        )

    def waves(x: Tensor) -> Tensor:
        return torch.cat([(x[:, None] * FREQUENCIES).cos(), (x[:, None] * FREQUENCIES).sin()], 1)

    place, weight = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    rules = torch.cartesian_prod(*[torch.arange(nodes)] * draws).view(-1, draws)
    share = (weight / weight.sum())[rules].prod(1)
    x_s, state = window(levels[-1]), State(num_steps=len(levels) - 1)
    u = waves(x_s)
    for level_t, level_s in reversed(list(pairwise(levels))):
        x_t = window(level_t)
        start = x_t.repeat_interleave(len(share))[:, None]
        noise = Fixed(*(place[rules[:, d]].repeat(points)[:, None] for d in range(draws)))
        with torch.no_grad():
            end, _ = sampler.step(mixture, start, level_t, level_s, None, state, noise)  # type: ignore[arg-type]
        u = (_interpolated(x_s, u, end[:, 0]).view(points, len(share), -1) * share[:, None]).sum(1)
        x_s = x_t
    first, last = levels[0], levels[-1]
    density = mixture.log_prob(x_s[:, None], first.t).exp() * (x_s[1] - x_s[0])
    found = (density[:, None] * u).sum(0)
    variance = last.alpha**2 * mixture.variance + last.sigma**2
    size = mixture.log_weights.exp()[:, None] * (-0.5 * FREQUENCIES**2 * variance).exp()
    turn = last.alpha * mixture.means * FREQUENCIES
    exact = torch.cat([(size * turn.cos()).sum(0), (size * turn.sin()).sum(0)])
    return float((found - exact).abs().mean())


def _interpolated(x: Tensor, u: Tensor, at: Tensor) -> Tensor:
    """Lagrange interpolation through the six nearest of the even points x (N,) with values u (N, F)."""
    where = ((at - x[0]) / (x[1] - x[0])).clamp(0.0, len(x) - 1.0)
    first = (where.floor().long() - 2).clamp(0, len(x) - 6)
    offset = where - first
    total = torch.zeros(len(at), u.shape[1], dtype=u.dtype)
    for j in range(6):
        basis = torch.ones_like(offset)
        for k in range(6):
            if k != j:
                basis = basis * (offset - k) / (j - k)
        total += basis[:, None] * u[first + j]
    return total
