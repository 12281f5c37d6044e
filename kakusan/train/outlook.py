"""What a run will take, from a piece of everything it will do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kakusan.train.estimate import Estimate
from kakusan.train.held_out import MEASURED_AT_ONCE
from kakusan.train.pace import Pace, pace_of_measuring
from kakusan.train.previews import SHOWN, pace_of_a_preview

if TYPE_CHECKING:
    from kakusan.train.run import TrainingRun


def beside_of(run: TrainingRun) -> tuple[Pace | None, Pace | None]:
    """What one measurement and one preview take; None for what the run does not do."""
    measuring = preview = None
    if run.config.run.measurements:
        sets = 1 + bool(len(run.held_out))
        pairs, whole = run.fixed_pairs(run.training), run.measuring.size(MEASURED_AT_ONCE)
        measuring = run.fitting(run.measuring, whole, lambda n: pace_of_measuring(run.model, pairs.cut(n), sets))
    if run.config.run.previews:
        preview = run.fitting(run.drawing, SHOWN, lambda n: pace_of_a_preview(run.model, run.facts(), n, run.device))
    return measuring, preview


def estimate_of(run: TrainingRun, measuring: Pace | None, preview: Pace | None) -> Estimate:
    """Time and memory of the whole run."""
    settings, steps = run.config.run, run.trainer.steps
    return Estimate(
        run.step_pace,
        steps,
        sum(p.numel() for p in run.model.parameters()),
        run.trainer.portions.size(settings.batch),
        measuring=measuring,
        measurements=min(settings.measurements, steps),
        preview=preview,
        # One at the start, and the last of those in between falls on the end.
        previews=min(settings.previews, steps) + 1 if settings.previews else 0,
        threads=torch.get_num_threads(),
    )
