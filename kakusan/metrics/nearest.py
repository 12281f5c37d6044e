"""The nearest and the second nearest training picture, where copies of a picture count as one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.metrics.sets import PictureSet

SEARCHED = 10
"""Neighbours looked at for the second picture that is not the first one again."""
SAME = 1.0 / 3.0
"""Training pictures nearer to each other than this part of the usual distance are versions of one picture."""
AT_ONCE = 256


@dataclass(frozen=True)
class TwoNearest:
    """For each of N pictures.

    Args:
        index: (N,) row of the nearest training picture.
        first: (N,) distance to it.
        second: (N,) distance to the nearest training picture that is not a version of that one.
    """

    index: Tensor
    first: Tensor
    second: Tensor

    @property
    def ratio(self) -> Tensor:
        """(N,) first over second; 0 for an exact copy, near 1 where no training picture stands out."""
        return torch.where(self.second > 0, self.first / self.second.clamp_min(1e-30), torch.ones_like(self.first))


class TrainingPictures:
    """Training pictures as vectors, exact duplicates once.

    Args:
        vectors: (N, D).
        keep: (K,) rows of the distinct pictures.
        mirrored: (N, D) of the same pictures mirrored, when training may mirror them: both sides are one picture.

    Raises:
        ValueError: fewer than two distinct pictures.
    """

    def __init__(self, vectors: Tensor, keep: Tensor, mirrored: Tensor | None = None) -> None:
        if len(keep) < 2:
            raise ValueError("all training pictures are one picture, so there is no second neighbour")
        self.keep, self.vectors = keep, vectors[keep]
        self.mirrored = None if mirrored is None else mirrored[keep]
        rows = torch.linspace(0, len(keep) - 1, min(len(keep), 512)).long().unique()
        # The usual distance between neighbours, from some of them.
        near = self._distances(self.vectors[rows])
        near[torch.arange(len(rows)), rows] = torch.inf
        self.spacing = float(near.min(1).values.median())

    def __len__(self) -> int:
        return len(self.keep)

    def _distances(self, vectors: Tensor) -> Tensor:
        found = torch.cdist(vectors, self.vectors)
        return found if self.mirrored is None else torch.minimum(found, torch.cdist(vectors, self.mirrored))

    def two_nearest(self, vectors: Tensor, *, own: Tensor | None = None) -> TwoNearest:
        """For pictures (N, D).

        Args:
            vectors: to look up.
            own: (N,) places in `keep` of the pictures themselves, where they are training pictures: not their own
                neighbours.
        """
        parts = []
        for start in range(0, len(vectors), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            parts.append(self._part(vectors[rows], None if own is None else own[rows]))
        index, first, second = (torch.cat(column) for column in zip(*parts, strict=True))
        return TwoNearest(self.keep[index], first, second)

    def _part(self, vectors: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        distances = self._distances(vectors)
        if own is not None:
            distances[torch.arange(len(vectors)), own] = torch.inf
        count = min(SEARCHED, len(self) - (own is not None))
        _, nearest = distances.topk(count, largest=False)
        # Once more without the products of matrices, whose rounding is as large as the distance of a near copy.
        exact = self._exact(vectors, nearest)
        exact, order = exact.sort(dim=1, stable=True)
        nearest = nearest.gather(1, order)
        apart = self._exact(self.vectors[nearest[:, 0]], nearest) > SAME * self.spacing
        apart[:, 0], apart[:, -1] = False, True
        place = apart.int().argmax(1, keepdim=True)
        return nearest[:, 0], exact[:, 0], exact.gather(1, place)[:, 0]

    def _exact(self, vectors: Tensor, nearest: Tensor) -> Tensor:
        """(N, K) distances of vectors (N, D) to the pictures at (N, K)."""
        found = torch.stack([(vectors - self.vectors[column]).norm(dim=1) for column in nearest.T], 1)
        if self.mirrored is None:
            return found
        other = torch.stack([(vectors - self.mirrored[column]).norm(dim=1) for column in nearest.T], 1)
        return torch.minimum(found, other)


def distinct(pictures: PictureSet) -> Tensor:
    """(K,) the first row of each distinct picture, rising."""
    seen: dict[bytes, int] = {}
    values = pictures.stored.numpy()
    for row in range(len(values)):
        seen.setdefault(values[row].tobytes(), row)
    return torch.tensor(sorted(seen.values()), dtype=torch.int64)
