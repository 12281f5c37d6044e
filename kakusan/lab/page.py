"""The lab in one HTML file: pictures that follow a time slider, drawn in the reader's browser from numbers in the page.

Nothing is fetched. The only script that may run is the one whose hash stands in the page's own policy.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kakusan.denoiser import BaseDenoiser
from kakusan.lab.colours import by_angle, ramp
from kakusan.lab.exact import Exact
from kakusan.lab.fields import FIELDS, View, density, explodes, inside, level_times
from kakusan.lab.figures import all_around, arrow_steps, shade
from kakusan.lab.paths import Paths
from kakusan.levels import Level
from kakusan.report.page import Page

_RANGE = 4.0
"""Points are kept within so many half windows; beyond it they are out of sight anyway."""


@dataclass(frozen=True)
class Panel:
    """A picture of the page: a run, and the exact denoiser of its schedule.

    Args:
        run: its points.
        exact: whose p_t is drawn under them.
        heading: over the picture; the run's label by default.
        note: a line under the heading.
    """

    run: Paths
    exact: Exact
    heading: str = ""
    note: str = ""


class LabPage(Page):
    """A report page that may also hold one stage: pictures under a time slider."""

    def __init__(self, title: str, subtitle: str = "", *, language: str = "en") -> None:
        super().__init__(title, subtitle, language=language)
        self._data: dict[str, Any] | None = None

    def stage(
        self, data: Mapping[str, Any], rows: Mapping[str, Sequence[Panel]], *, forward: str, texts: Sequence[str] = ()
    ) -> LabPage:
        """The forward density with its field, then rows of runs, then the slider that moves them all.

        Args:
            data: of `stage_data`, made from the same panels in the same order.
            rows: panels under each heading.
            forward: heading of the first picture.
            texts: paragraphs beside it.

        Raises:
            ValueError: a second stage; there is one slider.
        """
        if self._data is not None:
            raise ValueError("a page holds one stage, since it has one slider")
        self._data = dict(data)
        parts, index = [_forward(forward, texts)], 0
        for heading, panels in rows.items():
            figures = []
            for panel in panels:
                figures.append(_figure(index, panel.heading or panel.run.label, panel.note))
                index += 1
            parts.append(f'<h2>{html.escape(heading)}</h2><div class="lab-row">{"".join(figures)}</div>')
        self._add("stage", "\n".join([*parts, _CHOICES, _BAR.format(last=data["frames"] - 1, start=data["start"])]))
        return self

    def html(self) -> str:
        """The whole page, with its script and numbers where it has a stage."""
        page = super().html()
        if self._data is None:
            return page
        script, css = _file("page.js"), _file("page.css")
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        page = page.replace("default-src 'none';", f"default-src 'none'; script-src 'sha256-{digest}';", 1)
        page = page.replace("</style>", f"{css}</style>", 1)
        # In a script element only "</" could end the data early.
        numbers = json.dumps(self._data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        scripts = f'<script type="application/json" id="lab-data">{numbers}</script>\n<script>{script}</script>\n'
        return page.replace("</body>", f"{scripts}</body>", 1)


def stage_data(
    exact: Exact,
    denoiser: BaseDenoiser,
    panels: Sequence[Panel],
    *,
    view: View,
    frames: int = 61,
    arrows: int = 19,
    tracked: int = 24,
) -> dict[str, Any]:
    """Everything the page draws, as JSON values.

    Args:
        exact: whose density is the first picture.
        denoiser: whose fields are drawn over it.
        panels: of all rows, in order; all of as many points.
        view: its cells are those of the densities in the page.
        frames: positions of the slider (`fields.level_times`).
        arrows: along a side.
        tracked: points whose paths are drawn.

    Raises:
        ValueError: no panel, or panels of different numbers of points.
    """
    counts = {panel.run.x.shape[1] for panel in panels}
    if len(counts) != 1:
        raise ValueError(f"the runs of a page show the same points; got runs of {sorted(counts) or 'none'} points")
    count = counts.pop()
    times = level_times(exact.schedule, frames)
    kinds: list[Exact] = [exact]
    for panel in panels:
        if all(panel.exact.schedule != known.schedule for known in kinds):
            kinds.append(panel.exact)
    which = [next(k for k, known in enumerate(kinds) if known.schedule == panel.exact.schedule) for panel in panels]
    levels = [Level.of(exact.schedule, t) for t in times]
    unit = _RANGE * view.half / 32767.0
    start = panels[0].run.shown[0]
    mesh = View(view.half, arrows)
    return {
        "frames": frames,
        "start": round(0.35 * (frames - 1)),
        "half": view.half,
        "cells": view.cells,
        "arrows": arrows,
        "points": count,
        "unit": unit,
        "colours": by_angle(start),
        "levels": [{"t": float(v.t), "alpha": float(v.alpha), "sigma": float(v.sigma)} for v in levels],
        "densities": [_densities(known, view, frames) for known in kinds],
        "fields": {name: _fields(name, denoiser, mesh, times) for name in FIELDS},
        "ramps": {"light": _packed_ramp(dark=False), "dark": _packed_ramp(dark=True)},
        "runs": [
            {
                "density": k,
                "at": _positions(panel.run, frames),
                "x": _points(panel.run, unit),
                # Paths that wander cover each other: fewer of them are drawn.
                "tracked": all_around(panel.run, max(1, tracked // 4) if panel.run.stochastic else tracked),
            }
            for k, panel in zip(which, panels, strict=True)
        ],
    }


def shown_in(exact: Exact) -> str:
    """A sentence for schedules whose points are shown rescaled, else the empty string."""
    return "Points are shown divided by √(α² + σ²), since their noise outgrows any window." if explodes(
        exact.schedule
    ) else ""  # fmt: skip


def _densities(exact: Exact, view: View, frames: int) -> str:
    values = torch.stack([shade(density(exact, view, t)) for t in level_times(exact.schedule, frames)])
    return _base64((255.0 * values).round().clamp(0, 255).to(torch.uint8).numpy())


def _fields(name: str, denoiser: BaseDenoiser, mesh: View, times: Sequence[float]) -> str:
    # At t = 0 a denoiser says nothing: the field nearest to it is shown.
    found = [arrow_steps(FIELDS[name](denoiser, mesh, inside(denoiser.schedule, t)), mesh) for t in times]
    longest = 1.25 * 2.0 * mesh.half / mesh.cells
    return _base64((torch.stack(found) * (127.0 / longest)).round().clamp(-127, 127).to(torch.int8).numpy())


def _positions(run: Paths, frames: int) -> list[float]:
    """Where each step stands on the slider, falling."""
    times = np.asarray(level_times(run.schedule, frames))
    return [round(float(np.interp(t, times, np.arange(frames))), 4) for t in run.times.tolist()]


def _points(run: Paths, unit: float) -> str:
    return _base64((run.shown / unit).round().clamp(-32767, 32767).numpy().astype("<i2"))


def _packed_ramp(*, dark: bool) -> str:
    return _base64((255.0 * ramp(dark=dark)).round().astype(np.uint8))


def _base64(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


@functools.cache
def _file(name: str) -> str:
    return importlib.resources.files("kakusan.lab").joinpath(name).read_text("utf-8")


def _figure(index: int, heading: str, note: str) -> str:
    heading, note = html.escape(heading), html.escape(note)
    line = f'<p class="note">{note}</p>' if note else ""
    label = f"{heading}: points on their way from noise to data, over the density at the slider's time"
    canvas = f'<canvas data-panel="{index}" role="img" aria-label="{label}"></canvas>'
    return f"<figure><h3>{heading}</h3>{line}{canvas}</figure>"


def _forward(heading: str, texts: Sequence[str]) -> str:
    canvas = '<canvas data-panel="forward" role="img" aria-label="The density at the slider\'s time"></canvas>'
    options = "".join(
        f'<label><input type="radio" name="lab-field" value="{name}"{mark}>{name}</label>'
        for name, mark in [("none", ""), *((each, " checked" if each == "score" else "") for each in FIELDS)]
    )
    choice = f'<fieldset class="lab-choice"><legend>arrows</legend>{options}</fieldset>'
    words = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
    side = f'<div class="lab-side">{words}{choice}</div>'
    return f'<h2>{html.escape(heading)}</h2><div class="lab-first"><figure>{canvas}</figure>{side}</div>'


_CHOICES = """<fieldset class="lab-choice"><legend>show</legend>
<label><input type="checkbox" id="lab-trails" checked>paths</label>
<label><input type="checkbox" id="lab-ground" checked>density</label></fieldset>"""
_BAR = """<div class="lab-bar" role="group" aria-label="Time">
<button type="button" data-way="-1" aria-pressed="false">◀ to data</button>
<button type="button" data-way="1" aria-pressed="false">to noise ▶</button>
<div class="lab-slide"><input type="range" id="lab-time" min="0" max="{last}" step="0.1" value="{start}"
aria-label="Time, from data on the left to noise on the right"><output id="lab-clock" for="lab-time"></output></div>
</div>
<noscript><p>The moving pictures need JavaScript; the figures of this folder show the same without.</p></noscript>"""
