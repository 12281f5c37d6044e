"""Random boxes and strokes: what is hidden of a picture when a model learns to paint it again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kakusan.noise import Draws

_STROKES = 4


def random_holes(size: Sequence[int], draws: Draws, *, least: float, most: float, device: torch.device) -> Tensor:
    """Where pictures are hidden, (B, 1, *size) bool: for half of them a box, for the others one to four strokes.

    Args:
        size: of a picture, one to three sides.
        draws: the samples' own randomness, of which the first two numbers are used.
        least: least side of a box, as a fraction of the picture's.
        most: most.
        device: of the result.
    """
    rank = len(size)
    each = draws.uniform(0, (2 + 2 * rank,))
    coordinates = torch.stack(
        torch.meshgrid(*((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in size), indexing="ij")
    )
    box = torch.ones(len(each), *size, dtype=torch.bool)
    for axis in range(rank):
        extent = least + (most - least) * each[:, 2 + axis]
        # A box lies wholly inside.
        start = each[:, 2 + rank + axis] * (1.0 - extent)
        low, high = (_column(value, rank) for value in (start, start + extent))
        box &= (coordinates[axis] >= low) & (coordinates[axis] < high)
    strokes = _strokes(coordinates, draws.uniform(1, (_STROKES + 1, rank + 1)), each[:, 1])
    holes = torch.where(_column(each[:, 0] < 0.5, rank), box, strokes)
    # Where rounding leaves nothing hidden, the middle is.
    middle = torch.zeros(tuple(size), dtype=torch.bool)
    middle[tuple(side // 2 for side in size)] = True
    holes |= middle & _column(~holes.flatten(1).any(1), rank)
    return holes.unsqueeze(1).to(device)


def _strokes(coordinates: Tensor, points: Tensor, count: Tensor) -> Tensor:
    """(B, *size): within a thick line from point to point (B, strokes + 1, rank + 1), the last number its thickness."""
    rank = len(coordinates)
    found = torch.zeros(len(points), *coordinates.shape[1:], dtype=torch.bool)
    for stroke in range(_STROKES):
        here, there = points[:, stroke, :rank], points[:, stroke + 1, :rank]
        along = there - here
        length = along.square().sum(1).clamp_min(1e-12)
        # The nearest place on the line, as a fraction of it.
        gap = [coordinates[axis] - _column(here[:, axis], rank) for axis in range(rank)]
        place = sum(gap[axis] * _column(along[:, axis] / length, rank) for axis in range(rank))
        assert isinstance(place, Tensor)
        place = place.clamp(0.0, 1.0)
        distance = torch.zeros_like(place)
        for axis in range(rank):
            distance += (gap[axis] - place * _column(along[:, axis], rank)).square()
        thickness = 0.04 + 0.08 * points[:, stroke, rank]
        drawn = _column(count * _STROKES >= stroke, rank)
        found |= drawn & (distance <= _column(thickness, rank) ** 2)
    return found


def _column(values: Tensor, rank: int) -> Tensor:
    return values.view(-1, *[1] * rank)
