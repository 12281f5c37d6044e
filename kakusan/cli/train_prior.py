"""`kakusan train-prior`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kakusan.cli.options import parse
from kakusan.config import MaybeFloat, MaybeInt, MaybeText
from kakusan.runtime import give_way


@dataclass(frozen=True)
class TrainPriorOptions:
    """Train the prior of DALL-E 2: from a text to the CLIP vector that a picture of it may have.

    It reads the texts by the CLIP's own tower. `kakusan generate DECODER "TEXT" --prior OUT` then draws pictures, with
    a decoder trained by `kakusan train --clip-vectors` on the same CLIP. At the end the page says how near its vectors
    come to those of held-out pictures, beside those of the CLIP's bridges. The same command in the same folder goes on
    where it stopped.

    Args:
        clip: the CLIP, trained with kakusan train-clip.
        data: pictures with captions, as of kakusan train.
        size: side of the (square) pictures; found from the data when not given.
        num: number of pictures of an embedded set that is drawn by code.
        captions: a file of captions matched by file name, in place of those beside the pictures.
        out: folder of the run.
        minutes: length of the run; 10 when no steps are given.
        steps: length of the run in optimizer steps, in place of minutes.
        batch: vectors in a step.
        width: features of a token: the one dial for the size of the network.
        layers: blocks of the transformer.
        rate: highest learning rate (AdamW).
        seed: of everything random.
        device: auto, cpu, cuda.
        threads: of the CPU; all or one, whichever is faster, when not given.
    """

    clip: Path
    data: str = "flowers:words"
    size: MaybeInt = None
    num: MaybeInt = None
    captions: MaybeText = None
    out: Path = Path("runs/prior")
    minutes: MaybeFloat = None
    steps: MaybeInt = None
    batch: int = 128
    width: int = 256
    layers: int = 4
    rate: float = 1e-3
    seed: int = 0
    device: str = "auto"
    threads: MaybeInt = None


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(TrainPriorOptions, argv, verb="train-prior")
    waiting = give_way()
    from kakusan.cli.train import TrainOptions, trained
    from kakusan.tasks.train_prior import conclude
    from kakusan.train.vector_models import prior_settings

    settings = prior_settings(options.clip, changes_of(options))
    run = trained(TrainOptions(out=options.out, settings=settings), waiting)
    if run.stop is None and run.world.main:
        for line in conclude(run):
            print(line)
    return 0


def changes_of(options: TrainPriorOptions) -> dict[str, dict[str, Any]]:
    """What differs from the defaults, by section."""
    length: dict[str, Any] = {"steps": options.steps, "minutes": options.minutes}
    if options.steps is None and options.minutes is None:
        length["minutes"] = 10.0
    run = {**length, "batch": options.batch, "seed": options.seed, "device": options.device, "threads": options.threads}
    data = {"source": options.data, "size": options.size, "num": options.num, "captions": options.captions}
    return {
        "run": {name: value for name, value in run.items() if value is not None},
        "data": {name: value for name, value in data.items() if value is not None},
        "model": {"width": options.width, "layers": options.layers},
        "optim": {"rate": options.rate},
    }
