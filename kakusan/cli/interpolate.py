"""`kakusan interpolate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.editing import ModelOptions
from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybeInt, MaybePath, MaybeText


@dataclass(frozen=True)
class InterpolateOptions:
    """Go smoothly from one picture to another, or from one class or seed to another.

    With two pictures their noises are mixed (an inversion), or both are drowned in noise that is strongest halfway
    (--method noise). Without pictures samples are drawn, from --from-label to --to-label with the same noise, or from
    --seed to --to-seed.

    Args:
        run: a run, checkpoint or model folder.
        images: none or two pictures of the model's size.
        from_label: the class of the first end ("no class" when not given; with pictures, their own CLIP vectors in
            models of such vectors).
        to_label: the class of the other end.
        to_seed: without pictures: the seed of the other end.
        method: with pictures: fixed-point, edict, bdia, edit-friendly, ddim, or noise.
        strength: of --method noise, halfway; 0.6 when not given.
        frames: pictures on the way, both ends among them.
        num: without pictures: rows.
        sampler: without pictures, and of --method noise.
        fit: crop, pad or stretch pictures of another size; they are refused when not given.
        out: a .png, or a folder for single files.
        video: also write the way there and back as .gif, .webp or .mp4.
    """

    run: Annotated[Path, tyro.conf.Positional]
    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    from_label: MaybeText = None
    to_label: MaybeText = None
    to_seed: MaybeInt = None
    method: MaybeText = None
    strength: MaybeFloat = None
    frames: int = 11
    num: MaybeInt = None
    sampler: str = "dpmpp-2m"
    fit: MaybeText = None
    out: Path = Path("interpolated.png")
    video: MaybePath = None
    model: ModelOptions = field(default_factory=ModelOptions)


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(InterpolateOptions, argv, verb="interpolate")
    from kakusan.tasks.interpolate import between_pictures, between_samples

    if len(options.images) not in (0, 2):
        raise ValueError(f"give two pictures, or none to go between samples; got {len(options.images)}")
    shared = {
        "from_label": options.from_label,
        "to_label": options.to_label,
        "frames": options.frames,
        "sampler": options.sampler,
        "video": options.video,
        **options.model.arguments(options.run),
    }
    if options.images:
        if options.to_seed is not None or options.num is not None:
            raise ValueError("--to-seed and --num are for samples; leave them out with pictures")
        if options.strength is not None and options.method != "noise":
            raise ValueError("--strength belongs to --method noise; inversions go all the way")
        lines = between_pictures(
            options.run,
            options.images,
            options.out,
            method=options.method or "fixed-point",
            strength=0.6 if options.strength is None else options.strength,
            fit=options.fit,
            **shared,
        )
    else:
        if options.method is not None or options.strength is not None:
            raise ValueError("--method and --strength are for given pictures; name two")
        lines = between_samples(
            options.run,
            options.out,
            to_seed=options.to_seed,
            num=4 if options.num is None else options.num,
            **shared,
        )
    for line in lines:
        print(line)
    return 0
