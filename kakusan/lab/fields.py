"""The numbers behind the pictures of densities and fields: a square window, and values on its cells.

Schedules whose noise grows without bound (VE, EDM) have no common window. There every x_t is shown divided by
`sqrt(alpha^2 + sigma^2)`; densities and velocities are those of the shown points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.data.toys import Toy
from kakusan.denoiser import BaseDenoiser
from kakusan.grids import HIGHEST_NOISE
from kakusan.lab.exact import Exact, axis_factors
from kakusan.levels import Level
from kakusan.schedules import NoiseSchedule

_PAIRS = 1 << 20
"""Pairs of point and component worked on at once, so that temporaries stay in the cache."""


@dataclass(frozen=True)
class View:
    """The window [-half, half]^2 in `cells` x `cells` cells."""

    half: float = 3.6
    cells: int = 128

    def __post_init__(self) -> None:
        if not self.half > 0.0 or self.cells < 2:
            raise ValueError(f"a window has a positive half side and at least 2 cells, got {self.half}, {self.cells}")

    @classmethod
    def of(cls, toy: Toy, cells: int = 128) -> View:
        """The window that shows a set, and unit noise, whole."""
        return cls(max(3.6, toy.reach + 4.0 * toy.noise), cells)

    @property
    def area(self) -> float:
        """Of one cell."""
        return (2.0 * self.half / self.cells) ** 2

    def axis(self) -> Tensor:
        """The middles of the cells along one side, (cells,) float64."""
        return (torch.arange(self.cells, dtype=torch.float64) + 0.5) * (2.0 * self.half / self.cells) - self.half

    def points(self) -> Tensor:
        """The middles of the cells (cells^2, 2) float64: x runs along the row, y rises with the rows."""
        y, x = torch.meshgrid(self.axis(), self.axis(), indexing="ij")
        return torch.stack([x.reshape(-1), y.reshape(-1)], 1)


def explodes(schedule: NoiseSchedule) -> bool:
    """Whether x_t outgrows the data, so that it is shown divided by sqrt(alpha^2 + sigma^2)."""
    return float(schedule.sigma(torch.ones((), dtype=torch.float64))) > 1.5


def shown_scale(schedule: NoiseSchedule, t: float | Tensor) -> Tensor:
    """What x_t is multiplied by to be shown: 1, or 1 / sqrt(alpha^2 + sigma^2) where noise explodes; shape of t."""
    t = torch.as_tensor(t, dtype=torch.float64)
    if not explodes(schedule):
        return torch.ones_like(t)
    return (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).rsqrt()


def density(exact: Exact, view: View, t: float) -> Tensor:
    """p_t of the shown points on the cells of the window, (cells, cells) float64, rows from low y to high."""
    scale = float(shown_scale(exact.schedule, t))
    factors, weights = axis_factors(exact, Level.of(exact.schedule, t), view.axis() / scale)
    return (factors[1] * weights) @ factors[0].T / scale**2


def score(denoiser: BaseDenoiser, view: View, t: float) -> Tensor:
    """grad log p_t at the middles of the cells, (cells, cells, 2); of the shown points."""
    scale = float(shown_scale(denoiser.schedule, t))
    points = (view.points() / scale).to(precision(denoiser))
    found = _in_parts(lambda part: denoiser(part, t).score, points, denoiser)
    return (found / scale).view(view.cells, view.cells, 2)


def velocity(denoiser: BaseDenoiser, view: View, t: float) -> Tensor:
    """The probability flow d x_t / dt at the middles of the cells, (cells, cells, 2); of the shown points."""
    schedule = denoiser.schedule
    at = torch.tensor(t, dtype=torch.float64)
    scale = float(shown_scale(schedule, t))
    shown = view.points().to(precision(denoiser))
    found = scale * _in_parts(lambda part: denoiser(part, t).velocity, shown / scale, denoiser)
    if explodes(schedule):
        alpha, sigma = schedule.alpha(at), schedule.sigma(at)
        growth = alpha * schedule.alpha_prime(at) + sigma * schedule.sigma_prime(at)
        found = found - shown * float(growth / (alpha**2 + sigma**2))
    return found.view(view.cells, view.cells, 2)


FIELDS: dict[str, Callable[[BaseDenoiser, View, float], Tensor]] = {"score": score, "velocity": velocity}
"""The fields that can be drawn, by name."""


def stages(schedule: NoiseSchedule, count: int = 6, *, first: float = 4.0, last: float = -2.0) -> list[float]:
    """Times from data to noise that show a process whatever its clock: 0, then even in log-SNR, then t_max.

    Args:
        count: at least 3.
        first, last: the log-SNRs of the second time and of the last but one.
    """
    if count < 3:
        raise ValueError(f"a filmstrip has at least 3 pictures, got {count}")
    middle = schedule.time(torch.linspace(first, last, count - 2, dtype=torch.float64))
    return [0.0, *(float(t) for t in middle.clamp(schedule.t_min, schedule.t_max)), schedule.t_max]


def level_times(schedule: NoiseSchedule, count: int) -> list[float]:
    """`count` times from 0 to t_max, even in sigma / (alpha + sigma): every schedule shows its levels at one pace.

    Beyond sigma / alpha = 80 nothing is left to see, and the last time stands there.
    """
    if count < 2:
        raise ValueError(f"there are at least 2 times, got {count}")
    share = torch.linspace(0.0, HIGHEST_NOISE / (1.0 + HIGHEST_NOISE), count, dtype=torch.float64)
    return [0.0, *(inside(schedule, float(t)) for t in schedule.time(-2.0 * (share / (1.0 - share)).log())[1:])]


def inside(schedule: NoiseSchedule, t: float) -> float:
    """t, moved to where a denoiser can be evaluated."""
    return min(max(t, schedule.t_min), schedule.t_max)


def precision(denoiser: BaseDenoiser) -> torch.dtype:
    """float64 for what has a closed form, float32 for networks."""
    return torch.float64 if next(denoiser.parameters(), None) is None else torch.float32


def _in_parts(function: Callable[[Tensor], Tensor], points: Tensor, denoiser: BaseDenoiser) -> Tensor:
    components = getattr(denoiser, "means", points[:64])
    with torch.no_grad():
        return torch.cat([function(part) for part in points.split(max(1, _PAIRS // len(components)))])
