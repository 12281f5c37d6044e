"""`kakusan vary`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.editing import ModelOptions
from kakusan.cli.options import parse
from kakusan.config import MaybeText


@dataclass(frozen=True)
class VaryOptions:
    """Draw several pictures near a given one, and show where they differ.

    Args:
        run: a run, checkpoint or model folder.
        image: a picture of the model's size.
        strength: 0 gives the picture back, 1 forgets it.
        num: pictures.
        label: the class of the picture ("no class" when not given; its own CLIP vector in models of such vectors).
        method: noise (upon the picture), or fixed-point or ddim (its noise is turned towards that of other seeds).
        source_scale: guidance scale on the way to noise; guidance options act on the way back.
        sampler: of --method noise.
        fit: crop, pad or stretch a picture of another size; it is refused when not given.
        out: a .png, or a folder for single files.
    """

    run: Annotated[Path, tyro.conf.Positional]
    image: Annotated[Path, tyro.conf.Positional]
    strength: float = 0.5
    num: int = 8
    label: MaybeText = None
    method: str = "noise"
    source_scale: float = 1.0
    sampler: str = "dpmpp-2m"
    fit: MaybeText = None
    out: Path = Path("variations.png")
    model: ModelOptions = field(default_factory=ModelOptions)


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(VaryOptions, argv, verb="vary")
    from kakusan.tasks.vary import vary

    for line in vary(
        options.run,
        options.image,
        options.out,
        strength=options.strength,
        num=options.num,
        label=options.label,
        method=options.method,
        source_scale=options.source_scale,
        sampler=options.sampler,
        fit=options.fit,
        **options.model.arguments(options.run),
    ):
        print(line)
    return 0
