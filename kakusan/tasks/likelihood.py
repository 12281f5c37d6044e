"""The likelihood of a run's held-out pictures, or of any others that it can describe."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan import runtime
from kakusan.choices import choose
from kakusan.conditioning import Condition
from kakusan.config import TrainConfig, merge
from kakusan.data.source import Pictures, open_data
from kakusan.data.spec import DataSpec
from kakusan.likelihood import (
    Beta,
    Bound,
    Categorical,
    Chain,
    Discrete,
    DiscretizedGaussian,
    Divergence,
    Exact,
    Flow,
    Hutchinson,
    Learned,
    LikelihoodRecord,
    Method,
    Posterior,
    TruncatedNormalNoise,
    UniformNoise,
)
from kakusan.pipeline import Pipeline, load
from kakusan.specs import to_spec
from kakusan.train.estimate import duration
from kakusan.train.sources import open_parts

HELD_OUT = "held-out"
DECODERS: dict[str, type[Discrete]] = {"categorical": Categorical, "gaussian": DiscretizedGaussian}
VARIANCES = {"small": Posterior(), "large": Beta(), "learned": Learned()}
DEQUANTISATIONS = {"truncated-normal": TruncatedNormalNoise(), "uniform": UniformNoise()}
DIVERGENCES: dict[str, Callable[[int], Divergence]] = {"exact": lambda probes: Exact(), "hutchinson": Hutchinson}


def _bound(spec: DataSpec, options: dict[str, Any]) -> Method:
    return Bound(choose(DECODERS, options["decoder"], "decoder").for_data(spec), options["draws"] or 16)


def _chain(spec: DataSpec, options: dict[str, Any]) -> Method:
    decoder = choose(DECODERS, options["decoder"], "decoder").for_data(spec)
    variance = choose(VARIANCES, options["variance"], "variance")
    return Chain(decoder, options["draws"] or 16, steps=options["steps"] or 1000, variance=variance)


def _flow(spec: DataSpec, options: dict[str, Any]) -> Method:
    noise = choose(DEQUANTISATIONS, options["dequantisation"], "dequantisation").for_data(spec)
    divergence = choose(DIVERGENCES, options["divergence"], "divergence")(options["probes"])
    return Flow(noise, divergence, options["steps"] or 64, options["draws"] or 1)


METHODS: dict[str, Callable[[DataSpec, dict[str, Any]], Method]] = {"bound": _bound, "discrete": _chain, "flow": _flow}


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
    pictures = open_pictures(pipeline, data)
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
    yield table(record)


def open_pictures(pipeline: Pipeline, source: str = HELD_OUT) -> Pictures:
    """The pictures to measure: the run's own held-out part, or a folder, zip file or embedded set as it is.

    Raises:
        ValueError: pictures that do not fit the model: another size, number of channels, depth or range.
    """
    spec = pipeline.data
    if source != HELD_OUT:
        pictures = open_data(source)
    else:
        training = pipeline.facts.training
        if "config" not in training:
            raise ValueError("this model does not say what it was trained on; give the pictures with --data")
        config = merge(TrainConfig(), training["config"], "the checkpoint")
        pictures = open_parts(config.data, seed=config.run.seed)[1]
        if len(pictures) == 0:
            raise ValueError("this run held no pictures out; give others with --data")
    found = pictures.spec
    if found.shape != spec.shape or found.bits != spec.bits:
        raise ValueError(
            f"the pictures of {source} are {_shape(found)}, the model was trained on {_shape(spec)}; a likelihood is "
            "of pictures as they are, so bring them to that form first"
        )
    return pictures


def _shape(spec: DataSpec) -> str:
    return " x ".join(map(str, spec.shape)) + f" of {spec.bits} bits"


def conditioning(pipeline: Pipeline, pictures: Pictures) -> tuple[Callable[[list[int]], Condition | None], str]:
    """(the condition of some of the pictures, what it is): their labels when the classes are the model's, else null."""
    conditioner = pipeline.model.conditioner
    if conditioner is None:
        return lambda rows: None, "none"
    labels = pictures.labels
    if labels is not None and pictures.spec.classes == pipeline.classes:
        return lambda rows: conditioner(labels[rows].to(pipeline.device)), "labels"
    if conditioner.dropout == 0.0:
        raise ValueError(
            "this model always follows a class and these pictures have not its classes, so it has no likelihood of "
            f"them; give pictures in folders named {', '.join(pipeline.classes[:6])} ..."
        )
    return lambda rows: conditioner.null(len(rows)), "null"


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


def table(record: LikelihoodRecord) -> str:
    """The record for people."""
    each = record.dims * math.log(2.0)
    lines = [f"{name:<16}{value / each:>10.4f}" for name, value in record.terms.items()]
    total = f"{'bits/dim':<16}{record.bits_per_dim:>10.4f} +- {record.bits_error:.4f}"
    return "\n".join(
        [
            *lines,
            f"{total}  ({record.nats_per_dim:.4f} nats/dim, {record.n} pictures of {record.dims} elements, "
            f"{record.levels} levels)",
        ]
    )
