"""Reflow of one's own model: draw pairs of noise and sample, then train on them, starting from that model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kakusan import runtime
from kakusan.config import DataSettings, TrainConfig, merge, to_toml, with_length
from kakusan.couplings import Bridge, Reflowed
from kakusan.distill.reflow import PairFacts, PairFolder, check_sampler, coupling_of_start
from kakusan.files import write_text
from kakusan.grids import GRIDS
from kakusan.metrics.straightness import StraightnessRecord, straightness
from kakusan.pipeline import Pipeline, SampleRequest, load
from kakusan.run_folder import RunFolder
from kakusan.samplers import Heun, Sampler
from kakusan.train.continuing import stored_config
from kakusan.train.run import TrainingRun

if TYPE_CHECKING:
    from kakusan.train.trainer import TrainStep

HELD_OUT = 0.05
TRAJECTORIES, MEASURED_STEPS = 64, 20


def reflow(
    source: Path,
    out: Path,
    *,
    pairs: int,
    sampler: Sampler | str | None = None,
    grid: str = "karras",
    num_steps: int = 40,
    guidance_scale: float = 1.0,
    seed: int = 1_000_000,
    batch: int = 64,
    length: dict[str, Any] | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
    on_pairs: Callable[[int, int], None] | None = None,
    on_step: Callable[[TrainStep, TrainingRun], None] | None = None,
) -> TrainingRun:
    """Draw what is missing of the pairs, train what is missing of the run; the same call goes on after a stop.

    Args:
        source: the run or model to straighten.
        out: folder of the new run; its pairs lie in `out/pairs`.
        pairs: how many. Classes, when the model has them, take turns.
        sampler: deterministic; Heun when not given.
        grid: of the sampler.
        num_steps: of the sampler.
        guidance_scale: the pairs follow their classes so; the new model then does without guidance.
        seed: of the first pair.
        batch: samples drawn at once.
        length: `steps` or `minutes` of the training; that of the source when not given.
        on_pairs: called with (drawn, wanted).

    Raises:
        ValueError: a stochastic sampler, a bridge, or a folder that holds another run.
    """
    pipeline = load(source, device=runtime.pick_device(device))
    if isinstance(pipeline.facts.objective.coupling, Bridge):
        raise ValueError("this model is a bridge: its samples start from its sources, not from noise that seeds make")
    classes = pipeline.classes
    request = pipeline.request(
        labels=[i % len(classes) for i in range(pairs)] if classes else None,
        num=pairs,
        seed=seed,
        sampler=Heun() if sampler is None else sampler,
        guidance_scale=guidance_scale,
        grid=grid,
        num_steps=num_steps,
        batch=batch,
    )
    check_sampler(request.sampler)
    config = settings(pipeline, out, length=length or {}, device=device)
    folder = PairFolder(out / "pairs")
    with contextlib.closing(RunFolder(out).create(to_toml(config))):
        draw(pipeline, request, folder, on_pairs=on_pairs)
    run = TrainingRun(config, out, init_from=source, say=say, on_step=on_step)
    # Independent noise here would train another model than the one asked for.
    assert isinstance(run.objective.coupling, Reflowed)
    assert not run.model.denoiser.independent_noise
    run.run()
    if run.stop is None:
        before, after = measure(pipeline), measure(load(out, device=pipeline.device))
        found = {"before": before.record(), "after": after.record()}
        write_text(out / "straightness.json", json.dumps(found, indent=1) + "\n")
        say(
            f"straightness (0 is straight) {before.relative:.4f} +- {before.relative_stderr:.4f} before, "
            f"{after.relative:.4f} +- {after.relative_stderr:.4f} after"
        )
    return run


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


def draw(
    pipeline: Pipeline, request: SampleRequest, folder: PairFolder, *, on_pairs: Callable[[int, int], None] | None
) -> None:
    """Draw the pairs that the folder lacks."""
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


def measure(pipeline: Pipeline) -> StraightnessRecord:
    """Straightness of the model, of its classes in turn."""
    classes, conditioner = pipeline.classes, pipeline.model.conditioner
    cond = None
    if conditioner is not None:
        labels = torch.arange(TRAJECTORIES, device=pipeline.device) % max(1, len(classes))
        with torch.no_grad():
            cond = conditioner(labels)
    shape = (TRAJECTORIES, *pipeline.data.shape)
    return straightness(pipeline.denoiser, shape, cond, num_steps=MEASURED_STEPS, device=pipeline.device)
