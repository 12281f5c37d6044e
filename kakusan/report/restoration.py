"""Restored pictures beside what they were restored from: several samples, their mean, and where they disagree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from kakusan.report import style
from kakusan.report.grids import grid, grid_layout
from kakusan.report.pictures import Picture, as_images, auto_scale, largest, show

# From nothing to much, light to dark, so that it reads in print and without colour.
_HEAT = ("#f3efe4", "#ecc766", "#d4553a", "#7a1f3d", "#1d0c1f")
_BAR = 14
_MOST_COLUMNS = 8


def heat(values: npt.NDArray[np.floating], top: float) -> Image.Image:
    """Values (H, W) from 0 to `top` as colours, light to dark; what is above is as dark as `top`. Returns RGB.

    Raises:
        ValueError: not two-dimensional, not finite, or a top that is not positive.
    """
    if values.ndim != 2 or not np.isfinite(values).all() or not top > 0.0:
        raise ValueError(f"heat shows finite values (H, W) up to a positive top, got {values.shape} and {top}")
    stops = np.array([style.rgb(colour) for colour in _HEAT], np.float64)
    place = np.clip(values / top, 0.0, 1.0) * (len(stops) - 1)
    channels = [np.interp(place, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return Image.fromarray(np.rint(np.stack(channels, -1)).astype(np.uint8))


def round_top(most: float) -> float:
    """The end of a scale that holds `most`: 1, 2 or 5 times a power of ten."""
    if not most > 0.0:
        return 0.01
    power = 10.0 ** np.floor(np.log10(most))
    return float(next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= most * (1.0 - 1e-9)))


def restoration_sheet(
    pictures: Sequence[tuple[str, Picture]],
    samples: Sequence[Picture],
    *,
    spread: npt.NDArray[np.floating] | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> Image.Image:
    """A first row of named pictures and the spread, the samples below it, and the scale of the spread at the side.

    Args:
        pictures: (name, picture): what was given, the mean, the true one. All are brought to one size in whole steps.
        samples: each a draw; none for a sheet of one row.
        spread: standard deviation of each pixel (H, W), in shares of the range from black to white.
        title: over all.
        scale: of every pixel; by itself when None.
    """
    named = list(pictures)
    images = as_images([picture for _, picture in named])
    width, height = largest(images)
    top = round_top(float(spread.max())) if spread is not None else 0.0
    if spread is not None:
        named.append(("spread", heat(spread, top)))
        images.append(heat(spread, top))
    # A small picture that was enlarged is shown in squares of its own pixels.
    images = [show(image, max(1, min(width // image.width, height // image.height))) for image in images]
    columns = max(len(images), min(len(samples), _MOST_COLUMNS))
    blank = style.canvas(width, height)
    cells: list[Picture] = [*images, *[blank] * (columns - len(images))]
    labels = [name for name, _ in named] + [""] * (columns - len(named))
    rows = ["", *["samples" if k == 0 else "" for k in range(-(-len(samples) // columns))]] if samples else None
    cells += [*as_images(samples), *[blank] * (-len(samples) % columns)] if samples else []
    factor = auto_scale(width, height) if scale is None else scale
    sheet = grid(cells, columns=columns, column_labels=labels, row_labels=rows, title=title, scale=factor)
    if spread is None:
        return sheet
    layout = grid_layout(cells, columns=columns, column_labels=labels, row_labels=rows, title=title, scale=factor)
    # In the free cell beside the spread, or at the edge of the sheet where there is none.
    _, upper, right, lower = layout.box(0, len(named) - 1)
    free = columns > len(named)
    return _with_bar(sheet, right + 2 * style.GAP if free else sheet.width, upper, lower, top, free)


def _with_bar(sheet: Image.Image, left: int, upper: int, lower: int, top: float, free: bool) -> Image.Image:
    """The scale of the spread, drawn from `left` on at the height of the first row."""
    size = 12
    text = f"{top:g}"
    room = 0 if free else style.MARGIN + _BAR + 6 + style.text_width(text, size)
    wide = style.canvas(sheet.width + room, sheet.height)
    wide.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(wide)
    ramp = np.linspace(top, 0.0, lower - upper)[:, None].repeat(_BAR, 1)
    wide.paste(heat(ramp, top), (left, upper))
    draw.rectangle((left, upper, left + _BAR - 1, lower - 1), outline=style.rgb(style.RULE))
    style.draw_text(draw, (left + _BAR + 6, upper), text, size, colour=style.MUTED, anchor="lt")
    style.draw_text(draw, (left + _BAR + 6, lower), "0", size, colour=style.MUTED, anchor="lb")
    return wide
