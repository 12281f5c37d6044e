"""`kakusan generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.guidance_options import GuidanceOptions
from kakusan.cli.options import parse
from kakusan.config import MaybePath, MaybeText


@dataclass(frozen=True)
class GenerateOptions:
    """Draw pictures of a text, with a model that was trained on captions (kakusan train --text own).

    The k-th picture has the seed --seed + k and does not depend on the others. --negative takes a text as well. Parts
    of a text may be weighted: (round petals:1.3), (louder), [softer].

    Args:
        run: a run, checkpoint or model folder, or the folder of a design (kakusan design).
        prompt: one or several texts, each in quotes.
        num: pictures of each text.
        guidance: how pictures are led.
        sampler: ddim, ddpm, heun, dpmpp-2m, dpmpp-3m, unipc-2 and others.
        grid: spacing of the steps (karras, log-snr, uniform, quadratic).
        steps: steps of the sampler.
        seed: of the first picture.
        weights: an EMA profile of the run, or raw.
        batch: pictures computed at once.
        device: auto, cpu, cuda.
        precision: of the networks' products: fp32, bf16, or auto (bf16 where the device multiplies it itself). bf16 is
            faster, and changes a gray level here and there.
        columns: most pictures beside each other on a sheet.
        words: also write where the network looked at each word, for the first picture of each text (.png).
        prior: for a model of CLIP vectors: draw the vectors with this prior (kakusan train-prior).
        prior_scale: guidance scale of the prior.
        prior_steps: steps of the prior.
        prior_candidates: vectors that the prior draws for each picture, of which the one nearest to the text is taken.
        upscaler: models that enlarge what the run draws (trained with --pair upscale-2 or -4), one after the other.
        out: a .png for one sheet, or a folder for single files.
    """

    run: Annotated[Path, tyro.conf.Positional]
    prompt: Annotated[tuple[str, ...], tyro.conf.Positional]
    num: int = 8
    guidance: GuidanceOptions = field(default_factory=GuidanceOptions)
    sampler: str = "dpmpp-2m"
    grid: str = "karras"
    steps: int = 20
    seed: int = 0
    weights: MaybeText = None
    batch: int = 32
    device: str = "auto"
    precision: str = "fp32"
    columns: int = 8
    words: MaybePath = None
    prior: MaybePath = None
    prior_scale: float = 1.0
    prior_steps: int = 20
    prior_candidates: int = 2
    upscaler: tuple[Path, ...] = ()
    out: Path = Path("generated.png")


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(GenerateOptions, argv, verb="generate")
    from kakusan.prior import PriorSampling
    from kakusan.tasks.generate import generate

    if not options.prompt:
        raise ValueError('say what to draw, as in: kakusan generate runs/mine "a red flower with five petals"')
    guidance = options.guidance.arguments(options.run)
    for line in generate(
        options.run,
        options.prompt,
        options.out,
        num=options.num,
        columns=options.columns,
        words=options.words,
        prior=options.prior,
        prior_sampling=PriorSampling(options.prior_scale, options.prior_steps, options.prior_candidates),
        upscalers=options.upscaler,
        weights=options.weights,
        device=options.device,
        precision=options.precision,
        sampler=options.sampler,
        grid=options.grid,
        num_steps=options.steps,
        seed=options.seed,
        batch=options.batch,
        **guidance,
    ):
        print(line)
    return 0
