"""`kakusan train-classifier`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeInt, MaybePath, MaybeText


@dataclass(frozen=True)
class TrainClassifierOptions:
    """Train a classifier of noisy pictures on a run's own data, for classifier guidance.

    Any model of the same pictures can then be led to their classes, one that was trained without classes too:
    kakusan sample RUN --label NAME --classifier FOLDER. Its accuracy at each noise level, on pictures that were held
    out, is printed and kept with it.

    Args:
        run: a run, checkpoint or model folder, for its data and its noise schedule.
        minutes: how long to train.
        steps: of the optimizer, in place of minutes: the same steps give the same classifier.
        batch: pictures in a step.
        width: channels at the highest resolution: the one dial for its size.
        depth: blocks in each level.
        rate: largest learning rate.
        seed: of weights, order and noise.
        data: where the run's pictures are now, when they have moved.
        out: a new folder; one in the run's own folder when not given.
        threads: of the CPU; all cores when not given.
        device: auto, cpu, cuda.
    """

    run: Annotated[Path, tyro.conf.Positional]
    minutes: float = 2.0
    steps: MaybeInt = None
    batch: int = 64
    width: int = 32
    depth: int = 1
    rate: float = 2e-3
    seed: int = 0
    data: MaybeText = None
    out: MaybePath = None
    threads: MaybeInt = None
    device: str = "auto"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(TrainClassifierOptions, argv, verb="train-classifier")
    from kakusan.tasks.train_classifier import train_classifier
    from kakusan.train.noisy_classifier import ClassifierTraining

    how = ClassifierTraining(
        minutes=options.minutes, steps=options.steps, batch=options.batch, rate=options.rate, seed=options.seed
    )
    train_classifier(
        options.run,
        how,
        width=options.width,
        depth=options.depth,
        data=options.data,
        out=options.out,
        threads=options.threads,
        device=options.device,
        say=print,
    )
    return 0
