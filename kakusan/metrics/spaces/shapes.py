"""Facts of pictures that networks are made and found again by."""

from __future__ import annotations

import math
from typing import Any

from kakusan.data.spec import DataSpec
from kakusan.metrics.reference import Reference


def check_size(spec: DataSpec) -> tuple[int, int]:
    """(H, W) of pictures.

    Raises:
        ValueError: data of another rank.
    """
    if len(spec.size) != 2:
        raise ValueError(f"feature spaces are for pictures (H, W); these data have size {spec.size}")
    return spec.size[0], spec.size[1]


def shrink_for(size: tuple[int, int], limit: int) -> int:
    """The whole number that brings the mean side of a picture to at most `limit`."""
    return max(1, math.ceil(math.sqrt(size[0] * size[1]) / limit))


def resizer_of(shrink: int) -> str:
    """The words of a record for `shrink`."""
    return "none" if shrink == 1 else f"mean of {shrink} x {shrink} pixels"


def learnt_from(reference: Reference) -> dict[str, Any]:
    """What identifies the pictures a network was trained on, and how they came to model units."""
    spec = reference.learning.spec
    return {"learning": reference.learning_hash, "range": [spec.low, spec.high]}
