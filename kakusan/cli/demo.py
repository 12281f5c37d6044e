"""`kakusan demo`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kakusan.cli.options import parse
from kakusan.runtime import give_way


@dataclass(frozen=True)
class DemoOptions:
    """Train a class-conditional model on the embedded flowers, sample it, measure it and show it.

    Args:
        out: folder of the run.
        minutes: of training.
        seed: of everything random.
    """

    out: Path = Path("runs/demo")
    minutes: float = 4.0
    seed: int = 0


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(DemoOptions, argv, verb="demo")
    give_way()
    from kakusan.cli.train import Progress
    from kakusan.tasks.demo import demo

    progress = Progress()
    demo(options.out, minutes=options.minutes, seed=options.seed, progress=progress)
    return 0
