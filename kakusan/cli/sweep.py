"""`kakusan sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybeInt, MaybePath, MaybeText


@dataclass(frozen=True)
class SweepOptions:
    """Draw the same pictures under every value of one or two settings.

    Writes a labelled sheet, a video over the first axis, a table (JSON) and every picture into a folder. The same
    command goes on where it stopped. The noise is the same for every value, and what is the same for several is
    computed once.

    Args:
        run: a run, checkpoint or model folder.
        axis: name=first:last:count or name=x,y,z; once or twice. Axes: guidance-scale, rescale, rule, interval-low,
            interval-high, threshold, steps, sampler, eta, grid, seed, label, switch, strength, checkpoint, weights,
            ema-width.
        label: class names or indices; pictures are shared out among them. The first classes when not given and needed.
        to: label that the axis switch changes to.
        image: picture that the axis strength starts from.
        fit: crop, pad or stretch, for an image of another size.
        num: pictures under each value; one for each label when not given.
        seed: of the first picture; 0 when not given.
        guidance_scale: any real number; 1 when not given and no axis needs more.
        rescale: phi of the guidance rescale.
        rule: how guidance mixes: linear, apg, zero-star, plus-plus.
        interval: t between which guidance acts.
        threshold: quantile of dynamic thresholding; off when not given.
        sampler: dpmpp-2m when not given; ddim, ddpm, heun and others as in kakusan sample.
        eta: of ddim.
        grid: spacing of the steps (karras, log-snr, uniform, quadratic).
        steps: of the sampler; 20 when not given.
        weights: an EMA profile of the run, or raw.
        batch: pictures computed at once.
        device: auto, cpu, cuda.
        video: gif, webp, mp4 or none.
        out: the folder.
    """

    run: Annotated[Path, tyro.conf.Positional]
    axis: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    label: tuple[str, ...] = ()
    to: MaybeText = None
    image: MaybePath = None
    fit: MaybeText = None
    num: MaybeInt = None
    seed: MaybeInt = None
    guidance_scale: MaybeFloat = None
    rescale: MaybeFloat = None
    rule: MaybeText = None
    interval: tuple[float, float] = (0.0, 1.0)
    threshold: MaybeFloat = None
    sampler: MaybeText = None
    eta: MaybeFloat = None
    grid: MaybeText = None
    steps: MaybeInt = None
    weights: MaybeText = None
    batch: int = 32
    device: str = "auto"
    video: str = "gif"
    out: Path = Path("sweep")


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(SweepOptions, argv, verb="sweep")
    from kakusan.tasks.sweep import sweep

    for line in sweep(
        options.run,
        options.axis,
        options.out,
        labels=options.label,
        to=options.to,
        image=options.image,
        fit=options.fit,
        num=options.num,
        seed=options.seed,
        guidance_scale=options.guidance_scale,
        rescale=options.rescale,
        rule=options.rule,
        interval=options.interval,
        threshold=options.threshold,
        sampler=options.sampler,
        eta=options.eta,
        grid=options.grid,
        num_steps=options.steps,
        weights=options.weights,
        batch=options.batch,
        device=options.device,
        video=options.video,
    ):
        print(line, flush=True)
    return 0
