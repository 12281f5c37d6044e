"""Latent against pixel at equal quality: seconds of training, of a step and of a picture, on embedded flowers.

    python benchmarks/latents.py --size 64 --minutes 30 --write
    python benchmarks/latents.py --size 128 --minutes 40 --write

The minutes are those of training in all (measuring takes about a third more): a tenth for each autoencoder, equal
shares of the rest for the models. Two are of pixels (the second sees squares twice as wide: at 64 pixels the grid of
the latents of factor 4), one each of the latents of factor 4 and 8. Quality is measured at checkpoints, so that times
are read where a latent and a pixel model are equally good; steps and pictures are timed in turns. Everything is kept
in `--out`: the same command goes on where it was stopped, and a finished one times steps and pictures again. The page
shows every size that is there. The exit status says whether a saving at equal quality was shown.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import common
import torch
from latents_costs import costs
from latents_equal import Coder, Contestant, Found, Point, shown, verdicts
from latents_page import chart, page
from torch import Tensor

from kakusan import autoencoders
from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.cache import LatentCache
from kakusan.config import DataSettings, TrainConfig, merge
from kakusan.data.source import Pictures, subset
from kakusan.files import write_text
from kakusan.metrics.classifier import Classifier, train_classifier
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.watching import Watcher, WatchPlan, scaled
from kakusan.pipeline import Pipeline, load
from kakusan.report.grids import grid
from kakusan.run_folder import RunFolder
from kakusan.train.autoencoder import AutoencoderRun, AutoencoderTraining
from kakusan.train.metrics_log import read_records
from kakusan.train.previews import draw_watched
from kakusan.train.run import TrainingRun
from kakusan.train.sources import open_parts

CODERS = {"factor 4": {"factor": 4, "latent_channels": 4}, "factor 8": {"factor": 8, "latent_channels": 16}}
"""As many numbers in a latent of either."""
CODER_SHARE = 0.1
"""Of the minutes, for each autoencoder."""
GUIDANCE, SAMPLER = 2.0, "dpmpp-2m"
SPACES = ("self-supervised", "random")


@dataclass(frozen=True)
class Kind:
    """A model that is compared.

    Args:
        name: for people.
        coder: of its latents; None for pixels.
        patch: pixels, or places of the latent, a side of what its network sees as one place.
    """

    name: str
    coder: str | None
    patch: int


def kinds(size: int) -> list[Kind]:
    """What is compared at a size. Nets on 32 x 32 places are the finest that minutes on a CPU can train."""
    fine = max(1, size // 32)
    return [
        Kind(f"pixels, patch {fine}", None, fine),
        Kind(f"pixels, patch {2 * fine}", None, 2 * fine),
        Kind("latents, factor 4", "factor 4", 1),
        Kind("latents, factor 8", "factor 8", 1),
    ]


@dataclass
class Bench:
    """One run of the benchmark: its settings and what its pieces share."""

    options: argparse.Namespace
    chosen: Sequence[Kind]
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """Where these trainings are kept."""
        given = self.options
        return Path(given.out) / f"{given.size}-pixels-{given.minutes:g}-minutes-{given.num}-{given.width}"

    @cached_property
    def pictures(self) -> tuple[Pictures, Pictures]:
        """(trained on, held out) in pixels."""
        return open_parts(self.data(None), seed=0)

    @property
    def coders(self) -> list[str]:
        """Names of the autoencoders that are needed."""
        return list(dict.fromkeys(k.coder for k in self.chosen if k.coder is not None))

    def data(self, coder: str | None) -> DataSettings:
        """The flowers, as pixels or as latents."""
        where = None if coder is None else str(self.folder(coder))
        return DataSettings(source="flowers", size=self.options.size, num=self.options.num, autoencoder=where)

    def folder(self, name: str) -> Path:
        """Of a training."""
        return self.place / name.replace(", ", "-").replace(" ", "-")

    @cached_property
    def watcher(self) -> Watcher:
        """Real pictures and feature spaces. Held-out pictures are not among them, so that they can be measured too."""
        plan = WatchPlan(
            num=self.options.samples,
            num_steps=self.options.steps,
            spaces=tuple(self.options.spaces),
            distances=("frechet",),
        )
        training = self.pictures[0]
        return Watcher(training, subset(training, []), plan, folder=self.place / "spaces", say=print)

    @cached_property
    def judge(self) -> Classifier:
        """Says the class of a picture."""
        shrink = max(1, self.options.size // 32)
        return train_classifier(self.pictures[0], steps=self.options.judge_steps, shrink=shrink)

    def measured(self, pictures: PictureSet) -> dict[str, tuple[float, float]]:
        """By space, (ratio, its standard error)."""
        point = self.watcher.measure(pictures, step=0, model=pictures.hash)
        return {record.space: scaled(record)[:2] for record in point.records}

    def measurement(self, name: str, make: Callable[[], Any]) -> Any:
        """The same of what depends on how it is measured."""
        given = self.options
        how = f"{given.samples}-{given.steps}-{given.judge_steps}-{'-'.join(given.spaces)}"
        return self.known(f"{name}-{how}", make)

    def known(self, name: str, make: Callable[[], Any]) -> Any:
        """What was found before in this folder, or is found now."""
        path = self.place / f"{name}.json"
        if not path.is_file():
            write_text(path, json.dumps(make(), indent=1) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))


def train_coder(bench: Bench, name: str) -> Autoencoder:
    """Train an autoencoder, unless it is there, and encode the flowers once."""
    options, folder = bench.options, bench.folder(name)
    training, held_out = bench.pictures

    def train() -> dict[str, Any]:
        how = AutoencoderTraining(**CODERS[name], minutes=CODER_SHARE * options.minutes, measurements=0)
        run = AutoencoderRun(how, training, held_out, folder, threads=options.threads, say=_indented)
        health = run.run()
        if run.stop is not None:
            raise SystemExit(f"stopped by {run.stop}; the same command goes on")
        stored = autoencoders.read(folder)
        began = time.perf_counter()
        LatentCache.open(training, stored.autoencoder)
        encoding = time.perf_counter() - began
        return {"steps": run.trainer.step, "seconds": run.elapsed(), "encoding": encoding, "psnr": health.psnr}

    # A run that is opened again is stored again, under another hash, and would leave its models without their data.
    bench.parts[name] = bench.known(f"trained-{folder.name}", train)
    return autoencoders.load(folder)


def measured_coder(bench: Bench, name: str, autoencoder: Autoencoder) -> Coder:
    """What became of held-out pictures, in the place of samples."""
    training = bench.pictures[0]

    def measure() -> dict[str, Any]:
        kept = few(bench)
        x = kept.x()
        with torch.no_grad():
            made = torch.cat([autoencoder.decode(autoencoder.encode(part), size=x.shape[2:]) for part in x.split(32)])
        decoded = PictureSet.sampled(made, training.spec, kept.labels)
        assert kept.labels is not None
        return {
            "ratios": {space: ratio for space, (ratio, _) in bench.measured(decoded).items()},
            "accuracy": bench.judge.accuracy(decoded.x(), kept.labels),
        }

    found = bench.measurement(f"measured-{bench.folder(name).name}", measure)
    return Coder(name=name, latent=list(autoencoder.latent_shape(training.spec.shape)), **bench.parts[name], **found)


def few(bench: Bench) -> PictureSet:
    """As many held-out pictures as there are samples, in the classes of the samples as far as there are so many."""
    held_out, wanted = bench.pictures[1], bench.watcher.labels()
    assert held_out.labels is not None
    assert wanted is not None
    left = {int(c): (held_out.labels == c).nonzero().flatten().tolist() for c in held_out.labels.unique()}
    rows = [left[int(c)].pop(0) for c in wanted if left.get(int(c))]
    spare = sorted(row for rest in left.values() for row in rest)
    return PictureSet.read(held_out, sorted(rows + spare[: max(0, len(wanted) - len(rows))]))


def settings(bench: Bench, kind: Kind) -> TrainConfig:
    """The U-Net of the demo on the places of one kind."""
    options = bench.options
    minutes = options.minutes * (1.0 - CODER_SHARE * len(bench.coders)) / len(bench.chosen)
    model = {"width": options.width, "multipliers": [1, 2, 2], "depth": 1, "patch": kind.patch, "attention_levels": []}
    run = {"minutes": minutes, "batch": 32, "threads": options.threads, "watch": 0, "previews": 0, "snapshots": 0}
    run |= {"checkpoints": options.points, "spaced": options.points, "measurements": 2}
    optim = {"optimizer": "muon", "rate": 1e-2, "warmup": 80, "decay": 0.5}
    given = merge(TrainConfig(), {"model": model, "optim": optim, "run": run})
    return TrainConfig(**{**vars(given), "data": bench.data(kind.coder)})


def train(bench: Bench, kind: Kind) -> TrainingRun:
    """Train a model, or go on, or open what is finished."""
    run = TrainingRun(settings(bench, kind), bench.folder(kind.name), say=_indented)
    if run.trainer.step == 0 or run.trainer.step < run.trainer.steps:
        run.run()
    if run.stop is not None:
        raise SystemExit(f"stopped by {run.stop}; the same command goes on")
    return run


def points(bench: Bench, kind: Kind) -> list[Point]:
    """Quality at the checkpoints of a model."""
    folder = RunFolder(bench.folder(kind.name))
    rows = [r for r in read_records(folder.metrics) if r["kind"] == "step"]
    steps = [s for s in folder.steps() if s > 0]
    marks = [steps[-1] * i / bench.options.points for i in range(1, bench.options.points + 1)]
    found = []
    for step in sorted({min(steps, key=lambda s: abs(s - mark)) for mark in marks}):
        seconds = sum(r["seconds"] + r.get("wait", 0.0) for r in rows if r["step"] <= step)

        def quality(step: int = step) -> dict[str, Any]:
            print(f"{kind.name}: measuring step {step}", flush=True)
            pipeline = load(folder.checkpoint(step))
            labels, plan, num = bench.watcher.labels(), bench.watcher.plan, bench.watcher.num
            origin = {"model": pipeline.model_hash, "weights": pipeline.weights}
            drawn = draw_watched(
                pipeline.model, pipeline.facts, None, labels, plan=plan, num=num, batch=64, origin=origin
            )
            ratios = bench.measured(drawn)
            assert labels is not None
            return {
                "ratios": {space: value for space, (value, _) in ratios.items()},
                "errors": {space: error for space, (_, error) in ratios.items()},
                "accuracy": bench.judge.accuracy(guided(bench, pipeline, labels), labels),
            }

        name = f"point-{bench.folder(kind.name).name}-{step}"
        found.append(Point(step=step, seconds=seconds, **bench.measurement(name, quality)))
    return found


def guided(bench: Bench, pipeline: Pipeline, labels: Tensor, *, seed: int = 1 << 20) -> Tensor:
    """Guided samples as they would be stored, (B, C, *pixels) in model units."""
    drawn = pipeline.sample_tensor(
        labels=labels.tolist(),
        seed=seed,
        guidance_scale=GUIDANCE,
        num_steps=bench.options.steps,
        sampler=SAMPLER,
        batch=64,
    )
    return pipeline.data.pictured.to_model(pipeline.data.to_stored(drawn))


def _indented(line: str) -> None:
    print("  " + line, flush=True)


def sheet(bench: Bench, *, columns: int = 8) -> Any:
    """Guided samples of every model, the same seeds and classes in each row."""
    classes = bench.pictures[0].spec.classes
    labels = torch.tensor([i * len(classes) // columns for i in range(columns)])
    cells: list[Any] = []
    for kind in bench.chosen:
        pipeline = load(bench.folder(kind.name))
        cells += pipeline.data.pictured.to_pil(guided(bench, pipeline, labels, seed=0))
    rows = [kind.name for kind in bench.chosen]
    names = [classes[int(i)] for i in labels]
    return grid(cells, columns=columns, row_labels=rows, column_labels=names, scale=max(1, 128 // bench.options.size))


def run(options: argparse.Namespace) -> Found:
    """Train what is missing, measure what is missing, and time everything."""
    every = kinds(options.size)
    chosen = [k for k in every if not options.only or any(part in k.name for part in options.only)]
    bench = Bench(options, chosen)
    bench.place.mkdir(parents=True, exist_ok=True)
    networks = {}
    for name in bench.coders:
        print(f"autoencoder, {name}", flush=True)
        networks[name] = train_coder(bench, name)
    runs = {}
    for kind in chosen:
        print(kind.name, flush=True)
        runs[kind.name] = train(bench, kind)
    coders = [measured_coder(bench, name, network) for name, network in networks.items()]
    curves = {kind.name: points(bench, kind) for kind in chosen}

    def real() -> dict[str, Any]:
        kept = few(bench)
        assert kept.labels is not None
        ratios = {space: ratio for space, (ratio, _) in bench.measured(kept).items()}
        return {"held_out": ratios, "judge": bench.judge.accuracy(kept.x(), kept.labels)}

    beside = bench.measurement("real", real)
    print("timing steps and pictures in turns", flush=True)
    price = costs(runs, num_steps=options.steps, sampler=SAMPLER, rounds=options.rounds)
    grids = {k.name: runs[k.name].spec.size[0] // k.patch for k in chosen}
    return Found(
        size=options.size,
        minutes=options.minutes,
        samples=bench.watcher.num,
        num_steps=options.steps,
        batch=32,
        drawn=len(bench.pictures[0]),
        spaces=list(options.spaces),
        contestants=[Contestant(k.name, k.coder, grids[k.name], curves[k.name], price[k.name]) for k in chosen],
        coders=coders,
        command=f"python benchmarks/latents.py --size {options.size} --minutes {options.minutes:g} --write",
        machine=common.machine(torch.get_num_threads()),
        **beside,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, write the page, and say whether a saving was shown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training in all")
    parser.add_argument("--num", type=int, default=4000, help="flowers to train on")
    parser.add_argument("--points", type=int, default=5, help="checkpoints that are measured")
    parser.add_argument("--samples", type=int, default=160, help="at each of them")
    parser.add_argument("--steps", type=int, default=10, help="of the sampler")
    parser.add_argument("--rounds", type=int, default=5, help="in which steps and pictures are timed")
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--spaces", nargs="*", default=SPACES)
    parser.add_argument("--judge-steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the models to run")
    parser.add_argument("--out", type=Path, default=Path("runs/latents"), help="where everything is kept")
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    found = run(options)
    write_text(options.out / f"found-{found.size}.json", json.dumps(found.plain(), indent=1) + "\n")
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.out.glob("found-*.json"))]
    every = sorted((Found.of(plain) for plain in kept), key=lambda f: f.size)
    if options.write:
        options.results.mkdir(parents=True, exist_ok=True)
        common.save(chart(found), options.results / f"latents-{found.size}.png")
        bench = Bench(options, [k for k in kinds(found.size) if k.name in {c.name for c in found.contestants}])
        sheet(bench).save(options.results / f"latents-{found.size}-samples.png")
    common.finish(page(every), options.results / "latents.md" if options.write else None)
    saved = shown(found)
    for latent in (c for c in found.contestants if c.latent is not None):
        for line, met, needed in verdicts(found, latent):
            print(
                f"{latent.name}: {'met' if met else 'missed'}{'' if needed else ' (stated)'}: {line}", file=sys.stderr
            )
    print("a saving at equal quality" if saved else "no saving at equal quality was shown", file=sys.stderr)
    return 0 if saved else 1


if __name__ == "__main__":
    sys.exit(main())
