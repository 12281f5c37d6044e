"""The lab in one HTML file: pictures that follow a time slider, drawn in the reader's browser from numbers in the page.

Nothing is fetched, and the page's policy lets no other script run.
"""

from __future__ import annotations

import base64
import functools
import html
import importlib.resources
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
from kakusan.lab.words import ENGLISH, Words
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
        self._staged = False

    def stage(
        self,
        data: Mapping[str, Any],
        rows: Mapping[str, Sequence[Panel]],
        *,
        forward: str,
        texts: Sequence[str] = (),
        words: Words = ENGLISH,
    ) -> LabPage:
        """The forward density with its field, then rows of runs, then the slider that moves them all.

        Args:
            data: of `stage_data`, made from the same panels in the same order.
            rows: panels under each heading.
            forward: heading of the first picture.
            texts: paragraphs beside it.
            words: the language of what the stage itself says.

        Raises:
            ValueError: a second stage; there is one slider.
        """
        if self._staged:
            raise ValueError("a page holds one stage, since it has one slider")
        self._staged = True
        self._style(_file("page.css"))
        self._data("lab-data", dict(data))
        self._script(_file("page.js"))
        parts, index = [_forward(forward, texts, words)], 0
        for heading, panels in rows.items():
            figures = []
            for panel in panels:
                figures.append(_figure(index, panel.heading or words.label(panel.run.label), panel.note, words))
                index += 1
            parts.append(f'<h2>{html.escape(heading)}</h2><div class="lab-row">{"".join(figures)}</div>')
        said = {place: html.escape(text) for place, text in words.page.items()}
        bar = _BAR.format(last=data["frames"] - 1, start=data["start"], said=said)
        self._add("stage", "\n".join([*parts, _CHOICES.format(said=said), bar]))
        return self


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


def shown_in(exact: Exact, words: Words = ENGLISH) -> str:
    """A sentence for schedules whose points are shown rescaled, else the empty string."""
    return words.page["rescaled"] if explodes(exact.schedule) else ""


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


def _figure(index: int, heading: str, note: str, words: Words) -> str:
    heading, note = html.escape(heading), html.escape(note)
    line = f'<p class="note">{note}</p>' if note else ""
    label = words.page["panel"].format(heading=heading)
    canvas = f'<canvas data-panel="{index}" role="img" aria-label="{label}"></canvas>'
    return f"<figure><h3>{heading}</h3>{line}{canvas}</figure>"


def _forward(heading: str, texts: Sequence[str], words: Words) -> str:
    canvas = f'<canvas data-panel="forward" role="img" aria-label="{words.page["forward_panel"]}"></canvas>'
    options = "".join(
        f'<label><input type="radio" name="lab-field" value="{name}"{mark}>{words.page[name]}</label>'
        for name, mark in [("none", ""), *((each, " checked" if each == "score" else "") for each in FIELDS)]
    )
    choice = f'<fieldset class="lab-choice"><legend>{words.page["arrows"]}</legend>{options}</fieldset>'
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
    side = f'<div class="lab-side">{paragraphs}{choice}</div>'
    return f'<h2>{html.escape(heading)}</h2><div class="lab-first"><figure>{canvas}</figure>{side}</div>'


_CHOICES = """<fieldset class="lab-choice"><legend>{said[show]}</legend>
<label><input type="checkbox" id="lab-trails" checked>{said[paths]}</label>
<label><input type="checkbox" id="lab-ground" checked>{said[ground]}</label></fieldset>"""
_BAR = """<div class="lab-bar" role="group" aria-label="{said[time]}">
<button type="button" data-way="-1" aria-pressed="false">{said[to_data]}</button>
<button type="button" data-way="1" aria-pressed="false">{said[to_noise]}</button>
<div class="lab-slide"><input type="range" id="lab-time" min="0" max="{last}" step="0.1" value="{start}"
aria-label="{said[slider]}"><output id="lab-clock" for="lab-time"></output></div>
</div>
<noscript><p>{said[no_script]}</p></noscript>"""
