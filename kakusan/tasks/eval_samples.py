"""Samples as they are measured: in the classes' real proportions, stored as integers, with all that decided them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.pipeline import Pipeline
from kakusan.rivals.pipeline import RivalPipeline
from kakusan.samplers import Sampler
from kakusan.train.estimate import duration

SEED_BITS = 20
"""Sample i of seed s has the seed (s << SEED_BITS) + i, so that two seeds share no sample."""
GRID = "karras"

Draw = Callable[[list[int], list[int] | None], Tensor]
"""(seeds, labels) -> x0 (B, C, *size)."""


PictureModel: TypeAlias = Pipeline | RivalPipeline
"""What can be sampled here."""


@torch.no_grad()
def draw_samples(
    pipeline: PictureModel,
    reference: Reference,
    *,
    num: int = 256,
    seed: int = 0,
    num_steps: int = 20,
    sampler: Sampler | str | None = None,
    guidance_scale: float | None = None,
    batch: int = 64,
    say: Callable[[str], None] | None = None,
) -> PictureSet:
    """Samples of a model with their origin: model, weights, sampling, seeds, conditions.

    The origin also holds `seconds` and `network_calls` for each picture: passes of the network as they were counted,
    all that guidance asks among them.

    Args:
        pipeline: a diffusion model or a rival.
        reference: the real pictures, whose classes are asked for in their proportions.
        num: samples.
        seed: sample i has the seed (seed << 20) + i.
        num_steps: of the sampler; rivals have none.
        sampler: DPM-Solver++ of order 2 when not given; rivals have none.
        guidance_scale: 1 when not given; rivals have none.
        batch: samples at once.
        say: takes lines of progress.

    Raises:
        ValueError: no samples asked for, or a sampler that does not suit the model.
    """
    if num < 1 or batch < 1:
        raise ValueError(f"at least one sample and a batch of one are needed, got {num} and {batch}")
    seeds = [(seed << SEED_BITS) + i for i in range(num)]
    labels, conditions = _labels(pipeline, reference, num)
    given = {"num_steps": num_steps, "sampler": sampler, "guidance_scale": guidance_scale}
    draw, sampling, calls = _drawing(pipeline, given, labels)
    found: list[Tensor] = []
    began = time.perf_counter()
    for start in range(0, num, batch):
        part = slice(start, min(start + batch, num))
        found.append(draw(seeds[part], None if labels is None else labels[part]))
        spent = time.perf_counter() - began
        if say is not None and start == 0 and num > batch:
            say(f"{num} samples: about {duration(spent * num / batch)}")
    origin = {
        "model": pipeline.model_hash,
        "weights": pipeline.weights,
        "sampling": sampling,
        "seeds": f"{seeds[0]} to {seeds[-1]}",
        "conditions": conditions,
        "batch": batch,
        "seconds": (time.perf_counter() - began) / num,
        "network_calls": calls() / num,
    }
    same = labels is not None and pipeline.classes == reference.pool.spec.classes
    return PictureSet.sampled(torch.cat(found), pipeline.data, torch.tensor(labels) if same else None, origin)


@torch.no_grad()
def pace_of_sampling(
    pipeline: PictureModel,
    reference: Reference,
    *,
    batch: int = 64,
    num_steps: int = 20,
    sampler: Sampler | str | None = None,
    guidance_scale: float | None = None,
) -> float:
    """Seconds for a sample, from two steps of one batch: time is nearly proportional to the steps."""
    few = min(2, num_steps)
    given: dict[str, Any] = {"sampler": sampler, "guidance_scale": guidance_scale, "batch": batch}
    # The first pass through a network finds its memory and its algorithms.
    draw_samples(pipeline, reference, num=batch, num_steps=1, **given)
    found = draw_samples(pipeline, reference, num=batch, num_steps=few, **given)
    steps = num_steps / few if isinstance(pipeline, Pipeline) else 1.0
    return float(found.origin["seconds"]) * steps


def _labels(pipeline: PictureModel, reference: Reference, num: int) -> tuple[list[int] | None, str]:
    """(a class for each sample, which they are in words)."""
    if not pipeline.classes:
        return None, "none"
    proportions = reference.proportions(num)
    if proportions is not None and pipeline.classes == reference.pool.spec.classes:
        return [int(label) for label in proportions], "classes in the proportions of the real pictures"
    return [i % len(pipeline.classes) for i in range(num)], "all classes in turn"


def _drawing(
    pipeline: PictureModel, given: dict[str, Any], labels: Sequence[int] | None
) -> tuple[Draw, dict[str, Any], Callable[[], float]]:
    """(how to draw, what it depends on, passes of the network so far)."""
    if not isinstance(pipeline, Pipeline):
        drawn: list[int] = []

        def once(seeds: list[int], some: list[int] | None) -> Tensor:
            drawn.append(len(seeds))
            return pipeline.sample_tensor(seeds=seeds, labels=some, num=len(seeds), batch=len(seeds))

        return once, {"kind": pipeline.kind}, lambda: float(sum(drawn))
    options = {**given, "grid": GRID}
    request = pipeline.request(seeds=[0], labels=None if labels is None else [labels[0]], **options)
    passes: list[int] = []

    def many(seeds: list[int], some: list[int] | None) -> Tensor:
        with pipeline.watched(passes.append):
            return pipeline.sample_tensor(seeds=seeds, labels=some, batch=len(seeds), **options)

    record = request.record()
    sampling = {k: record[k] for k in ("sampler", "grid", "num_steps", "guidance_scale", "rescale", "interval")}
    return many, sampling, lambda: float(sum(passes))
