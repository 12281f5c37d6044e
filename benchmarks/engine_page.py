"""Curves, times to a mark, and the page of benchmarks/engine.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine_levers import EVERYTHING, LEVERS, PLAIN, TOGETHER, Lever

Curve = Sequence[tuple[float, float]]
BAR = 3.0
PICTURE = "engine.png"


def time_to(curve: Curve, mark: float) -> float | None:
    """When a curve of (seconds, loss) first comes down to `mark`, None when it never does.

    Between two points the curve is taken to be a power law (straight when both axes are logarithmic), which losses
    nearly are. A curve that begins below the mark gives the time of its first point: it came there earlier. Losses
    that are not finite are passed over.

    Raises:
        ValueError: times that are not positive or do not rise, or losses or a mark that are not positive.
    """
    last: tuple[float, float] | None = None
    before = 0.0
    if not 0.0 < mark < math.inf:
        raise ValueError(f"a mark is a positive number, got {mark}")
    for seconds, loss in curve:
        if not before < seconds < math.inf:
            raise ValueError(f"times are positive and rise, got {seconds} after {before}")
        before = seconds
        if not math.isfinite(loss):
            continue
        if loss <= 0.0:
            raise ValueError(f"losses are positive, got {loss}")
        if loss <= mark:
            if last is None:
                return seconds
            share = math.log(last[1] / mark) / math.log(last[1] / loss)
            return last[0] * (seconds / last[0]) ** share
        last = (seconds, loss)
    return None


def curve_of(record: Mapping[str, Any], of: str = "average") -> list[tuple[float, float]]:
    """(seconds of training, held-out loss) of one run."""
    return [(float(point["seconds"]), float(point[of])) for point in record["curve"]]


def mark_of(record: Mapping[str, Any]) -> float:
    """The last held-out loss of a run."""
    return curve_of(record)[-1][1]


def gain(base: Mapping[str, Any], record: Mapping[str, Any], of: str = "average") -> float | None:
    """How many times sooner than `base` a run comes to the last loss of `base`; None when it never does."""
    mark = mark_of(base)
    mine, theirs = time_to(curve_of(record, of), mark), time_to(curve_of(base), mark)
    assert theirs is not None
    return None if mine is None else theirs / mine


Records = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Runs by lever and seed."""


def gains(records: Records, name: str, lever: Lever, of: str = "average") -> list[float | None]:
    """The gain for every seed for which both this lever and what it is compared with have run."""
    bases = records.get(lever.against, {})
    return [gain(bases[seed], run, of) for seed, run in sorted(records[name].items()) if seed in bases]


def median_gain(found: Iterable[float | None]) -> float | None:
    """The median over seeds; a run that never came to the mark counts as no gain at all."""
    values = [0.0 if value is None else value for value in found]
    middle = statistics.median(values) if values else 0.0
    return middle if middle > 0.0 else None


def write(page: Path, records: Records, *, command: str, missing: Mapping[str, str]) -> None:
    """Write the page and its picture.

    Raises:
        ValueError: the plain run is not there.
    """
    if not records.get(PLAIN):
        raise ValueError("there is no plain run to compare with; run the lever 'plain' first")
    page.parent.mkdir(parents=True, exist_ok=True)
    draw(page.with_name(PICTURE), records)
    page.write_text(_text(records, command, missing), encoding="utf-8")


def _text(records: Records, command: str, missing: Mapping[str, str]) -> str:
    first = next(iter(records[PLAIN].values()))
    settings, machine = first["settings"], first["machine"]
    seeds = sorted({seed for runs in records.values() for seed in runs})
    loads = [run["load"][1] for runs in records.values() for run in runs.values()]
    rows = []
    for name in [*LEVERS, TOGETHER, EVERYTHING]:
        if name in records:
            rows += _rows(records, name)
    lines = [
        "# Training levers: time to a fixed held-out loss",
        "",
        f"`{command}`",
        "",
        f"{machine['cpu']}, {machine['capability']}, torch {machine['torch']}, {settings['threads']} threads, "
        f"{machine['device']}; {first['date']}. Load average after the runs: {min(loads):.1f} to {max(loads):.1f} "
        f"(one run alone makes {settings['threads']}).",
        "",
        f"The plain run: a U-Net of {first['parameters'] / 1e6:.2f} M parameters on {settings['num']} embedded "
        f"flowers at 32 x 32, AdamW at a constant rate of 1e-3 after the warm-up, fp32, eager, "
        f"batch 32, {settings['seconds']:g} seconds of training; torch as it comes, "
        "without `kakusan.runtime.tune`, without a fused optimizer, without "
        "convolutions by minimal filtering. **The mark is its last held-out loss.** Every other row changes what it "
        "says and nothing else, with the same seed: data, noise and first weights are the same.",
        "",
        "The held-out loss is one measure for all rows, whatever they train on: the v error of "
        f"{settings['pairs']} held-out pictures at fixed, uniform times with fixed noises (cosine schedule), with the "
        "averaged weights. *Gain* is how many times sooner than the plain run the mark is reached, between "
        "measurements by a power law; the time is that of training alone, without measuring and without the set-up "
        "(building the model, trying a step, compiling), which has its own column. *Loss at the end* is after the "
        "same seconds as the plain run.",
        "",
        "| lever | images/s | steps | loss at the end | seconds to the mark | gain | set-up, s | memory, GiB |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        *_verdict(records),
        f"![Held-out loss against training time]({PICTURE})",
        "",
        "## How to read it",
        "",
        *_notes(records, seeds),
    ]
    if missing:
        lines += ["", "Not measured here: " + "; ".join(f"{name} ({why})" for name, why in missing.items()) + "."]
    return "\n".join(lines) + "\n"


def _rows(records: Records, name: str) -> list[str]:
    runs = [run for _, run in sorted(records[name].items())]
    lever = Lever.read(runs[0]["lever"])
    found = gains(records, name, lever)
    middle = median_gain(found)
    bases = records.get(lever.against, {})
    times = [time_to(curve_of(run), mark_of(bases[run["seed"]])) for run in runs if run["seed"] in bases]
    reached = [t for t in times if t is not None]
    spread = f" ({min(g or 0.0 for g in found):.2f}-{max(g or 0.0 for g in found):.2f})" if len(found) > 1 else ""
    beside = "" if lever.against == PLAIN else f" (beside {lever.against})"
    cells = [
        f"{lever.title}{beside}",
        f"{statistics.median(run['images_per_second'] for run in runs):.1f}",
        f"{statistics.median(run['steps'] for run in runs):.0f}",
        f"{statistics.median(mark_of(run) for run in runs):.4f}",
        f"{statistics.median(reached):.0f}" if reached else "not reached",
        ("–" if not found else "not reached" if middle is None else f"**{middle:.2f}**{spread}"),
        f"{statistics.median(run['setup'] for run in runs):.0f}",
        f"{max(run['memory'] for run in runs) / 2**30:.2f}",
    ]
    rows = ["| " + " | ".join(cells) + " |"]
    for of in [f"ema-{width:g}" for width in lever.averages] + (["weights"] if lever.averages else []):
        part = gains(records, name, lever, of)
        middle = median_gain(part)
        last = statistics.median(curve_of(run, of)[-1][1] for run in runs)
        title = "– no average" if of == "weights" else f"– average of width {of.removeprefix('ema-')} (others: 0.1)"
        shown = "–" if not part else "not reached" if middle is None else f"**{middle:.2f}**"
        rows.append(f"| {title} | | | {last:.4f} | | {shown} | | |")
    return rows


def _verdict(records: Records) -> list[str]:
    lines = []
    for name in (TOGETHER, EVERYTHING):
        if name not in records:
            continue
        lever = Lever.read(next(iter(records[name].values()))["lever"])
        middle = median_gain(gains(records, name, lever))
        shown = "the mark is not reached" if middle is None else f"{middle:.2f}x"
        bar = f" (bar {BAR:g}x: {'met' if (middle or 0.0) >= BAR else 'missed'})" if name == TOGETHER else ""
        lines += [f"{lever.title}: {shown}{bar}. Made of: {lever.note}.", ""]
    return lines


def _notes(records: Records, seeds: Sequence[int]) -> list[str]:
    plain = records[PLAIN]
    notes = [
        "- This is one small network on one set for a short time. A lever that pays late (augmentation, a small rate, "
        "a long average) looks worse here than in a long run, one that pays early (a large rate, Muon) better.",
        "- *Together* was put together from the levers that gained on their own, the best of each kind, on this same "
        "measure: its gain is what the choice is worth here, not a promise for other data.",
    ]
    if len(plain) > 1:
        mark = mark_of(plain[min(plain)])
        times = [time_to(curve_of(run), mark) for run in plain.values()]
        seen = [t for t in times if t is not None]
        notes.append(
            f"- Seeds {', '.join(map(str, seeds))}; gains are medians, with the range over seeds in brackets. The "
            f"plain runs of these seeds take {min(seen):.0f} to {max(seen):.0f} s to one and the same loss"
            + (", or do not reach it in their time" if len(seen) < len(times) else "")
            + ": differences of that size mean nothing."
        )
    else:
        notes.append(
            "- One seed: the order of levers that lie within a few per cent of each other means nothing. "
            "`--seeds 0 1 2` measures how much."
        )
    for name, runs in records.items():
        lever = Lever.read(next(iter(runs.values()))["lever"])
        if lever.note and name not in (TOGETHER, EVERYTHING):
            notes.append(f"- {lever.title}: {lever.note}.")
    return notes


def draw(path: Path, records: Records) -> None:
    """Held-out loss against seconds of training, both logarithmic: the named levers in colour, the others faint."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from kakusan.report.style import INK, MUTED, RULE, SERIES, figure, style_axes, use_bundled_font

    known = {name: gains(records, name, Lever.read(_first(runs)["lever"])) for name, runs in records.items()}
    ranked = {name: median_gain(found) or 0.0 for name, found in known.items() if name != PLAIN}
    named = sorted(ranked, key=ranked.__getitem__, reverse=True)[: len(SERIES)]
    sheet = figure(900, 520)
    axes = sheet.add_axes((0.09, 0.12, 0.58, 0.82))
    style_axes(axes)
    for name, runs in records.items():
        curve = curve_of(_first(runs))
        colour = INK if name == PLAIN else SERIES[named.index(name)] if name in named else RULE
        title = Lever.read(_first(runs)["lever"]).title
        label = title if colour != RULE else None
        axes.plot(*zip(*curve, strict=True), color=colour, linewidth=1.8 if label else 0.9, label=label,
                  zorder=3 if label else 1)  # fmt: skip
    mark = mark_of(_first(records[PLAIN]))
    axes.axhline(mark, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel="held-out loss")
    # Plain numbers at a few places: the powers of ten of a log axis run into each other over less than two decades.
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        places = [m * 10.0**k for k in range(-4, 5) for m in (1, 2, 5) if limits[0] <= m * 10.0**k <= limits[1]]
        axis.set_major_locator(FixedLocator(places))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    # The first moments say little and would take most of the height.
    top = max(loss for seconds, loss in curve_of(_first(records[PLAIN])) if seconds >= _end(records) / 12)
    low = min(min(loss for _, loss in curve_of(_first(runs))) for runs in records.values())
    axes.set_ylim(0.97 * low, 1.1 * top)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    axes.text(0.01, mark, "the mark", transform=axes.get_yaxis_transform(), va="bottom", color=MUTED, fontsize=9)
    use_bundled_font(sheet)
    sheet.subplots_adjust(left=0.1)
    sheet.savefig(path, dpi=100)


def _first(runs: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any]:
    return runs[min(runs)]


def _end(records: Records) -> float:
    return curve_of(_first(records[PLAIN]))[-1][0]
