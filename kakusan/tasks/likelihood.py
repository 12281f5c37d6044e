"""The likelihood of a run's held-out pictures, or of any others that it can describe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan import runtime
from kakusan.choices import choose
from kakusan.conditioning import Condition
from kakusan.data.source import Pictures
from kakusan.likelihood import LikelihoodRecord, Method
from kakusan.likelihood.choices import METHODS
from kakusan.pipeline import Pipeline, load
from kakusan.specs import to_spec
from kakusan.train.estimate import duration
from kakusan.train.reopen import HELD_OUT, conditioning, pictures_to_measure


def measure(
    run: Path,
    *,
    data: str = HELD_OUT,
    method: str = "bound",
    num: int | None = None,
    weights: str | None = None,
    device: str = "auto",
    batch: int = 64,
    seed: int = 0,
    out: Path | None = None,
    **options: Any,
) -> Iterator[str]:
    """Measure the likelihood of a run's pictures; yields lines for people, the last of them the table.

    Raises:
        ValueError: unknown names, or pictures that the model cannot state the probability of.
    """
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    pipeline = load(run, weights=weights, device=where)
    chosen = choose(METHODS, method, "method")(pipeline.data, options)
    pictures = pictures_to_measure(pipeline, data)
    count = len(pictures) if num is None else min(num, len(pictures))
    if count < 1 or batch < 1:
        raise ValueError(f"at least one picture and a batch of one are needed, got {count} and {batch}")
    told, conditions = conditioning(pipeline, pictures)
    yield f"{count} pictures of {data}, weights {pipeline.weights!r} of {pipeline.path}, conditions: {conditions}"
    found: list[dict[str, Tensor]] = []
    began = time.perf_counter()
    for start in range(0, count, batch):
        rows = list(range(start, min(start + batch, count)))
        found.append(_part(pipeline, chosen, pictures, rows, told, seed))
        if start == 0 and count > batch:
            spent = time.perf_counter() - began
            yield f"about {duration(spent * (count - batch) / batch)} to go"
    terms = {name: torch.cat([part[name].cpu() for part in found]) for name in found[0]}
    record = LikelihoodRecord.of(
        terms,
        dims=pipeline.data.channels * int(torch.tensor(pipeline.data.size).prod()),
        levels=chosen.levels,
        method=chosen.record(),
        schedule=to_spec(pipeline.denoiser.schedule),
        seed=seed,
        model=pipeline.model_hash,
        weights=pipeline.weights,
        data=pictures.fingerprint,
        source=data,
        conditions=conditions,
        extra={"seconds": time.perf_counter() - began, "device": where.type, "batch": batch},
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record.record(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        yield f"wrote {out}"
    yield record.text()


@torch.no_grad()
def _part(
    pipeline: Pipeline,
    method: Method,
    pictures: Pictures,
    rows: list[int],
    told: Callable[[list[int]], Condition | None],
    seed: int,
) -> dict[str, Tensor]:
    stored = pictures.read(rows)
    pipeline.data.check(stored)
    x0 = pipeline.data.to_model(stored).to(pipeline.device)
    return method.terms(pipeline.denoiser, x0, told(rows), torch.tensor(rows) + seed)
