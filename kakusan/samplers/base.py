"""The sampler contract and the one loop that all samplers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser, Prediction
from kakusan.levels import Level, tabulate
from kakusan.noise import StepNoise, Stream, as_seeds, normal
from kakusan.schedules import NoiseSchedule

Entry: TypeAlias = "tuple[Level, Tensor]"


# Not frozen: a frozen dataclass costs a microsecond more to make, and one of each is made in every step.
@dataclass(slots=True)
class State:
    """What a sampler remembers between steps: tensors with leading B, and numbers. Never changed once made.

    Args:
        num_steps: of the whole grid (EDM's churn is a budget shared by the steps).
        prediction: of the last evaluation, for whoever watches.
        history: past evaluations, the newest first, each with its level.
        anchor: the samples before the last predictor step, for correctors.
        index: steps taken.
    """

    num_steps: int = 1
    prediction: Prediction | None = None
    history: tuple[Entry, ...] = ()
    anchor: Entry | None = None
    index: int = 0


@dataclass(slots=True)
class Step:
    """One step: from x_t at `level` to x_s at `next_level`, with the prediction it was made from."""

    index: int
    level: Level
    next_level: Level
    x_t: Tensor
    x_s: Tensor
    prediction: Prediction | None = field(repr=False)


class Sampler(ABC):
    """A frozen dataclass that makes one step."""

    stochastic: bool = False

    @abstractmethod
    def step(
        self,
        denoiser: BaseDenoiser,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        cond: Condition | None,
        state: State,
        noise: StepNoise,
    ) -> tuple[Tensor, State]:
        """From x_t (B, C, *spatial) at `level_t` to x_s at `level_s` (less noise, or more to invert)."""

    def network_calls(self, levels: Sequence[Level]) -> int | None:
        """How often the network is evaluated on this grid; None when that depends on the samples."""
        return len(levels) - 1


def check_start(denoiser: BaseDenoiser, sampler: Sampler, levels: Sequence[Level]) -> None:
    """Refuse what cannot work before the first evaluation."""
    if not sampler.stochastic:
        return
    if not denoiser.independent_noise:
        raise ValueError(
            f"{type(sampler).__name__} adds fresh noise, but this model was trained on coupled pairs of noise and "
            "data; use a deterministic sampler (DDIM with eta = 0, Heun without churn, DPMSolverPP)"
        )
    if levels[-1].t > levels[0].t:
        raise ValueError(f"{type(sampler).__name__} adds fresh noise and cannot run a rising grid; use DDIM to invert")


def sample_iter(
    denoiser: BaseDenoiser,
    sampler: Sampler,
    grid: Tensor,
    shape: Sequence[int],
    cond: Condition | None = None,
    *,
    seeds: Sequence[int] | Tensor | int = 0,
    x_start: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Iterator[Step]:
    """Yield every step of a sampling run.

    Args:
        grid: 1-D times, falling to sample or rising to invert (`kakusan.grids`).
        shape: (B, C, *spatial).
        cond: for B samples, or for one and shared.
        seeds: one for each sample, or the first of B consecutive ones. A sample depends on its own seed only.
        x_start: samples at the first time of the grid; by default drawn there with the variance that data have.

    Raises:
        ValueError: shapes or seeds do not fit, or the sampler cannot run this grid.
    """
    size = tuple(shape)
    numbers = as_seeds(range(seeds, seeds + size[0]) if isinstance(seeds, int) else seeds)
    if len(numbers) != size[0]:
        raise ValueError(f"{len(numbers)} seeds were given for {size[0]} samples")
    levels = tabulate(denoiser.schedule, grid)
    check_start(denoiser, sampler, levels)
    if x_start is None:
        first = levels[0]
        scale = (first.alpha**2 * denoiser.sigma_data**2 + first.sigma**2) ** 0.5
        x = normal(numbers, Stream.START, shape=size[1:], dtype=dtype, device=device).mul_(scale)
    elif tuple(x_start.shape) != size:
        raise ValueError(f"x_start has shape {tuple(x_start.shape)}, expected {size}")
    else:
        x = x_start.to(device=device, dtype=dtype)
    if cond is not None:
        cond = cond.expand(size[0])
    denoiser.forget()
    state = State(num_steps=len(levels) - 1)
    # Around each step and not around the yield, which would switch gradients off for whoever watches.
    step, quiet_step = sampler.step, torch.no_grad()(sampler.step)
    for index, (level_t, level_s) in enumerate(pairwise(levels)):
        move = quiet_step if torch.is_grad_enabled() else step
        x_next, state = move(denoiser, x, level_t, level_s, cond, state, StepNoise(numbers, index, x))
        yield Step(index, level_t, level_s, x, x_next, state.prediction)
        x = x_next


def sample(
    denoiser: BaseDenoiser,
    sampler: Sampler,
    grid: Tensor,
    shape: Sequence[int],
    cond: Condition | None = None,
    *,
    seeds: Sequence[int] | Tensor | int = 0,
    x_start: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The samples at the end of the grid, (B, C, *spatial); arguments as in `sample_iter`."""
    steps = sample_iter(denoiser, sampler, grid, shape, cond, seeds=seeds, x_start=x_start, dtype=dtype, device=device)
    with torch.no_grad():
        for step in steps:
            last = step.x_s
    return last


def at_data(level: Level) -> bool:
    """Whether the level is the exact end, where nothing is evaluated.

    Raises:
        ValueError: of samples at different times, some reach data and some do not.
    """
    if not isinstance(level.sigma, Tensor):
        return level.sigma == 0.0
    ends = level.sigma == 0.0
    if bool(ends.any()) and not bool(ends.all()):
        raise ValueError("samples whose step ends at data and samples whose step does not cannot share one step")
    return bool(ends.all())


def standing(level_t: Level, level_s: Level) -> bool:
    """Whether a step goes nowhere: it is the identity, and asks nothing of the network."""
    return not isinstance(level_t.t, Tensor) and level_t.t == level_s.t


def level_at_log_snr(schedule: NoiseSchedule, log_snr: float | Tensor, like: Tensor) -> Level:
    """The level with this log-SNR: a number, or a tensor that broadcasts against the samples."""
    value = torch.as_tensor(log_snr, dtype=torch.float64)
    t = schedule.time(value.reshape(-1) if value.dim() else value)
    return Level.of(schedule, t, like)
