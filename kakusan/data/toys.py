"""Two-dimensional point sets whose density is known exactly, to hold a model's likelihood against.

Every set is a shape blurred by Gaussian noise. Blurred points, circles and squares have a closed form; a blurred curve
is a one-dimensional integral, done by Gauss-Legendre panels in proportion to the noise.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kakusan.gaussian import log_interval

_CHUNK = 1 << 21
"""Pairs of point and node worked on at once."""


class Toy(ABC):
    """A point set in the plane; base class. `noise` is the standard deviation of the blur along each axis."""

    noise: float

    @abstractmethod
    def place(self, uniform: Tensor) -> Tensor:
        """Points of the shape itself (n, 2) from two uniform numbers each, (n, 2) in [0, 1)."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats of points (..., 2): (...), float64."""

    @property
    @abstractmethod
    def reach(self) -> float:
        """Largest |x| or |y| of the shape before the blur."""

    def sample(self, n: int, seed: int) -> Tensor:
        """(n, 2) float64. Point i is a function of (seed, i) alone, so a longer sample begins with the shorter one."""
        if n < 1:
            raise ValueError(f"a sample has at least one point, got n={n}")
        # Four raw words a point: numpy promises the generator's bits for ever, but not its distributions.
        bits = np.random.Philox(key=seed).random_raw(4 * n).reshape(n, 4)
        uniform = torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53)
        radius, angle = torch.sqrt(-2.0 * torch.log1p(-uniform[:, 2])), 2.0 * math.pi * uniform[:, 3]
        normal = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return self.place(uniform[:, :2]) + self.noise * normal

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, within 1e-6.

        The trapezoidal rule over the plane: it converges faster than any power of the step on a smooth density that has
        died out at the border.
        """
        step, border = self.noise / 3.0, self.reach + 7.0 * self.noise
        axis = torch.arange(-border, border + step, step, dtype=torch.float64)
        total = 0.0
        for x in axis:
            log_p = self.log_prob(torch.stack([x.expand(len(axis)), axis], dim=1))
            total -= float((log_p.exp() * log_p.clamp(min=-700.0)).sum())
        return total * step * step


def _check(toy: Toy, **positive: float) -> None:
    for name, value in positive.items():
        if not value > 0.0 or not math.isfinite(value):
            raise ValueError(f"{name} of {type(toy).__name__} must be a positive number, got {value}")


def _gaussians(x: Tensor, nodes: Tensor, log_weights: Tensor, noise: float) -> Tensor:
    """Log density (...) at (..., 2) of Gaussians of one width at `nodes` (K, 2)."""
    flat = x.to(torch.float64).reshape(-1, 2)
    parts = []
    for part in flat.split(max(1, _CHUNK // len(nodes))):
        squared = (part[:, None, 0] - nodes[:, 0]) ** 2 + (part[:, None, 1] - nodes[:, 1]) ** 2
        parts.append(torch.logsumexp(log_weights - squared * (0.5 / noise**2), dim=1))
    return (torch.cat(parts) - math.log(2.0 * math.pi * noise**2)).reshape(x.shape[:-1])


def _eight() -> tuple[tuple[float, float], ...]:
    return tuple((2.0 * math.cos(k * math.pi / 4.0), 2.0 * math.sin(k * math.pi / 4.0)) for k in range(8))


@dataclass(frozen=True)
class Mixture(Toy):
    """Gaussians of equal width: eight on a circle of radius 2 unless told otherwise; equal `weights` when not given."""

    means: tuple[tuple[float, float], ...] = _eight()
    weights: tuple[float, ...] = ()
    noise: float = 0.2

    def __post_init__(self) -> None:
        _check(self, noise=self.noise)
        if not self.means:
            raise ValueError("a mixture needs at least one mean")
        if not self.weights:
            object.__setattr__(self, "weights", (1.0 / len(self.means),) * len(self.means))
        if len(self.weights) != len(self.means) or min(self.weights) <= 0.0 or abs(sum(self.weights) - 1.0) > 1e-9:
            raise ValueError(f"{len(self.means)} means need as many positive weights that sum to 1, got {self.weights}")

    def place(self, uniform: Tensor) -> Tensor:
        steps = torch.tensor(self.weights, dtype=torch.float64).cumsum(0)[:-1]
        return torch.tensor(self.means, dtype=torch.float64)[
            torch.searchsorted(steps, uniform[:, 0].contiguous(), right=True)
        ]

    def log_prob(self, x: Tensor) -> Tensor:
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return _gaussians(x, torch.tensor(self.means, dtype=torch.float64), weights.log(), self.noise)

    @property
    def reach(self) -> float:
        return max(abs(v) for mean in self.means for v in mean)


@dataclass(frozen=True)
class Rings(Toy):
    """Circles about the origin, equally likely.

    The density of a blurred circle of radius R is `exp(-(r^2 + R^2) / 2 noise^2) I0(r R / noise^2) / (2 pi noise^2)`.
    """

    radii: tuple[float, ...] = (1.0, 2.0)
    noise: float = 0.1

    def __post_init__(self) -> None:
        _check(self, noise=self.noise, **{f"radius {k}": radius for k, radius in enumerate(self.radii)})
        if not self.radii:
            raise ValueError("rings need at least one radius")

    def place(self, uniform: Tensor) -> Tensor:
        radius = torch.tensor(self.radii, dtype=torch.float64)[(uniform[:, 0] * len(self.radii)).long()]
        angle = 2.0 * math.pi * uniform[:, 1]
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)

    def log_prob(self, x: Tensor) -> Tensor:
        r = x.to(torch.float64).norm(dim=-1)
        # The scaled Bessel function holds e^(-rR/noise^2), which completes the square.
        rings = [
            torch.special.i0e(r * (big / self.noise**2)).log() - (r - big) ** 2 * (0.5 / self.noise**2)
            for big in self.radii
        ]
        return torch.logsumexp(torch.stack(rings), dim=0) - math.log(2.0 * math.pi * self.noise**2 * len(self.radii))

    @property
    def reach(self) -> float:
        return max(self.radii)


class Curve(Toy):
    """Points spread along curves by a parameter u that is uniform in [0, 1]; base class."""

    @abstractmethod
    def curves(self, u: Tensor) -> Tensor:
        """The places (curves, n, 2) of u (n,) on every curve, all curves equally likely."""

    @property
    @abstractmethod
    def speed(self) -> float:
        """The largest distance a curve covers for one unit of u."""

    def place(self, uniform: Tensor) -> Tensor:
        every = self.curves(uniform[:, 1])
        return every[(uniform[:, 0] * len(every)).long(), torch.arange(len(uniform))]

    @cached_property
    def nodes(self) -> tuple[Tensor, Tensor]:
        """Quadrature over u: nodes (K, 2) and log weights (K,). Sixteen nodes for every five noise widths
        of curve: within 1e-6 wherever the density is not below e^-60."""
        panels = math.ceil(self.speed / (5.0 * self.noise))
        node, weight = np.polynomial.legendre.leggauss(16)
        u = (np.arange(panels)[:, None] + 0.5 * (node + 1.0)) / panels
        places = self.curves(torch.from_numpy(u.reshape(-1)))
        log_weights = torch.from_numpy(np.log(np.tile(0.5 * weight / panels, panels))) - math.log(len(places))
        return places.reshape(-1, 2), log_weights.repeat(len(places))

    def log_prob(self, x: Tensor) -> Tensor:
        return _gaussians(x, *self.nodes, self.noise)


@dataclass(frozen=True)
class Moons(Curve):
    """Two interleaved half circles of unit radius, centred as a pair and enlarged by `scale`."""

    scale: float = 1.5
    noise: float = 0.1

    def __post_init__(self) -> None:
        _check(self, noise=self.noise, scale=self.scale)

    def curves(self, u: Tensor) -> Tensor:
        angle = math.pi * u
        upper = torch.stack([torch.cos(angle) - 0.5, torch.sin(angle) - 0.25], dim=1)
        return self.scale * torch.stack([upper, -upper])

    @property
    def speed(self) -> float:
        return math.pi * self.scale

    @property
    def reach(self) -> float:
        return 1.5 * self.scale


@dataclass(frozen=True)
class Spiral(Curve):
    """`arms` Archimedean spirals that wind from radius 0.3 to `radius`, `turns` turns from the middle.

    The square of the radius grows evenly with u, so that points are nearly even along an arm.
    """

    arms: int = 2
    turns: float = 1.5
    radius: float = 2.0
    noise: float = 0.08

    def __post_init__(self) -> None:
        _check(self, noise=self.noise, turns=self.turns, arms=self.arms)
        if not 0.3 < self.radius < math.inf:
            raise ValueError(f"radius of Spiral must be above 0.3, where the arms begin, got {self.radius}")

    def curves(self, u: Tensor) -> Tensor:
        share = torch.sqrt(u + (0.3 / self.radius) ** 2 * (1.0 - u))
        angle = 2.0 * math.pi * self.turns * share + 2.0 * math.pi * torch.arange(self.arms)[:, None] / self.arms
        return self.radius * share[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)

    @property
    def speed(self) -> float:
        # Largest where the arm begins, at the share of the radius that is nearest to 0.
        share = 0.3 / self.radius
        return 0.5 * self.radius * (1.0 - share**2) * math.hypot(1.0 / share, 2.0 * math.pi * self.turns)

    @property
    def reach(self) -> float:
        return self.radius


@dataclass(frozen=True)
class Checkerboard(Toy):
    """Every other square of a board of `squares` a side that spans [-2, 2], uniform, then blurred.

    `noise=0` leaves the edges sharp: the density is 1 / area inside and 0 outside, and the entropy log(area).
    """

    squares: int = 4
    noise: float = 0.05

    def __post_init__(self) -> None:
        if self.squares < 2 or self.squares % 2:
            raise ValueError(f"a checkerboard has an even number of squares a side, got {self.squares}")
        if not 0.0 <= self.noise < math.inf:
            raise ValueError(f"noise of Checkerboard is a finite number from 0, got {self.noise}")

    @property
    def side(self) -> float:
        """Side of one square."""
        return 4.0 / self.squares

    @property
    def reach(self) -> float:
        return 2.0

    def place(self, uniform: Tensor) -> Tensor:
        row = torch.floor(uniform[:, 1] * self.squares)
        half = uniform[:, 0] * (self.squares // 2)
        column = 2.0 * torch.floor(half) + row % 2
        return torch.stack([column + half % 1.0, uniform[:, 1] * self.squares], dim=1) * self.side - 2.0

    def log_prob(self, x: Tensor) -> Tensor:
        x = x.to(torch.float64)
        area = 0.5 * self.squares**2 * self.side**2
        if self.noise == 0.0:
            cell = torch.floor((x + 2.0) / self.side)
            inside = ((cell >= 0) & (cell < self.squares)).all(dim=-1) & (cell.sum(dim=-1) % 2 == 0)
            return torch.log(inside.to(torch.float64) / area)
        edges = torch.arange(self.squares + 1, dtype=torch.float64) * self.side - 2.0
        share = log_interval((edges[:-1] - x[..., None]) / self.noise, (edges[1:] - x[..., None]) / self.noise)
        even, odd = share[..., ::2].logsumexp(dim=-1), share[..., 1::2].logsumexp(dim=-1)
        both = torch.stack([even.sum(dim=-1), odd.sum(dim=-1)])
        return both.logsumexp(dim=0) - math.log(area)

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, within 1e-6."""
        if self.noise == 0.0:
            return math.log(0.5 * self.squares**2 * self.side**2)
        return super().entropy


TOYS: Mapping[str, Toy] = {
    "mixture": Mixture(),
    "moons": Moons(),
    "rings": Rings(),
    "checkerboard": Checkerboard(),
    "spiral": Spiral(),
}
"""The sets with their usual settings, by name."""
