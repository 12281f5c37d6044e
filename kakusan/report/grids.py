"""Labelled grids of pictures. Every source pixel becomes an exact square of pixels: nothing is resampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from kakusan.report import style
from kakusan.report.pictures import Picture, as_images, auto_scale, largest, show

_MOST_PIXELS = 150_000_000
"""Larger sheets would be refused as decompression bombs by Pillow itself when they are opened again."""
_LONGEST_SIDE = 65_000
_LEADING = 1.3


@dataclass(frozen=True, kw_only=True)
class GridLayout:
    """Where the cells of a grid lie, in pixels of the finished sheet."""

    rows: int
    columns: int
    cell: tuple[int, int]
    """Width and height of one cell."""
    origin: tuple[int, int]
    """Top left corner of the first cell."""
    gap: int
    size: tuple[int, int]
    """Width and height of the sheet."""

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of a cell, right and bottom excluded."""
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise IndexError(f"cell ({row}, {column}) is outside a grid of {self.rows} x {self.columns}")
        left = self.origin[0] + column * (self.cell[0] + self.gap)
        top = self.origin[1] + row * (self.cell[1] + self.gap)
        return left, top, left + self.cell[0], top + self.cell[1]


def grid(
    images: Sequence[Picture],
    *,
    columns: int,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Pictures row by row on a sheet of paper, with labels. Returns RGB.

    `images`: any Pillow mode, or integer arrays (see `pictures.from_array` for channels). `scale`: integer
    enlargement of every pixel; by default tiny pictures are enlarged until their longer side is at least 96 pixels.
    Pictures of unequal size are centred in cells of the largest. A label wider than its place is cut with an ellipsis;
    a column label may have up to three lines.

    Raises ValueError for no pictures, a wrong number of labels, or a sheet too large to be opened again.
    """
    cells = _cells(images, scale)
    layout = _layout(cells, columns, row_labels, column_labels, title)
    size = _label_size(layout.cell)
    sheet = style.canvas(*layout.size)
    draw = ImageDraw.Draw(sheet)
    _paste(sheet, cells, layout)
    if title is not None:
        text = style.shorten(title, _title_size(size), layout.size[0] - 2 * style.MARGIN, bold=True)
        style.draw_text(draw, (style.MARGIN, style.MARGIN), text, _title_size(size), bold=True)
    for column, label in enumerate(column_labels or ()):
        left, top, right, _ = layout.box(0, column)
        lines = _lines(label)
        for above, line in enumerate(reversed(lines)):
            text = style.shorten(line, size, right - left + layout.gap)
            place = ((left + right) / 2, top - size * (0.55 + _LEADING * above))
            style.draw_text(draw, place, text, size, colour=style.MUTED, anchor="ms")
    for row, label in enumerate(row_labels or ()):
        left, top, _, bottom = layout.box(row, 0)
        text = style.shorten(label, size, _label_room(size))
        style.draw_text(draw, (left - size * 0.8, (top + bottom) / 2), text, size, anchor="rm")
    return sheet


def grid_layout(
    images: Sequence[Picture],
    *,
    columns: int,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> GridLayout:
    """Where `grid` puts the cells when it is called with the same arguments."""
    return _layout(_cells(images, scale), columns, row_labels, column_labels, title)


def tile(images: Sequence[Picture], *, columns: int, gap: int = 0, scale: int = 1) -> Image.Image:
    """Pictures row by row with nothing between them but `gap` pixels of paper: no labels, no margin. Returns RGB."""
    if gap < 0:
        raise ValueError(f"gap is {gap}; expected 0 or more pixels")
    cells = _cells(images, scale)
    rows, columns = _shape(len(cells), columns, None)
    cell = largest(cells)
    size = (columns * (cell[0] + gap) - gap, rows * (cell[1] + gap) - gap)
    layout = GridLayout(rows=rows, columns=columns, cell=cell, origin=(0, 0), gap=gap, size=_checked(size))
    sheet = style.canvas(*layout.size)
    _paste(sheet, cells, layout)
    return sheet


def _cells(images: Sequence[Picture], scale: int | None) -> list[Image.Image]:
    sources = as_images(images)
    width, height = largest(sources)
    if scale is None:
        scale = auto_scale(width, height)
    if scale < 1:
        raise ValueError(f"scale is {scale}; expected an integer of at least 1 (pictures are never shrunk here)")
    _checked((width * scale, height * scale))
    return [show(image, scale) for image in sources]


def _shape(count: int, columns: int, column_labels: Sequence[str] | None) -> tuple[int, int]:
    if columns < 1:
        raise ValueError(f"columns is {columns}; expected at least 1")
    if column_labels is None:
        columns = min(columns, count)
    return -(-count // columns), columns


def _layout(
    cells: Sequence[Image.Image],
    columns: int,
    row_labels: Sequence[str] | None,
    column_labels: Sequence[str] | None,
    title: str | None,
) -> GridLayout:
    rows, columns = _shape(len(cells), columns, column_labels)
    for labels, count, name in ((row_labels, rows, "row"), (column_labels, columns, "column")):
        if labels is not None and len(labels) != count:
            raise ValueError(f"{len(labels)} {name} labels were given for {count} {name}s; give one for each or none")
    cell = largest(cells)
    size = _label_size(cell)
    gap = max(style.GAP, size // 3)
    left = top = style.MARGIN
    if row_labels is not None:
        widest = max(style.text_width(style.shorten(label, size, _label_room(size)), size) for label in row_labels)
        left += widest + round(size * 0.8)
    if title is not None:
        top += round(_title_size(size) * 1.9)
    if column_labels is not None:
        top += round(size * (1.5 + _LEADING * (max(len(_lines(label)) for label in column_labels) - 1)))
    width = left + columns * (cell[0] + gap) - gap + style.MARGIN
    height = top + rows * (cell[1] + gap) - gap + style.MARGIN
    if title is not None:
        # One narrow column must not cut a short title to nothing.
        wanted = style.text_width(title, _title_size(size), bold=True) + 2 * style.MARGIN
        width = max(width, min(wanted, 480))
    checked = _checked((width, height))
    return GridLayout(rows=rows, columns=columns, cell=cell, origin=(left, top), gap=gap, size=checked)


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if size[0] * size[1] > _MOST_PIXELS or max(size) > _LONGEST_SIDE:
        raise ValueError(f"the sheet would be {size[0]} x {size[1]} pixels; give fewer pictures or a smaller scale")
    return size


def _paste(sheet: Image.Image, cells: Sequence[Image.Image], layout: GridLayout) -> None:
    for index, image in enumerate(cells):
        left, top, right, bottom = layout.box(*divmod(index, layout.columns))
        sheet.paste(image, (left + (right - left - image.width) // 2, top + (bottom - top - image.height) // 2))


def _lines(label: str) -> list[str]:
    return label.split("\n")[:3]


def _label_size(cell: tuple[int, int]) -> int:
    return min(28, max(12, round(min(cell) / 8)))


def _title_size(size: int) -> int:
    return round(size * 1.35)


def _label_room(size: int) -> int:
    return size * 16
