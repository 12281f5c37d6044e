"""The sliced Wasserstein distance, scaled as the Monge inception distance (MIND; Berthet et al. 2026, 2605.06797)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kakusan.metrics.distance import Cloud, Compared


def directions(count: int, dim: int, *, seed: int = 0) -> Tensor:
    """Random directions (count, D), float64, uniform on the unit sphere."""
    drawn = torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def squared_wasserstein(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared 2-Wasserstein distances (L,) between the points of each row of a (L, N) and of b (L, M), exact.

    In one dimension the best transport joins equal quantiles. With N = M that is the sorted points in turn; with other
    numbers both quantile functions are constant between the breaks i / N and j / M.
    """
    a, b = np.sort(a, axis=1), np.sort(b, axis=1)
    if a.shape[1] == b.shape[1]:
        return np.asarray(np.square(a - b).mean(axis=1))
    n, m = a.shape[1], b.shape[1]
    # Breaks in units of 1 / (N M), so that they are whole numbers.
    breaks = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(breaks, prepend=0) / (n * m)
    rows = [(breaks - 1) // m, (breaks - 1) // n]
    return np.asarray(np.square(a[:, rows[0]] - b[:, rows[1]]) @ widths)


@dataclass(frozen=True)
class Sliced:
    """Squared 2-Wasserstein distance of projections, mean over random directions, times `scale` D.

    A shift s of all features gives |s|^2 / D in the mean over directions, so `scale` 1 would give |s|^2 as the Frechet
    distance does. MIND takes 3, by which it is of the Frechet distance's size on Inception features; so do we, that
    numbers mean the same here as in torch-fidelity. The directions are drawn once, from `seed`, and are the same for
    the samples and for the null.

    Args:
        projections: number of directions; MIND is given with 100 to 1000.
        scale: alpha / D of the paper.
        seed: of the directions.
    """

    projections: int = 256
    scale: float = 3.0
    seed: int = 0

    name = "sliced"
    better = "low"
    paired = False

    def __post_init__(self) -> None:
        if self.projections < 1 or not self.scale > 0.0:
            raise ValueError(f"expected at least one projection and a scale above 0, got {self}")

    def settings(self) -> Mapping[str, Any]:
        """For the record."""
        return {"projections": self.projections, "scale": self.scale, "projection_seed": self.seed}

    def on(self, features: Tensor | Cloud) -> Compared:
        """Compare rows of (N, D) features."""
        cloud = Cloud.of(features)
        drawn = directions(self.projections, cloud.dim, seed=self.seed)
        # Columns are pictures, so that each row is sorted in one piece of memory; numpy sorts faster than torch here.
        shadows = (drawn @ cloud.centred.T).numpy()
        scale = self.scale * cloud.dim
        return lambda a, b: scale * float(squared_wasserstein(shadows[:, a.numpy()], shadows[:, b.numpy()]).mean())


def sliced_distance(a: Tensor, b: Tensor, *, projections: int = 256, scale: float = 3.0, seed: int = 0) -> float:
    """MIND between features a (N, D) and b (M, D).

    Raises:
        ValueError: unequal D.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    compare = Sliced(projections, scale, seed).on(torch.cat([a, b]))
    return compare(torch.arange(len(a)), torch.arange(len(a), len(a) + len(b)))
