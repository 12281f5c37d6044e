"""`kakusan reflow`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybeInt, MaybePath


@dataclass(frozen=True)
class ReflowOptions:
    """Straighten a trained model by its own samples, so that it needs fewer steps (rectified flow, arXiv 2209.03003).

    Draws pairs of noise and sample from the run with a deterministic sampler, keeps them in the new run's folder, and
    trains on them, starting from that run. The same command in the same folder goes on where it stopped. The new model
    is sampled by deterministic samplers only.

    Args:
        run: the run, checkpoint or model to straighten.
        out: folder of the new run.
        pairs: how many samples to draw.
        minutes: of training after that; the length of the old run when neither this nor steps is given.
        steps: of training, in place of minutes.
        sampler: deterministic: heun, ddim, dpmpp-2m, unipc-2 and others.
        sampler_steps: steps of the sampler.
        grid: spacing of those steps (karras, log-snr, uniform, quadratic).
        guidance_scale: with which the pairs follow their classes; the new model needs no guidance for as much.
        seed: of the first pair.
        batch: samples drawn at once.
        device: auto, cpu, cuda.
    """

    run: Annotated[MaybePath, tyro.conf.Positional] = None
    out: Path = Path("runs/reflow")
    pairs: int = 10_000
    minutes: MaybeFloat = None
    steps: MaybeInt = None
    sampler: str = "heun"
    sampler_steps: int = 40
    grid: str = "karras"
    guidance_scale: float = 1.0
    seed: int = 1_000_000
    batch: int = 64
    device: str = "auto"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(ReflowOptions, argv, verb="reflow")
    if options.run is None:
        raise ValueError("name the run to straighten, as in: kakusan reflow runs/mine --out runs/mine-reflow")
    if options.pairs < 1:
        raise ValueError(f"--pairs counts samples, at least 1; got {options.pairs}")
    from kakusan.cli.train import Progress
    from kakusan.tasks.reflow import reflow

    progress = Progress()

    def on_pairs(done: int, wanted: int) -> None:
        progress.say(f"pairs {done}/{wanted}")

    given = {"minutes": options.minutes, "steps": options.steps}
    run = reflow(
        options.run,
        options.out,
        pairs=options.pairs,
        sampler=options.sampler,
        grid=options.grid,
        num_steps=options.sampler_steps,
        guidance_scale=options.guidance_scale,
        seed=options.seed,
        batch=options.batch,
        length={name: value for name, value in given.items() if value is not None},
        device=options.device,
        say=progress.say,
        on_pairs=on_pairs,
        on_step=progress,
    )
    progress.close()
    if run.stop is None:
        print(
            f"model   {run.folder.latest()}\nreport  {run.folder.path / 'report.html'}\n"
            f"next    kakusan sample {options.out} --num 16 --sampler ddim --steps 4"
        )
    return 0
