"""Is a bad sample the network's fault or the sampler's?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kakusan.data.source import Pictures, subset
from kakusan.grids import GRIDS
from kakusan.metrics.diagnosis import Findings, distances, verdict
from kakusan.model_folder import RAW
from kakusan.oracles import DataSet
from kakusan.pipeline import Pipeline, load
from kakusan.samplers import sample
from kakusan.train.held_out import FixedPairs, LevelReport
from kakusan.train.reopen import reopen
from kakusan.train.sources import coupled

MEMBERS = 64
SHOWN = 8


def examine(
    run: Path,
    *,
    data: str | None = None,
    sampler: str = "dpmpp-2m",
    grid: str = "karras",
    num_steps: int = 20,
    out: Path | None = None,
) -> Findings:
    """Run the three tests and draw a picture of the samples they rest on."""
    averaged, raw = load(run), load(run, weights=RAW)
    averaged.need_pixels("this examination")
    pictures = reopen(averaged, data)
    levels, raw_levels = (_levels(p, pictures) for p in (averaged, raw))
    request = averaged.request(labels=_labels(averaged), num=SHOWN, sampler=sampler, grid=grid, num_steps=num_steps)
    members = _members(pictures)
    oracle = DataSet(members, schedule=averaged.denoiser.schedule)
    times = GRIDS[grid](oracle.schedule, num_steps)
    exact = sample(oracle, request.sampler, times, (SHOWN, *averaged.data.shape), seeds=list(request.seeds))
    distance, spacing = distances(exact, members)
    place = out or _place(averaged, run)
    _draw(place, averaged, [averaged.run(request), raw.run(request), exact])
    said, healthy = verdict(levels, raw_levels, distance, spacing)
    return Findings(levels, raw_levels, distance, spacing, said, healthy, place, MEMBERS)


def _labels(pipeline: Pipeline) -> list[str | int] | None:
    count = len(pipeline.classes)
    return [i % count for i in range(SHOWN)] if count else None


def _levels(pipeline: Pipeline, pictures: Pictures) -> LevelReport:
    pairs = FixedPairs(pictures, coupled(pipeline.facts.objective, pictures), seed=0, count=128, device=pipeline.device)
    return pairs.measure(pipeline.model)


def _members(pictures: Pictures) -> Tensor:
    chosen = np.linspace(0, len(pictures) - 1, min(MEMBERS, len(pictures))).round().astype(int)
    part = subset(pictures, np.unique(chosen))
    return part.spec.to_model(part.read(range(len(part))))


def _place(pipeline: Pipeline, run: Path) -> Path:
    return (run if run.is_dir() and (run / "config.toml").exists() else Path.cwd()) / "doctor.png"


def _draw(place: Path, pipeline: Pipeline, batches: list[Tensor]) -> None:
    from kakusan.report.grids import grid
    from kakusan.report.png import save_png

    cells = [picture for x in batches for picture in pipeline.data.to_pil(torch.nan_to_num(x))]
    rows = ["averaged", "raw", "exact denoiser"]
    save_png(grid(cells, columns=SHOWN, row_labels=rows), place)
