"""How long a step takes, measured before the first, and how many of them a run has."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from kakusan.runtime import Precision
from kakusan.train.trainer import seeded

if TYPE_CHECKING:
    from kakusan.config import RunSettings
    from kakusan.objectives import LossTerms
    from kakusan.train.feed import Batch

DEFAULT_STEPS = 10_000


def seconds_of_a_step(
    module: nn.Module, loss: Callable[[Batch], LossTerms], batch: Batch, *, precision: Precision, device: torch.device
) -> float:
    """Seconds of one forward and backward pass, measured without changing anything."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        with seeded(0, device), precision.autocast():
            terms = loss(batch)
        terms.loss.mean().backward()
        module.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def choose_threads(probe: Callable[[], float], say: Callable[[str], None]) -> tuple[float, int]:
    """(seconds of a step, threads): the faster of all threads and one.

    On a machine that is busy with other work two threads can take many times as long as one: each waits for the other
    at the end of every operation.
    """
    seconds, threads = probe(), torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
        alone = probe()
        if alone < seconds:
            say(f"one thread is faster than {threads} while this machine is busy")
            return alone, 1
    return seconds, threads


def planned_steps(run: RunSettings, seconds: float) -> int:
    """Steps of a run, from what a step takes when only its minutes are given."""
    if run.steps is not None:
        return run.steps
    if run.minutes is not None:
        # Measurements, previews and checkpoints take their share.
        return max(1, int(run.minutes * 60.0 * 0.9 / max(seconds, 1e-6)))
    return DEFAULT_STEPS


def steps_again(run: RunSettings, step: int, elapsed: float) -> int | None:
    """The length that keeps a run that was asked for in minutes to its time, when the machine turns slower or faster.

    None for a run of given steps.
    """
    if run.minutes is None or run.steps is not None or step == 0:
        return None
    left = run.minutes * 60.0 - elapsed
    return max(step + 1, step + int(0.97 * left * step / elapsed))
