"""One measurement in a process of its own, so that its peak of memory is its own: settings in, figures out.

`python -m kakusan.train.probe` reads settings as TOML from its input and writes one line of JSON. Nothing is kept.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kakusan.config import TrainConfig, merge, to_toml


class Unmeasured(ValueError):
    """A measurement that did not come to an end: no memory, no time, or settings that do not work."""


@dataclass(frozen=True)
class Measured:
    """What one measurement found.

    Args:
        step_seconds: one step with all that belongs to it.
        gradient_seconds: of these, the forward and backward passes.
        step_bytes: most memory in use in training.
        bytes: most memory in use, with measuring and drawing.
        measuring_seconds: of one measurement of the loss.
        preview_seconds: of one preview.
        beside_seconds: of all measurements and previews of the run.
        free_bytes: what was free before; None where that is not known.
        device: where it ran.
        precision: fp32 or bf16.
        threads: of the CPU.
        size: of the samples.
    """

    step_seconds: float
    gradient_seconds: float
    step_bytes: int
    bytes: int
    measuring_seconds: float
    preview_seconds: float
    beside_seconds: float
    free_bytes: int | None
    device: str
    precision: str
    threads: int
    size: tuple[int, ...]


Measure = Callable[[TrainConfig], Measured]


def measure_apart(config: TrainConfig, seconds: float) -> Measured:
    """Measure these settings in a process of its own, for at most so many seconds.

    Raises:
        Unmeasured: with the reason.
    """
    command = [sys.executable, "-m", "kakusan.train.probe"]
    try:
        done = subprocess.run(
            command, input=to_toml(config), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unmeasured(f"took longer than {seconds:g} s") from None
    lines = done.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        if done.returncode < 0:
            raise Unmeasured("ended by the system, as it does when memory runs out") from None
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise Unmeasured(f"failed: {said}") from None
    if "error" in found:
        raise Unmeasured(found["error"])
    return Measured(**{**found, "size": tuple(found["size"])})


def measure_here(config: TrainConfig) -> Measured:
    """Measure these settings in this process.

    Raises:
        Unmeasured: memory ran out.
    """
    from kakusan import runtime
    from kakusan.train.run import TrainingRun

    free = runtime.free_memory(runtime.pick_device(config.run.device))
    with tempfile.TemporaryDirectory() as folder:
        # A run writes nothing until it trains.
        run = TrainingRun(config, Path(folder) / "run", say=lambda line: None)
        estimate = run.estimate()
    if estimate.at_once < min(config.run.batch, config.engine.micro_batch or config.run.batch):
        raise Unmeasured("out of memory")
    return Measured(
        estimate.step.seconds,
        estimate.step.gradient_seconds,
        estimate.step.memory_bytes,
        estimate.memory_bytes,
        0.0 if estimate.measuring is None else estimate.measuring.seconds,
        0.0 if estimate.preview is None else estimate.preview.seconds,
        estimate.beside,
        free,
        str(run.device),
        run.precision.name,
        estimate.threads,
        run.spec.size,
    )


def main() -> int:
    """Answer one request."""
    config = merge(TrainConfig(), tomllib.loads(sys.stdin.read()), "the request")
    answer: dict[str, Any]
    try:
        answer = dataclasses.asdict(measure_here(config))
    except (ValueError, ImportError, OSError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
