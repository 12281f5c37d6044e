"""The figures that move: frames for `kakusan.report.animation.save_animation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from kakusan.denoiser import BaseDenoiser
from kakusan.lab.colours import by_angle
from kakusan.lab.exact import Exact
from kakusan.lab.fields import View, density, inside, level_times, score
from kakusan.lab.figures import all_around, arrow_steps, finish, headings, level_text, paint_density, panel_row, shade
from kakusan.lab.paths import Paths
from kakusan.lab.words import ENGLISH, Words
from kakusan.report import style
from kakusan.report.curves import Chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL = 300
_TRACKS, _FEW = 18, 6


def forward_frames(
    exact: Exact,
    view: View,
    *,
    denoiser: BaseDenoiser | None = None,
    count: int = 48,
    name: str = "data",
    words: Words = ENGLISH,
) -> list[Image.Image]:
    """From data to noise: the density p_t, and beside it the score as arrows.

    Args:
        denoiser: whose score is drawn; the exact one by default.
        count: of frames (`fields.level_times`).
    """
    schedule = exact.schedule
    figure, (left, right) = panel_row(2, words.titles["forward"].format(name=name), None, _PANEL)
    shown = [paint_density(axes, exact, view, 0.0, faint=axes is right) for axes in (left, right)]
    mesh = View(view.half, 17)
    none = torch.zeros(mesh.cells**2)
    arrows = right.quiver(
        *mesh.points().numpy().T, none, none, angles="xy", scale_units="xy", scale=1.0, color=style.VERMILION,
        width=0.006, headwidth=4.2, headlength=4.6, headaxislength=4.0, pivot="mid", minlength=0.0,
    )  # fmt: skip
    clock = headings(left, words.density_heading, "")
    note = headings(right, words.score_heading, "")
    finish(figure, exact, words)
    frames = []
    for t in level_times(schedule, count):
        values = shade(density(exact, view, t)).numpy()
        for image in shown:
            image.set_data(values)
        field = score(denoiser or exact, mesh, inside(schedule, t))
        steps = arrow_steps(field, mesh).reshape(-1, 2).numpy().T
        arrows.set_UVC(*steps)
        clock.set_text(f"t = {t:.2f}")
        note.set_text(level_text(exact, t))
        frames.append(_picture(figure))
    return frames


def sampling_frames(
    runs: Sequence[Paths],
    densities: Sequence[Exact],
    view: View,
    *,
    count: int = 48,
    name: str = "data",
    words: Words = ENGLISH,
) -> list[Image.Image]:
    """From noise to data: points of every run at the same noise level, over the density p_t they should follow.

    Args:
        runs: from the same noise, one panel each.
        densities: the exact denoiser of each run's schedule.
        count: of frames (`fields.level_times`).
    """
    from matplotlib.collections import LineCollection

    figure, every = panel_row(len(runs), words.titles["sampling"].format(name=name), None, _PANEL)
    colours = by_angle(runs[0].shown[0])
    parts = []
    for axes, run, exact in zip(every, runs, densities, strict=True):
        image = paint_density(axes, exact, view, 0.0, faint=True)
        tracked = all_around(run, _FEW if run.stochastic else _TRACKS)
        tracks = LineCollection([], colors=[colours[k] for k in tracked], linewidths=1.3, alpha=0.75)
        axes.add_collection(tracks)
        dots = axes.scatter([], [], s=16.0, edgecolors=style.PAPER, linewidths=0.4, zorder=4)
        clock = headings(axes, words.label(run.label), "")
        parts.append((run, exact, image, tracks, tracked, dots, clock))
    finish(figure, densities[0], words)
    frames = []
    clocks = [level_times(run.schedule, count) for run in runs]
    for k in reversed(range(count)):
        for times, (run, exact, image, tracks, tracked, dots, clock) in zip(clocks, parts, strict=True):
            t = times[k]
            now, before = run.at(t), run.times >= t
            image.set_data(shade(density(exact, view, t)).numpy())
            lines = torch.cat([run.shown[before], now.unsqueeze(0)])[:, tracked]
            tracks.set_segments(list(lines.permute(1, 0, 2).numpy()))
            dots.set_offsets(now.numpy())
            dots.set_facecolor(colours)
            clock.set_text(f"t = {t:.2f}")
        frames.append(_picture(figure))
    return frames


def _picture(figure: Figure) -> Image.Image:
    return Chart(figure).image(scale=1.0)
