"""`kakusan transform`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybePath, MaybeText


@dataclass(frozen=True)
class TransformOptions:
    """Make pictures from a picture, with a model that `kakusan train --pair` has trained to.

    What IMAGE is depends on that pair: a small picture to enlarge (upscale-2, upscale-4), a gray one to colour, edges
    or a sketch to paint from, a blurred or noisy one, one with holes (--mask), or the second picture of one's own pairs
    (given).

    Args:
        run: a run, checkpoint or model folder.
        image: the picture to start from.
        out: a .png for one sheet (given, mean, spread, samples), or a folder for single files as well.
        original: IMAGE is an original: make from it what the model starts from, and measure how well that is undone.
        mask: white where IMAGE is to be painted again; for models trained with --pair masked.
        num: pictures to draw.
        noise: standard deviation of the noise in IMAGE, as a share of the range from black to white; for models trained
            with --pair noisy, which find it where it is not given.
        cover: noise that covers what is given before the network sees it, from 0 to the most of training: more makes
            the model bolder, and forgives faults of IMAGE.
        exact: bring the results to what was given, so that it comes back when it is made of them (upscale, gray).
        label: the class of the picture, by name or index; a text, where the model reads texts.
        guidance_scale: 1 follows picture and class as trained, above 1 more. 1 when not given.
        sampler: as of `kakusan sample`.
        grid: spacing of the steps (karras, log-snr, uniform, quadratic).
        steps: steps of the sampler.
        fit: crop, pad or stretch a picture of another size; it is refused otherwise.
        seed: of the first picture.
        batch: pictures computed at once.
        weights: an EMA profile of the run, or raw.
        device: auto, cpu, cuda.
    """

    run: Annotated[Path, tyro.conf.Positional]
    image: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("transformed.png")
    original: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    mask: MaybePath = None
    num: int = 4
    noise: MaybeFloat = None
    cover: float = 0.0
    exact: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    label: MaybeText = None
    guidance_scale: MaybeFloat = None
    sampler: str = "dpmpp-2m"
    grid: str = "karras"
    steps: int = 20
    fit: MaybeText = None
    seed: int = 0
    batch: int = 32
    weights: MaybeText = None
    device: str = "auto"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(TransformOptions, argv, verb="transform")
    from kakusan.tasks.transform import transform

    for line in transform(
        options.run,
        options.image,
        options.out,
        original=options.original,
        mask=options.mask,
        num=options.num,
        noise=options.noise,
        cover=options.cover,
        exact=options.exact,
        label=options.label,
        guidance_scale=options.guidance_scale,
        sampler=options.sampler,
        grid=options.grid,
        num_steps=options.steps,
        fit=options.fit,
        seed=options.seed,
        batch=options.batch,
        weights=options.weights,
        device=options.device,
    ):
        print(line)
    return 0
