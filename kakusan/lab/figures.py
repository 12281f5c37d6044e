"""The figures of the lab. Each `draw_*` returns a matplotlib figure; `save` writes it.

They are made for a room: large type, few words, one scale of colours for all densities and one for all points, square
windows of equal aspect. Every `title` can be replaced, or left out with "", for pages in other languages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kakusan.denoiser import BaseDenoiser
from kakusan.lab.colours import by_angle, density_scale
from kakusan.lab.exact import Exact
from kakusan.lab.fields import FIELDS, View, density, explodes, inside, stages
from kakusan.lab.paths import Paths, SolverError
from kakusan.lab.words import ENGLISH, Words
from kakusan.levels import Level
from kakusan.report import style
from kakusan.report.curves import Chart
from kakusan.report.png import save_png
from kakusan.specs import suggestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.text import Text

TITLE, LABEL, NOTE = 19.0, 15.0, 12.5
_PANEL = 400
_LINES, _FEW = 40, 8
_SYMBOLS = {
    "score": r"$\nabla \log p_t(x)$",
    "velocity": r"$dx/dt = \alpha' \hat x_0 + \sigma' \hat\epsilon$",
}
_MARKERS = "osD^vP"


def save(figure: Figure, path: str | Path, record: Mapping[str, Any] | None = None) -> None:
    """Writes a figure as PNG (with `record` in it) or as SVG, whole or not at all."""
    chart = Chart(figure)
    if Path(path).suffix.lower() == ".png":
        save_png(chart.image(scale=1.0), path, record)
    else:
        chart.save(path)


def draw_density(
    exact: Exact,
    view: View,
    times: Sequence[float] | None = None,
    *,
    name: str = "data",
    title: str | None = None,
    words: Words = ENGLISH,
) -> Figure:
    """The forward process as a filmstrip: p_t at `times` (by default from data to noise, even in log-SNR).

    Each picture has its own scale of colours, from nothing to its own peak.
    """
    times = stages(exact.schedule) if times is None else list(times)
    figure, every = panel_row(len(times), words.titles["density"].format(name=name), title, 300)
    for axes, t in zip(every, times, strict=True):
        paint_density(axes, exact, view, t)
        headings(axes, f"t = {t:.2f}", level_text(exact, t))
    return finish(figure, exact, words)


def draw_field(
    denoiser: BaseDenoiser,
    exact: Exact,
    view: View,
    times: Sequence[float] | None = None,
    *,
    kind: str = "score",
    arrows: int = 21,
    name: str = "data",
    title: str | None = None,
    words: Words = ENGLISH,
) -> Figure:
    """The score or the velocity of a denoiser as arrows over the exact density.

    Arrow length grows with the root of the strength, relative to the strongest of its picture: fields differ a
    thousandfold between near and far, and directions are what is to be seen.

    Args:
        kind: a name of `fields.FIELDS`.
        arrows: along a side.

    Raises:
        ValueError: another kind.
    """
    if kind not in FIELDS:
        raise ValueError(f"no field {kind!r}{suggestion(kind, list(FIELDS))}; there are {', '.join(FIELDS)}")
    times = stages(exact.schedule, 5, first=2.5, last=-2.5)[1:-1] if times is None else list(times)
    figure, every = panel_row(len(times), words.titles[kind].format(name=name), title)
    mesh = View(view.half, arrows)
    places = mesh.points().numpy()
    for axes, t in zip(every, times, strict=True):
        t = inside(exact.schedule, t)
        paint_density(axes, exact, view, t, faint=True)
        x, y = arrow_steps(FIELDS[kind](denoiser, mesh, t), mesh).reshape(-1, 2).numpy().T
        axes.quiver(
            *places.T, x, y, angles="xy", scale_units="xy", scale=1.0, color=style.VERMILION,
            width=0.0052, headwidth=4.2, headlength=4.6, headaxislength=4.0, pivot="mid", minlength=0.0,
        )  # fmt: skip
        headings(axes, f"t = {t:.2f}", level_text(exact, t))
    every[0].set_ylabel(_SYMBOLS[kind], size=LABEL, color=style.VERMILION, labelpad=10)
    return finish(figure, exact, words)


def arrow_steps(field: Tensor, mesh: View) -> Tensor:
    """A field (N, N, 2) as arrows of at most 1.25 cells, their length the root of the strength over the strongest."""
    field = field.to(torch.float64)
    size = field.norm(dim=-1, keepdim=True)
    strongest = size.max().clamp_min(1e-300)
    length = (size / strongest).sqrt() * (1.25 * 2.0 * mesh.half / mesh.cells)
    return field / size.clamp_min(1e-300) * length


def draw_trajectories(
    runs: Sequence[Paths],
    exact: Exact,
    view: View,
    *,
    flow: Paths | None = None,
    name: str = "data",
    title: str | None = None,
    words: Words = ENGLISH,
) -> Figure:
    """Runs of samplers from the same noise side by side: paths, steps, ends. Colour tells where a point started.

    Args:
        flow: a run from the same noise whose ends the others' are compared with, as a number under each heading.
    """
    figure, every = panel_row(len(runs), words.titles["trajectories"].format(name=name), title)
    colours = by_angle(runs[0].shown[0])
    for axes, run in zip(every, runs, strict=True):
        paint_density(axes, exact, view, 0.0, faint=True)
        _paths(axes, run, colours, lines=_FEW if run.stochastic else _LINES)
        steps = "" if run.steps is None else f", {words.step_count(run.steps)}"
        if flow is None or run is flow or run.stochastic:
            note = words.detour.format(value=run.detour)
        else:
            note = words.ends.format(value=run.distance(flow), label=words.label(flow.label))
        headings(axes, words.label(run.label) + steps, note)
    return finish(figure, exact, words)


def draw_families(
    runs: Sequence[Paths],
    exact: Exact,
    view: View,
    *,
    name: str = "data",
    title: str | None = None,
    words: Words = ENGLISH,
) -> Figure:
    """Kinds of path side by side, from the same noise: how long each is compared with the distance it covers."""
    figure, every = panel_row(len(runs), words.titles["families"].format(name=name), title)
    colours = by_angle(runs[0].shown[0])
    for axes, run in zip(every, runs, strict=True):
        paint_density(axes, exact, view, 0.0, faint=True)
        _paths(axes, run, colours, lines=_FEW, dots=False)
        headings(axes, words.label(run.label), words.detour.format(value=run.detour))
    return finish(figure, exact, words)


def draw_errors(
    found: Sequence[SolverError], *, name: str = "data", title: str | None = None, words: Words = ENGLISH
) -> Figure:
    """Error over the number of steps on logarithmic axes; each line carries its measured slope."""
    from matplotlib.ticker import NullFormatter, NullLocator

    heading = words.titles["errors"].format(name=name) if title is None else title
    height = 660 if heading else 590
    figure = style.figure(1120, height)
    axes = figure.add_axes((0.105, 90 / height, 0.60, 484 / height))
    style.style_axes(axes, size=LABEL)
    ends = []
    for k, (curve, colour) in enumerate(zip(found, _cycle(len(found)), strict=True)):
        line = dict(color=colour, marker=_MARKERS[k % len(_MARKERS)], markersize=8, linewidth=2.6)
        axes.loglog(curve.steps, curve.errors, **line)
        ends.append((curve.errors[-1], f"{curve.label}   {words.slope.format(value=curve.order)}", colour))
    axes.set_xlabel(words.number_of_steps, size=LABEL)
    axes.set_ylabel(words.distance_to_flow, size=LABEL)
    ticks = found[0].steps
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    for y, (_, text, colour) in zip(_apart([e for e, _, _ in ends], low, high), ends, strict=True):
        axes.annotate(
            text, (1.025, y), xycoords="axes fraction", va="center", color=colour, size=LABEL, weight="bold",
            annotation_clip=False, parse_math=False,
        )  # fmt: skip
    figure.text(0.02, 1.0 - 30 / height, heading, size=TITLE, weight="bold", color=style.INK, va="center")
    style.use_bundled_font(figure)
    return figure


def _apart(errors: Sequence[float], low: float, high: float) -> list[float]:
    """Heights of labels on the axis (shares of it), moved so that no two overlap."""
    places = [float(np.log(max(e, low) / low) / np.log(high / low)) for e in errors]
    order = sorted(range(len(places)), key=lambda k: places[k])
    gap = 0.062
    for below, above in pairwise(order):
        places[above] = max(places[above], places[below] + gap)
    over = max(0.0, max(places, default=0.0) - 1.0)
    return [place - over for place in places]


def _cycle(count: int) -> list[str]:
    return [style.SERIES[k % len(style.SERIES)] for k in range(count)]


def panel_row(count: int, default: str, title: str | None, panel: int = _PANEL) -> tuple[Figure, list[Axes]]:
    """A figure of square windows in a row, under a title."""
    text = default if title is None else title
    gap, side, head = 22, 26, 128 if text else 76
    left = 56
    width, height = left + side + count * panel + (count - 1) * gap, head + panel + side
    figure = style.figure(width, height)
    every = []
    for k in range(count):
        place = (left + k * (panel + gap)) / width
        every.append(figure.add_axes((place, side / height, panel / width, panel / height)))
    if text:
        figure.text(
            left / width, 1.0 - 34 / height, text, size=TITLE, weight="bold", color=style.INK, va="center"
        )  # fmt: skip
    return figure, every


def _window(axes: Axes, view: View) -> None:
    axes.set(xlim=(-view.half, view.half), ylim=(-view.half, view.half), xticks=[], yticks=[], aspect="equal")
    axes.set_facecolor(style.PAPER)
    for spine in axes.spines.values():
        spine.set(color=style.RULE, linewidth=1.0)


def paint_density(axes: Axes, exact: Exact, view: View, t: float, *, faint: bool = False) -> AxesImage:
    """p_t as the ground of a window; `faint` leaves room for what is drawn over it."""
    _window(axes, view)
    extent = (-view.half, view.half, -view.half, view.half)
    values = shade(density(exact, view, t)).numpy()
    return axes.imshow(
        values, cmap=density_scale(), origin="lower", interpolation="bicubic", extent=extent, vmin=0.0,
        vmax=2.6 if faint else 1.0,
    )  # fmt: skip


def shade(values: Tensor) -> Tensor:
    """A density as depth of colour from 0 to 1, its peak: the root, so that tails are seen beside the peak."""
    return (values / values.max().clamp_min(1e-300)).sqrt()


def all_around(run: Paths, count: int) -> list[int]:
    """Every so many of a run's points in order of the angle they start at, so that few still come from all sides."""
    first = run.shown[0]
    order = torch.atan2(first[:, 1], first[:, 0]).argsort().tolist()
    return [order[k * len(order) // count] for k in range(count)] if count < len(order) else order


def _paths(axes: Axes, run: Paths, colours: Sequence[str], *, lines: int = _LINES, dots: bool = True) -> None:
    from matplotlib.collections import LineCollection

    shown = run.shown.numpy()
    chosen = all_around(run, lines)
    some, theirs = shown[:, chosen], [colours[k] for k in chosen]
    tracks = LineCollection(list(some.transpose(1, 0, 2)), colors=theirs, linewidths=1.7, alpha=0.85)
    axes.add_collection(tracks)
    axes.scatter(some[0, :, 0], some[0, :, 1], s=26.0, facecolors="none", edgecolors=theirs, linewidths=1.5, zorder=3)
    if dots and run.steps is not None and run.steps <= 64:
        flat = some[:-1].reshape(-1, 2)
        axes.scatter(flat[:, 0], flat[:, 1], s=7.0, c=theirs * (len(some) - 1), linewidths=0.0, zorder=3)
    axes.scatter(
        shown[-1, :, 0], shown[-1, :, 1], s=24.0, c=list(colours), edgecolors=style.PAPER, linewidths=0.6, zorder=4
    )


def headings(axes: Axes, heading: str, note: str) -> Text:
    """What stands over a window; returns the lower line, for animations."""
    axes.text(0.0, 1.085, heading, transform=axes.transAxes, size=LABEL, weight="bold", color=style.INK, va="bottom")
    return axes.text(0.0, 1.02, note, transform=axes.transAxes, size=NOTE, color=style.MUTED, va="bottom")


def level_text(exact: Exact, t: float) -> str:
    """alpha and sigma at t."""
    level = Level.of(exact.schedule, t)
    return rf"$\alpha$ = {float(level.alpha):.2f}   $\sigma$ = {float(level.sigma):.3g}"


def finish(figure: Figure, exact: Exact, words: Words = ENGLISH) -> Figure:
    """The last touch: what coordinates are shown, where that is not plain x_t, and the style's type."""
    if explodes(exact.schedule):
        x, y = 1.0 - 26 / figure.bbox.width, 12 / figure.bbox.height
        figure.text(x, y, words.shown_rescaled, size=11.0, color=style.MUTED, ha="right", va="center")
    style.use_bundled_font(figure)
    return figure
