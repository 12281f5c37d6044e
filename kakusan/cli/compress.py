"""`kakusan compress`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeText


@dataclass(frozen=True)
class CompressOptions:
    """Compress pictures without loss, with a trained model for the probabilities (bits-back coding).

    Only the same model decodes the file, with the same version of torch on the same kind of machine. Every file is
    decoded once before it is written, unless --no-check is given.

    Args:
        run: a run, checkpoint or model folder.
        data: a folder or zip file of pictures, or an embedded set such as digits:held-out.
        out: the file to write.
        steps: of the chain; more are slower and smaller.
        batch: pictures coded at once.
        bins: lattice points to a standard deviation.
        labels: keep the classes too, and code every picture with its own.
        check: decode the file again before it is written.
        weights: an EMA profile of the run, or raw.
        device: auto, cpu, cuda.
    """

    run: Annotated[Path, tyro.conf.Positional]
    data: str
    out: Path = Path("pictures.kks")
    steps: int = 100
    batch: int = 32
    bins: int = 4
    labels: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    check: bool = True
    weights: MaybeText = None
    device: str = "cpu"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(CompressOptions, argv, verb="compress")
    from kakusan.tasks.codec import compress

    for line in compress(
        options.run,
        options.data,
        options.out,
        steps=options.steps,
        batch=options.batch,
        bins=options.bins,
        labels=options.labels,
        check=options.check,
        weights=options.weights,
        device=options.device,
    ):
        print(line)
    return 0
