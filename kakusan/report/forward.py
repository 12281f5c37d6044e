"""The forward process in pictures: x_t at chosen times above the schedule's curves, on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from kakusan.report import style
from kakusan.report.pictures import Picture, as_images, auto_scale, largest, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values: TypeAlias = Sequence[float] | npt.NDArray[Any]

_AXIS = 58
_SLANT = 26
_LOG_SNR_HEIGHT = 170
_COEFFICIENT_HEIGHT = 120
_BELOW = 40
_NARROWEST = 480
_LABEL = 13
_LEADER = "#b4b7b4"
_SYMBOLS = {"alpha": ("α", style.MOSS), "sigma": ("σ", style.VERMILION)}


class ProcessCurves:
    """Plain numbers of a noise schedule, as drawn under the pictures.

    `times` (N,) rising, `log_snr` (N,), and where wanted `alpha` and `sigma` (N,). Values that are not finite, as at
    the ends of some schedules, are left out of the drawing.
    """

    def __init__(
        self, times: Values, log_snr: Values, *, alpha: Values | None = None, sigma: Values | None = None
    ) -> None:
        self.times = np.asarray(times, np.float64)
        if self.times.ndim != 1 or len(self.times) < 2 or not (np.diff(self.times) > 0).all():
            raise ValueError("the curve's times must be a list of at least two rising numbers")
        self.log_snr = self._checked("log_snr", log_snr)
        self.coefficients: dict[str, npt.NDArray[np.float64]] = {}
        for name, values in (("alpha", alpha), ("sigma", sigma)):
            if values is not None:
                self.coefficients[name] = self._checked(name, values)

    def _checked(self, name: str, values: Values) -> npt.NDArray[np.float64]:
        array = np.asarray(values, np.float64)
        if array.shape != self.times.shape:
            raise ValueError(f"{name} has shape {array.shape}, the curve's times {self.times.shape}; they must agree")
        if np.isfinite(array).sum() < 2:
            raise ValueError(f"{name} has fewer than two finite values; there is no curve to draw")
        return array

    def at(self, values: npt.NDArray[np.float64], t: float) -> float:
        """A curve's value at `t`, linear between its finite points."""
        finite = np.isfinite(values)
        return float(np.interp(t, self.times[finite], values[finite]))


@dataclass(frozen=True, kw_only=True)
class StripLayout:
    """Where things lie on a forward strip, in pixels of the finished sheet."""

    size: tuple[int, int]
    boxes: tuple[tuple[int, int, int, int], ...]
    """(left, top, right, bottom) of each picture, right and bottom excluded."""
    markers: tuple[tuple[float, float], ...]
    """Centre of each marker on the log-SNR curve."""


def forward_strip(
    frames: Sequence[Picture],
    times: Sequence[float],
    curves: ProcessCurves,
    *,
    title: str | None = None,
    scale: int | None = None,
) -> Image.Image:
    """x_t at chosen times in a row, and beneath it the curves of log-SNR (and alpha, sigma) over the same t axis.

    The middle of the first picture stands over the beginning of the curves' time and the middle of the last over its
    end, so equally spaced times over the whole range stand exactly above their markers; any others are led to theirs.
    `frames`: pictures of one size. `times`: t of each, rising, within the curves' time. Returns RGB.
    """
    return _strip(frames, times, curves, title, scale)[0]


def forward_layout(
    frames: Sequence[Picture],
    times: Sequence[float],
    curves: ProcessCurves,
    *,
    title: str | None = None,
    scale: int | None = None,
) -> StripLayout:
    """Where `forward_strip` puts pictures and markers when it is called with the same arguments."""
    return _strip(frames, times, curves, title, scale)[1]


def forward_frames(
    frames: Sequence[Picture], times: Sequence[float], curves: ProcessCurves, *, scale: int | None = None
) -> list[Image.Image]:
    """One sheet for each frame: the picture above, and under it the curves with a marker at its t. All of one size."""
    images = _same_size(frames, times, curves)
    cell = images[0].size
    scale = auto_scale(*cell, target=256) if scale is None else scale
    picture = (cell[0] * scale, cell[1] * scale)
    inner = max(picture[0], _NARROWEST - 2 * _AXIS)
    width = inner + 2 * _AXIS + style.MARGIN
    plot = _Plot(curves, width, (_AXIS + 8, width - _AXIS), (_AXIS + 8, width - _AXIS))
    top = style.MARGIN + picture[1]
    caption = round(_LABEL * 2.6)
    sheets = []
    for image, t in zip(images, times, strict=True):
        sheet = style.canvas(width, top + caption + plot.image.height + style.MARGIN // 2)
        sheet.paste(show(image, scale), ((width - picture[0]) // 2, style.MARGIN))
        draw = ImageDraw.Draw(sheet)
        text = f"t = {t:.2f}     log-SNR = {_signed(curves.at(curves.log_snr, t))}"
        style.draw_text(draw, (width / 2, top + caption / 2 + 2), text, _LABEL, anchor="mm")
        sheet.paste(plot.image, (0, top + caption))
        _markers(sheet, plot, [t], top + caption, line=True)
        sheets.append(sheet)
    return sheets


def _strip(
    frames: Sequence[Picture],
    times: Sequence[float],
    curves: ProcessCurves,
    title: str | None,
    scale: int | None,
) -> tuple[Image.Image, StripLayout]:
    images = _same_size(frames, times, curves)
    count = len(images)
    width, height = images[0].size
    if scale is None:
        # Few tiny pictures grow until the curves under them have room, but not beyond a sensible size of picture.
        target = max(96, min(224, 640 // count))
        scale = auto_scale(width, height, target)
    cell = (width * scale, height * scale)
    gap = style.GAP * 2
    pitch = max(cell[0] + gap, -(-_NARROWEST // count))
    left = style.MARGIN + _AXIS
    right = left + pitch * count - gap
    sheet_width = right + style.MARGIN
    title_size = round(_LABEL * 1.35)
    top = style.MARGIN + (round(title_size * 1.9) if title is not None else 0) + round(_LABEL * 1.5)
    lefts = [left + index * pitch + (pitch - gap - cell[0]) // 2 for index in range(count)]
    middles = [x + cell[0] / 2 for x in lefts]
    ends = (middles[0], middles[-1]) if count > 1 else (float(left), float(right))
    plot = _Plot(curves, sheet_width, (left, right), ends)
    furthest = max(abs(plot.x(t) - middle) for t, middle in zip(times, middles, strict=True))
    plot_top = top + cell[1] + _SLANT + min(40, round(furthest / 5))

    sheet = style.canvas(sheet_width, plot_top + plot.image.height + style.MARGIN // 2)
    sheet.paste(plot.image, (0, plot_top))
    draw = ImageDraw.Draw(sheet)
    if title is not None:
        text = style.shorten(title, title_size, sheet_width - 2 * style.MARGIN, bold=True)
        style.draw_text(draw, (style.MARGIN, style.MARGIN), text, title_size, bold=True)
    boxes = []
    for image, t, x, middle in zip(images, times, lefts, middles, strict=True):
        sheet.paste(show(image, scale), (x, top))
        boxes.append((x, top, x + cell[0], top + cell[1]))
        style.draw_text(draw, (middle, top - 7), f"t = {t:.3g}", _LABEL, colour=style.MUTED, anchor="ms")
        _line(sheet, [(middle, top + cell[1] + 4), (plot.x(t), plot_top), (plot.x(t), plot_top + plot.y(t))])
    markers = _markers(sheet, plot, times, plot_top)
    return sheet, StripLayout(size=sheet.size, boxes=tuple(boxes), markers=tuple(markers))


def _same_size(frames: Sequence[Picture], times: Sequence[float], curves: ProcessCurves) -> list[Image.Image]:
    images = as_images(frames, what="frames")
    if len(images) != len(times):
        raise ValueError(f"{len(images)} frames were given for {len(times)} times; give one time for each frame")
    if any(image.size != largest(images) for image in images):
        raise ValueError("the frames of a forward process must all be of one size")
    first, last = curves.times[0], curves.times[-1]
    if not all(first <= t <= last for t in times):
        raise ValueError(f"every time must lie within the curve's own, {first:g} to {last:g}; got {list(times)}")
    return images


class _Plot:
    """The curves without markers, drawn once, and where a time falls on them in pixels."""

    def __init__(self, curves: ProcessCurves, width: int, span: tuple[float, float], ends: tuple[float, float]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self._curves = curves
        self._ends = ends
        self._start, self._stop = float(curves.times[0]), float(curves.times[-1])
        heights = [_LOG_SNR_HEIGHT] + ([_COEFFICIENT_HEIGHT] if curves.coefficients else [])
        tops = [4 + sum(heights[:i]) + 22 * i for i in range(len(heights))]
        height = tops[-1] + heights[-1] + _BELOW
        figure = style.figure(width, height)
        per_pixel = (self._stop - self._start) / (ends[1] - ends[0])
        limits = (self._start - (ends[0] - span[0]) * per_pixel, self._stop + (span[1] - ends[1]) * per_pixel)
        label_x = -46 / (span[1] - span[0])
        for index, (top, tall) in enumerate(zip(tops, heights, strict=True)):
            box = (span[0] / width, 1 - (top + tall) / height, (span[1] - span[0]) / width, tall / height)
            axes = style.style_axes(figure.add_axes(box), size=9)
            axes.set_xlim(*limits)
            if index == 0:
                shown = np.where(np.isfinite(curves.log_snr), curves.log_snr, np.nan)
                axes.plot(curves.times, shown, color=style.INDIGO, linewidth=2.0)
                axes.set_ylabel("log-SNR")
                axes.yaxis.set_label_coords(label_x, 0.5)
                axes.axhline(0, color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
            else:
                _draw_coefficients(axes, curves, label_x)
            axes.set_xticks(np.linspace(self._start, self._stop, 6))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
            if index < len(heights) - 1:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel("t")
            if index == 0:
                low, high = axes.get_ylim()
                self._log_snr = (top, tall, low, high)
        style.use_bundled_font(figure)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())

    def x(self, t: float) -> float:
        """Horizontal place of `t`, in pixels from the sheet's left edge."""
        share = (t - self._start) / (self._stop - self._start)
        return self._ends[0] + share * (self._ends[1] - self._ends[0])

    def y(self, t: float) -> float:
        """Vertical place of the log-SNR curve at `t`, in pixels from the plot's upper edge."""
        top, tall, low, high = self._log_snr
        return top + tall * (high - self._curves.at(self._curves.log_snr, t)) / (high - low)


def _draw_coefficients(axes: Axes, curves: ProcessCurves, label_x: float) -> None:
    from matplotlib.ticker import NullLocator

    highest = 0.0
    for index, (name, values) in enumerate(curves.coefficients.items()):
        symbol, colour = _SYMBOLS[name]
        shown = np.where(np.isfinite(values), values, np.nan)
        axes.plot(curves.times, shown, color=colour, linewidth=2.0)
        y = 0.5 + 0.13 * (len(curves.coefficients) - 1) - 0.26 * index
        axes.text(label_x, y, symbol, color=colour, size=12, transform=axes.transAxes, ha="center", va="center")
        highest = max(highest, float(np.nanmax(shown)))
    if highest > 3:
        # A variance-exploding sigma runs over five decades: on a linear axis alpha = 1 would be the axis itself.
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())


def _markers(
    sheet: Image.Image, plot: _Plot, times: Sequence[float], top: int, *, line: bool = False
) -> list[tuple[float, float]]:
    places = []
    for t in times:
        x, y = plot.x(t), top + plot.y(t)
        if line:
            _line(sheet, [(x, top + 4), (x, sheet.height - style.MARGIN // 2 - _BELOW)])
        disc(sheet, x, y, 5.5, style.PAPER)
        disc(sheet, x, y, 4.0, style.VERMILION)
        places.append((x, y))
    return places


def disc(sheet: Image.Image, x: float, y: float, radius: float, colour: str) -> None:
    """A smooth filled circle; (x, y) in pixels from the sheet's corner, so a pixel's middle is at half-integers."""
    left, top = int(x - radius) - 1, int(y - radius) - 1
    side = int(2 * radius) + 4
    fine = 8
    mask = Image.new("L", (side * fine, side * fine), 0)
    a, b = (x - left) * fine, (y - top) * fine
    ImageDraw.Draw(mask).ellipse((a - radius * fine, b - radius * fine, a + radius * fine, b + radius * fine), fill=255)
    sheet.paste(style.rgb(colour), (left, top), mask.resize((side, side), Image.Resampling.BOX))


def _line(sheet: Image.Image, points: Sequence[tuple[float, float]]) -> None:
    """A smooth hairline; whole-pixel places keep its upright parts crisp."""
    fine = 4
    xs, ys = [int(x) for x, _ in points], [int(y) for _, y in points]
    left, top = min(xs) - 2, min(ys) - 2
    width, height = max(xs) - left + 3, max(ys) - top + 3
    mask = Image.new("L", (width * fine, height * fine), 0)
    path = [((x - left + 0.5) * fine, (y - top + 0.5) * fine) for x, y in zip(xs, ys, strict=True)]
    ImageDraw.Draw(mask).line(path, fill=255, width=fine, joint="curve")
    sheet.paste(style.rgb(_LEADER), (left, top), mask.resize((width, height), Image.Resampling.BOX))


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
