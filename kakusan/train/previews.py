"""What a run shows of itself while it trains and when it ends: pictures, curves, a page."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan import runtime
from kakusan.encoders.vectors import GivenVectors
from kakusan.encoders.weighting import weighted
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.watching import WatchPlan, points_of
from kakusan.model_folder import RAW, Model, ModelFacts
from kakusan.pairs import PairConditioner
from kakusan.pipeline import Pipeline
from kakusan.request import Asked, SampleRequest
from kakusan.run_folder import RunFolder
from kakusan.train.held_out import view
from kakusan.train.levers import uncompiled
from kakusan.train.metrics_log import read_records
from kakusan.train.pace import Pace, synchronize
from kakusan.train.pairing import Shown

SHOWN = 8
SAMPLED_STEPS = 20
SEED_BITS = 20
# What decides samples beside the model and the seeds.
SAMPLING = ("sampler", "grid", "num_steps", "guidance_scale", "rescale", "interval")


def preview(
    run: RunFolder,
    step: int,
    model: Model,
    facts: ModelFacts,
    averages: Mapping[str, Tensor],
    shown: Shown | None,
    seed: int,
    batch: int,
) -> Path:
    """Draw the same seeds with the raw weights and with the average, `batch` at once; returns the picture's path.

    Where samples start from pictures, those stand above and the originals below.
    """
    from kakusan.report.grids import grid
    from kakusan.report.png import save_png

    drawn, request, pipeline = draw(model, facts, seed=seed, batch=batch, shown=shown)
    raw = facts.data.to_pil(drawn)
    with view(model, averages):
        averaged = facts.data.to_pil(draw(model, facts, seed=seed, batch=batch, shown=shown)[0])
    labels = request.labels
    rows = {"average": averaged, "raw": raw}
    if shown is not None and (shown.given is None or isinstance(shown.given, GivenVectors)):
        rows = {**rows, "original": facts.data.to_pil(shown.x0)}
    elif shown is not None and isinstance(model.conditioner, PairConditioner):
        assert shown.given is not None
        given = model.conditioner.pair.shown(shown.given.spatial, facts.data.shape)
        rows = {"given": facts.data.to_pil(given), **rows, "original": facts.data.to_pil(shown.x0)}
    sheet = grid(
        [picture for row in rows.values() for picture in row],
        columns=len(drawn),
        row_labels=list(rows),
        column_labels=None if labels is None else [_heading(pipeline, label) for label in labels],
    )
    path = run.samples / f"step-{step:08d}.png"
    save_png(sheet, path, {"kind": "preview", "step": step, **pipeline.record(request)})
    return path


def _heading(pipeline: Pipeline, label: Asked) -> str:
    """What stands over a column: the name of a class, or a text on as many lines as there may be."""
    from kakusan.report.prompts import wrapped

    name = pipeline.label_name(label)
    return "\n".join(wrapped(weighted(name).text, 12, 96, most=3)) if pipeline.reads_texts else name


def draw(
    model: Model,
    facts: ModelFacts,
    *,
    seed: int,
    batch: int = SHOWN,
    num_steps: int = SAMPLED_STEPS,
    shown: Shown | None = None,
) -> tuple[Tensor, SampleRequest, Pipeline]:
    """Eight samples (8, C, *size), of different classes where there are some, with the weights as they are.

    Where `shown` says what to start from, as many as it has.
    """
    training = model.training
    try:
        pipeline = Pipeline(model, facts, weights=RAW)
        classes = pipeline.classes
        num = SHOWN
        labels: Sequence[int] | Sequence[str] | None
        labels = [i * max(1, len(classes) // SHOWN) % len(classes) for i in range(SHOWN)] if classes else None
        if shown is not None:
            num, labels = len(shown.x0), shown.labels
        request = pipeline.request(
            labels=labels,
            num=num,
            seed=seed,
            batch=min(batch, num),
            num_steps=num_steps,
            given=None if shown is None else shown.given,
        )
        return _finite(pipeline.run(request)), request, pipeline
    finally:
        model.train(training)


def pace_of_a_preview(
    model: Model, facts: ModelFacts, batch: int, device: torch.device, shown: Shown | None = None
) -> Pace:
    """One preview, with the raw and with the averaged weights, from the time of its first steps."""
    few = 2
    began = time.perf_counter()
    with uncompiled(model):
        draw(model, facts, seed=0, batch=batch, num_steps=few, shown=shown)
    synchronize(device)
    seconds = (time.perf_counter() - began) * 2 * SAMPLED_STEPS / few
    return Pace(seconds, runtime.peak_memory(device))


@torch.no_grad()
def draw_watched(
    model: Model,
    facts: ModelFacts,
    weights: Mapping[str, Tensor] | None,
    labels: Tensor | None,
    *,
    plan: WatchPlan,
    num: int,
    batch: int,
    origin: Mapping[str, str],
    prompts: Sequence[str] | None = None,
) -> PictureSet:
    """`num` samples to measure, as they would be stored, with what decided them.

    Args:
        model: in any mode, which it keeps.
        facts: what its folder says.
        weights: in place of its own; None for its own.
        labels: classes (num,) for a model that knows them.
        plan: steps and seed; sample i has the seed (seed << 20) + i.
        num: samples.
        batch: at once.
        origin: model and weights, for the record.
        prompts: (num,) for a model that reads texts.
    """
    training = model.training
    try:
        with contextlib.nullcontext() if weights is None else view(model, weights):
            pipeline = Pipeline(model, facts, weights=origin["weights"])
            same = labels is not None and pipeline.classes == facts.data.classes
            asked = [int(label) for label in labels] if same and labels is not None else None
            texts = list(prompts) if prompts is not None and pipeline.reads_texts else None
            seeds = [(plan.seed << SEED_BITS) + i for i in range(num)]
            request = pipeline.request(
                labels=texts or asked, seeds=seeds, batch=min(batch, num), num_steps=plan.num_steps
            )
            x0 = _finite(pipeline.run(request))
    finally:
        model.train(training)
    record = request.record()
    told = {
        **origin,
        "sampling": {k: record[k] for k in SAMPLING},
        "seeds": f"{seeds[0]} to {seeds[-1]}",
        "conditions": "classes in the proportions of the real pictures"
        if asked
        else "captions of real pictures"
        if texts
        else "none",
    }
    return PictureSet.sampled(x0, facts.data, None if asked is None else torch.tensor(asked), told)


def pace_of_a_point(model: Model, facts: ModelFacts, plan: WatchPlan, batch: int, device: torch.device) -> Pace:
    """One point of watching, from the time of a few samples' first steps; judging them comes on top."""
    few = dataclasses.replace(plan, num_steps=2)
    size = min(batch, 16)
    labels = torch.arange(size) % len(facts.data.classes) if facts.data.classes else None
    began = time.perf_counter()
    with uncompiled(model):
        draw_watched(model, facts, None, labels, plan=few, num=size, batch=size, origin={"weights": RAW})
    synchronize(device)
    seconds = (time.perf_counter() - began) * plan.num_steps / few.num_steps * plan.num / size
    return Pace(seconds, runtime.peak_memory(device))


def _finite(x: Tensor) -> Tensor:
    """An untrained network may overflow: show it as noise at the edge of the range rather than stop the run."""
    return torch.nan_to_num(x, nan=0.0, posinf=1.0, neginf=-1.0)


def end_report(run: RunFolder, facts: ModelFacts, *, drawn: bool) -> Path:
    """`report.html` at the end of a run, with its last previews and its first when any were drawn."""
    shown: list[tuple[Path, str]] = []
    if drawn:
        sheets = sorted(run.samples.glob("step-*.png"))
        shown.append((sheets[-1], "The same seeds with the averaged and with the raw weights, at the end."))
        if len(sheets) > 1:
            shown.append((sheets[0], "And before the first step."))
    return write_report(run, facts, title=run.path.resolve().name, pictures=shown)


def write_report(
    run: RunFolder,
    facts: ModelFacts,
    *,
    title: str,
    pictures: Sequence[tuple[Path, str]] = (),
    extra: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Path:
    """`report.html` of a run, from its metrics and pictures."""
    from kakusan.report.curves import held_out_curve, level_loss, loss_curve
    from kakusan.report.page import Page
    from kakusan.report.watching import add_distances

    records = read_records(run.metrics)
    steps = [record for record in records if record["kind"] == "step"]
    page = Page(
        title,
        f"{facts.data.channels} x {' x '.join(map(str, facts.data.size))}, {facts.training.get('steps', 0)} steps",
    )
    page.facts(dict(facts.training.get("figures", {})))
    for path, caption in pictures:
        page.picture(path, caption)
    for name, values in extra:
        page.section(name)
        page.facts(dict(values))
    page.section("Training")
    if steps:
        page.figure(loss_curve(steps, keys={"loss": "training"}), "Loss of every step, on random noise levels.")
    measured = [r for r in records if r["kind"] == "held-out"]
    trained = {r["step"]: r for r in records if r["kind"] == "training"}
    if len(measured) > 1:
        pairs = [(m, trained[m["step"]]) for m in measured if m["step"] in trained]
        page.figure(
            held_out_curve([m["step"] for m, _ in pairs], [t["loss"] for _, t in pairs], [m["loss"] for m, _ in pairs]),
            "The averaged model on fixed pairs of noise and time: training pictures beside held-out ones. A "
            "growing gap "
            "means that the model learns pictures by heart.",
        )
    if trained:
        last = trained[max(trained)]
        beside = next((m for m in measured if m["step"] == last["step"]), None)
        page.figure(
            level_loss(
                last["log_snr"], last["x0_error"], last["floor"], None if beside is None else beside["x0_error"]
            ),
            "Mean squared error of the predicted x0 in each band of noise. The dashed line is the best guess that "
            "knows "
            "only the mean and variance of the data: where a model stays on it, it has learnt nothing.",
        )
    add_distances(page, points_of(records), where=str(run.path), kept=run.steps())
    troubles = [record for record in records if record["kind"] == "trouble"]
    if troubles:
        page.section("Trouble")
        page.table([{"step": t["step"], "what": t["message"]} for t in troubles[:50]])
    page.write(run.path / "report.html")
    return run.path / "report.html"
