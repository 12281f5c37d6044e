"""Simple facts of pictures, from their files: what they are on the screen, not what a network said."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True)
class Measured:
    """Facts of one picture, its values brought to [0, 1].

    Args:
        mean: of all values.
        deviation: their standard deviation.
        saturated: share of values at an end of the range.
        distance: root mean square difference from the picture at the reference value.
    """

    mean: float
    deviation: float
    saturated: float
    distance: float


def unit(picture: Image.Image) -> npt.NDArray[np.float64]:
    """The values of a picture in [0, 1]."""
    values = np.asarray(picture)
    top = 65535.0 if picture.mode.startswith("I") else 255.0
    return values.astype(np.float64) / top


def measured(picture: Image.Image, reference: Image.Image) -> Measured:
    """Facts of a picture beside another of the same size."""
    values = unit(picture)
    return Measured(
        mean=float(values.mean()),
        deviation=float(values.std()),
        saturated=float(((values == 0.0) | (values == 1.0)).mean()),
        distance=float(np.sqrt(np.square(values - unit(reference)).mean())),
    )


def averaged(facts: Sequence[Measured]) -> dict[str, Any]:
    """The mean of each fact over several pictures."""
    each = [asdict(fact) for fact in facts]
    return {"pictures": len(each), **{name: statistics.fmean(fact[name] for fact in each) for name in each[0]}}
