"""`kakusan watch`: the distances of a run's checkpoints, measured beside its training or after it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kakusan.metrics.watching import KIND, WatchPlan, verdict
from kakusan.tasks.following import LOCK, Follower
from kakusan.train.continuing import stored_config
from kakusan.train.watching import plan_of


def plan_for(
    run: Path, *, num: int | None = None, spaces: Sequence[str] = (), num_steps: int | None = None
) -> WatchPlan:
    """What a run measures itself, or would, with what is given in its place.

    Raises:
        ValueError: no run there.
    """
    config = stored_config(run)
    if config is None:
        raise ValueError(f"there is no run in {run}; `kakusan list` shows what there is")
    plan = plan_of(config.run)
    return dataclasses.replace(
        plan,
        num=plan.num if num is None else num,
        spaces=tuple(spaces) or plan.spaces,
        num_steps=plan.num_steps if num_steps is None else num_steps,
    )


def watch(
    follower: Follower,
    *,
    every: float = 30.0,
    once: bool = False,
    pause: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = print,
) -> Iterator[str]:
    """Measure every checkpoint that has not been measured until the run ends; yields lines for people.

    Args:
        follower: of the run.
        every: seconds between looks for new checkpoints.
        once: look once.
        pause: waits so many seconds.
        say: takes lines about networks that learn to judge, while they do.

    Raises:
        ValueError: no run, another watcher, or too few pictures.
    """
    folder, plan = follower.folder, follower.plan
    with contextlib.closing(folder.lock(LOCK, "watching {}; wait for it, or stop it")), follower.open() as log:
        yield f"{len(follower.missing())} checkpoints to measure, {plan.num} samples each, in {', '.join(plan.spaces)}"
        while True:
            # Asked before the checkpoints are listed, so that none is missed.
            going = folder.in_training()
            for step in follower.missing():
                point = follower.measure(step, say)
                if point is None:
                    continue
                log.write(json.dumps({"kind": KIND, "step": step, **point.line()}) + "\n")
                log.flush()
                os.fsync(log.fileno())
                follower.show()
                yield f"{point.text()}, {point.seconds:.1f} s"
            if once or not going:
                break
            pause(every)
        follower.show()
    found = verdict(follower.points(), folder.steps())
    yield from ["there is no checkpoint to measure yet"] if found is None else found.lines()
    if found is not None:
        yield f"{folder.path / 'watch.html'}"
        yield f"kakusan sample {folder.path / 'best'} --num 16"
