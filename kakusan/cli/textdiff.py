"""`kakusan textdiff`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.editing import ModelOptions
from kakusan.cli.options import parse
from kakusan.config import MaybePath, MaybeText


@dataclass(frozen=True)
class TextdiffOptions:
    """Change what a picture shows by the difference of two texts, with a model of CLIP vectors.

    The picture's own vector is led towards the difference of the texts, further in every frame, while its noise stays.
    Train such a model with kakusan train --clip-vectors.

    Args:
        run: a run, checkpoint or model folder.
        image: a picture of the model's size.
        source: what it shows.
        target: what it is to show.
        most: how far the last frame goes, as a share of the way to the difference itself; 0.25 to 0.5 is usual.
        frames: pictures on the way, the first is the picture itself.
        method: how its noise is found: fixed-point, edict, bdia, edit-friendly or ddim.
        bridge: none, shift or linear: how the texts are carried over to pictures; the model's own when not given.
        source_scale: guidance scale on the way to noise; guidance options act on the way back.
        fit: crop, pad or stretch a picture of another size; it is refused when not given.
        out: a .png, or a folder for single files.
        video: also write the way there and back as .gif, .webp or .mp4.
    """

    run: Annotated[Path, tyro.conf.Positional]
    image: Annotated[Path, tyro.conf.Positional]
    source: Annotated[str, tyro.conf.arg(name="from")]
    target: Annotated[str, tyro.conf.arg(name="to")]
    most: float = 0.5
    frames: int = 6
    method: str = "fixed-point"
    bridge: MaybeText = None
    source_scale: float = 1.0
    fit: MaybeText = None
    out: Path = Path("textdiff.png")
    video: MaybePath = None
    model: ModelOptions = field(default_factory=ModelOptions)


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(TextdiffOptions, argv, verb="textdiff")
    from kakusan.tasks.textdiff import textdiff

    for line in textdiff(
        options.run,
        options.image,
        (options.source, options.target),
        options.out,
        most=options.most,
        frames=options.frames,
        method=options.method,
        bridge=options.bridge,
        source_scale=options.source_scale,
        fit=options.fit,
        video=options.video,
        **options.model.arguments(options.run),
    ):
        print(line)
    return 0
