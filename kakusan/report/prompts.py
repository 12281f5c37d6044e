"""Pictures under the texts they were asked for."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from kakusan.report import style
from kakusan.report.grids import tile
from kakusan.report.pictures import Picture, as_images, auto_scale, largest

_SIZE = 15
_LEADING = 1.4
_LEAST = 420
_MOST_LINES = 6
# Where a line of Japanese must not begin.
_NOT_FIRST = "、。，．」』）)]!！?？ー々ぁぃぅぇぉっゃゅょ"


def prompt_sheet(
    rows: Sequence[tuple[str, Sequence[Picture]]], *, columns: int = 8, scale: int | None = None
) -> Image.Image:
    """Each text in full, and below it its pictures. Returns RGB.

    Args:
        rows: (text, its pictures); the empty text is shown as such.
        columns: most pictures beside each other.
        scale: integer enlargement; tiny pictures are enlarged to 96 pixels when not given.

    Raises:
        ValueError: nothing to show.
    """
    if not rows or not all(pictures for _, pictures in rows):
        raise ValueError("there is nothing to show: every text needs at least one picture")
    blocks = [tile(pictures, columns=min(columns, len(pictures)), gap=style.GAP, scale=_scale(rows, scale))
              for _, pictures in rows]  # fmt: skip
    wide = max(_LEAST, *(block.width for block in blocks))
    texts = [wrapped(text if text.strip() else "(no text)", _SIZE, wide, most=_MOST_LINES) for text, _ in rows]
    leading = round(_SIZE * _LEADING)
    heights = [leading * len(lines) + style.GAP + block.height for lines, block in zip(texts, blocks, strict=True)]
    between = style.MARGIN
    sheet = style.canvas(wide + 2 * style.MARGIN, sum(heights) + between * (len(rows) + 1))
    draw, top = ImageDraw.Draw(sheet), between
    for lines, block, height in zip(texts, blocks, heights, strict=True):
        for number, line in enumerate(lines):
            style.draw_text(draw, (style.MARGIN, top + leading * number), line, _SIZE)
        sheet.paste(block, (style.MARGIN, top + leading * len(lines) + style.GAP))
        top += height + between
    return sheet


def wrapped(text: str, size: int, width: int, *, most: int) -> list[str]:
    """The lines of a text that is no wider than `width` pixels: at most `most`, the last one cut with an ellipsis.

    Lines break at spaces, between characters of Japanese, and anywhere in a word that alone is too wide.
    """
    # What cannot fit anyway need not be measured.
    units, lines = _units(" ".join(text.split())[: 40 * most * max(1, width // size)]), [""]
    for unit in units:
        longer = lines[-1] + unit
        if lines[-1] and style.text_width(longer.rstrip(), size) > width:
            lines.append(unit.lstrip())
        else:
            lines[-1] = longer
        if len(lines) > most:
            break
    kept = [line.rstrip() for line in lines[:most]]
    if len(lines) > most:
        kept[-1] += " " + lines[most] + "…"
    return [style.shorten(line, size, width) for line in kept]


def _units(text: str) -> list[str]:
    """Pieces between which a line may break."""
    units: list[str] = []
    for character in text:
        wide = ord(character) >= 0x2E80
        after_space = bool(units) and units[-1].endswith(" ")
        open_word = bool(units) and not after_space and ord(units[-1][-1]) < 0x2E80
        joins = character == " " or character in _NOT_FIRST or (not wide and open_word)
        if units and joins:
            units[-1] += character
        else:
            units.append(character)
    return units


def _scale(rows: Sequence[tuple[str, Sequence[Picture]]], scale: int | None) -> int:
    if scale is not None:
        return scale
    return auto_scale(*largest(as_images([picture for _, pictures in rows for picture in pictures])))
