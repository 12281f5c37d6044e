"""Clusters of real pictures without labels: a tree of cuts, and neighbourhoods of single pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spectrum import block_means

if TYPE_CHECKING:
    from kakusan.metrics.evaluation import Evaluation
    from kakusan.metrics.spaces.base import Space

CENTRES = 256
"""Pictures whose neighbourhoods are watched."""
WIDTHS = (1, 2, 4)
"""Sizes of neighbourhoods, in the smallest size at which an absence tells something."""
DIRECTIONS = 32


class Clusters:
    """Kinds of real pictures where nobody has named any.

    A tree cuts the pictures in two by 2-means again and again: its leaves are kinds that do not overlap. A missing mode
    may lie across a cut, so the neighbourhoods of some pictures are watched as well, in several widths.

    Args:
        space: where pictures are compared.
        evaluation: the clusters are found among its `reference.learning`, of which nothing is counted later.
        smallest: share of the pictures below which a cluster is not cut.
    """

    def __init__(self, space: Space, evaluation: Evaluation, *, smallest: float) -> None:
        self.space, self.evaluation = space, evaluation
        found = evaluation.features(space, evaluation.reference.learning)
        self.mean = found.mean(0)
        centred = found - self.mean
        # Directions of little variance are noise, and cost time.
        _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
        energy = values.square().cumsum(0) / values.square().sum().clamp_min(1e-30)
        self.basis = vectors[: min(DIRECTIONS, int((energy < 0.95).sum()) + 1)].T
        points = centred @ self.basis
        fewest = max(2, round(smallest * len(points)))
        self.tree = Tree(points, fewest)
        rows = torch.linspace(0, len(points) - 1, min(CENTRES, len(points))).long().unique()
        sizes = [width * fewest for width in WIDTHS if width * fewest <= len(points) // 2]
        self.centres = points[rows]
        reach = torch.cdist(self.centres, points).sort(dim=1).values
        self.radii = torch.stack([reach[:, size - 1] for size in sizes], 1) if sizes else reach[:, :0]
        like = [
            f"pictures like {row} of those learnt from ({space.name}, {size})"
            for size in sizes
            for row in rows.tolist()
        ]
        self.names = (*[f"cluster {number} ({space.name})" for number in range(1, len(self.tree.nodes))], *like)
        leaves = [number for number, node in enumerate(self.tree.nodes) if node is None]
        self.kinds = {number: f"cluster {number} ({space.name})" for number in leaves}
        self._seen: dict[str, Tensor] = {}

    def _points(self, pictures: PictureSet) -> Tensor:
        if pictures.hash not in self._seen:
            self._seen[pictures.hash] = (self.evaluation.features(self.space, pictures) - self.mean) @ self.basis
        return self._seen[pictures.hash]

    def members(self, pictures: PictureSet) -> Tensor:
        """(N, clusters) bool, the cluster of everything apart."""
        points = self._points(pictures)
        inside = self.tree.sort(points)[1:]
        near = torch.cdist(points, self.centres)
        balls = [near <= radius for radius in self.radii.T]
        columns = [torch.stack(inside, 1)] if inside else []
        return torch.cat([*columns, *balls, torch.zeros(len(points), 0, dtype=torch.bool)], 1)

    def strata(self, pictures: PictureSet) -> Tensor:
        """(N,) the leaf of each picture."""
        points = self._points(pictures)
        found = torch.zeros(len(points), dtype=torch.int64)
        for number, inside in enumerate(self.tree.sort(points)):
            if self.tree.nodes[number] is None:
                found[inside] = number
        return found


class Tree:
    """Points cut in two until few are left.

    Args:
        points: (N, D).
        smallest: number of points that no cut goes below.
    """

    def __init__(self, points: Tensor, smallest: int) -> None:
        self.nodes: list[tuple[Tensor, Tensor, tuple[int, int]] | None] = [None]
        waiting = [(0, points)]
        while waiting:
            number, mine = waiting.pop(0)
            cut = _cut(mine) if len(mine) >= 2 * smallest else None
            if cut is None:
                continue
            normal, offset = cut
            side = mine @ normal > offset
            if min(int(side.sum()), int((~side).sum())) < smallest:
                continue
            children = (len(self.nodes), len(self.nodes) + 1)
            self.nodes[number] = (normal, offset, children)
            self.nodes += [None, None]
            waiting += [(children[0], mine[~side]), (children[1], mine[side])]

    def sort(self, points: Tensor) -> list[Tensor]:
        """For each node, which of the points (N, D) lie in it; the first one holds all."""
        inside = [torch.zeros(len(points), dtype=torch.bool) for _ in self.nodes]
        inside[0][:] = True
        for number, node in enumerate(self.nodes):
            if node is not None:
                normal, offset, children = node
                side = points @ normal > offset
                inside[children[0]], inside[children[1]] = inside[number] & ~side, inside[number] & side
        return inside


def _cut(points: Tensor) -> tuple[Tensor, Tensor] | None:
    """The plane halfway between two means (Lloyd 1982), from a start along the longest direction."""
    centred = points - points.mean(0)
    if float(centred.square().sum()) < 1e-18:
        return None
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    # The sign of a singular vector is the machine's choice; the larger coordinate decides.
    direction = direction * torch.sign(direction[direction.abs().argmax()])
    side = centred @ direction > 0
    normal, offset = direction, points.mean(0) @ direction
    for _ in range(30):
        if not (bool(side.any()) and bool((~side).any())):
            return None
        low, high = points[~side].mean(0), points[side].mean(0)
        normal = high - low
        offset = normal @ (high + low) / 2
        moved = points @ normal > offset
        if bool((moved == side).all()):
            break
        side = moved
    return normal, offset


class Thumbnail:
    """Pictures as their means over a few large pixels: a space that needs nothing."""

    name, hash, resizer = "thumbnail", "thumbnail-1", "none"

    def __call__(self, x: Tensor) -> Tensor:
        """(B, D)."""
        return block_means(x, 4).flatten(1)
