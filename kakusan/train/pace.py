"""How long a step takes, measured before the first, and how many of them a run has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kakusan import runtime
from kakusan.train.levers import uncompiled
from kakusan.train.trainer import Trainer

if TYPE_CHECKING:
    from kakusan.config import RunSettings
    from kakusan.model_folder import Model
    from kakusan.train.held_out import FixedPairs

DEFAULT_STEPS = 10_000
# Share of the minutes that checkpoints and the report may take.
SPARE = 0.03
# However much is measured and drawn, a run in minutes trains for at least this share of them.
LEAST_TRAINING = 0.25


@dataclass(frozen=True)
class Pace:
    """What a piece of work takes.

    Args:
        seconds: the whole of it.
        memory_bytes: the most that was in use up to its end: by tensors on an accelerator, by the process on a CPU.
        gradient_seconds: of a training step, the part that grows with the batch.
    """

    seconds: float
    memory_bytes: int
    gradient_seconds: float = 0.0


class Moments:
    """Evenly spread moments of a run whose length is planned again on the way: none is lost, and none comes twice."""

    def __init__(self) -> None:
        self._passed: dict[str, int] = {}

    def due(self, what: str, times: int, step: int, steps: int) -> bool:
        """Whether one of `times` moments of `steps` has come since this was last asked; ask after every step."""
        if step <= 0:
            return False
        # Of a run that goes on, all before this step have come.
        before = self._passed.get(what, (step - 1) * times // steps)
        now = step * times // steps
        self._passed[what] = max(before, now)
        return now > before

    def forget(self) -> None:
        """After a step back, whose moments come again."""
        self._passed.clear()


def pace_of_a_step(trainer: Trainer, repeats: int = 3) -> Pace:
    """A training step with all that belongs to it, taken for real on the next batch and undone again."""
    batch = trainer.feed.batch(trainer.samples)
    device = trainer.feed.device
    found = []
    with trainer.undone():
        for _ in range(repeats):
            began = time.perf_counter()
            taken = trainer.take(batch)
            synchronize(device)
            found.append((time.perf_counter() - began, taken.gradient_seconds))
        memory = runtime.peak_memory(device)
    # The first one also allocates, tunes and compiles.
    seconds, gradient_seconds = min(found[1:])
    return Pace(seconds, memory, gradient_seconds)


def pace_of_measuring(model: Model, pairs: FixedPairs, parts: int) -> Pace:
    """One measurement of `parts` data sets as large as `pairs` stands for, from the time of one batch of it."""
    device, whole = pairs.device, pairs.count
    began = time.perf_counter()
    few = pairs.cut(pairs.batch, pairs.batch)
    with uncompiled(model):
        few.measure(model)
    synchronize(device)
    share = few.count / whole
    return Pace((time.perf_counter() - began) * parts / share, runtime.peak_memory(device))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def choose_threads(probe: Callable[[], Pace], say: Callable[[str], None]) -> tuple[Pace, int]:
    """(the pace of a step, threads): the faster of all threads and one.

    On a machine that is busy with other work two threads can take many times as long as one: each waits for the other
    at the end of every operation.
    """
    pace, threads = probe(), torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
        alone = probe()
        if alone.seconds < pace.seconds:
            say(f"one thread is faster than {threads} while this machine is busy")
            return alone, 1
    return pace, threads


def planned_steps(run: RunSettings, seconds: float, beside: float = 0.0) -> int:
    """Steps of a run, from what a step takes when only its minutes are given.

    Args:
        seconds: of one step.
        beside: seconds of all measurements and previews.
    """
    if run.steps is not None:
        return run.steps
    if run.minutes is not None:
        whole = run.minutes * 60.0 * (1.0 - SPARE)
        return max(1, int(max(whole - beside, LEAST_TRAINING * whole) / max(seconds, 1e-6)))
    return DEFAULT_STEPS


def steps_again(run: RunSettings, step: int, elapsed: float, once: float = 0.0) -> int | None:
    """The length that keeps a run that was asked for in minutes to its time, when the machine turns slower or faster.

    None for a run of given steps.

    Args:
        run: the settings.
        step: taken so far.
        elapsed: seconds so far.
        once: those of them that will not come again.
    """
    if run.minutes is None or run.steps is not None or step == 0:
        return None
    left = run.minutes * 60.0 - elapsed
    return max(step + 1, step + int((1.0 - SPARE) * left * step / max(elapsed - once, 1e-6)))
