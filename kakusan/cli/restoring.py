"""What the verbs that restore a picture share: their options, and how they are run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from kakusan.config import MaybeFloat, MaybeInt, MaybePath, MaybeText

if TYPE_CHECKING:
    from kakusan.tasks.restore_problems import Problem


@dataclass(frozen=True)
class RestoreOptions:
    """Options of every verb that restores a picture.

    Args:
        run: a run, checkpoint or model folder.
        image: the picture.
        out: a .png for one sheet (given, mean, spread, samples), or a folder for single files as well.
        posterior: mmps, diffpir, ddrm, ddnm, pigdm, daps, dps, smc, repaint (masks only), reverse (noise only); chosen
            for the problem when not given.
        num: samples of what the picture may have been; smc draws at least 32 and shows these.
        noise: standard deviation of the noise in the picture, as a share of the range from black to white.
        label: the class of the picture, by name or index; a text, where the model reads texts.
        guidance_scale: 1 follows the class as trained, above 1 more, 0 not at all. 1 when not given.
        steps: steps of the sampler; as many as 100 network calls a sample allow when not given.
        grid: spacing of the steps (karras, log-snr, uniform, quadratic).
        degrade: IMAGE is a clean picture: degrade it first, with seeded noise, and measure how well that is undone.
        fit: crop, pad or stretch a picture of another size; it is refused otherwise.
        seed: of the first sample.
        batch: samples computed at once.
        weights: an EMA profile of the run, or raw.
        device: auto, cpu, cuda.
        trajectory: also write the way from noise to the results (.gif, .webp or .mp4).
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    out: Path = Path("restored.png")
    posterior: MaybeText = None
    num: int = 4
    noise: MaybeFloat = None
    label: MaybeText = None
    guidance_scale: MaybeFloat = None
    steps: MaybeInt = None
    grid: str = "karras"
    degrade: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    fit: MaybeText = None
    seed: int = 0
    batch: int = 32
    weights: MaybeText = None
    device: str = "auto"
    trajectory: MaybePath = None


def run_restoration(options: RestoreOptions, problem: Problem) -> int:
    """Carry out a verb; returns its exit code."""
    from kakusan.tasks.restore import restore

    for line in restore(
        options.run,
        options.image,
        problem,
        options.out,
        posterior=options.posterior,
        num=options.num,
        noise=options.noise,
        label=options.label,
        guidance_scale=options.guidance_scale,
        num_steps=options.steps,
        grid=options.grid,
        degrade=options.degrade,
        fit=options.fit,
        seed=options.seed,
        batch=options.batch,
        weights=options.weights,
        device=options.device,
        trajectory=options.trajectory,
    ):
        print(line)
    return 0
