"""Figures that set models side by side: one colour for each kind, real pictures as a line."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kakusan.report import style
from kakusan.report.curves import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 520, 330
_SIZE = 9.5
_COLOURS = {"diffusion": style.INDIGO, "vae": style.MOSS, "gan": style.VERMILION, "flow": style.AMBER}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
DISPLAYED = {"diffusion": "diffusion", "vae": "VAE", "gan": "GAN", "flow": "flow"}


def colour_of(kind: str) -> str:
    """Of a kind of model, the same in every figure."""
    return _COLOURS.get(kind, style.WISTERIA)


@dataclass(frozen=True)
class Series:
    """A line or single points.

    Args:
        name: in the legend.
        x: rising.
        y: one for each x.
        errors: standard errors of y.
        notes: beside the points; empty for none.
        colour: of the style.
        marker: number of the marker and of the line's pattern.
        pattern: number of the line's pattern.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    errors: Sequence[float]
    notes: Sequence[str] = ()
    colour: str = style.INDIGO
    marker: int = 0
    pattern: int = 0


def by_row(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    label: str,
    real: Mapping[str, float],
    log: bool = False,
) -> Chart:
    """One row for each space or figure, in it one line of dots for each kind: small dots are trainings, large the mean.

    Args:
        values: kind -> row -> one value for each training.
        label: of the x axis.
        real: row -> what real pictures score.
        log: whether ratios, not differences, are what is read.
    """
    rows = list(dict.fromkeys(row for found in values.values() for row in found))
    kinds = list(values)
    figure, axes = _axes(label, "", height=96 + max(44, 15 * len(kinds) + 12) * len(rows))
    offsets = np.linspace(-0.3, 0.3, len(kinds)) if len(kinds) > 1 else [0.0]
    for place, row in enumerate(rows):
        if row in real:
            axes.plot([real[row]] * 2, [place - 0.42, place + 0.42], color=style.MUTED, linewidth=1.6)
        for kind, offset in zip(kinds, offsets, strict=True):
            found = [v for v in values[kind].get(row, ()) if math.isfinite(v) and (v > 0 or not log)]
            if not found:
                continue
            colour, height = colour_of(kind), place + float(offset)
            axes.plot([min(found), max(found)], [height] * 2, color=colour, linewidth=2.0, alpha=0.45)
            axes.plot(found, [height] * len(found), "o", color=colour, markersize=3.5, alpha=0.6)
            mean = math.exp(np.log(found).mean()) if log else float(np.mean(found))
            axes.plot(mean, height, "o", color=colour, markersize=7.5, label=_named(kind) if place == 0 else None)
    if real:
        axes.plot([], [], color=style.MUTED, linewidth=1.6, label="real pictures")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False)
    axes.grid(True, axis="x", color=style.RULE, linewidth=0.7)
    axes.tick_params(axis="y", labelcolor=style.INK)
    if log:
        _log(axes, "x")
    return _finish(figure, axes)


def spectra(frequencies: Sequence[float], ratios: Mapping[str, Sequence[float]], *, start: float) -> Chart:
    """Power over spatial frequency as a multiple of real pictures', one line a kind; high ones begin at `start`."""
    figure, axes = _axes("cycles per pixel   (coarse → fine)", "power beside real pictures", height=_HEIGHT)
    axes.axvspan(start, max(frequencies), color=style.MUTED, alpha=0.10, linewidth=0)
    axes.axhline(1.0, color=style.MUTED, linewidth=1.6, label="real pictures")
    for kind, values in ratios.items():
        axes.plot(frequencies, values, color=colour_of(kind), linewidth=2.0, label=_named(kind))
    _log(axes, "y")
    axes.margins(x=0.01)
    return _finish(figure, axes)


def quality_against(series: Sequence[Series], *, x: str, y: str, real: float | None = None, columns: int = 3) -> Chart:
    """Quality over cost, both logarithmic, lower and further left is better; bars are two standard errors."""
    rows = -(-(len(series) + 1) // columns)
    figure, axes = _axes(x, y, height=_HEIGHT + 20 * max(0, rows - 1))
    if real is not None:
        axes.axhline(real, color=style.MUTED, linewidth=1.6, label="real pictures")
    for one in series:
        # A bar down to nothing has no place on a logarithmic axis.
        bars = [[min(2.0 * e, 0.9 * v) for v, e in zip(one.y, one.errors, strict=True)], [2.0 * e for e in one.errors]]
        axes.errorbar(
            one.x,
            one.y,
            yerr=np.nan_to_num(np.array(bars)),
            fmt=_MARKERS[one.marker % len(_MARKERS)],
            linestyle=_LINES[one.pattern % len(_LINES)],
            color=one.colour,
            markersize=6,
            linewidth=1.6,
            elinewidth=1.2,
            label=one.name,
        )
        for place, value, note in zip(one.x, one.y, one.notes, strict=False):
            axes.annotate(note, (place, value), (6, 5), textcoords="offset points", color=style.MUTED, size=_SIZE - 1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _log(axes, "x")
    _log(axes, "y")
    axes.margins(x=0.08, y=0.1)
    return _finish(figure, axes, columns=columns)


def _named(kind: str) -> str:
    return DISPLAYED.get(kind, kind)


def _axes(x: str, y: str, *, height: int) -> tuple[Figure, Axes]:
    figure = style.figure(_WIDTH, height)
    axes = style.style_axes(figure.add_subplot(), size=_SIZE)
    axes.set_xlabel(x, color=style.MUTED, size=_SIZE)
    axes.set_ylabel(y, color=style.MUTED, size=_SIZE)
    return figure, axes


def _log(axes: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers, few enough to stand beside each other."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    getattr(axes, f"set_{which}scale")("log")
    low, high = getattr(axes, f"get_{which}lim")()
    decades = math.log10(high / low) if low > 0 else 3.0
    steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if decades < 0.8 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, axes: Axes, *, columns: int = 5) -> Chart:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=_SIZE,
        labelcolor=style.INK,
        handlelength=1.4,
        columnspacing=1.3,
        borderaxespad=0.2,
    )
    for text in (*axes.get_yticklabels(), *axes.get_xticklabels()):
        text.set_parse_math(False)
    style.use_bundled_font(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.tight_layout(pad=0.6)
    return Chart(figure)
