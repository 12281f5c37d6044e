"""Runs, samplers, step counts and guidance scales side by side: quality against network calls."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kakusan import rivals, runtime
from kakusan.config import DataSettings
from kakusan.data.source import Pictures
from kakusan.metrics.contestants import FORMAT, Entry, save
from kakusan.metrics.distance import Splits
from kakusan.metrics.ladder import Ladder
from kakusan.model_folder import FACTS
from kakusan.pipeline import Pipeline, load
from kakusan.rivals.pipeline import RivalPipeline
from kakusan.run_folder import find_model
from kakusan.samplers import SAMPLERS
from kakusan.specs import suggestion
from kakusan.tasks.judging import Judging, Say, Way, chosen_rows, draw_strip
from kakusan.tasks.picture_files import plain_name
from kakusan.train.estimate import duration
from kakusan.train.reopen import reopen_parts
from kakusan.train.sources import open_parts

SPLITS = Splits(count=8, turns=4)
"""Half of what an evaluation makes, for there may be many ways to draw."""


@dataclass(frozen=True)
class SweepSettings:
    """What is compared.

    Args:
        runs: runs, checkpoints, model folders, or rivals.
        samplers: names of samplers; rivals have none.
        steps: step counts; rivals have none.
        guidance_scales: 1 is none; rivals have none.
        num: samples of each.
        seed: of the samples.
        data: where the real pictures are; those of the first run when None.
        spaces: feature spaces; the usual ones when empty.
        weights: an EMA profile or "raw".
        threads: of the CPU; all cores when None.
        device: auto, cpu, cuda.
    """

    runs: tuple[Path, ...]
    samplers: tuple[str, ...] = ("dpmpp-2m",)
    steps: tuple[int, ...] = (5, 10, 20)
    guidance_scales: tuple[float, ...] = (1.0,)
    num: int = 256
    seed: int = 0
    data: str | None = None
    spaces: tuple[str, ...] = ()
    weights: str | None = None
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.runs or not self.samplers or not self.steps or not self.guidance_scales:
            raise ValueError("a comparison needs at least one run, sampler, step count and guidance scale")
        for name in self.samplers:
            if name not in SAMPLERS:
                raise ValueError(
                    f"no sampler {name!r}{suggestion(name, list(SAMPLERS))}; there are {', '.join(SAMPLERS)}"
                )
        if min(self.steps) < 1 or self.num < 2:
            raise ValueError(f"steps are at least 1 and samples at least 2, got {min(self.steps)} and {self.num}")


@dataclass(frozen=True)
class Opened:
    """A model with the name it has on the page."""

    name: str
    model: Pipeline | RivalPipeline

    @property
    def kind(self) -> str:
        """ "diffusion", or the kind of a rival."""
        return self.model.kind if isinstance(self.model, RivalPipeline) else "diffusion"

    def ways(self, settings: SweepSettings) -> list[Way]:
        """All that is drawn from it, the cheapest first."""
        file = plain_name(self.name)
        if isinstance(self.model, RivalPipeline):
            return [Way(file, self.name, self.kind)]
        scales = settings.guidance_scales if self.model.classes else (1.0,)
        return [
            Way(f"{file}-{sampler}-{steps}-steps-scale-{scale:g}", self.name, "diffusion", sampler, steps, scale)
            for steps, sampler, scale in itertools.product(sorted(settings.steps), settings.samplers, scales)
        ]


def sweep(settings: SweepSettings, out: Path, *, say: Say) -> list[Entry]:
    """Measure every way to draw, and write `compare.json` and `compare.html`; what was measured before is kept.

    Raises:
        ValueError: runs that cannot be opened, or of different data.
        KeyboardInterrupt: asked to stop; what is done is written.
    """
    where = runtime.pick_device(settings.device)
    runtime.tune(threads=settings.threads, device=where)
    opened = open_all(settings, where)
    source, training, held_out = _real(settings, opened[0])
    for one in opened:
        if one.model.data.pictured.shape != training.spec.shape:
            raise ValueError(
                f"{one.name} draws {one.model.data.pictured.shape}, the real pictures are {training.spec.shape}"
            )
    if out.exists() and any(out.iterdir()) and not (out / "measured").is_dir():
        raise ValueError(f"{out} is not empty and is not a comparison of kakusan's; choose another --out")
    judging = Judging.open(
        source,
        training,
        held_out,
        out,
        num=settings.num,
        seed=settings.seed,
        spaces=settings.spaces,
        splits=SPLITS,
        say=say,
    )
    pool = judging.evaluation.reference.pool
    draw_strip(pool.take(chosen_rows(pool)), judging.folder / "real.png")
    todo = [(one, way) for one in opened for way in one.ways(settings)]
    say(f"{len(todo)} ways to draw {judging.num} samples: " + _estimate(judging, todo))
    found: list[Entry] = []
    try:
        for one, way in todo:
            found.append(judging.measure(one.model, way, say))
    except KeyboardInterrupt:
        say(f"stopped; {len(found)} of {len(todo)} are measured, the same command goes on")
        if found:
            _write(found, settings, judging, len(todo), out, say)
        raise
    _write(found, settings, judging, len(todo), out, say)
    return found


def open_all(settings: SweepSettings, device: torch.device) -> list[Opened]:
    """The models, each under a name of its own."""
    names: list[str] = []
    for run in settings.runs:
        name = run.name if run.name not in ("latest", "best") else f"{run.parent.name} {run.name}"
        names.append(name if name and name not in names else str(run))
    return [Opened(name, _open(run, settings.weights, device)) for name, run in zip(names, settings.runs, strict=True)]


def _open(run: Path, weights: str | None, device: torch.device) -> Pipeline | RivalPipeline:
    folder = find_model(run)
    described = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    opened: Callable[..., Pipeline | RivalPipeline] = rivals.load if "rival" in described else load
    return opened(folder, weights=weights, device=device)


def _real(settings: SweepSettings, first: Opened) -> tuple[str, Pictures, Pictures]:
    """(where they come from, pictures to train on, pictures held out)."""
    if settings.data is not None:
        size = first.model.data.pictured.size[0]
        return settings.data, *open_parts(DataSettings(source=settings.data, size=size, held_out_seed=0), seed=0)
    if isinstance(first.model, RivalPipeline):
        raise ValueError("a rival does not say where its pictures are; name them with --data, or put a run first")
    config: dict[str, Any] = first.model.facts.training.get("config", {})
    return str(config.get("data", {}).get("source", "")), *reopen_parts(first.model)


def _estimate(judging: Judging, todo: Sequence[tuple[Opened, Way]]) -> str:
    """What all will take, from one step of each model and a piece of the judging."""
    seconds, judged = 0.0, judging.seconds([way for _, way in todo])
    for name in dict.fromkeys(one.name for one, _ in todo):
        ways = [way for one, way in todo if one.name == name]
        model = next(one.model for one, _ in todo if one.name == name)
        count = min(16, judging.num)
        labels = [i % len(model.classes) for i in range(count)] if model.classes else None
        given: dict[str, Any] = {} if isinstance(model, RivalPipeline) else {"num_steps": 1, "sampler": "ddim"}
        model.sample_tensor(seeds=[0], labels=None if labels is None else labels[:1], batch=1, **given)
        began = time.perf_counter()
        model.sample_tensor(seeds=list(range(count)), labels=labels, batch=count, **given)
        call = (time.perf_counter() - began) / count
        for way in ways:
            heun = 2 if way.sampler.startswith("heun") else 1
            passes = 1
            if isinstance(model, Pipeline) and labels is not None:
                passes = model.request(labels=labels[:1], guidance_scale=way.guidance_scale).evaluations
            seconds += call * judging.num * (way.num_steps or 1) * heun * passes
    return (
        f"drawing about {duration(seconds)}, judging {duration(judged)}, in all about {duration(seconds + judged)}, "
        "less what is measured already"
    )


def _write(found: Sequence[Entry], settings: SweepSettings, judging: Judging, count: int, out: Path, say: Say) -> None:
    from kakusan.report.ladder import sweep_page

    plain = {**asdict(settings), "runs": [str(run) for run in settings.runs]}
    facts = {"settings": plain, "done": len(found), "of": count, "samples": judging.num, "torch": torch.__version__}
    classes, pool = judging.evaluation.reference.pool.spec.classes, judging.evaluation.reference.pool
    shown = pool.take(chosen_rows(pool)).labels
    facts["labels"] = [classes[int(i)] for i in shown] if classes and shown is not None else []
    ladder = Ladder.of(found)
    content = {"facts": facts, **ladder.record(), "entries": [entry.record() for entry in found]}
    save(out / "compare.json", f"sweep {FORMAT}", content)
    sweep_page(found, ladder, facts, judging.folder).write(out / "compare.html")
    for line in ladder.text():
        say(line)
    say(f"wrote {out / 'compare.json'} and {out / 'compare.html'}")
