"""`kakusan invert`."""

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
class InvertOptions:
    """Find the noise that the model turns into a picture, and say how exactly it does.

    Written are the noise (safetensors, with its record), the picture that comes of it, and a sheet of both with their
    difference. Guidance acts on both ways.

    Args:
        run: a run, checkpoint or model folder.
        image: a picture of the model's size.
        label: the class of the picture ("no class" when not given).
        method: fixed-point, edict, bdia, edit-friendly, or ddim (naive: one call a step and a larger error).
        fit: crop, pad or stretch a picture of another size; it is refused when not given.
        out: a folder.
    """

    run: Annotated[Path, tyro.conf.Positional]
    image: Annotated[Path, tyro.conf.Positional]
    label: MaybeText = None
    method: str = "fixed-point"
    fit: MaybeText = None
    out: Path = Path("inverted")
    model: ModelOptions = field(default_factory=ModelOptions)


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(InvertOptions, argv, verb="invert")
    from kakusan.tasks.invert import invert

    for line in invert(
        options.run,
        options.image,
        options.out,
        label=options.label,
        method=options.method,
        fit=options.fit,
        **options.model.arguments(options.run),
    ):
        print(line)
    return 0
