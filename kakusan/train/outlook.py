"""What a run will take, from a piece of everything it will do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from kakusan.train.estimate import Estimate
from kakusan.train.held_out import MEASURED_AT_ONCE
from kakusan.train.pace import Pace, pace_of_measuring, planned_steps
from kakusan.train.pairing import Shown, shown_of
from kakusan.train.previews import SHOWN, pace_of_a_point, pace_of_a_preview
from kakusan.train.watching import AT_ONCE, JUDGING, TOO_SHORT, how_often, opening, plan_of

if TYPE_CHECKING:
    from kakusan.train.run import TrainingRun

Beside = tuple[Pace | None, Pace | None, Pace | None]
"""One measurement, one preview, one point of watching."""


def beside_of(run: TrainingRun) -> Beside:
    """What one measurement, one preview and one point of watching take; None for what the run does not do."""
    measuring = preview = watching = None
    if run.config.run.measurements:
        sets = 1 + bool(len(run.held_out))
        portions, pairs = run.measuring.portions, run.measuring.fixed_pairs(run.training)
        whole = portions.size(MEASURED_AT_ONCE)
        measuring = run.fitting(portions, whole, lambda n: pace_of_measuring(run.model, pairs.cut(n), sets))
    if run.config.run.previews:
        preview = run.fitting(run.drawing, SHOWN, partial(_preview, run, shown_of(run, SHOWN)))
    if run.watching.off is None and run.config.run.watch != 0:
        plan = plan_of(run.config.run)
        drawing = run.fitting(
            run.watching.portions, AT_ONCE, lambda n: pace_of_a_point(run.model, run.facts(), plan, n, run.device)
        )
        watching = Pace(drawing.seconds + JUDGING * len(plan.spaces), drawing.memory_bytes)
    return measuring, preview, watching


def _preview(run: TrainingRun, shown: Shown | None, at_once: int) -> Pace:
    return pace_of_a_preview(run.model, run.facts(), at_once, run.device, shown)


def watches_of(run: TrainingRun) -> int:
    """How often this run watches distances: as often as the settings say, or as its time allows."""
    settings = run.config.run
    if settings.watch is not None or run.watching.off is not None or run.world.size > 1:
        return settings.watch or 0
    whole = planned_steps(settings, run.step_pace.seconds) * run.step_pace.seconds
    if whole < TOO_SHORT:
        return 0
    point = run.estimate().watching
    return 0 if point is None else how_often(whole, once=opening(plan_of(settings)), each=point.seconds)


def estimate_of(run: TrainingRun, measuring: Pace | None, preview: Pace | None, watching: Pace | None) -> Estimate:
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
        watching=watching,
        watches=min(settings.watch or 0, steps),
        opening=opening(plan_of(settings)) if settings.watch and watching is not None else 0.0,
        threads=torch.get_num_threads(),
    )
