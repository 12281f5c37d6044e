"""Attention maps per word: a picture, and for each word of its text where the network looked at that word.

Maps come from `kakusan.nn.attended`. All words of one picture share one scale, from nothing to the largest value of
any of them, which is written beside it: a word that was hardly looked at stays dark.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from kakusan.report import style
from kakusan.report.pictures import Picture, as_images, auto_scale, show

if TYPE_CHECKING:
    from torch import Tensor

    from kakusan.encoders.base import Word

Maps = npt.NDArray[np.float32]

# From nothing to much, dark to light and in one order of hues, so that it reads in print and without colour.
_HEAT = ("#46357d", "#8f3585", "#d9475c", "#f88d42", "#ffe27c")
# The picture below is gray and no lighter than this, and what is bright in a panel is attention.
_GRAY_FROM, _GRAY_TO = 0.05, 0.3
_MOST_OPAQUE = 0.88
_TARGET = 160
_MOST_COLUMNS = 8
_LABEL = 15
_BAR = 12
_BOX = "□"


@dataclass(frozen=True)
class WordMaps:
    """Maps of the words of one picture.

    Args:
        words: as they were written.
        values: (words, H, W), shares of a place's attention, at the size of the picture.
    """

    words: tuple[str, ...]
    values: Maps

    @property
    def top(self) -> float:
        """The largest value: the bright end of the scale."""
        return float(self.values.max()) if self.values.size else 0.0


def word_maps(maps: Tensor, words: Sequence[Word]) -> WordMaps:
    """Maps of tokens (L, H, W), as `AttentionMaps.of()[k]` gives them, added up for each word.

    Signs of punctuation are left out, unless there is nothing else.

    Raises:
        ValueError: maps of another shape, not finite, no word, or a word with tokens that the maps do not have.
    """
    tokens = np.asarray(maps.detach().cpu().float().numpy(), np.float32)
    if tokens.ndim != 3 or not np.isfinite(tokens).all():
        raise ValueError(f"expected finite maps (L, H, W) of the tokens of one picture, got {tokens.shape}")
    if not words:
        raise ValueError("there are no words to show: the text is empty")
    for word in words:
        if not word.tokens or not 0 <= min(word.tokens) <= max(word.tokens) < len(tokens):
            raise ValueError(
                f"the word {word.text!r} has tokens {word.tokens}, and there are maps of 0 to {len(tokens) - 1}"
            )
    words = [word for word in words if not _punctuation(word.text)] or words
    values = np.stack([tokens[list(word.tokens)].sum(0) for word in words])
    return WordMaps(tuple(word.text for word in words), values)


def _punctuation(text: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in text)


def overlay(picture: Picture, values: Maps, top: float, *, scale: int | None = None) -> Image.Image:
    """One map over its picture: the picture gray and dim, attention on it from violet to yellow. Returns RGB.

    Args:
        picture: where the network looked.
        values: (H, W), enlarged smoothly to the picture.
        top: the value that is brightest.
        scale: of the picture; by itself when None.

    Raises:
        ValueError: values of another shape or not finite, or a top that is not positive.
    """
    if values.ndim != 2 or not np.isfinite(values).all() or not top > 0.0:
        raise ValueError(f"an overlay shows finite values (H, W) up to a positive top, got {values.shape} and {top}")
    base = _shown(picture, scale)
    wide = Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(base.size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(wide) / top, 0.0, 1.0)[..., None]
    gray = np.asarray(base.convert("L"), np.float64)[..., None] / 255.0
    under = 255.0 * (_GRAY_FROM + (_GRAY_TO - _GRAY_FROM) * gray)
    mixed = under + _MOST_OPAQUE * np.sqrt(share) * (_heat(share[..., 0]) - under)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def word_sheet(
    pictures: Sequence[Picture],
    maps: Sequence[WordMaps],
    *,
    texts: Sequence[str] | None = None,
    title: str | None = None,
    scale: int | None = None,
    tops: Sequence[float] | None = None,
) -> Image.Image:
    """For each picture a row: the picture, a panel for each of its words, and the scale of their colours.

    Long texts go on in a further line. Where the system has no font for a word, its number stands before the boxes.

    Args:
        pictures: one or several, of any sizes.
        maps: of each picture.
        texts: what each picture was asked to be, written over its row.
        title: over all.
        scale: of every picture, whole; by itself when None.
        tops: the bright end of each picture's scale; its largest value when None.

    Raises:
        ValueError: none, or not as many maps, texts or tops as pictures.
    """
    images = as_images(pictures)
    for name, found in (("maps", maps), ("texts", texts), ("tops", tops)):
        if found is not None and len(found) != len(images):
            raise ValueError(f"{len(images)} pictures were given with {len(found)} {name}; give one for each")
    tops = [one.top for one in maps] if tops is None else list(tops)
    over: list[str | None] = [None] * len(images) if texts is None else list(texts)
    rows = [
        _row(image, one, text, top or 1.0, scale)
        for image, one, text, top in zip(images, maps, over, tops, strict=True)
    ]
    head = round(_LABEL * 2.4) if title is not None else 0
    width = max(row.width for row in rows) + 2 * style.MARGIN
    height = head + sum(row.height for row in rows) + style.MARGIN * (len(rows) + 1)
    sheet = style.canvas(width, height)
    draw = ImageDraw.Draw(sheet)
    if title is not None:
        line = style.shorten(title, _LABEL + 4, width - 2 * style.MARGIN, bold=True)
        style.draw_text(draw, (style.MARGIN, style.MARGIN), line, _LABEL + 4, bold=True)
    above = style.MARGIN + head
    for row in rows:
        sheet.paste(row, (style.MARGIN, above))
        above += row.height + style.MARGIN
    return sheet


def word_frames(
    pictures: Sequence[Picture], maps: Sequence[WordMaps], *, labels: Sequence[str], scale: int | None = None
) -> list[Image.Image]:
    """One sheet for each step of one picture, all on one scale, for `kakusan.report.animation`.

    Args:
        pictures: what the network saw or predicted at each step.
        maps: of each step.
        labels: of each step, written over it.
        scale: of the picture, whole.
    """
    top = max((one.top for one in maps), default=0.0)
    if len(labels) != len(maps):
        raise ValueError(f"{len(maps)} steps were given with {len(labels)} labels; give one for each")
    frames = [
        word_sheet([picture], [one], texts=[label], scale=scale, tops=[top])
        for picture, one, label in zip(pictures, maps, labels, strict=True)
    ]
    width, height = max(f.width for f in frames), max(f.height for f in frames)
    found = []
    for frame in frames:
        sheet = style.canvas(width, height)
        sheet.paste(frame, (0, 0))
        found.append(sheet)
    return found


def legend(maps: WordMaps) -> list[str]:
    """Numbers and words that the fonts of this system cannot draw, to be said beside the sheet."""
    numbered = enumerate(maps.words, start=1)
    return [f"{number} {word}" for number, word in numbered if not _drawable(word)]


def _drawable(word: str) -> bool:
    line, _ = style.typeset(word, _LABEL)
    return line.count(_BOX) == word.count(_BOX)


def _shown(picture: Picture, scale: int | None) -> Image.Image:
    image = as_images([picture])[0]
    return show(image, auto_scale(*image.size, target=_TARGET) if scale is None else scale)


def _heat(share: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Values (H, W) from 0 to 1 as colours (H, W, 3)."""
    stops = np.array([style.rgb(colour) for colour in _HEAT], np.float64)
    return np.stack([np.interp(share * (len(stops) - 1), np.arange(len(stops)), stops[:, c]) for c in range(3)], -1)


def _label(word: str, number: int, width: int) -> str:
    return style.shorten(word if _drawable(word) else f"{number} {word}", _LABEL, width)


def _row(picture: Image.Image, maps: WordMaps, text: str | None, top: float, scale: int | None) -> Image.Image:
    base = _shown(picture, scale)
    panels = [overlay(picture, values, top, scale=scale) for values in maps.values]
    labels = [_label(word, number, base.width) for number, word in enumerate(maps.words, start=1)]
    columns = min(len(panels), _MOST_COLUMNS)
    lines = -(-len(panels) // columns)
    gap, head, line_head = style.GAP, round(_LABEL * 1.9) if text is not None else 0, round(_LABEL * 1.5)
    scale_text = f"{100.0 * top:{'.0f' if top >= 0.1 else '.2g'}} %"
    left = base.width + 3 * gap
    bar_left = left + columns * (base.width + gap) + gap
    width = bar_left + _BAR + 6 + max(style.text_width(part, 12) for part in (scale_text, "0"))
    height = head + lines * (line_head + base.height + gap) - gap
    sheet = style.canvas(width, height)
    draw = ImageDraw.Draw(sheet)
    if text is not None:
        style.draw_text(draw, (0, 0), style.shorten(text, _LABEL, width), _LABEL)
    upper = head + line_head
    sheet.paste(base, (0, upper))
    for index, (panel, label) in enumerate(zip(panels, labels, strict=True)):
        line, column = divmod(index, columns)
        x, y = left + column * (base.width + gap), upper + line * (line_head + base.height + gap)
        sheet.paste(panel, (x, y))
        place = (x + base.width / 2, y - _LABEL * 0.45)
        style.draw_text(draw, place, label, _LABEL, colour=style.MUTED, anchor="ms")
    lower = upper + base.height
    ramp = np.linspace(1.0, 0.0, base.height)[:, None].repeat(_BAR, 1)
    sheet.paste(Image.fromarray(np.rint(_heat(ramp)).astype(np.uint8)), (bar_left, upper))
    side = bar_left + _BAR + 6
    style.draw_text(draw, (side, upper), scale_text, 12, colour=style.MUTED, anchor="lt")
    style.draw_text(draw, (side, lower), "0", 12, colour=style.MUTED, anchor="lb")
    return sheet
