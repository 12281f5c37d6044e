"""`kakusan decompress`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeText


@dataclass(frozen=True)
class DecompressOptions:
    """Write the pictures of a file made by `kakusan compress`, as PNG with the very same pixels.

    Args:
        run: the run, checkpoint or model folder the file was made with.
        file: the compressed file.
        out: a new folder.
        weights: those the file was made with: an EMA profile of the run, or raw.
        device: auto, cpu, cuda; as the file was made.
    """

    run: Annotated[Path, tyro.conf.Positional]
    file: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("pictures")
    weights: MaybeText = None
    device: str = "cpu"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(DecompressOptions, argv, verb="decompress")
    from kakusan.tasks.codec import decompress

    for line in decompress(options.run, options.file, options.out, weights=options.weights, device=options.device):
        print(line)
    return 0
