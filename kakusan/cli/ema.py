"""`kakusan ema`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybePath


@dataclass(frozen=True)
class EmaOptions:
    """Rebuild weight averages of any width after training, without training again.

    A run stores its averages now and then (--snapshots of kakusan train); averages of other widths are made from them.
    They are written as a model folder, which every other verb takes.

    Args:
        run: a run.
        width: of the averages, as fractions of the run, between 0 and 0.28; the first is the one that is sampled.
        out: the folder; a new one in the run's own ema folder when not given.
        name: of the averages, for --weights; ema-WIDTH when not given.
    """

    run: Annotated[Path, tyro.conf.Positional]
    width: tuple[float, ...]
    out: MaybePath = None
    name: tuple[str, ...] = ()


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(EmaOptions, argv, verb="ema")
    from kakusan.tasks.ema import rebuild_averages

    for line in rebuild_averages(options.run, options.width, out=options.out, names=options.name):
        print(line)
    return 0
