"""`kakusan train-control`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybeInt, MaybeText
from kakusan.runtime import give_way


@dataclass(frozen=True)
class TrainControlOptions:
    """Teach a trained model to follow a picture, and leave it as it is.

    A copy of the encoder half learns beside the model (ControlNet). The run is a model of its own that holds both:
    `kakusan transform` makes pictures with it. The same command in the same folder goes on where it stopped.

    Args:
        run: the trained run, checkpoint or model folder; a U-Net that starts from noise.
        pair: what it learns to follow: edges, sketch, gray, upscale-2, upscale-4, blurred, masked, or given.
        pair_source: a second folder with the same file names, for --pair given.
        data: pictures to train on, when they are not those of the run.
        out: folder of the new run.
        minutes: length of the run; 10 when no steps are given.
        steps: length of the run in optimizer steps, in place of minutes.
        batch: samples in a step; those of the run when not given.
        rate: highest learning rate (AdamW).
        seed: of everything random.
        device: auto, cpu, cuda.
        threads: of the CPU; all or one, whichever is faster, when not given.
    """

    run: Annotated[Path, tyro.conf.Positional]
    pair: str = "edges"
    pair_source: MaybeText = None
    data: MaybeText = None
    out: Path = Path("runs/control")
    minutes: MaybeFloat = None
    steps: MaybeInt = None
    batch: MaybeInt = None
    rate: float = 1e-3
    seed: int = 0
    device: str = "auto"
    threads: MaybeInt = None


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(TrainControlOptions, argv, verb="train-control")
    waiting = give_way()
    from kakusan.cli.train import TrainOptions, run_training
    from kakusan.train.control import control_settings

    run: dict[str, Any] = {"steps": options.steps, "minutes": options.minutes, "batch": options.batch}
    if options.steps is None and options.minutes is None:
        run["minutes"] = 10.0
    run |= {"seed": options.seed, "device": options.device, "threads": options.threads}
    data = {"pair": options.pair, "pair_noise": 0.0, "pair_source": options.pair_source, "source": options.data}
    settings = control_settings(
        options.run,
        {
            "run": {name: value for name, value in run.items() if value is not None},
            "data": {name: value for name, value in data.items() if value is not None},
            "optim": {"rate": options.rate},
        },
    )
    return run_training(TrainOptions(out=options.out, settings=settings), waiting)
