"""Pictures of an edit: strips, their frames, per-pixel spread and difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kakusan.report.grids import grid
from kakusan.report.pictures import Picture

MOST_COLUMNS = 11


def spread(x: Tensor) -> tuple[NDArray[np.uint8], float]:
    """Standard deviation over samples (B, C, H, W) at each pixel, mean over channels: (a gray picture (H, W), the value
    that is white, in units of a range of 2). Black where all are equal.
    """
    return _gray(x.double().std(0, unbiased=len(x) > 1).mean(0))


def difference(a: Tensor, b: Tensor) -> tuple[NDArray[np.uint8], float]:
    """|a - b| at each pixel, mean over channels, of two samples (C, H, W); as `spread`."""
    return _gray((a.double() - b.double()).abs().mean(0))


def strip(
    rows: Sequence[Sequence[Picture]], column_labels: Sequence[str], row_labels: Sequence[str] | None = None
) -> Image.Image:
    """A sheet of rows of equal length; of many columns only some, evenly spaced, the first and the last among them."""
    shown = even(len(column_labels), MOST_COLUMNS)
    return grid(
        [row[place] for row in rows for place in shown],
        columns=len(shown),
        column_labels=[column_labels[place] for place in shown],
        row_labels=row_labels,
    )


def frames(rows: Sequence[Sequence[Picture]], labels: Sequence[str]) -> list[Image.Image]:
    """One frame for each column: all rows at that place, with its label above."""
    wide = math.ceil(math.sqrt(len(rows)))
    scale = max(1, 256 // (wide * max(_size(rows[0][0]))))
    found = [
        grid([row[place] for row in rows], columns=wide, title=label, scale=scale) for place, label in enumerate(labels)
    ]
    # A longer title may ask for a wider sheet.
    width, height = max(f.width for f in found), max(f.height for f in found)
    return [_on_paper(frame, width, height) for frame in found]


def even(count: int, most: int) -> list[int]:
    """At most `most` places of `count`, evenly spaced, with both ends."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _gray(values: Tensor) -> tuple[NDArray[np.uint8], float]:
    white = float(values.max())
    scaled = values / white if white > 0.0 else values
    return np.rint(255.0 * scaled.clamp(0.0, 1.0).cpu().numpy()).astype(np.uint8), white


def _size(picture: Picture) -> tuple[int, int]:
    return picture.size if isinstance(picture, Image.Image) else (picture.shape[-1], picture.shape[-2])


def _on_paper(frame: Image.Image, width: int, height: int) -> Image.Image:
    from kakusan.report.style import canvas

    if frame.size == (width, height):
        return frame
    sheet = canvas(width, height)
    sheet.paste(frame, (0, 0))
    return sheet
