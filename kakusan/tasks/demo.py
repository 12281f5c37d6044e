"""`make demo`: train on embedded flowers, sample, measure, and show everything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kakusan.config import TrainConfig, merge
from kakusan.data.source import Pictures
from kakusan.metrics.classifier import Classifier, train_classifier
from kakusan.metrics.neighbours import NeighbourReport, nearest_by_class
from kakusan.pipeline import Pipeline, load
from kakusan.recipes import demo as recipe
from kakusan.tasks.forward import strip
from kakusan.tasks.picture_files import shown
from kakusan.train.previews import write_report
from kakusan.train.run import TrainingRun

if TYPE_CHECKING:
    from kakusan.cli.train import Progress

GUIDANCE = 2.0
# Few steps of a stochastic sampler leave grain, which a judge of textures takes for another flower.
SAMPLER = "dpmpp-2m"
COLUMNS = 10
MEASURED = 600
STEPS = 12


@dataclasses.dataclass(frozen=True)
class DemoFigures:
    """How good the model is: classes of guided samples, and neighbours of unguided ones."""

    accuracy: float
    judge_accuracy: float
    neighbours: NeighbourReport

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {
            f"guided samples of the right class (of {MEASURED})": f"{self.accuracy:.1%}",
            "the judge itself, on held-out pictures": f"{self.judge_accuracy:.1%}",
            "nearest training picture, samples (5th percentile)": f"{self.neighbours.generated_low:.3f}",
            "nearest training picture, held-out pictures": f"{self.neighbours.held_out_low:.3f}",
        }


def demo(out: Path, *, minutes: float, seed: int, progress: Progress) -> DemoFigures:
    """Run the whole demo in a folder; says where things are."""
    config = merge(merge(TrainConfig(), recipe()), {"run": {"minutes": minutes, "seed": seed}})
    run = TrainingRun(config, out, say=progress.say, on_step=progress)
    progress.say(run.estimate().text(config.run.batch) if run.trainer.step == 0 else "going on with the demo")
    run.run()
    progress.close()
    if run.stop is not None:
        raise KeyboardInterrupt
    pipeline = load(out)
    pictures = show(pipeline, out, run.training, seed=seed)
    progress.say("measuring the samples ...")
    figures = measure(pipeline, run.training, run.held_out, seed=seed)
    pictures.append(show_neighbours(figures.neighbours, pipeline.classes, out))
    write_report(run.folder, run.facts(), title="kakusan demo", pictures=pictures, extra=[("Samples", figures.facts())])
    for name, value in figures.facts().items():
        progress.say(f"{name}: {value}")
    for path, caption in pictures:
        progress.say(f"{path}  {caption}")
    progress.say(
        f"{out / 'report.html'}\n\nnext:\n"
        f"  kakusan sample {out} --label {pipeline.classes[0]} --num 16 --guidance-scale 3 --trajectory way.gif\n"
        f"  kakusan doctor {out}\n"
        "  kakusan forward YOUR_PICTURE.jpg --out strip.png\n"
        "  kakusan train --data YOUR_FOLDER --out runs/mine --minutes 30"
    )
    return figures


def show(pipeline: Pipeline, out: Path, training: Pictures, *, seed: int) -> list[tuple[Path, str]]:
    """Write samples.png, forward.png and reverse.png."""
    from kakusan.report.grids import grid
    from kakusan.report.png import save_png
    from kakusan.report.reverse import reverse_strip

    classes = pipeline.classes
    labels = [name for name in classes for _ in range(COLUMNS)]
    request = pipeline.request(labels=labels, seed=1000 + seed, guidance_scale=GUIDANCE, num_steps=20, sampler=SAMPLER)
    sheet = grid(pipeline.data.to_pil(pipeline.run(request)), columns=COLUMNS, row_labels=list(classes), scale=2)
    record = pipeline.record(request, kind="sheet", columns=COLUMNS, rows=list(classes), scale=2)
    save_png(sheet, out / "samples.png", record)
    x0 = training.spec.to_model(training.read([2]))[0]
    times = [i / 9 for i in range(10)]
    save_png(strip(x0, pipeline.data, pipeline.denoiser.schedule, times, seed=seed), out / "forward.png")
    one = pipeline.request(labels=[classes[2]], seed=1002 + seed, guidance_scale=GUIDANCE, num_steps=40, grid="uniform")
    steps = list(pipeline.steps(one))
    kept = [steps[round(i * (len(steps) - 1) / 9)] for i in range(10)]
    noisy = [shown(pipeline, step.x_t)[0] for step in kept]
    clean = [pipeline.data.to_pil(step.prediction.x0)[0] for step in kept if step.prediction is not None]
    times, sigmas = [float(step.level.t) for step in kept], [float(step.level.sigma) for step in kept]
    save_png(reverse_strip(noisy, clean, times, sigmas=sigmas), out / "reverse.png")
    return [
        (out / "samples.png", f"Samples, one row for each class, guidance scale {GUIDANCE:g}."),
        (
            out / "forward.png",
            "The forward process: one training picture drowned in noise, and the schedule that does it.",
        ),
        (
            out / "reverse.png",
            "The reverse process: from noise to a picture, with what the network expects at each step.",
        ),
    ]


def show_neighbours(report: NeighbourReport, classes: Sequence[str], out: Path) -> tuple[Path, str]:
    """Write neighbours.png: the distances class by class."""
    from kakusan.report.curves import class_neighbours

    path, rows = out / "neighbours.png", report.by_class
    class_neighbours(
        [classes[row.label] for row in rows],
        [row.generated_low for row in rows],
        [row.held_out_low for row in rows],
        [
            f"{row.generated_low:.2f} / {row.held_out_low:.2f} = {row.ratio:.2f}   n = {row.generated}, {row.held_out}"
            for row in rows
        ],
        distance=f"{report.percentile:g}th percentile of distances to the nearest training picture",
    ).save(path)
    few = min(min(row.generated, row.held_out) for row in rows)
    return path, (
        "Does it copy? Unguided samples and held-out pictures, each to the nearest training picture of its class in "
        "the judge's features; a ratio well below 1 would mean copies. n counts samples and held-out pictures. "
        f"The {report.percentile:g}th percentile of {few} distances rests on the "
        f"{int((few - 1) * report.percentile / 100) + 2} smallest: one class alone proves little."
    )


def measure(pipeline: Pipeline, training: Pictures, held_out: Pictures, *, seed: int) -> DemoFigures:
    """Judge samples by a classifier trained on the generator's own pictures."""
    judge = train_classifier(training, seed=seed)
    labels = [i % len(pipeline.classes) for i in range(MEASURED)]
    common = {"labels": labels, "num_steps": STEPS, "batch": 100, "sampler": SAMPLER}
    guided = pipeline.sample_tensor(seed=10_000 + seed, guidance_scale=GUIDANCE, **common)
    free = pipeline.sample_tensor(seed=20_000 + seed, **common)
    wanted = torch.tensor(labels)
    real, new = (_with_labels(pictures) for pictures in (training, held_out))
    neighbours = nearest_by_class(
        (_features(judge, free), wanted), (_features(judge, new[0]), new[1]), (_features(judge, real[0]), real[1])
    )
    return DemoFigures(judge.accuracy(guided.clamp(-1, 1), wanted), judge.accuracy(*new), neighbours)


def _with_labels(pictures: Pictures) -> tuple[torch.Tensor, torch.Tensor]:
    assert pictures.labels is not None
    return pictures.spec.to_model(pictures.read(range(len(pictures)))), pictures.labels


@torch.no_grad()
def _features(judge: Classifier, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([judge.features(part) for part in x.clamp(-1, 1).split(256)])
