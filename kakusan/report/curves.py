"""Curves of a training run and of its checks. Each function returns a `Chart`: SVG for a page, a picture elsewhere."""

from __future__ import annotations

import contextlib
import io
import math
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kakusan.files import write_text
from kakusan.report import style
from kakusan.report.png import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 520, 290
_POINTS = 400
_SIZE = 9.5
_FONT = re.compile(r"""(style="[^"]*'DejaVu Sans')(?=[";])""")
_DRAWING = threading.Lock()

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """A drawn figure."""

    figure: Figure

    def svg(self) -> str:
        """Deterministic SVG, its text as text."""
        import matplotlib

        buffer = io.StringIO()
        options: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "kakusan"}
        with _drawing(), matplotlib.rc_context(options):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        # Elsewhere than here DejaVu may be missing, and a browser would fall back to a serif.
        return _FONT.sub(r"\1, system-ui, sans-serif", buffer.getvalue())

    def image(self, *, scale: float = 2.0) -> Image.Image:
        """RGB pixels, `scale` times the nominal size of the chart."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        figure = self.figure
        canvas = FigureCanvasAgg(figure)
        nominal = figure.dpi
        with _drawing():
            figure.set_dpi(nominal * scale)
            try:
                canvas.draw()
                return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
            finally:
                figure.set_dpi(nominal)

    def save(self, path: str | Path) -> None:
        """Writes `.svg` or `.png`, whole or not at all."""
        suffix = Path(path).suffix.lower()
        if suffix not in (".svg", ".png"):
            raise ValueError(f"{path} ends in {suffix!r}; a chart is saved as .svg or .png")
        if suffix == ".svg":
            write_text(path, self.svg())
        else:
            save_png(self.image(), path)


def loss_curve(
    records: Sequence[Mapping[str, Any]],
    *,
    keys: Mapping[str, str] | None = None,
    title: str | None = None,
    y: str = "loss",
) -> Chart:
    """Losses over training steps, each as a faint line with its moving average on top.

    `records`: lines of `metrics.jsonl`, in order; those without `step`, a key or a finite value are passed over.
    `keys`: field name to its name in the legend, by default `loss` and `held_out_loss`. `y`: what they are.
    """
    keys = {"loss": "training", "held_out_loss": "held out"} if keys is None else keys
    found = {}
    for key, name in keys.items():
        pairs = [(_number(r.get("step")), _number(r.get(key))) for r in records]
        points = np.array([p for p in pairs if math.isfinite(p[0] + p[1])], np.float64).reshape(-1, 2)
        if len(points):
            found[name] = points
    if not found:
        raise ValueError(f"no record has a step and a finite {' or '.join(keys)}; there is no loss to draw")
    figure, axes = _axes(title, x="step", y=y)
    for (name, points), colour in zip(found.items(), style.SERIES, strict=False):
        steps, losses = _thin(points[:, 0], points[:, 1])
        if len(losses) >= 40:
            axes.plot(steps, losses, color=colour, linewidth=0.8, alpha=0.3)
            losses = _moving_average(losses, max(3, len(losses) // 20))
        axes.plot(steps, losses, color=colour, linewidth=1.8, label=name)
    _log_if_wide(axes, np.concatenate([points[:, 1] for points in found.values()]))
    return _finish(figure, axes)


def held_out_curve(
    steps: Sequence[float],
    train: Sequence[float] | None,
    held_out: Sequence[float],
    *,
    title: str | None = None,
    y: str = "loss",
) -> Chart:
    """Training and held-out loss at the same steps, with the lowest held-out point marked."""
    x, low = _column("steps", steps, None), _column("held_out", held_out, len(steps))
    figure, axes = _axes(title, x="step", y=y)
    drawn = [low]
    if train is not None:
        drawn.append(_column("train", train, len(steps)))
        axes.plot(x, drawn[1], color=style.INDIGO, linewidth=1.8, label="training")
    axes.plot(x, low, color=style.VERMILION, linewidth=1.8, label="held out")
    if np.isfinite(low).any():
        best = int(np.nanargmin(np.where(np.isfinite(low), low, np.nan)))
        label = f"best {style.number(float(low[best]))} at {x[best]:,.0f}"
        axes.plot(
            x[best], low[best], "o", color=style.VERMILION, markersize=6, markeredgecolor=style.PAPER, label=label
        )
    _log_if_wide(axes, np.concatenate(drawn))
    return _finish(figure, axes)


def level_loss(
    levels: Sequence[float],
    loss: Sequence[float],
    floor: Sequence[float],
    held_out: Sequence[float] | None = None,
    *,
    title: str | None = None,
) -> Chart:
    """Loss at each noise level against what is reached there without a network.

    `levels`: log-SNR; `loss`, `held_out`: mean loss there; `floor`: the loss of the trivial predictor of that level.
    The shaded band is what the network knows.
    """
    x = _column("levels", levels, None)
    order = np.argsort(x)
    columns = [_column(n, v, len(x))[order] for n, v in (("loss", loss), ("floor", floor))]
    x = x[order]
    figure, axes = _axes(title, x="log-SNR   (noise ← → data)", y="loss")
    axes.fill_between(
        x, columns[0], columns[1], where=columns[0] <= columns[1], color=style.INDIGO, alpha=0.10, linewidth=0
    )
    axes.plot(x, columns[1], color=style.MUTED, linewidth=1.4, linestyle=(0, (4, 3)), label="trivial predictor")
    axes.plot(x, columns[0], "o-", color=style.INDIGO, linewidth=1.8, markersize=4, label="training")
    if held_out is not None:
        columns.append(_column("held_out", held_out, len(x))[order])
        axes.plot(x, columns[2], "o-", color=style.VERMILION, linewidth=1.8, markersize=4, label="held out")
    _log_if_wide(axes, np.concatenate(columns))
    return _finish(figure, axes)


def distance_curve(
    steps: Sequence[float],
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    label: str,
    null: float,
    spread: float,
    best: float | None = None,
    title: str | None = None,
) -> Chart:
    """Distances of samples to real pictures over training steps, one line for each feature space.

    `lines`: name to (values, their standard errors), as many as `steps`. `null` is what real pictures score, with a
    band of `spread` to both sides; `best` is the step that is marked.
    """
    x = _column("steps", steps, None)
    figure, axes = _axes(title, x="step", y=label)
    axes.axhspan(null - spread, null + spread, color=style.MUTED, alpha=0.14, linewidth=0)
    axes.axhline(null, color=style.MUTED, linewidth=1.4, linestyle=(0, (4, 3)), label="real pictures")
    drawn = []
    for (name, (values, errors)), colour in zip(lines.items(), style.SERIES, strict=False):
        y, error = _column("values", values, len(x)), _column("errors", errors, len(x))
        axes.fill_between(x, y - error, y + error, color=colour, alpha=0.16, linewidth=0)
        axes.plot(x, y, "o-", color=colour, linewidth=1.8, markersize=4, label=name)
        if best is not None:
            axes.plot(x[x == best], y[x == best], "o", color=colour, markersize=8, markeredgecolor=style.PAPER)
        drawn.append(y)
    if best is not None:
        axes.axvline(best, color=style.INK, linewidth=0.9, linestyle=(0, (1, 2)))
    if null > 0:
        _log_if_wide(axes, np.concatenate([*drawn, [null]]))
    elif drawn and np.nanmax(np.abs(np.concatenate(drawn))) > 50:
        # About zero nothing has a logarithm: straight up to one deviation, by decades from there on.
        axes.set_yscale("symlog", linthresh=1.0)
        every = np.concatenate(drawn)
        axes.set_ylim(min(-2.0, 1.5 * float(np.nanmin(every))), 2.0 * float(np.nanmax(every)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return _finish(figure, axes)


def nearest_neighbours(
    generated: Sequence[float],
    held_out: Sequence[float],
    *,
    percentile: float = 5.0,
    distance: str = "distance to the nearest training picture",
    title: str | None = None,
) -> Chart:
    """How near generated pictures and held-out pictures lie to the training set, and one low percentile of each.

    A model that has learnt pictures by heart puts its percentile far left of the held-out pictures'.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile}; expected 0 to 100")
    samples = {"generated": _finite("generated", generated), "held out": _finite("held_out", held_out)}
    every = np.concatenate(list(samples.values()))
    span = float(every.max() - every.min()) or 1.0
    edges = np.linspace(every.min() - 0.02 * span, every.max() + 0.02 * span, 33)
    figure, axes = _axes(title, x=distance, y="share of pictures")
    for (name, values), colour in zip(samples.items(), (style.INDIGO, style.VERMILION), strict=True):
        share = np.histogram(values, edges)[0] / len(values)
        at = float(np.percentile(values, percentile))
        axes.stairs(share, edges, color=colour, fill=True, alpha=0.14)
        label = f"{name}, {percentile:g}th percentile {style.number(at)}"
        axes.stairs(share, edges, color=colour, linewidth=1.5, label=label)
        axes.axvline(at, color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    return _finish(figure, axes, legend_columns=1)


def class_neighbours(
    names: Sequence[str],
    generated: Sequence[float],
    held_out: Sequence[float],
    notes: Sequence[str],
    *,
    distance: str,
    title: str | None = None,
) -> Chart:
    """One row for each class, from top to bottom: a distance of its samples beside that of held-out pictures.

    `notes` stand at the right end of the rows. Samples left of the held-out pictures are the ones to look at.
    """
    rows = range(len(names))
    low, new = _column("generated", generated, len(names)), _column("held_out", held_out, len(names))
    figure, axes = _axes(title, x=distance, y="", height=110 + 22 * len(names))
    axes.grid(False)
    axes.hlines(rows, np.minimum(low, new), np.maximum(low, new), color=style.RULE, linewidth=2.0)
    for values, colour, name in ((new, style.VERMILION, "held out"), (low, style.INDIGO, "samples")):
        axes.plot(values, rows, "o", color=colour, markersize=6, label=name)
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=0.0, right=1.05 * float(np.nanmax([low, new])))
    beside = style.style_axes(axes.twinx(), size=_SIZE)
    beside.grid(False)
    beside.set_ylim(axes.get_ylim())
    beside.set_yticks(rows, notes)
    for text in (*axes.get_yticklabels(), *beside.get_yticklabels()):
        text.set_parse_math(False)
    axes.tick_params(axis="y", labelcolor=style.INK)
    return _finish(figure, axes)


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
    """One drawing at a time, since matplotlib reads its options from one process-wide table.

    That the bundled font lacks a glyph is no news: a page sets SVG text in the reader's own font.
    """
    with _DRAWING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _axes(title: str | None, *, x: str, y: str, height: int = _HEIGHT) -> tuple[Figure, Axes]:
    figure = style.figure(_WIDTH, height)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    style.style_axes(axes, size=_SIZE)
    if title is not None:
        figure.suptitle(title, x=0.02, ha="left", color=style.INK, size=11.5, weight="bold", parse_math=False)
    return figure, axes


def _finish(figure: Figure, axes: Axes, *, legend_columns: int = 3) -> Chart:
    from matplotlib.ticker import MaxNLocator

    axes.margins(x=0.025)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=legend_columns,
        frameon=False,
        fontsize=_SIZE,
        labelcolor=style.INK,
        handlelength=1.3,
        columnspacing=1.4,
        borderaxespad=0.2,
    )
    if axes.get_xlabel() == "step":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    style.use_bundled_font(figure)
    with _drawing():
        figure.tight_layout(pad=0.6)
    return Chart(figure)


def _log_if_wide(axes: Axes, values: Floats) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 8:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        decades = math.log10(high / low)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most `_POINTS` points: means over runs of equal length."""
    if len(x) <= _POINTS:
        return x, y
    edges = np.linspace(0, len(x), _POINTS + 1).astype(np.int64)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def _moving_average(values: Floats, window: int) -> Floats:
    """Centred means over `window` values.

    Towards the start they reach less far to both sides, so that a falling curve keeps its start; at the end only what
    lies ahead is missing, so that the last value is not one noisy reading.
    """
    places = np.arange(len(values))
    back = np.minimum(window // 2, places)
    ahead = np.minimum(back, places[::-1])
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[places + ahead + 1] - sums[places - back]) / (back + ahead + 1)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _column(name: str, values: Sequence[float], count: int | None) -> Floats:
    """`values` as a column whose non-finite entries are gaps in the line."""
    column = np.asarray(values, np.float64)
    if column.ndim != 1 or len(column) == 0:
        raise ValueError(f"{name} has shape {column.shape}; expected a list of at least one number")
    if count is not None and len(column) != count:
        raise ValueError(
            f"{name} has {len(column)} values; expected {count}, as many as there are points on the x axis"
        )
    return np.where(np.isfinite(column), column, np.nan)


def _finite(name: str, values: Sequence[float]) -> Floats:
    column = _column(name, values, None)
    column = column[np.isfinite(column)]
    if len(column) == 0:
        raise ValueError(f"{name} has no finite distance; there is nothing to draw")
    return column
