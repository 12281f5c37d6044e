"""Acceptance on real pictures: ten kinds of the Oxford 102 flowers at 32 x 32, one CPU run, measured.

    python benchmarks/real_flowers.py --data FLOWERS_ZIP_OR_FOLDER --minutes 55

Trains (or goes on), then writes docs/results/real-flowers.md with its sample sheet, loss per level, held-out curve and
distances to the nearest training pictures. The pictures in the results are samples of the model; none is from the data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import kakusan
from kakusan.cli.train import Progress
from kakusan.config import TrainConfig, merge
from kakusan.data.source import Pictures
from kakusan.metrics.classifier import train_classifier
from kakusan.metrics.neighbours import NeighbourReport, nearest_by_class
from kakusan.report.curves import held_out_curve, level_loss
from kakusan.report.grids import grid
from kakusan.report.png import save_png
from kakusan.train.metrics_log import read_records
from kakusan.train.run import TrainingRun, stored_config

RESULTS = Path(__file__).parent.parent / "docs" / "results"
CLASSES = (
    "*passion_flower", "*water_lily", "*_rose", "*frangipani", "*foxglove", "*anthurium", "*hibiscus", "*sunflower",
)  # fmt: skip


def settings(data: str, minutes: float, threads: int | None) -> TrainConfig:
    """The configuration of the run."""
    return merge(
        TrainConfig(),
        {
            "data": {"source": data, "size": 32, "flip": True, "classes": CLASSES, "held_out": 0.15},
            "model": {
                "width": 64,
                "multipliers": [1, 2, 2],
                "depth": 1,
                "patch": 2,
                "attention_levels": [],
                "dropout": 0.1,
            },
            "optim": {"optimizer": "muon", "rate": 6e-3, "warmup": 100, "decay": 0.5},
            "run": {"minutes": minutes, "batch": 32, "threads": threads, "measurements": 20, "previews": 2},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=55.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/real-flowers"))
    arguments = parser.parse_args()
    progress = Progress()
    config = stored_config(arguments.out) or settings(arguments.data, arguments.minutes, arguments.threads)
    run = TrainingRun(config, arguments.out, say=progress.say, on_step=progress)
    if run.trainer.step == 0:
        progress.say(run.estimate().text(config.run.batch))
    run.run()
    progress.close()
    if run.stop is None:
        write(run)


def write(run: TrainingRun) -> None:
    """Measure the finished run and write its page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    model = kakusan.load(run.folder.path)
    count = len(model.classes)
    rows = [name.lstrip("0123456789_").replace("_", " ") for name in model.classes]
    x0 = model.sample_tensor(labels=[i for i in range(count) for _ in range(10)], guidance_scale=2.0, num_steps=25)
    save_png(grid(model.data.to_pil(x0), columns=10, row_labels=rows, scale=2), RESULTS / "real-flowers.png")
    labels = [i % count for i in range(50 * count)]
    free = model.sample_tensor(labels=labels, seed=5000, num_steps=20, batch=100)
    judge = train_classifier(run.training, steps=400)
    pixels = _neighbours(run, free, labels, lambda x: x.flatten(1))
    features = _neighbours(run, free, labels, lambda x: judge.features(x.clamp(-1, 1)))
    records = read_records(run.folder.metrics)
    measured = {kind: [r for r in records if r["kind"] == kind] for kind in ("training", "held-out")}
    low = min(measured["held-out"], key=lambda r: r["loss"])
    last = {kind: values[-1] for kind, values in measured.items()}
    held_out_curve(
        [r["step"] for r in measured["held-out"]],
        [r["loss"] for r in measured["training"]],
        [r["loss"] for r in measured["held-out"]],
    ).save(RESULTS / "real-flowers-held-out.png")
    level_loss(
        last["training"]["log_snr"],
        last["training"]["x0_error"],
        last["training"]["floor"],
        last["held-out"]["x0_error"],
    ).save(RESULTS / "real-flowers-levels.png")
    guided = model.sample_tensor(labels=labels, seed=9000, guidance_scale=2.0, num_steps=20, batch=100)
    accuracy = judge.accuracy(guided.clamp(-1, 1), torch.tensor(labels))
    real = judge.accuracy(run.spec.to_model(run.held_out.read(range(len(run.held_out)))), _labels(run.held_out))
    (RESULTS / "real-flowers.md").write_text(
        _page(run, rows, last, low, pixels, features, accuracy, real), encoding="utf-8"
    )
    print(f"wrote {RESULTS / 'real-flowers.md'}")


def _labels(pictures: Pictures) -> torch.Tensor:
    assert pictures.labels is not None
    return pictures.labels


@torch.no_grad()
def _neighbours(run: TrainingRun, samples: torch.Tensor, labels: list[int], space: Any) -> NeighbourReport:
    sets = [(space(samples), torch.tensor(labels))]
    for pictures in (run.held_out, run.training):
        sets.append((space(run.spec.to_model(pictures.read(range(len(pictures))))), _labels(pictures)))
    return nearest_by_class(sets[0], sets[1], sets[2])


def _page(
    run: TrainingRun,
    rows: list[str],
    last: dict[str, dict[str, Any]],
    low: dict[str, Any],
    pixels: NeighbourReport,
    features: NeighbourReport,
    accuracy: float,
    real: float,
) -> str:
    facts = run.facts().training
    levels = zip(
        *(last["training"][key] for key in ("log_snr", "floor", "x0_error")), last["held-out"]["x0_error"], strict=True
    )
    table = "\n".join(f"| {a:.1f} | {b:.5f} | {c:.5f} | {d:.5f} | {d / b:.2f} |" for a, b, c, d in levels)
    near = "\n".join(
        f"| {name} | {report.generated_low:.3f} | {report.held_out_low:.3f} | {report.ratio:.2f} |"
        for name, report in (("pixels", pixels), ("features of a classifier of these classes", features))
    )
    each = "\n".join(
        f"| {rows[c.label]} | {c.generated_low:.3f} | {c.held_out_low:.3f} | {c.ratio:.2f} "
        f"| {c.generated} / {c.held_out} |"
        for c in features.by_class
    )
    figures, minutes = facts["figures"], run.config.run.minutes
    ends = f"{last['training']['loss']:.4f} / {last['held-out']['loss']:.4f}"
    judged = f"{accuracy:.1%} (on real held-out pictures it is right for {real:.1%})"
    return f"""# Real pictures: {len(rows)} kinds of Oxford flowers at 32 x 32, on a CPU

Command: `python benchmarks/real_flowers.py --data FLOWERS --minutes {minutes:g}` (FLOWERS is a folder or zip file of
the Oxford 102 data set with one sub-folder for each class).

![Samples, one row for each class](real-flowers.png)

Samples with guidance scale 2, 25 steps of DPM-Solver++(2M), averaged weights; seeds 0, 1, 2, ... in order, none left
out.

| what | figure |
|---|---|
| pictures (training / held out) | {facts["pictures"]} / {facts["held_out_pictures"]}, classes: {", ".join(rows)} |
| parameters, time, threads | {figures["parameters"]:,}; {figures["time"]}; {run.facts_of_machine.threads} |
| steps, pictures seen, epochs | {facts["steps"]}, {facts["samples"]:,}, {facts["epochs"]:.0f} |
| loss on fixed pairs, end: training / held out | {ends} |
| lowest held-out loss | {low["loss"]:.4f} at step {low["step"]} |
| guided samples of the right class, by a classifier | {judged} |

![Training and held-out loss](real-flowers-held-out.png)

## Error of the predicted x0 in each band of noise

| log-SNR | trivial floor | training | held out | held out / floor |
|---|---|---|---|---|
{table}

![Loss per level](real-flowers-levels.png)

## Nearest training pictures

Distance to the nearest training picture of the same class, 5th percentile: unguided samples beside held-out pictures. A
ratio of 1 or more means that samples are no nearer to training pictures than new pictures are.

| space | samples | held-out pictures | ratio |
|---|---|---|---|
{near}

Class by class, in the classifier's features. The 5th percentile of so few distances rests on the nearest two or three
pictures: one class alone proves little.

| class | samples | held-out pictures | ratio | n, samples / held out |
|---|---|---|---|---|
{each}
"""


if __name__ == "__main__":
    main()
