"""Reflow of a whole model as the user holds it: settings of the new run, pairs drawn as samples are, straightness."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kakusan.config import DataSettings, TrainConfig, merge, with_length
from kakusan.distill.reflow import PairFacts, PairFolder, coupling_of_start
from kakusan.grids import GRIDS
from kakusan.metrics.straightness import StraightnessRecord, straightness
from kakusan.pipeline import Pipeline
from kakusan.request import SampleRequest
from kakusan.train.continuing import stored_config

HELD_OUT = 0.05
TRAJECTORIES, MEASURED_STEPS = 64, 20


def settings(pipeline: Pipeline, out: Path, *, length: dict[str, Any], device: str) -> TrainConfig:
    """Those of the source run, on the pairs; those of the new run when it was begun before."""
    found = stored_config(out)
    source = str(out / "pairs")
    if found is None:
        training = pipeline.facts.training
        if "config" not in training:
            raise ValueError("this model does not say how it was trained, so no run can start from its settings")
        found = merge(TrainConfig(), training["config"], "the checkpoint")
        run = dataclasses.replace(found.run, threads=None)
        objective = dataclasses.replace(found.objective, coupling="independent")
        data = DataSettings(source=source, held_out=HELD_OUT)
        found = dataclasses.replace(found, data=data, run=run, objective=objective)
    elif not PairFolder(found.data.source).exists() and Path(found.data.source).name != "pairs":
        raise ValueError(f"{out} is a run on {found.data.source}, not on pairs of reflow; choose another --out")
    layer = {"data": {"source": source}, "run": {**length, "device": device}}
    return merge(with_length(found, layer), layer)


def draw_missing(
    pipeline: Pipeline, request: SampleRequest, folder: PairFolder, *, on_pairs: Callable[[int, int], None] | None
) -> None:
    """Draw the pairs that the folder lacks; `on_pairs` is called with (drawn, wanted) after each file."""
    grid = GRIDS[request.grid](pipeline.denoiser.schedule, request.num_steps)
    coupling = coupling_of_start(pipeline.denoiser, grid, seed=request.seeds[0])
    how = {k: v for k, v in request.record().items() if k not in ("seeds", "labels")}
    folder.begin(PairFacts(pipeline.model_hash, how, coupling, pipeline.data, len(request.seeds)))
    missing = folder.missing()
    done = len(request.seeds) - sum(map(len, missing))
    for places in missing:
        rows = slice(places.start, places.stop)
        labels = None if request.labels is None else request.labels[rows]
        x0 = pipeline.run(dataclasses.replace(request, seeds=request.seeds[rows], labels=labels))
        folder.write(places, pipeline.data.to_stored(x0), None if labels is None else torch.tensor(labels))
        done += len(places)
        if on_pairs is not None:
            on_pairs(done, len(request.seeds))


def model_straightness(pipeline: Pipeline) -> StraightnessRecord:
    """Straightness of the model, of its classes in turn."""
    classes, conditioner = pipeline.classes, pipeline.model.conditioner
    cond = None
    if conditioner is not None:
        labels = torch.arange(TRAJECTORIES, device=pipeline.device) % max(1, len(classes))
        with torch.no_grad():
            cond = conditioner(labels)
    shape = (TRAJECTORIES, *pipeline.data.shape)
    return straightness(pipeline.denoiser, shape, cond, num_steps=MEASURED_STEPS, device=pipeline.device)
