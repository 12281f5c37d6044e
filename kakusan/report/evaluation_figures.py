"""Figures of an evaluation: numbers beside what real pictures score, spectra, and losses by noise level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kakusan.metrics.record import MetricRecord
from kakusan.metrics.verdict import SCALES, Scale
from kakusan.report import style
from kakusan.report.curves import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 520
_SIZE = 9.5
_ROW = 26
_BAND = 1.6448536269514722
"""Real pictures fall into the grey band nine times in ten."""


def charts(records: Sequence[MetricRecord]) -> list[tuple[str, Chart]]:
    """(title, figure) for each way to read a distance, as far as there are records of it."""
    found: dict[Scale, list[MetricRecord]] = {}
    for record in records:
        if record.name in SCALES and record.null is not None:
            found.setdefault(SCALES[record.name], []).append(record)
    return [(scale.title, beside_null(scale, rows)) for scale, rows in found.items()]


def beside_null(scale: Scale, records: Sequence[MetricRecord]) -> Chart:
    """One row for each record, from top to bottom: its value with its error, and where real pictures fall.

    Rows of one metric stand together. The grey band holds real pictures nine times in ten; bars are two standard errors
    to both sides.
    """
    rows = sorted(records, key=lambda r: [x.name for x in records].index(r.name))
    points = [_point(scale, record) for record in rows]
    figure, axes = _axes(scale.axis, len(rows))
    for place, (record, (value, error, null, band)) in enumerate(zip(rows, points, strict=True)):
        colour = style.SERIES[list(SCALES).index(record.name) % len(style.SERIES)]
        low, high = null - band, null + band
        axes.fill_betweenx([place - 0.3, place + 0.3], low, high, color=style.MUTED, alpha=0.22, linewidth=0)
        axes.plot([null, null], [place - 0.3, place + 0.3], color=style.MUTED, linewidth=1.2)
        axes.plot([null, value], [place, place], color=colour, linewidth=1.0, alpha=0.45)
        axes.errorbar(value, place, xerr=2.0 * error, fmt="o", color=colour, markersize=6, linewidth=2.0)
    values = np.array([v for point in points for v in (point[0], point[2])])
    if scale.log and values.min() > 0:
        _log(axes, float(values.min()), float(values.max()))
    _rows(axes, [f"{r.name}, {r.space}" if r.space else r.name for r in rows])
    notes = [_said(scale, record) for record in rows]
    beside = style.style_axes(axes.twinx(), size=_SIZE)
    beside.grid(False)
    beside.set_ylim(axes.get_ylim())
    beside.set_yticks(range(len(rows)), notes)
    for side in ("right", "left"):
        beside.spines[side].set_visible(False)
    _plain(beside)
    return _finish(figure)


def _point(scale: Scale, record: MetricRecord) -> tuple[float, float, float, float]:
    """(value, its standard error, null, half of the band of real pictures), in the units of the scale."""
    null, spread = float(record.null or 0.0), float(record.null_stderr or 0.0)
    error = record.stderr if math.isfinite(record.stderr) else 0.0
    if scale.ratio and null:
        return record.value / null, error / null, 1.0, _BAND * spread / null
    if record.z is not None and scale.title.startswith("Kernel"):
        return record.z, error / spread, 0.0, _BAND
    return record.value, error, null, _BAND * spread


def _said(scale: Scale, record: MetricRecord) -> str:
    value, error, _, _ = _point(scale, record)
    if scale.ratio:
        return f"{value:.3g}×"
    return f"{value:.3g}" if error == 0.0 else f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"


def spectrum_figure(curves: Mapping[str, Any]) -> Chart:
    """Power over spatial frequency of samples and of real pictures.

    Args:
        curves: `frequencies` in cycles per pixel, `samples` and `real` mean logarithms of power there, and `spread`,
            the standard deviation over single real pictures.
    """
    x, mine, real, spread = (np.asarray(curves[k], np.float64) for k in ("frequencies", "samples", "real", "spread"))
    # Between powers of ten people read; the slope that all pictures have would hide the difference.
    mine, real, spread = (values / math.log(10.0) for values in (mine, real, spread))
    figure, axes = _axes("cycles per pixel   (coarse → fine)", 9)
    axes.fill_between(x, -spread, spread, color=style.MUTED, alpha=0.18, linewidth=0, label="single real pictures")
    axes.axhline(0.0, color=style.MUTED, linewidth=1.4, linestyle=(0, (4, 2)), label="real, mean")
    axes.plot(x, mine - real, color=style.INDIGO, linewidth=2.0, label="samples, mean")
    reach = 1.15 * max(float(spread.max()), float(np.abs(mine - real).max()))
    axes.set_ylim(-reach, reach)
    doublings = [k for k in range(-6, 7) if abs(k) * math.log10(2.0) <= reach]
    axes.set_yticks([k * math.log10(2.0) for k in doublings], [f"×{2.0**k:g}" for k in doublings])
    axes.set_ylabel("power, as a multiple of real pictures'")
    return _finish(figure, legend=axes)


def levels_figure(curves: Mapping[str, Any]) -> Chart:
    """Held-out less training loss by noise level, with two standard errors.

    Args:
        curves: `log_snr`, `gap` and `stderr`.
    """
    x, gap, error = (np.asarray(curves[k], np.float64) for k in ("log_snr", "gap", "stderr"))
    figure, axes = _axes("log-SNR   (noise ← → data)", 8)
    axes.axhline(0.0, color=style.MUTED, linewidth=1.0)
    axes.errorbar(x, gap, yerr=2.0 * error, fmt="o-", color=style.INDIGO, linewidth=1.6, markersize=5)
    axes.set_ylabel("held-out less training error")
    return _finish(figure)


def _axes(label: str, rows: int) -> tuple[Figure, Axes]:
    figure = style.figure(_WIDTH, 70 + _ROW * rows)
    axes = style.style_axes(figure.add_subplot(), size=_SIZE)
    axes.set_xlabel(label)
    axes.xaxis.label.set(color=style.MUTED, size=_SIZE)
    axes.yaxis.label.set(color=style.MUTED, size=_SIZE)
    return figure, axes


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False)
    axes.grid(True, axis="x", color=style.RULE, linewidth=0.7)
    axes.tick_params(axis="y", labelcolor=style.INK)
    _plain(axes)


def _plain(axes: Axes) -> None:
    for text in axes.get_yticklabels():
        text.set_parse_math(False)


def _log(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(min(0.8, low / 1.3), max(2.0, high * 1.4))
    wide = high / low > 60
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, *, legend: Axes | None = None) -> Chart:
    if legend is not None:
        legend.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=3,
            frameon=False,
            fontsize=_SIZE,
            labelcolor=style.INK,
        )
    style.use_bundled_font(figure)
    figure.tight_layout(pad=0.6)
    return Chart(figure)
