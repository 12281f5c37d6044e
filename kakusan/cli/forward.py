"""`kakusan forward`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse


@dataclass(frozen=True)
class ForwardOptions:
    """Drown a picture in noise: x_t at chosen t, with the SNR curve of the schedule under it.

    Args:
        image: a picture.
        schedule: cosine, vp, sub-vp, ve, karras, rectified, sigmoid, linear, scaled-linear, squared-cosine.
        shift: SNR shift of the schedule.
        t: times to show, in [0, 1]; ten of them, evenly spaced, when not given.
        size: longest side of the picture.
        seed: of the noise.
        out: a .png strip, or a .gif, .webp or .mp4 that runs through all times.
        frames: of an animation.
    """

    image: Annotated[Path, tyro.conf.Positional]
    schedule: str = "cosine"
    shift: float = 1.0
    t: tuple[float, ...] = ()
    size: int = 128
    seed: int = 0
    out: Path = Path("forward.png")
    frames: int = 60


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(ForwardOptions, argv, verb="forward")
    from kakusan.tasks.forward import draw_file

    print(
        draw_file(
            options.image,
            options.out,
            schedule=options.schedule,
            shift=options.shift,
            times=options.t,
            size=options.size,
            seed=options.seed,
            frames=options.frames,
        )
    )
    return 0
