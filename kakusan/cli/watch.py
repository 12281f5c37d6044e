"""`kakusan watch`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybeInt, MaybePath, MaybeText

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class WatchOptions:
    """Follow a run, in training or finished: how far its samples are from real pictures, checkpoint by checkpoint.

    Every checkpoint that is there draws a few samples from the same seeds; their distances to real pictures, and those
    of real pictures to each other, go to watch.jsonl, watch.png and watch.html in the run's folder. The best checkpoint
    is chosen in one feature space and reported in the others; RUN/best names it, as in: kakusan sample RUN/best. It
    ends when the training ends; the same command goes on where it stopped. `kakusan train --watch 6` does the same
    from within.

    Args:
        run: the run to follow.
        every: time between looks for new checkpoints: 30s, 5m, 1h.
        once: measure what is there now, and stop.
        num: samples of each checkpoint; that of the run when not given.
        spaces: feature spaces; the first chooses the best. Those of the run when not given.
        steps: steps of the sampler.
        data: where the run's data are now, when they have moved.
        device: auto, cpu, cuda.
    """

    run: Annotated[MaybePath, tyro.conf.Positional] = None
    every: str = "30s"
    once: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    num: MaybeInt = None
    spaces: tuple[str, ...] = ()
    steps: MaybeInt = None
    data: MaybeText = None
    device: str = "auto"


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(WatchOptions, argv, verb="watch")
    if options.run is None:
        raise ValueError("name the run to follow, as in: kakusan watch runs/mine")
    every = seconds(options.every)
    from kakusan import runtime
    from kakusan.tasks.following import Follower
    from kakusan.tasks.watch import plan_for, watch

    runtime.give_way()
    plan = plan_for(options.run, num=options.num, spaces=options.spaces, num_steps=options.steps)
    follower = Follower(options.run, plan, device=options.device, source=options.data)
    runtime.tune(device=follower.device)
    for line in watch(follower, every=every, once=options.once):
        print(line, flush=True)
    return 0


def seconds(text: str) -> float:
    """A time such as 30s, 5m or 1h in seconds; a plain number is seconds.

    Raises:
        ValueError: it is none, or not positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in _UNITS or float(found[1]) == 0.0:
        raise ValueError(f"--every is a time such as 30s, 5m or 1h, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]
