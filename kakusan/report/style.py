"""The one visual style: colours, type and spacing for Pillow pictures, matplotlib curves and the HTML page.

Text inside pictures is set in DejaVu Sans, which matplotlib ships, so a picture looks the same on every machine.
DejaVu has no Japanese glyphs: a text that needs other glyphs is set in a Japanese font of the system where there is
one, and otherwise each missing glyph becomes a plain box. Text in SVG and HTML is real text and needs none of this.
"""

from __future__ import annotations

import functools
import numbers
import os
import unicodedata
from typing import TYPE_CHECKING

from PIL import Image, ImageColor, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "#fafaf7"
INK = "#23272f"
MUTED = "#6b7280"
RULE = "#dcdcd4"
INDIGO = "#2f5d8c"
VERMILION = "#d4553a"
MOSS = "#5b8a5a"
AMBER = "#c8922e"
WISTERIA = "#7c68a6"
SERIES = (INDIGO, VERMILION, MOSS, AMBER, WISTERIA)

# Each colour of a curve has a name in the page, where it follows the reader's light or dark setting.
ROLES = {
    PAPER: "paper",
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    INDIGO: "indigo",
    VERMILION: "vermilion",
    MOSS: "moss",
    AMBER: "amber",
    WISTERIA: "wisteria",
}
DARK = {
    "paper": "#16181d",
    "ink": "#e7e6e1",
    "muted": "#9aa1ac",
    "rule": "#343841",
    "indigo": "#7fb0e0",
    "vermilion": "#f08a70",
    "moss": "#8fc08d",
    "amber": "#e3b65c",
    "wisteria": "#b5a3dc",
}

CHECK_LIGHT = (255, 255, 255)
CHECK_DARK = (222, 222, 218)
MARGIN = 20
GAP = 4

FONT_STACK = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Hiragino Sans", "Noto Sans JP", '
    '"Noto Sans CJK JP", "Yu Gothic UI", "DejaVu Sans", sans-serif'
)
_SYSTEM_JAPANESE = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKjp-Regular.otf",
    "NotoSansJP-Regular.otf",
    "NotoSansJP-Regular.ttf",
    "NotoSansJP-VF.ttf",
    "ヒラギノ角ゴシック W3.ttc",
    "Hiragino Sans GB.ttc",
    "YuGothM.ttc",
    "meiryo.ttc",
    "msgothic.ttc",
    "ipagp.ttf",
    "ipag.ttf",
    "TakaoPGothic.ttf",
    "DroidSansFallbackFull.ttf",
)
_BOX = "□"
_ELLIPSIS = "…"

Font = ImageFont.FreeTypeFont


def rgb(colour: str) -> tuple[int, int, int]:
    """`"#rrggbb"` as three integers."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return red, green, blue


def _bundled(bold: bool) -> str:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name)


@functools.cache
def _glyphs(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(path).get_charmap())


@functools.cache
def japanese_font() -> str | None:
    """Path of a system font with Japanese glyphs, found by file name where each platform keeps its fonts."""
    for name in _SYSTEM_JAPANESE:
        try:
            return str(ImageFont.truetype(name, 12).path)
        except OSError:
            continue
    return None


@functools.lru_cache(maxsize=64)
def _load(path: str, size: int) -> Font:
    # The basic layout engine is in every build of Pillow; Raqm is not, and would move text by a pixel or two.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def font(size: int, *, bold: bool = False) -> Font:
    """The style's font at `size` pixels."""
    return _load(_bundled(bold), size)


def typeset(text: str, size: int, *, bold: bool = False) -> tuple[str, Font]:
    """`text` on one line with every glyph drawable, and the font that draws it."""
    line = "".join(" " if c.isspace() else c for c in text)
    line = "".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    bundled = _bundled(bold)
    missing = {c for c in line if ord(c) not in _glyphs(bundled)}
    if not missing:
        return line, _load(bundled, size)
    path = japanese_font()
    if path is not None:
        covered = _glyphs(path)
        if any(ord(c) in covered for c in missing):
            return "".join(c if ord(c) in covered else _BOX for c in line), _load(path, size)
    return "".join(_BOX if c in missing else c for c in line), _load(bundled, size)


def text_width(text: str, size: int, *, bold: bool = False) -> int:
    """Width of `text` in pixels when drawn by `draw_text`."""
    line, face = typeset(text, size, bold=bold)
    return int(-(-face.getlength(line) // 1))


def shorten(text: str, size: int, width: int, *, bold: bool = False) -> str:
    """`text`, cut with an ellipsis where it is wider than `width` pixels."""
    if text_width(text, size, bold=bold) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + _ELLIPSIS, size, bold=bold) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + _ELLIPSIS


def draw_text(
    draw: ImageDraw.ImageDraw,
    position: tuple[float, float],
    text: str,
    size: int,
    *,
    colour: str = INK,
    anchor: str = "la",
    bold: bool = False,
) -> None:
    """Draws one line of `text`; `anchor` is Pillow's two-letter anchor ("la" top left, "mm" middle, "rm" right)."""
    line, face = typeset(text, size, bold=bold)
    draw.text(position, line, fill=rgb(colour), font=face, anchor=anchor)


def canvas(width: int, height: int) -> Image.Image:
    """An empty RGB sheet of the style's paper."""
    return Image.new("RGB", (width, height), rgb(PAPER))


def number(value: object) -> str:
    """A value as the reader sees it: integers grouped by thousands, other numbers with four significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}".replace("-", "−")
    if isinstance(value, numbers.Real):
        real = float(value)
        return f"{real:{',.0f' if 1e3 <= abs(real) < 1e15 else '.4g'}}".replace("-", "−")
    return str(value)


def figure(width: int, height: int) -> Figure:
    """An empty matplotlib figure of `width` x `height` pixels on the style's paper, outside pyplot's registry."""
    from matplotlib.figure import Figure as MatplotlibFigure

    return MatplotlibFigure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER)


def style_axes(axes: Axes, *, size: float = 10.0) -> Axes:
    """Gives axes the style's look: two thin spines, faint horizontal rules, muted tick labels of `size` points."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=RULE, linewidth=1.0)
    axes.grid(True, axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    for which in ("major", "minor"):
        axes.tick_params(which=which, color=RULE, labelcolor=MUTED, labelsize=size, length=0, pad=6)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set(color=MUTED, size=size)
    return axes


def use_bundled_font(figure: Figure) -> None:
    """Sets every text of a finished figure in matplotlib's own DejaVu Sans, whatever the user's matplotlibrc says.

    Glyphs that it lacks come from a Japanese font of the system, where there is one.
    """
    from matplotlib.text import Text

    known = _glyphs(_bundled(False))
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        foreign = any(ord(c) not in known for c in text.get_text() if not c.isspace())
        text.set_fontfamily(["DejaVu Sans", *(_japanese_family() if foreign else [])])


@functools.cache
def _japanese_family() -> list[str]:
    """The Japanese font's name, made known to matplotlib; empty where the system has none."""
    path = japanese_font()
    if path is None:
        return []
    from matplotlib import font_manager

    font_manager.fontManager.addfont(path)
    return [font_manager.FontProperties(fname=path).get_name()]
