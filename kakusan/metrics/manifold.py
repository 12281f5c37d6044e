"""Quality and coverage apart, by nearest neighbours: precision and recall, density and coverage, the two-sample test.

Balls reach from each picture to its k-th nearest neighbour within its own set. Precision and recall are those of
Kynkaanniemi et al. (2019, 1904.06991), density and coverage those of Naeem et al. (2020, 2002.09797). A point on the
edge of a ball is inside. Sets of k or fewer take the farthest neighbour there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kakusan.metrics.distance import Cloud, Compared

Matrix = NDArray[np.float32]


def radii(within: Matrix, k: int) -> NDArray[np.float32]:
    """Distance of each point (N,) to its k-th nearest neighbour, from the distances (N, N) within its set."""
    if len(within) < 2:
        raise ValueError(f"a neighbour needs two points or more, got {len(within)}")
    # Each point is the nearest to itself, at 0.
    order = min(k, len(within) - 1)
    return np.asarray(np.partition(within, order, axis=1)[:, order])


def expected_coverage(n: int, m: int, k: int) -> float:
    """Coverage of n real pictures by m others of the same law, exactly (Naeem et al., Lemma 2).

    1 - (n - 1) ... (n - k) / ((n + m - 1) ... (n + m - k)): with all n + m - 1 other points in random order, none of
    the k nearest is a sample. It does not depend on the law, as long as no two distances are equal.

    Raises:
        ValueError: k of 0, or n of k or fewer.
    """
    if k < 1 or n <= k or m < 1:
        raise ValueError(f"expected 1 <= k < n and m >= 1, got n={n}, m={m}, k={k}")
    return 1.0 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))


@dataclass(frozen=True)
class _Neighbours:
    """What the five share.

    Args:
        k: neighbours.
    """

    k: int = 5

    better: ClassVar[str] = "high"
    paired: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"expected a neighbour or more, got k={self.k}")

    def settings(self) -> Mapping[str, Any]:
        """For the record."""
        return {"k": self.k}

    def _on(self, features: Tensor | Cloud, count: Callable[[Matrix, Tensor, Tensor], float]) -> Compared:
        distances = Cloud.of(features).distances.numpy()
        return lambda a, b: count(distances, a, b)


def _block(distances: Matrix, a: Tensor, b: Tensor) -> Matrix:
    # Rows first: they lie in one piece of memory.
    return distances.take(a.numpy(), axis=0).take(b.numpy(), axis=1)


@dataclass(frozen=True)
class Precision(_Neighbours):
    """Share of the samples that lie in the ball of some real picture: do they look real?"""

    name = "precision"

    def on(self, features: Tensor | Cloud) -> Compared:
        """Compare rows of (N, D) features."""

        def count(distances: Matrix, a: Tensor, b: Tensor) -> float:
            inside = _block(distances, a, b) <= radii(_block(distances, b, b), self.k)
            return float(inside.any(axis=1).mean())

        return self._on(features, count)


@dataclass(frozen=True)
class Recall(_Neighbours):
    """Share of the real pictures that lie in the ball of some sample: could each be drawn?"""

    name = "recall"

    def on(self, features: Tensor | Cloud) -> Compared:
        """Compare rows of (N, D) features."""

        def count(distances: Matrix, a: Tensor, b: Tensor) -> float:
            inside = _block(distances, b, a) <= radii(_block(distances, a, a), self.k)
            return float(inside.any(axis=1).mean())

        return self._on(features, count)


@dataclass(frozen=True)
class Density(_Neighbours):
    """How many real balls a sample lies in, over k: precision that one far real picture cannot raise. May pass 1."""

    name = "density"

    def on(self, features: Tensor | Cloud) -> Compared:
        """Compare rows of (N, D) features."""

        def count(distances: Matrix, a: Tensor, b: Tensor) -> float:
            inside = _block(distances, a, b) <= radii(_block(distances, b, b), self.k)
            return float(inside.sum(axis=1).mean()) / min(self.k, len(b) - 1)

        return self._on(features, count)


@dataclass(frozen=True)
class Coverage(_Neighbours):
    """Share of the real pictures whose ball holds a sample: recall that one far sample cannot raise."""

    name = "coverage"
    paired = True

    def on(self, features: Tensor | Cloud) -> Compared:
        """Compare rows of (N, D) features."""

        def count(distances: Matrix, a: Tensor, b: Tensor) -> float:
            nearest = _block(distances, b, a).min(axis=1)
            return float((nearest <= radii(_block(distances, b, b), self.k)).mean())

        return self._on(features, count)


@dataclass(frozen=True)
class TwoSample:
    """Accuracy of the nearest-neighbour classifier that tells samples from real pictures, each point left out in turn.

    About 0.5, exactly (n - 1) / (2 n - 1), where both are of one law; 1 where they lie apart; below where samples lie
    on top of real pictures, as copies do (Lopez-Paz & Oquab 2017, 1610.06545; Xu et al. 2018, 1806.07755).
    """

    name = "two-sample"
    better = "null"
    paired = True

    def settings(self) -> Mapping[str, Any]:
        """For the record."""
        return {"classifier": "nearest neighbour, leaving one out"}

    def on(self, features: Tensor | Cloud) -> Compared:
        """Compare rows of (N, D) features."""
        distances = Cloud.of(features).distances.numpy()

        def compare(a: Tensor, b: Tensor) -> float:
            rows = torch.cat([a, b])
            among = _block(distances, rows, rows)
            np.fill_diagonal(among, np.inf)
            # Where several are equally near, each has its share of the answer.
            nearest = among <= among.min(axis=1, keepdims=True)
            samples = nearest[:, : len(a)].sum(axis=1) / nearest.sum(axis=1)
            return float(np.concatenate([samples[: len(a)], 1.0 - samples[len(a) :]]).mean())

        return compare
