"""What a run shows of itself while it trains and when it ends: pictures, curves, a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.model_folder import RAW, Model, ModelFacts
from kakusan.pipeline import Pipeline
from kakusan.run_folder import RunFolder
from kakusan.train.held_out import view
from kakusan.train.metrics_log import read_records

SHOWN = 8


def preview(
    run: RunFolder, step: int, model: Model, facts: ModelFacts, averages: Mapping[str, Tensor], *, seed: int
) -> Path:
    """Draw the same seeds with the raw weights and with the average; returns the picture's path."""
    from kakusan.report.grids import grid
    from kakusan.report.png import save_png

    training = model.training
    pipeline = Pipeline(model, facts, weights=RAW)
    classes = pipeline.classes
    labels = [i * max(1, len(classes) // SHOWN) % len(classes) for i in range(SHOWN)] if classes else None
    request = pipeline.request(labels=labels, num=SHOWN, seed=seed)
    raw = facts.data.to_pil(_finite(pipeline.run(request)))
    with view(model, averages):
        averaged = facts.data.to_pil(_finite(pipeline.run(request)))
    model.train(training)
    sheet = grid(
        [*averaged, *raw],
        columns=SHOWN,
        row_labels=["average", "raw"],
        column_labels=None if labels is None else [classes[label] for label in labels],
    )
    path = run.samples / f"step-{step:08d}.png"
    save_png(sheet, path, {"kind": "preview", "step": step, **pipeline.record(request)})
    return path


def _finite(x: Tensor) -> Tensor:
    """An untrained network may overflow: show it as noise at the edge of the range rather than stop the run."""
    return torch.nan_to_num(x, nan=0.0, posinf=1.0, neginf=-1.0)


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
    troubles = [record for record in records if record["kind"] == "trouble"]
    if troubles:
        page.section("Trouble")
        page.table([{"step": t["step"], "what": t["message"]} for t in troubles[:50]])
    page.write(run.path / "report.html")
    return run.path / "report.html"
