"""Reflow of one's own model: draw pairs of noise and sample, then train on them, starting from that model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kakusan import runtime
from kakusan.config import to_toml
from kakusan.couplings import Bridge, Reflowed
from kakusan.distill.models import draw_missing, model_straightness, settings
from kakusan.distill.reflow import PairFolder, check_sampler
from kakusan.files import write_text
from kakusan.pipeline import load
from kakusan.run_folder import RunFolder
from kakusan.samplers import Heun, Sampler
from kakusan.train.run import TrainingRun

if TYPE_CHECKING:
    from kakusan.train.trainer import TrainStep


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
    pipeline.need_pixels("reflow")
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
        draw_missing(pipeline, request, folder, on_pairs=on_pairs)
    run = TrainingRun(config, out, init_from=source, say=say, on_step=on_step)
    # Independent noise here would train another model than the one asked for.
    assert isinstance(run.objective.coupling, Reflowed)
    assert not run.model.denoiser.independent_noise
    run.run()
    if run.stop is None:
        before, after = model_straightness(pipeline), model_straightness(load(out, device=pipeline.device))
        found = {"before": before.record(), "after": after.record()}
        write_text(out / "straightness.json", json.dumps(found, indent=1) + "\n")
        say(
            f"straightness (0 is straight) {before.relative:.4f} +- {before.relative_stderr:.4f} before, "
            f"{after.relative:.4f} +- {after.relative_stderr:.4f} after"
        )
    return run
