"""The page of a comparison of runs, samplers, step counts and guidance scales: quality against network calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kakusan.metrics.contestants import Entry
from kakusan.metrics.ladder import Ladder, label
from kakusan.metrics.sharpness import NAME
from kakusan.report import style
from kakusan.report.compare_figures import Series, quality_against
from kakusan.report.compare_parts import number, plus_minus, strips
from kakusan.report.page import Page


def sweep_page(entries: Sequence[Entry], ladder: Ladder, facts: Mapping[str, Any], pictures: Path) -> Page:
    """The whole page.

    Args:
        entries: every way to draw that was measured.
        ladder: the ways in order, in every space.
        facts: settings and circumstances.
        pictures: folder with a strip of pictures for each entry and for real ones.
    """
    runs = list(dict.fromkeys(entry.run for entry in entries))
    page = Page("Quality against network calls", f"{', '.join(runs)}; {facts['samples']} samples of each way to draw")
    if facts["done"] < facts["of"]:
        page.text(f"Not finished: {facts['done']} of {facts['of']} ways to draw. The same command goes on from here.")
    page.section("The best, and what it costs")
    page.text("\n".join(ladder.text()))
    for space in ladder.spaces:
        series = _series(entries, space)
        columns = 3 if max(len(one.name) for one in series) <= 16 else 2
        calls = "network calls for a picture   (better ←)"
        page.figure(
            quality_against(series, x=calls, y="Frechet ratio", real=1.0, columns=columns),
            f"In the space {space}: the Frechet distance as a multiple of that between two halves of real pictures. "
            "Bars are two standard errors.",
        )
    page.text(
        "A network call is one pass of one picture: Heun's method makes two in a step, and guidance doubles each, "
        "since the unconditional prediction is a pass of its own. They are counted while drawing, not computed."
    )
    _samples(page, entries, facts, pictures)
    _tables(page, ladder)
    _all(page, entries)
    page.section("How this was measured")
    settings = facts["settings"]
    page.text(
        "All samples have the same seeds and the same classes, are brought to the same integers and measured by the "
        "same judges in the same spaces. A difference is beyond the error when it is over 1.96 of its standard errors. "
        "Ways that follow the same noise differ by less than that error says, so a difference found here is one."
    )
    page.facts({"samples of each": facts["samples"], "seed": settings["seed"], "torch": facts["torch"]})
    parts = [f"kakusan compare {' '.join(settings['runs'])}", f"--samplers {','.join(settings['samplers'])}"]
    parts += [f"--steps {','.join(map(str, settings['steps']))}"]
    parts += [f"--guidance-scales {','.join(f'{scale:g}' for scale in settings['guidance_scales'])}"]
    page.code(" ".join([*parts, f"--num {settings['num']}"]))
    return page


def _groups(entries: Sequence[Entry]) -> dict[tuple[str, str, float | None], list[Entry]]:
    found: dict[tuple[str, str, float | None], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.run, entry.sampler, entry.guidance_scale), []).append(entry)
    return found


def _series(entries: Sequence[Entry], space: str) -> list[Series]:
    """One line for each run, sampler and scale: what varies most has the colour, the next the marker and pattern."""
    groups = _groups(entries)
    columns = [list(dict.fromkeys(key[i] for key in groups)) for i in range(3)]
    order = sorted(range(3), key=lambda i: -len(columns[i]))
    varying = [i for i in range(3) if len(columns[i]) > 1] or [0]
    series = []
    for key, members in groups.items():
        members = sorted(members, key=lambda entry: entry.network_calls)
        records = [(e, r) for e in members if (r := e.find("frechet", space)) is not None and r.ratio and r.null]
        if not records:
            continue
        places = [columns[i].index(key[i]) for i in order]
        names = [f"scale {key[2]:g}" if i == 2 and key[2] is not None else str(key[i]) for i in varying]
        series.append(
            Series(
                ", ".join(name for name in names if name and name != "None"),
                [e.network_calls for e, _ in records],
                [r.value / (r.null or math.nan) for _, r in records],
                [r.stderr / (r.null or math.nan) for _, r in records],
                colour=style.SERIES[places[0] % len(style.SERIES)],
                marker=places[1] if len(columns[order[1]]) > 1 else places[0] // len(style.SERIES),
                pattern=places[1] if len(columns[order[2]]) == 1 else places[2],
            )
        )
    return series


def _samples(page: Page, entries: Sequence[Entry], facts: Mapping[str, Any], pictures: Path) -> None:
    rows = [("real", pictures / "real.png")]
    many = len({entry.run for entry in entries}) > 1
    for entry in entries:
        name = label(entry)
        rows.append((name if many else name.removeprefix(f"{entry.run}, "), pictures / f"{entry.name}.png"))
    sheet = strips(rows, facts["labels"])
    if sheet is not None:
        page.section("Samples")
        page.picture(sheet, "The first sample of each class, nothing picked; the same seeds in every row.")


def _tables(page: Page, ladder: Ladder) -> None:
    page.section("Which differences are beyond the error")
    for space, rungs in ladder.spaces.items():
        page.table(
            [
                {
                    "way to draw": label(r.entry),
                    "network calls": f"{r.entry.network_calls:g}",
                    "Frechet ratio": number(r.record.ratio or math.nan),
                    "Frechet distance": plus_minus(r.record.value, r.record.stderr),
                    "behind the best": "–" if r.lead == 0 else plus_minus(r.lead, r.margin),
                    "beyond the error": "the best" if r.lead == 0 else "yes" if r.behind else "no",
                }
                for r in rungs
            ],
            caption=f"In the space {space}, the best first. ± behind a distance is one standard error, behind a "
            "difference half its 95 % interval.",
        )


def _all(page: Page, entries: Sequence[Entry]) -> None:
    page.section("All figures")
    spaces = list(dict.fromkeys(r.space for e in entries for r in e.records if r.space))
    rows = []
    for entry in entries:
        row: dict[str, object] = {
            "way to draw": label(entry),
            "network calls": f"{entry.network_calls:g}",
            "ms a picture": number(1e3 * entry.seconds),
        }
        for name in ("precision", "recall", "density", "coverage"):
            values = [r.value for space in spaces if (r := entry.find(name, space)) is not None]
            if values:
                row[name] = f"{sum(values) / len(values):.2f}"
        for name, title in (("kinds covered", "kinds covered"), ("condition accuracy", "right class")):
            record = entry.find(name)
            if record is not None:
                row[title] = f"{record.value:.2f}"
        sharp = entry.find(NAME)
        if sharp is not None:
            row["sharpness"] = f"{2.0**sharp.value:.2f}"
        rows.append(row)
    page.table(rows, caption="Shares are means over the spaces; sharpness is power at high frequencies beside real.")
