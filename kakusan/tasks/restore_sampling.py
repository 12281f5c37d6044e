"""Running a posterior sampler on a pipeline, in batches, with an eye on its way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.grids import GRIDS
from kakusan.levels import tabulate
from kakusan.operators import Measurement
from kakusan.pipeline import Pipeline
from kakusan.posteriors import POSTERIORS, Posterior, Reverse
from kakusan.request import SampleRequest
from kakusan.samplers import Step
from kakusan.schedules import NoiseSchedule
from kakusan.specs import suggestion
from kakusan.tasks.picture_files import shown

if TYPE_CHECKING:
    from PIL.Image import Image

_SHOWN = 16

# Those for any operator, and the one that only denoises.
METHODS: dict[str, Posterior] = {**POSTERIORS, "reverse": Reverse()}


def chosen(name: str) -> Posterior:
    """A posterior sampler by its name.

    Raises:
        ValueError: no such name.
    """
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ValueError(f"no posterior {name!r}{suggestion(name, list(METHODS))}; there are {known}")
    return METHODS[name]


def affordable(posterior: Posterior, measurement: Measurement, schedule: NoiseSchedule, grid: str, calls: int) -> int:
    """The most steps of a grid that a sample can have for this many network calls, backward passes counted."""

    def cost(steps: int) -> float:
        return posterior.network_calls(tabulate(schedule, GRIDS[grid](schedule, steps)), measurement) or math.inf

    return max((steps for steps in range(1, calls + 1) if cost(steps) <= calls), default=1)


@dataclass
class Way:
    """What the first samples went through, to be shown."""

    noisy: list[list[Image]] = field(default_factory=list)
    clean: list[list[Image]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def see(self, pipeline: Pipeline, step: Step) -> None:
        """Keep a step."""
        predicted = step.x_s if step.prediction is None else step.prediction.x0
        self.noisy.append(shown(pipeline, step.x_t[:_SHOWN]))
        self.clean.append(pipeline.data.to_pil(predicted[: min(_SHOWN, len(step.x_t))].cpu()))
        self.times.append(float(step.level.t))

    def write(self, pipeline: Pipeline, path: Path, x0: Tensor) -> str:
        """The animation, which ends with the results; returns a line for people."""
        from kakusan.report.animation import save_animation
        from kakusan.report.reverse import trajectory_frames

        last = pipeline.data.to_pil(x0[: len(self.noisy[0])])
        frames = trajectory_frames([*self.noisy, last], [*self.clean, last], [*self.times, 0.0])
        save_animation(frames, path, fps=8, hold=1.5)
        return f"wrote {path}"


def posterior_samples(
    pipeline: Pipeline,
    posterior: Posterior,
    measurement: Measurement,
    request: SampleRequest,
    way: Way | None = None,
) -> Tensor:
    """Samples (N, C, *size) of what was measured, on the CPU, one for each seed of the request.

    Args:
        pipeline: the prior; the request's label and guidance belong to it.
        posterior: the method, which takes the place of the request's sampler.
        measurement: of one picture.
        request: seeds, label, guidance, steps and batch; samples that depend on each other need one batch.
        way: keeps the steps of the first batch.
    """
    found = []
    for index, chunk in enumerate(request.chunks()):
        denoiser, cond = pipeline.guided(chunk)
        grid = GRIDS[chunk.grid](denoiser.schedule, chunk.num_steps)
        steps = posterior.sample_iter(
            denoiser, measurement, grid, len(chunk.seeds), cond, seeds=list(chunk.seeds), device=pipeline.device
        )
        with torch.no_grad():
            for step in steps:
                if way is not None and index == 0:
                    way.see(pipeline, step)
                last = step.x_s
        found.append(last.cpu())
    return torch.cat(found)
