"""`kakusan lab`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybePath


@dataclass(frozen=True)
class LabOptions:
    """Draw a two-dimensional set: its density under noise, score, sampling, solver errors; figures and a page.

    Args:
        set: mixture, moons, rings, checkerboard, spiral.
        out: folder of what is drawn; runs/lab-SET when not given.
        schedule: vp, sub-vp, ve, cosine, karras, rectified, sigmoid, linear, scaled-linear, squared-cosine.
        sampler: ddpm, ddim, heun, dpmpp-2m, unipc-3, or another that `kakusan sample --help` names.
        steps: of the sampler.
        grid: spacing of its steps: karras, log-snr, uniform, quadratic.
        points: number of points that are followed.
        train: seconds of training for a small network; 0 takes the exact denoiser.
        seed: of everything random.
        formats: what to write, of png, gif, mp4, html.
        frames: of an animation.
        language: en or ja; pictures are in Japanese only where the system has a Japanese font, the page always.
    """

    set: Annotated[str, tyro.conf.Positional]
    out: MaybePath = None
    schedule: str = "vp"
    sampler: str = "dpmpp-2m"
    steps: int = 20
    grid: str = "karras"
    points: int = 128
    train: float = 0.0
    seed: int = 0
    formats: str = "png,gif,html"
    frames: int = 48
    language: str = "en"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(LabOptions, argv, verb="lab")
    from kakusan.tasks.lab import run_lab

    run_lab(
        options.set,
        Path(f"runs/lab-{options.set}") if options.out is None else options.out,
        schedule=options.schedule,
        sampler=options.sampler,
        num_steps=options.steps,
        grid=options.grid,
        points=options.points,
        seed=options.seed,
        train=options.train,
        formats=[part.strip() for part in options.formats.split(",") if part.strip()],
        frames=options.frames,
        language=options.language,
    )
    return 0
