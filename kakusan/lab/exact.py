"""The exact denoisers of the two-dimensional sets: what a network that had learnt everything would say."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.data.toys import Checkerboard, Curve, Mixture, Rings, Toy
from kakusan.gaussian import log_interval
from kakusan.levels import Level, Scalar
from kakusan.oracles import GaussianMixture, Oracle
from kakusan.schedules import NoiseSchedule

Exact: TypeAlias = "GaussianMixture | Boxes"
"""A denoiser in closed form that also knows `log_prob(x_t, t)`."""


class Boxes(Oracle):
    """The exact denoiser of boxes with axes along the coordinates, each uniform inside, blurred by one Gaussian.

    At every t the density is a sum of products of normal integrals, and E[x0 | x_t] a sum of truncated normal means.

    Args:
        low: (K, D) lower corners.
        high: (K, D) upper corners; all boxes are equally likely.
        noise: standard deviation of the blur along each axis, from 0.
        schedule: the path.
    """

    def __init__(self, low: Tensor, high: Tensor, noise: float, *, schedule: NoiseSchedule) -> None:
        low, high = low.to(torch.float64), high.to(torch.float64)
        if low.shape != high.shape or low.dim() != 2 or not bool((low < high).all()) or not 0.0 <= noise < math.inf:
            raise ValueError(
                "boxes need corners (K, D) with low below high everywhere, and a blur that is not negative"
            )
        square = (high**3 - low**3) / (3.0 * (high - low))
        super().__init__(schedule, sigma_data=math.sqrt(float(square.mean()) + noise**2))
        self.low, self.high, self.noise = low, high, noise

    def with_schedule(self, schedule: NoiseSchedule) -> Boxes:
        return Boxes(self.low, self.high, self.noise, schedule=schedule)

    def _ends(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor, Scalar, Tensor]:
        """Ends of each box (B, K, D) in standard deviations from x_t, that deviation, and x_t as (B, 1, D)."""
        x = x_t.to(torch.float64).reshape(len(x_t), 1, -1)
        alpha, sigma = (_column(value) for value in (level.alpha, level.sigma))
        spread = ((alpha * self.noise) ** 2 + sigma**2).sqrt()
        return (alpha * self.low - x) / spread, (alpha * self.high - x) / spread, spread, x

    def log_prob(self, x_t: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """log density of x_t (B, D) at t, (B,), in nats."""
        level = Level.of(self.schedule, t, x_t)
        low, high, _, _ = self._ends(x_t, level)
        share = log_interval(low, high) - (_column(level.alpha) * (self.high - self.low)).log()
        return share.sum(-1).logsumexp(1) - math.log(len(self.low))

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        low, high, spread, x = self._ends(x_t, level)
        alpha = _column(level.alpha)
        mass = log_interval(low, high)
        weight = (mass - (self.high - self.low).log()).sum(-1).softmax(1)
        # The mean of a standard normal between two ends, then kept between them against rounding.
        normal = -0.5 * math.log(2.0 * math.pi)
        inside = (normal - 0.5 * low**2 - mass).exp() - (normal - 0.5 * high**2 - mass).exp()
        inside = inside.clamp(low, high)
        clean = x + spread * inside
        # x_t = alpha (shape + blur) + sigma eps: what is left over is shared by blur and noise.
        blur = alpha * self.noise**2 / spread**2 * (x - clean)
        x0 = (weight.unsqueeze(-1) * (clean / alpha + blur)).sum(1)
        return x0.view(x_t.shape).to(x_t.dtype)


def _column(value: Scalar) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1)


@singledispatch
def exact_denoiser(toy: Toy, schedule: NoiseSchedule) -> Exact:
    """The exact denoiser of a set on a path, with `log_prob(x_t, t)`; samples are (B, 2).

    Points and curves are Gaussian mixtures (a curve by the quadrature of its own `log_prob`), rings are Gaussians
    evenly along each circle, a checkerboard is a sum of boxes.

    Raises:
        ValueError: a kind of set whose exact denoiser is not known.
    """
    raise ValueError(f"no exact denoiser is known for {type(toy).__name__}; register one with exact_denoiser.register")


@exact_denoiser.register
def _(toy: Mixture, schedule: NoiseSchedule) -> Exact:
    return GaussianMixture(
        torch.tensor(toy.means, dtype=torch.float64),
        toy.noise,
        torch.tensor(toy.weights, dtype=torch.float64),
        schedule=schedule,
    )


@exact_denoiser.register
def _(toy: Curve, schedule: NoiseSchedule) -> Exact:
    places, log_weights = toy.nodes
    return GaussianMixture(places, toy.noise, log_weights.exp(), schedule=schedule)


@exact_denoiser.register
def _(toy: Rings, schedule: NoiseSchedule) -> Exact:
    # On a circle the rectangle rule misses by exp(-2 pi^2 (noise / spacing)^2): 3e-9 at a spacing of one noise width.
    counts = [math.ceil(2.0 * math.pi * radius / toy.noise) for radius in toy.radii]
    angles = [2.0 * np.pi * np.arange(count) / count for count in counts]
    places = [radius * np.stack([np.cos(a), np.sin(a)], 1) for radius, a in zip(toy.radii, angles, strict=True)]
    weights = [np.full(count, 1.0 / count) for count in counts]
    return GaussianMixture(
        torch.from_numpy(np.concatenate(places)),
        toy.noise,
        torch.from_numpy(np.concatenate(weights)),
        schedule=schedule,
    )


@exact_denoiser.register
def _(toy: Checkerboard, schedule: NoiseSchedule) -> Exact:
    row, column = np.indices((toy.squares, toy.squares)).reshape(2, -1)
    dark = (row + column) % 2 == 0
    low = torch.from_numpy(np.stack([column[dark], row[dark]], 1) * toy.side - 2.0)
    return Boxes(low, low + toy.side, toy.noise, schedule=schedule)


@singledispatch
def axis_factors(exact: Exact, level: Level, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Every component of these densities is a product over the axes: its factors make a whole mesh by one product.

    Args:
        level: of one time.
        axis: coordinates (N,), the same along both axes.

    Returns:
        The density of every component along each axis (2, N, K), and the weights (K,).
    """
    raise ValueError(f"no factors are known for {type(exact).__name__}")


@axis_factors.register
def _(exact: GaussianMixture, level: Level, axis: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = float(level.alpha), float(level.sigma)
    variance = (alpha**2 * exact.variance + sigma**2).T.unsqueeze(1)
    offset = axis.view(1, -1, 1) - alpha * exact.means.T.unsqueeze(1)
    return (-0.5 * offset**2 / variance).exp() * (2.0 * math.pi * variance).rsqrt(), exact.log_weights.exp()


@axis_factors.register
def _(exact: Boxes, level: Level, axis: Tensor) -> tuple[Tensor, Tensor]:
    low, high, _, _ = exact._ends(axis.unsqueeze(1).expand(-1, 2), level)
    share = log_interval(low, high).exp() / (float(level.alpha) * (exact.high - exact.low))
    return share.permute(2, 0, 1), torch.full((len(exact.low),), 1.0 / len(exact.low), dtype=torch.float64)
