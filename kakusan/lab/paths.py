"""The numbers behind the pictures of trajectories: samplers, the exact flow, straightness, error over steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan import grids
from kakusan.denoiser import BaseDenoiser
from kakusan.lab.fields import precision, shown_scale
from kakusan.levels import Level, tabulate
from kakusan.noise import Stream, as_seeds, normal
from kakusan.samplers import Sampler, sample, sample_iter
from kakusan.schedules import NoiseSchedule

STEP = 0.1
"""Largest step of the exact flow in log(sigma / alpha), for pictures."""


@dataclass(frozen=True)
class Paths:
    """Where samples stood at every time of a run.

    Args:
        label: what a figure calls it.
        schedule: the path they were sampled on.
        times: (S + 1,) falling.
        x: (S + 1, B, 2), x_t at each time.
        steps: of the sampler; None for a flow that is solved, not stepped.
        stochastic: whether fresh noise was added, so that the ends are not the flow's.
    """

    label: str
    schedule: NoiseSchedule
    times: Tensor
    x: Tensor
    steps: int | None = None
    stochastic: bool = False

    @property
    def end(self) -> Tensor:
        """(B, 2), the samples."""
        return self.x[-1]

    @property
    def shown(self) -> Tensor:
        """(S + 1, B, 2) in the coordinates of the figures (`kakusan.lab.fields`)."""
        return self.x * shown_scale(self.schedule, self.times).to(self.x).view(-1, 1, 1)

    @property
    def detour(self) -> float:
        """Length of all shown paths over the distance between their ends: 1 is straight."""
        shown = self.shown
        return float(shown.diff(dim=0).norm(dim=-1).sum() / (shown[-1] - shown[0]).norm(dim=-1).sum())

    def at(self, t: float) -> Tensor:
        """(B, 2) shown points at `t`, on the line between the two times around it."""
        shown, times = self.shown, self.times
        later = int(torch.searchsorted(-times, torch.tensor(-t, dtype=times.dtype)).clamp(1, len(times) - 1))
        share = float(((times[later - 1] - t) / (times[later - 1] - times[later])).clamp(0.0, 1.0))
        return shown[later - 1].lerp(shown[later], share)

    @property
    def straightness(self) -> float:
        """Mean square of (velocity - end-to-end velocity) over that of the latter, of the shown path: 0 is a straight
        walk at an even pace (Liu et al. 2022, arXiv 2209.03003, section 2, made free of units).
        """
        shown, spent = self.shown, -self.times.diff().to(self.x)
        whole = (shown[-1] - shown[0]) / spent.sum()
        pace = shown.diff(dim=0) / spent.view(-1, 1, 1)
        excess = ((pace - whole).square().sum(-1) * spent.view(-1, 1)).sum(0) / spent.sum()
        return float(excess.mean() / whole.square().sum(-1).mean())

    def distance(self, other: Paths) -> float:
        """Root mean square distance between the samples of two runs from the same noise.

        Raises:
            ValueError: another number of samples.
        """
        if self.end.shape != other.end.shape:
            raise ValueError(f"runs of {len(self.end)} and {len(other.end)} samples have no distance")
        return float((self.end - other.end).square().sum(-1).mean().sqrt())


def start(denoiser: BaseDenoiser, count: int, *, seed: int = 0, t: float | None = None) -> Tensor:
    """x_t (count, 2) float64 at `t` (t_max by default), as `samplers.sample` draws it from the same seeds."""
    if count < 1:
        raise ValueError(f"at least one point is needed, got {count}")
    level = Level.of(denoiser.schedule, denoiser.schedule.t_max if t is None else t)
    scale = math.sqrt(float(level.alpha) ** 2 * denoiser.sigma_data**2 + float(level.sigma) ** 2)
    seeds = as_seeds(range(seed, seed + count))
    return scale * normal(seeds, Stream.START, shape=(2,), dtype=torch.float64)


def follow(
    denoiser: BaseDenoiser, sampler: Sampler, grid: Tensor, *, count: int = 256, seed: int = 0, label: str = "sampler"
) -> Paths:
    """Every step of a sampler, from the noise of seeds `seed`, `seed + 1`, ...

    Args:
        grid: 1-D times, falling (`kakusan.grids`).
        count: of points.
    """
    steps = list(sample_iter(denoiser, sampler, grid, (count, 2), seeds=seed, dtype=precision(denoiser)))
    x = torch.stack([steps[0].x_t, *(step.x_s for step in steps)]).to(torch.float64)
    return Paths(label, denoiser.schedule, grid.to(torch.float64), x, len(steps), sampler.stochastic)


def exact_flow(
    denoiser: BaseDenoiser, times: Tensor, x_start: Tensor, *, label: str = "exact flow", step: float = STEP
) -> Paths:
    """The probability flow of a denoiser from x_start (B, 2) at times[0], at every one of `times`.

    Runge-Kutta of order 4 for x / (alpha n) against log u, u = sigma / alpha, n = sqrt(sigma_data^2 + u^2), where the
    flow changes evenly; `step` bounds its steps. A last time of 0 is reached by the denoised point at `lowest_time`.
    """
    schedule, data = denoiser.schedule, denoiser.sigma_data
    lowest = lowest_time(schedule)
    wide = times.to(torch.float64)

    def rate(y: Tensor, level: Level) -> Tensor:
        """dy/dr, r = log u."""
        u = float(level.noise_to_signal())
        n = math.hypot(data, u)
        return u / n * denoiser(y * (n * level.alpha), level).eps - y * (u / n) ** 2

    def scale(level: Level) -> float:
        return float(level.alpha) * math.hypot(data, float(level.noise_to_signal()))

    ends = (-0.5 * schedule.log_snr(wide.clamp_min(lowest))).tolist()
    x = x_start.to(precision(denoiser))
    found = [x]
    with torch.no_grad():
        for before, after in itertools.pairwise(ends):
            pieces = max(1, math.ceil(abs(after - before) / step)) if after != before else 0
            # Both ends of every step, and its middle.
            stops = torch.linspace(before, after, 2 * pieces + 1, dtype=torch.float64)
            levels = tabulate(schedule, schedule.time(-2.0 * stops))
            h = (after - before) / max(pieces, 1)
            y = x / scale(levels[0])
            for first, middle, last in zip(levels[:-1:2], levels[1::2], levels[2::2], strict=True):
                k1 = rate(y, first)
                k2 = rate(y + 0.5 * h * k1, middle)
                k3 = rate(y + 0.5 * h * k2, middle)
                k4 = rate(y + h * k3, last)
                y = y + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
            x = y * scale(levels[-1])
            found.append(x)
        if float(wide[-1]) == 0.0:
            found[-1] = denoiser(found[-1], levels[-1]).x0
    return Paths(label, schedule, wide, torch.stack(found).to(torch.float64))


def lowest_time(schedule: NoiseSchedule) -> float:
    """Where a flow that goes to data is left for the denoised point: sigma / alpha = 0.002, as the grids do."""
    found = float(schedule.time(torch.tensor(-2.0 * math.log(grids.LOWEST_NOISE), dtype=torch.float64)))
    return max(found, schedule.t_min)


def even_times(schedule: NoiseSchedule, count: int = 80, *, first: float | None = None) -> Tensor:
    """count + 1 times, even in t, to 0, for a flow to be drawn.

    Args:
        first: where they begin; by default at sigma / alpha = 80, or t_max if that is lower.
    """
    highest = float(schedule.time(torch.tensor(-2.0 * math.log(grids.HIGHEST_NOISE), dtype=torch.float64)))
    highest = min(highest, schedule.t_max) if first is None else first
    inner = torch.linspace(highest, lowest_time(schedule), count, dtype=torch.float64)
    return torch.cat([inner, torch.zeros(1, dtype=torch.float64)])


@dataclass(frozen=True)
class SolverError:
    """How far a sampler ends from the exact flow, over its number of steps.

    Args:
        label: of the sampler.
        steps: numbers of steps, rising.
        calls: network calls for each.
        errors: median over samples of the distance to the exact end, for each.
    """

    label: str
    steps: tuple[int, ...]
    calls: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def order(self) -> float:
        """Least-squares slope of -log(error) over log(steps), over the last three points above rounding."""
        kept = [(n, e) for n, e in zip(self.steps, self.errors, strict=True) if e > 1e-9][-3:]
        if len(kept) < 2:
            return math.nan
        x = torch.tensor([math.log(n) for n, _ in kept])
        y = torch.tensor([-math.log(e) for _, e in kept])
        x = x - x.mean()
        return float((x * y).sum() / x.square().sum())


STEPS = (4, 8, 16, 32, 64, 128)
"""Numbers of steps that solver errors are measured at."""


def solver_errors(
    denoiser: BaseDenoiser,
    samplers: Mapping[str, Sampler],
    *,
    steps: Sequence[int] = STEPS,
    count: int = 32,
    seed: int = 0,
    highest: float = 4.0,
    lowest: float = 4.0,
) -> list[SolverError]:
    """Error of deterministic samplers against the exact flow of the same denoiser.

    All run between two finite log-SNRs on a grid even in log-SNR: there a sampler shows its own order, which a last
    jump to t = 0 would hide.

    Args:
        samplers: by the label they get.
        steps: at least one number of steps, rising.
        highest, lowest: the run goes from log-SNR `-highest` to `lowest`.

    Raises:
        ValueError: a stochastic sampler, whose samples do not follow the flow, or one that chooses its own steps.
    """
    schedule = denoiser.schedule
    first, last = schedule.time(torch.tensor([-highest, lowest], dtype=torch.float64)).tolist()
    first, last = min(first, schedule.t_max), max(last, schedule.t_min)
    for name, sampler in samplers.items():
        if sampler.stochastic:
            raise ValueError(f"{name} adds fresh noise; only deterministic samplers have an error to the exact flow")
        if sampler.network_calls(tabulate(schedule, torch.tensor([first, last]))) is None:
            raise ValueError(f"{name} chooses its own steps; its error is set by its tolerances")
    x_start = start(denoiser, count, seed=seed, t=first)
    exact = exact_flow(denoiser, torch.tensor([first, last], dtype=torch.float64), x_start, step=0.02).end
    found = []
    for name, sampler in samplers.items():
        errors, calls = [], []
        for number in steps:
            grid = grids.log_snr(schedule, number, start=first, end=last)
            ends = sample(denoiser, sampler, grid, x_start.shape, x_start=x_start, dtype=precision(denoiser)).to(exact)
            errors.append(float((ends - exact).norm(dim=-1).median()))
            calls.append(sampler.network_calls(tabulate(schedule, grid)) or number)
        found.append(SolverError(name, tuple(steps), tuple(calls), tuple(errors)))
    return found
