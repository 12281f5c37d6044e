"""`kakusan sample`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.guidance_options import GuidanceOptions
from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybeInt, MaybePath, MaybeText


@dataclass(frozen=True)
class SampleOptions:
    """Draw pictures from a trained model.

    Pictures use the averaged weights (EMA) unless --weights raw asks for the others. The k-th picture has the seed
    --seed + k and does not depend on the others. Every PNG carries what makes it again: --from-png does so.

    Args:
        run: a run, checkpoint or model folder.
        label: class names or indices; pictures are shared out among them.
        all_labels: one row for every class.
        num: number of pictures (with --all-labels, for each class).
        guidance: how pictures are led.
        sampler: ddim, ddpm, heun, dpmpp-2m, dpmpp-3m, unipc-2, ipndm, deis, adaptive and others.
        eta: of ddim: 0 deterministic, 1 as DDPM.
        grid: spacing of the steps (karras, log-snr, uniform, quadratic).
        steps: steps of the sampler.
        seed: of the first picture.
        weights: an EMA profile of the run, or raw.
        batch: pictures computed at once.
        device: auto, cpu, cuda.
        precision: of the network's products: fp32, bf16, or auto (bf16 where the device multiplies it itself). bf16 is
            faster, and changes a gray level here and there.
        cuda_graphs: replay the network as a CUDA graph: faster where its kernels are small.
        out: a .png for one sheet, or a folder for single files.
        trajectory: also write the way from noise to pictures (.gif, .webp or .mp4).
        from_png: make the pictures of this PNG again.
        shards: a folder to fill with numbered tar files in place of --out: for many pictures, by any number of
            processes (torchrun); the same command goes on where it stopped.
        shard_size: pictures in each.
    """

    run: Annotated[MaybePath, tyro.conf.Positional] = None
    label: tuple[str, ...] = ()
    all_labels: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    num: MaybeInt = None
    guidance: GuidanceOptions = field(default_factory=GuidanceOptions)
    sampler: str = "dpmpp-2m"
    eta: MaybeFloat = None
    grid: str = "karras"
    steps: int = 20
    seed: int = 0
    weights: MaybeText = None
    batch: int = 32
    device: str = "auto"
    precision: str = "fp32"
    cuda_graphs: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    out: Path = Path("samples.png")
    trajectory: MaybePath = None
    from_png: MaybePath = None
    shards: MaybePath = None
    shard_size: int = 1000


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(SampleOptions, argv, verb="sample")
    if options.from_png is not None:
        from kakusan.tasks.again import again

        for line in again(options.from_png, options.out, run=options.run, device=options.device):
            print(line)
        return 0
    from kakusan.tasks.sampling import draw
    from kakusan.tasks.shards import draw_shards

    if options.run is None:
        raise ValueError("name the run to sample, as in: kakusan sample runs/mine --num 16")
    if options.shards is not None and options.trajectory is not None:
        raise ValueError("--shards draws no trajectory; leave one of them out")
    task: Callable[..., Iterator[str]]
    if options.shards is not None:
        task = partial(draw_shards, options.run, options.shards, size=options.shard_size)
    else:
        task = partial(draw, options.run, options.out, trajectory=options.trajectory)
    for line in task(
        labels=options.label,
        all_labels=options.all_labels,
        num=options.num,
        weights=options.weights,
        device=options.device,
        eta=options.eta,
        sampler=options.sampler,
        **options.guidance.arguments(options.run),
        grid=options.grid,
        num_steps=options.steps,
        seed=options.seed,
        batch=options.batch,
        cuda_graphs=options.cuda_graphs,
        precision=options.precision,
    ):
        print(line)
    return 0
