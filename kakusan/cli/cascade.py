"""`kakusan cascade`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybeText


@dataclass(frozen=True)
class CascadeOptions:
    """Draw small pictures with one model and enlarge them with the next.

    Args:
        base: a run, checkpoint or model folder that draws from noise.
        upscalers: those trained with --pair upscale-2 or upscale-4, from small to large.
        out: a .png for one sheet with a row for each size, or a folder for single files of the last.
        label: class names or indices, or texts for models of texts; pictures are shared out among them.
        num: number of pictures.
        cover: noise that covers the small pictures, one for each upscaler or one for all, from 0 to the most of
            training; more lets it mend more of their faults. Half of the most when not given.
        guidance_scale: 1 follows the class as trained, above 1 more. 1 when not given.
        sampler: as of `kakusan sample`.
        grid: spacing of the steps (karras, log-snr, uniform, quadratic).
        steps: steps of the sampler, of each model.
        seed: of the first picture.
        batch: pictures computed at once.
        weights: an EMA profile of the runs, or raw.
        device: auto, cpu, cuda.
    """

    base: Annotated[Path, tyro.conf.Positional]
    upscalers: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path = Path("cascade.png")
    label: tuple[str, ...] = ()
    num: int = 8
    cover: tuple[float, ...] = ()
    guidance_scale: MaybeFloat = None
    sampler: str = "dpmpp-2m"
    grid: str = "karras"
    steps: int = 20
    seed: int = 0
    batch: int = 32
    weights: MaybeText = None
    device: str = "auto"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(CascadeOptions, argv, verb="cascade")
    from kakusan.tasks.cascade import cascade

    for line in cascade(
        options.base,
        options.upscalers,
        options.out,
        labels=options.label,
        num=options.num,
        cover=options.cover,
        guidance_scale=options.guidance_scale,
        sampler=options.sampler,
        grid=options.grid,
        num_steps=options.steps,
        seed=options.seed,
        batch=options.batch,
        weights=options.weights,
        device=options.device,
    ):
        print(line)
    return 0
