"""Time grids: `(schedule, num_steps) -> 1-D fp64 tensor` of num_steps + 1 times, falling to sample, rising to invert.

The first entry is where sampling starts, the last is the exact end. Every entry but the last is a time at which the
network is evaluated. `start` defaults to `schedule.t_max` and `end` to 0, that is, to data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from kakusan.schedules import NoiseSchedule

Grid: TypeAlias = Callable[[NoiseSchedule, int], Tensor]

# EDM's range of sigma / alpha (Karras et al. 2022, table 1): beyond it there is nothing to gain for 8-bit data.
LOWEST_NOISE = 0.002
HIGHEST_NOISE = 80.0


def _ends(schedule: NoiseSchedule, num_steps: int, start: float | None, end: float | None) -> tuple[float, float]:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    first = schedule.t_max if start is None else float(start)
    last = 0.0 if end is None else float(end)
    for name, t in (("start", first), ("end", last)):
        if not 0.0 <= t <= 1.0:
            raise ValueError(f"{name} must lie in [0, 1], got {t}")
    if first == last:
        raise ValueError(f"the grid starts where it ends, at t = {first}")
    if first == 0.0:
        raise ValueError(f"the network says nothing at t = 0; start from schedule.t_min = {schedule.t_min:.3g}")
    return first, last


def uniform(schedule: NoiseSchedule, num_steps: int, *, start: float | None = None, end: float | None = None) -> Tensor:
    """Equal steps in t."""
    return _in_power(schedule, num_steps, start, end, 1.0)


def quadratic(
    schedule: NoiseSchedule, num_steps: int, *, start: float | None = None, end: float | None = None
) -> Tensor:
    """Equal steps in the root of t, denser near the data (DDIM, Song et al. 2021, arXiv 2010.02502, D.2)."""
    return _in_power(schedule, num_steps, start, end, 2.0)


def _in_power(schedule: NoiseSchedule, num_steps: int, start: float | None, end: float | None, power: float) -> Tensor:
    """Equal steps in t^(1 / power); one that would evaluate the network below t_min stops there, then jumps to data."""
    first, last = _ends(schedule, num_steps, start, end)

    def between(low: float, count: int) -> Tensor:
        return torch.linspace(first ** (1.0 / power), low ** (1.0 / power), count, dtype=torch.float64) ** power

    grid, lowest = between(last, num_steps + 1), schedule.t_min
    if last == 0.0 and first > lowest and float(grid[-2]) < lowest:
        grid = torch.cat([between(lowest, num_steps), grid.new_zeros(1)])
    grid[0], grid[-1] = first, last
    return grid


def _in_noise(
    schedule: NoiseSchedule,
    num_steps: int,
    start: float | None,
    end: float | None,
    between: Callable[[float, float, int], Tensor],
) -> Tensor:
    """A grid spaced in u = sigma / alpha; one that runs to data ends its spacing at `LOWEST_NOISE`, then jumps."""
    first, last = _ends(schedule, num_steps, start, end)
    highest = float(_noise(schedule, first))
    if start is None:
        highest = min(highest, max(HIGHEST_NOISE, float(_noise(schedule, schedule.t_min)) * 2.0))
    to_data = last == 0.0
    lowest = max(LOWEST_NOISE, float(_noise(schedule, schedule.t_min))) if to_data else float(_noise(schedule, last))
    if to_data and lowest >= highest:
        lowest = highest * LOWEST_NOISE / HIGHEST_NOISE
    count = num_steps if to_data else num_steps + 1
    noise = between(highest, lowest, count)
    grid = schedule.time(-2.0 * noise.log()).detach()
    if start is not None or highest == float(_noise(schedule, first)):
        grid[0] = first
    if to_data:
        return torch.cat([grid, grid.new_zeros(1)])
    grid[-1] = last
    return grid


def _noise(schedule: NoiseSchedule, t: float) -> Tensor:
    return (-0.5 * schedule.log_snr(torch.tensor(t, dtype=torch.float64))).exp().detach()


def karras(
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    rho: float = 7.0,
    start: float | None = None,
    end: float | None = None,
) -> Tensor:
    """Equal steps in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5)."""
    if rho <= 0.0:
        raise ValueError(f"rho must be positive, got {rho}")

    def between(high: float, low: float, count: int) -> Tensor:
        return torch.linspace(high ** (1.0 / rho), low ** (1.0 / rho), count, dtype=torch.float64) ** rho

    return _in_noise(schedule, num_steps, start, end, between)


def log_snr(schedule: NoiseSchedule, num_steps: int, *, start: float | None = None, end: float | None = None) -> Tensor:
    """Equal steps in log-SNR (DPM-Solver, Lu et al. 2022, arXiv 2206.00927)."""

    def between(high: float, low: float, count: int) -> Tensor:
        return torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64).exp()

    return _in_noise(schedule, num_steps, start, end, between)


def discrete(
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    chain: int = 1000,
    start: float | None = None,
    end: float | None = None,
) -> Tensor:
    """A sub-sequence of the steps i / chain of a discrete process, as even as whole numbers allow (DDIM, section 4.2).

    Raises:
        ValueError: more steps are asked for than the chain has there.
    """
    first, last = _ends(schedule, num_steps, start, end)
    lowest = math.ceil(schedule.t_min * chain - 1e-9) / chain

    def between(low: float, count: int) -> Tensor:
        span = abs(first - low) * chain
        if span < count * (1.0 - 1e-9):
            raise ValueError(f"a chain of {chain} steps has {math.floor(span)} of them there, {count} were asked for")
        # Steps are at least one apart here, so rounding brings no two of them together.
        return torch.linspace(first * chain, low * chain, count + 1, dtype=torch.float64).round() / chain

    grid = between(last, num_steps)
    if last == 0.0 and first > lowest and num_steps > 1 and float(grid[-2]) < lowest:
        # A network is not evaluated below t_min: stop there, then jump to data.
        grid = torch.cat([between(lowest, num_steps - 1), grid.new_zeros(1)])
    grid[0], grid[-1] = first, last
    return grid


def subsequence(steps: Sequence[int], chain: int = 1000) -> Tensor:
    """Any sub-sequence tau of the steps 1 ... chain (DDIM, section 4.2), in any order given; sampling ends at data.

    Raises:
        ValueError: no steps, a step twice or outside 1 ... chain.
    """
    falling = sorted(steps, reverse=True)
    if not falling or falling[-1] < 1 or falling[0] > chain or len(set(falling)) != len(falling):
        raise ValueError(f"a sub-sequence holds different whole numbers from 1 to {chain}, got {list(steps)[:8]}")
    return explicit([*(step / chain for step in falling), 0.0])


def explicit(times: Sequence[float] | Tensor) -> Tensor:
    """A grid from a list of times in [0, 1], strictly falling or strictly rising.

    Raises:
        ValueError: fewer than two times, out of range, not monotone, or evaluated at t = 0.
    """
    grid = torch.as_tensor(times, dtype=torch.float64)
    if grid.dim() != 1 or len(grid) < 2:
        raise ValueError(f"a grid is a 1-D list of at least two times, got shape {tuple(grid.shape)}")
    if not bool(((grid >= 0.0) & (grid <= 1.0)).all()):
        raise ValueError("every time of a grid must lie in [0, 1], where 0 is data and 1 is noise")
    steps = grid.diff()
    if not (bool((steps < 0).all()) or bool((steps > 0).all())):
        raise ValueError("the times of a grid must strictly fall (to sample) or strictly rise (to invert)")
    if float(grid[0]) == 0.0:
        raise ValueError("the network says nothing at t = 0; start a rising grid from schedule.t_min")
    return grid


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "karras": karras,
    "log-snr": log_snr,
    "discrete": discrete,
}
