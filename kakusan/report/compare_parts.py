"""What the pages of comparisons share: numbers for people, and strips of pictures below each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from kakusan.report.grids import grid


def number(value: float) -> str:
    """Three digits, and never a power of ten."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.{1 if size >= 10 else 2 if size >= 1 else 3}f}"


def plus_minus(value: float, error: float) -> str:
    """A value with as many decimals as its error deserves."""
    if not math.isfinite(error) or not math.isfinite(value):
        return number(value)
    digits = 3 if error == 0 else max(0, min(4, 1 - math.floor(math.log10(error))))
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def strips(rows: Sequence[tuple[str, Path]], labels: Sequence[str]) -> Image.Image | None:
    """Strips below each other; a strip is as many squares as it is wide."""
    cells, names, count = [], [], 0
    for name, path in rows:
        if not path.is_file():
            continue
        with Image.open(path) as image:
            strip = image.convert("RGB")
        # As many pictures as there are labels; squares where there are none.
        count = count or len(labels) or max(1, strip.width // strip.height)
        width = strip.width // count
        cells += [strip.crop((i * width, 0, (i + 1) * width, strip.height)) for i in range(count)]
        names.append(name)
    if not cells:
        return None
    scale = max(1, round(56 / cells[0].width))
    return grid(cells, columns=count, row_labels=names, scale=scale)
