"""How straight a model's trajectories are, and how far they carry: what decides how few steps suffice.

S(Z) = integral over t of E |(Z_1 - Z_0) - dZ_t/dt|^2 (Liu et al. 2023, arXiv 2209.03003): 0 only where every
trajectory is a straight line run through at constant speed, so that one Euler step is exact. A model on any other
schedule is measured on the straight path at equal noise levels, where its probability flow is the same curve.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kakusan import grids
from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level
from kakusan.noise import Stream, as_seeds, normal
from kakusan.schedules import Rectified


@dataclass(frozen=True)
class StraightnessRecord:
    """Means over trajectories, each with its standard error.

    Args:
        value: S(Z), summed over the elements of a sample, in squared data units.
        stderr: of `value`.
        cost: E |Z_1 - Z_0|^2, the transport cost of the model's own pairs.
        cost_stderr: of `cost`.
        relative: `value / cost`, which does not depend on the scale of the data.
        relative_stderr: of `relative` (delta method).
        n: trajectories.
        settings: everything the numbers depend on beside the model; only equal settings compare.
    """

    value: float
    stderr: float
    cost: float
    cost_stderr: float
    relative: float
    relative_stderr: float
    n: int
    settings: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Plain values, for logs."""
        return dataclasses.asdict(self)

    def difference(self, other: StraightnessRecord) -> tuple[float, float]:
        """(other.value - value, its standard error); seeds may differ.

        Raises:
            ValueError: the two were measured under unlike settings.
        """
        for key in self.settings.keys() | other.settings.keys():
            a, b = self.settings.get(key), other.settings.get(key)
            if key != "seeds" and a != b:
                raise ValueError(f"these records do not compare: {key} was {a!r} in one and {b!r} in the other")
        return other.value - self.value, math.hypot(self.stderr, other.stderr)


@torch.no_grad()
def straightness(
    denoiser: BaseDenoiser,
    shape: Sequence[int],
    cond: Condition | None = None,
    *,
    seeds: Sequence[int] | Tensor | int = 0,
    x_start: Tensor | None = None,
    num_steps: int = 100,
    batch: int = 1024,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> StraightnessRecord:
    """Follow the flow of N samples from `t_max` to `t_min` and compare its velocity with the chord.

    Args:
        denoiser: on any schedule; one that is not `Rectified` is measured through `with_schedule(Rectified())`.
        shape: (N, C, *spatial).
        cond: for N samples, or for one and shared.
        seeds: one for each sample, or the first of N consecutive ones.
        x_start: where trajectories begin (N, C, *spatial), for bridges; drawn from the seeds when not given.
        num_steps: equal steps in t, of Heun's method for the flow and of the trapezoidal rule for the integral: second
            order, two evaluations each.
        batch: samples followed at once.

    Raises:
        ValueError: fewer than two samples, another number of seeds or starts, or a schedule that cannot be replaced.
    """
    if shape[0] < 2:
        raise ValueError(f"a mean needs at least two trajectories for its standard error, got {shape[0]}")
    straight = _straight(denoiser)
    numbers = as_seeds(range(seeds, seeds + shape[0]) if isinstance(seeds, int) else seeds)
    if cond is not None:
        cond = cond.expand(shape[0])
    if len(numbers) != shape[0] or (x_start is not None and tuple(x_start.shape) != tuple(shape)):
        got = len(numbers) if x_start is None else tuple(x_start.shape)
        raise ValueError(f"{shape[0]} trajectories of shape {tuple(shape[1:])} need as many seeds or starts, got {got}")
    grid = grids.uniform(straight.schedule, num_steps, end=straight.schedule.t_min)
    bends, costs = [], []
    level = Level.of(straight.schedule, float(grid[0]))
    scale = (float(level.alpha) ** 2 * straight.sigma_data**2 + float(level.sigma) ** 2) ** 0.5
    for begin in range(0, shape[0], batch):
        rows = slice(begin, begin + batch)
        part = None if cond is None else cond.map(lambda value, rows=rows: value[rows])  # type: ignore[misc]
        if x_start is None:
            x = normal(numbers[rows], Stream.START, shape=shape[1:], dtype=dtype, device=device).mul_(scale)
        else:
            x = x_start[rows].to(device=device, dtype=dtype)
        bend, cost = _follow(straight, grid, x, part)
        bends.append(bend)
        costs.append(cost)
    settings = {
        "shape": list(shape[1:]),
        "num_steps": num_steps,
        "start": "noise" if x_start is None else "given",
        "seeds": [int(numbers[0]), int(numbers[-1])],
    }
    return _summary(torch.cat(bends), torch.cat(costs), settings)


def _straight(denoiser: BaseDenoiser) -> BaseDenoiser:
    if isinstance(denoiser.schedule, Rectified):
        return denoiser
    replaced = getattr(denoiser, "with_schedule", None)
    if replaced is None:
        raise ValueError(
            f"{type(denoiser).__name__} runs on {type(denoiser.schedule).__name__} and cannot be moved to the straight "
            "path; measure the denoiser inside it"
        )
    moved: BaseDenoiser = replaced(Rectified())
    return moved


def _follow(denoiser: BaseDenoiser, grid: Tensor, x: Tensor, cond: Condition | None) -> tuple[Tensor, Tensor]:
    """(integral of |chord - velocity|^2, |Z_1 - Z_0|^2) of the flow from x (B, C, *spatial), each (B,) in fp64."""
    times = grid.tolist()
    start, count, length = x.flatten(1).to(torch.float64), len(times) - 1, times[0] - times[-1]
    # Heun's method in t: the samplers' own steps, in sigma / alpha, lose their order where alpha is nearly 0.
    velocity = denoiser(x, times[0], cond).velocity
    first = velocity.flatten(1).to(torch.float64)
    # Sums about the first velocity: a nearly straight line would lose its digits in |v|^2 - |chord|^2.
    mean, square = torch.zeros_like(first), first.new_zeros(len(first))
    for index, (t, s) in enumerate(pairwise(times), 1):
        ahead = denoiser(x + (s - t) * velocity, s, cond).velocity
        x = x + (0.5 * (s - t)) * (velocity + ahead)
        velocity = denoiser(x, s, cond).velocity
        offset = velocity.flatten(1).to(torch.float64) - first
        weight = (0.5 if index == count else 1.0) / count
        mean += weight * offset
        square += weight * offset.square().sum(1)
    way = start - x.flatten(1).to(torch.float64)
    chord = way / length - first
    bend = square - 2.0 * (chord * mean).sum(1) + chord.square().sum(1)
    return length * bend.clamp_min(0.0).cpu(), way.square().sum(1).cpu()


def _summary(bend: Tensor, cost: Tensor, settings: dict[str, Any]) -> StraightnessRecord:
    n = len(bend)
    value, paid = float(bend.mean()), float(cost.mean())
    relative = value / paid if paid > 0.0 else 0.0

    def stderr(values: Tensor) -> float:
        return float(values.std()) / math.sqrt(n)

    spread = stderr(bend - relative * cost) / paid if paid > 0.0 else 0.0
    return StraightnessRecord(value, stderr(bend), paid, stderr(cost), relative, spread, n, settings)
