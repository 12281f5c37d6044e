"""Sheets and frames of a sweep: the same pictures under the values of one or two settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from kakusan.report import style
from kakusan.report.grids import grid, grid_layout
from kakusan.report.pictures import Picture, as_images, auto_scale, show

_MOST_WIDE = 2400
_MOST_PIXELS = 150_000_000
_LONGEST_SIDE = 65_000
_LABEL, _HEADING = 14, 16
_FOOT = 64
_MANY_COLOURS = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the sheet with labels of its own.

    Args:
        pictures: row by row.
        columns: their labels.
        rows: their labels.
        title: above the block.
    """

    pictures: Sequence[Picture]
    columns: Sequence[str]
    rows: Sequence[str]
    title: str | None = None

    def size(self, scale: int) -> tuple[int, int]:
        """Width and height of the block as drawn, to a pixel or two; nothing is drawn."""
        widest = max(self.rows, key=lambda label: style.text_width(label, _LABEL))
        one = grid_layout(
            self.pictures[:1],
            columns=1,
            row_labels=[widest],
            column_labels=[self.columns[0]],
            title=self.title,
            scale=scale,
        )
        counts = (len(self.columns), len(self.rows))
        width, height = (
            start + count * (side + one.gap) - one.gap + style.MARGIN
            for start, count, side in zip(one.origin, counts, one.cell, strict=True)
        )
        return max(width, one.size[0]), height

    def draw(self, scale: int) -> Image.Image:
        """The block as a picture."""
        return grid(
            self.pictures,
            columns=len(self.columns),
            row_labels=self.rows,
            column_labels=self.columns,
            title=self.title,
            scale=scale,
        )

    def wrapped(self, most: int) -> Iterator[Block]:
        """The block in parts of at most `most` columns, of nearly equal width; the first keeps the title."""
        count = -(-len(self.columns) // most)
        each = -(-len(self.columns) // count)
        for start in range(0, len(self.columns), each):
            part = slice(start, start + each)
            pictures = [
                picture
                for row in range(len(self.rows))
                for picture in self.pictures[row * len(self.columns) : (row + 1) * len(self.columns)][part]
            ]
            yield replace(self, pictures=pictures, columns=self.columns[part], title=self.title if start == 0 else None)


def sheet(blocks: Sequence[Block], *, heading: str | None = None, scale: int | None = None) -> Image.Image:
    """The blocks below each other on one sheet, RGB; a block too wide for a screen goes on below itself.

    Args:
        blocks: with pictures of one size.
        heading: above all of them.
        scale: integer enlargement; by default tiny pictures are enlarged, as far as the sheet stays small enough.

    Raises:
        ValueError: the sheet could not be opened again, however small.
    """
    scale, parts = arranged(blocks, scale=scale)
    drawn = [part.draw(scale) for part in parts]
    tops, wide = [0 if heading is None else style.MARGIN + _HEADING], max(image.width for image in drawn)
    if heading is not None:
        wide = max(wide, style.text_width(heading, _HEADING, bold=True) + 2 * style.MARGIN)
    for image in drawn:
        # Two margins meet between blocks; one is enough.
        tops.append(tops[-1] + image.height - style.MARGIN)
    paper = style.canvas(wide, tops[-1] + style.MARGIN)
    for image, top in zip(drawn, tops, strict=False):
        paper.paste(image, (0, top))
    if heading is not None:
        draw = ImageDraw.Draw(paper)
        style.draw_text(draw, (style.MARGIN, style.MARGIN), heading, _HEADING, bold=True)
    return paper


def arranged(blocks: Sequence[Block], *, scale: int | None = None) -> tuple[int, list[Block]]:
    """The enlargement of a sheet and its parts from top to bottom; draws nothing.

    Raises:
        ValueError: as `sheet`.
    """
    width, height = _size(blocks[0].pictures[0])
    scales = [scale] if scale is not None else list(range(auto_scale(width, height), 0, -1))
    for factor in scales:
        most = max(1, (_MOST_WIDE - 200) // (width * factor + style.GAP))
        # A wrapped block of many rows would be a tower: it stays whole while it can be seen at all.
        tall = max(len(block.rows) for block in blocks) > 4 and len(blocks[0].columns) <= 2 * most
        parts = [part for block in blocks for part in ([block] if tall else block.wrapped(most))]
        sizes = [part.size(factor) for part in parts]
        wide, high = max(size[0] for size in sizes), sum(size[1] for size in sizes)
        if wide * high <= _MOST_PIXELS and max(wide, high) <= _LONGEST_SIDE:
            return factor, parts
    count = sum(len(block.pictures) for block in blocks)
    raise ValueError(
        f"{count} pictures of {width} x {height} pixels do not fit on one sheet that can be opened again ({wide} x "
        f"{high} pixels); give an axis fewer values, or ask for fewer pictures"
    )


def _size(picture: Picture) -> tuple[int, int]:
    if isinstance(picture, Image.Image):
        return picture.size
    return picture.shape[-1], picture.shape[-2]


def for_palette(pictures: Sequence[Picture]) -> list[Image.Image]:
    """The pictures as RGB; where they have far more colours than the 256 of a palette, rounded to 5 bits a channel.

    The rounding is well below what the palette itself loses, and finding one takes an eighth of the time.
    """
    images = [show(image) for image in as_images(pictures)]
    seen = np.zeros(1 << 24, dtype=bool)
    for image in images:
        red, green, blue = np.moveaxis(np.asarray(image).astype(np.uint32), -1, 0)
        seen[red << 16 | green << 8 | blue] = True
    if int(seen.sum()) <= _MANY_COLOURS:
        return images
    rounded = [round((value >> 3) * 255 / 31) for value in range(256)] * 3
    return [image.point(rounded) for image in images]


@dataclass(frozen=True, kw_only=True)
class Slider:
    """The axis under the frames.

    Args:
        name: of the axis.
        labels: of its values.
        reference: number of the value that is marked.
    """

    name: str
    labels: Sequence[str]
    reference: int | None = None


def frames(
    pictures: Sequence[Sequence[Picture]],
    slider: Slider,
    *,
    columns: int,
    column_labels: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> list[Image.Image]:
    """One sheet of equal size for each value of an axis, with a slider that stands at it.

    Args:
        pictures: for each value, row by row.
        slider: what moves.
        columns: pictures in a row.
        column_labels: as in `grids.grid`.
        row_labels: as in `grids.grid`.
        title: above the pictures.

    Raises:
        ValueError: another number of pictures for one value, or of labels.
    """
    if len(pictures) != len(slider.labels):
        raise ValueError(f"{len(slider.labels)} values were named for {len(pictures)} frames; give one for each")
    if any(len(each) != len(pictures[0]) for each in pictures):
        raise ValueError("every frame must show the same number of pictures")
    width, height = _size(pictures[0][0])
    room = _MOST_WIDE // 2 // max(1, columns)
    scale = max(1, min(auto_scale(width, height, 224 if len(pictures[0]) == 1 else 96), room // max(width, 1)))
    found = []
    for number, each in enumerate(pictures):
        inner = grid(
            each, columns=columns, row_labels=row_labels, column_labels=column_labels, title=title, scale=scale
        )  # fmt: skip
        paper = style.canvas(max(inner.width, 320), inner.height + _FOOT - style.MARGIN)
        paper.paste(inner, ((paper.width - inner.width) // 2, 0))
        _slide(paper, inner.height, slider, number)
        found.append(paper)
    return found


def _slide(paper: Image.Image, top: int, slider: Slider, number: int) -> None:
    draw = ImageDraw.Draw(paper)
    start, stop = style.MARGIN + 4, paper.width - style.MARGIN - 4
    y = top - style.MARGIN + 16
    last = max(len(slider.labels) - 1, 1)

    def place(value: int) -> int:
        return start + round((stop - start) * value / last)

    draw.rectangle((start, y - 1, stop, y + 1), fill=style.rgb(style.RULE))
    if slider.reference is not None:
        x = place(slider.reference)
        draw.rectangle((x - 1, y - 6, x + 1, y + 6), fill=style.rgb(style.MUTED))
    x = place(number)
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=style.rgb(style.INDIGO))
    text = style.shorten(f"{slider.name}  {slider.labels[number]}", _LABEL, stop - start - 60)
    style.draw_text(draw, (start - 4, y + 27), text, _LABEL, anchor="ls")
    count = f"{number + 1} / {len(slider.labels)}"
    style.draw_text(draw, (stop + 4, y + 27), count, _LABEL, colour=style.MUTED, anchor="rs")
