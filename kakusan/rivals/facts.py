"""What the training of a rival was."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RivalFacts:
    """What a training was.

    Args:
        kind: of the rival.
        path: its folder.
        steps: steps taken.
        samples: training samples seen.
        seconds: of training, with measuring the pace and the measurements on the way; not the last one.
        seconds_per_step: mean over the steps alone, with waiting for data.
        parameters: learned numbers.
        flops_per_sample: of a training step, forward and backward, all groups; products and convolutions.
        flops_to_sample: of drawing one picture.
        batch: samples in a step.
        seed: of the run.
        threads: of the CPU.
        losses: of each group, mean over the last twentieth of the steps.
        troubles: steps that were skipped because a loss or gradient was not finite.
        rollbacks: returns to an earlier state.
        diverged: whether training was given up.
        message: why, or what stopped it.
        saved: whether there is a folder to load.
        held_out_bits: bits per dimension of held-out pictures; None where there is no likelihood.
        held_out_error: its standard error over the pictures.
        held_out_count: pictures it was measured on.
        likelihood_kind: "exact", "bound" or "none".
    """

    kind: str
    path: Path
    steps: int
    samples: int
    seconds: float
    seconds_per_step: float
    parameters: int
    flops_per_sample: int
    flops_to_sample: int
    batch: int
    seed: int
    threads: int
    losses: tuple[float, ...] = ()
    troubles: int = 0
    rollbacks: int = 0
    diverged: bool = False
    message: str = ""
    saved: bool = True
    held_out_bits: float | None = None
    held_out_error: float | None = None
    held_out_count: int = 0
    likelihood_kind: str = "none"

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**dataclasses.asdict(self), "path": str(self.path)}
