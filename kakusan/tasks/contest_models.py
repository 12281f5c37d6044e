"""The kinds of model in a contest: how each is trained in a given time, opened, and drawn from."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from kakusan import building, rivals, runtime
from kakusan.config import DataSettings, TrainConfig, merge
from kakusan.data.source import Pictures
from kakusan.model_folder import FACTS
from kakusan.nn.count import parameters
from kakusan.pipeline import Pipeline, load
from kakusan.recipes import demo as recipe
from kakusan.rivals.pipeline import RivalPipeline
from kakusan.specs import suggestion
from kakusan.tasks.judging import Way
from kakusan.train.pace import steps_again
from kakusan.train.run import TrainingRun
from kakusan.train.trainer import TrainingDiverged, TrainStep, seeded

SAMPLER = "dpmpp-2m"
BATCH = 32
"""Samples in a training step, of every kind."""
PROBED = 16


@dataclass(frozen=True)
class ContestSettings:
    """What is compared, and for how long.

    Args:
        data: a folder, zip file or embedded set.
        seconds: of training for each model.
        models: kinds, of `KINDS`.
        seeds: trainings of each kind, with the seeds 0, 1, ...
        size: side of the pictures; found from the data when None.
        pictures: of an embedded set that is drawn by code; as in the demo when None.
        num: samples of each model.
        steps: of the diffusion sampler.
        rungs: fewer steps that diffusion is measured at as well.
        spaces: feature spaces; the usual ones when empty.
        threads: of the CPU, the same for all; all cores when None.
        device: auto, cpu, cuda.
    """

    data: str
    seconds: float
    models: tuple[str, ...] = ("diffusion", "vae", "gan", "flow")
    seeds: int = 3
    size: int | None = None
    pictures: int | None = None
    num: int = 400
    steps: int = 16
    rungs: tuple[int, ...] = (1, 2, 4, 8)
    spaces: tuple[str, ...] = ()
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for kind in self.models:
            if kind not in KINDS:
                near = suggestion(kind, list(KINDS))
                raise ValueError(f"no model of the kind {kind!r}{near}; there are {', '.join(KINDS)}")
        if not self.models or self.seeds < 1 or self.num < 2 or self.steps < 1 or not 0 < self.seconds < float("inf"):
            raise ValueError(
                "a comparison needs models, seeds of at least 1, two samples or more, a step or more and a positive "
                f"budget; got {', '.join(self.models) or 'no models'}, {self.seeds}, {self.num}, {self.steps}, "
                f"{self.seconds} s"
            )

    @property
    def parts(self) -> DataSettings:
        """The data, cut in the same parts for all."""
        usual = recipe()["data"]
        num = usual["num"] if self.pictures is None and self.data == usual["source"] else self.pictures
        return DataSettings(source=self.data, size=self.size, num=num, held_out_seed=0)

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of steps that diffusion is measured at, the fewest first."""
        return (*sorted({rung for rung in self.rungs if rung < self.steps}), self.steps)


class Kind(Protocol):
    """A kind of model."""

    def check(self) -> None:
        """Raise ImportError when a package that it needs is not installed."""
        ...

    def train(
        self, settings: ContestSettings, training: Pictures, held_out: Pictures, folder: Path, seed: int
    ) -> dict[str, Any]:
        """Train one into a folder, or go on; what the training was.

        Raises:
            KeyboardInterrupt: it was stopped by a signal.
        """
        ...

    def open(self, folder: Path, device: torch.device) -> Pipeline | RivalPipeline:
        """A trained one."""
        ...

    def ways(self, name: str, settings: ContestSettings) -> list[Way]:
        """How it is drawn from; the last way is the one that counts."""
        ...

    def drawing(self, settings: ContestSettings, training: Pictures) -> float:
        """Seconds to draw a picture in all these ways, by an untrained one."""
        ...


@dataclass(frozen=True)
class Diffusion:
    """Diffusion by the demo's recipe, sampled without guidance."""

    def check(self) -> None:
        """Nothing more is needed."""

    def train(
        self, settings: ContestSettings, training: Pictures, held_out: Pictures, folder: Path, seed: int
    ) -> dict[str, Any]:
        """A run of its own, which goes on from its last checkpoint."""
        config = diffusion_config(settings, training.spec.size, seed)
        run, message = TrainingRun(config, folder, say=lambda line: None, on_step=_keep_time), ""
        try:
            run.run()
        except TrainingDiverged as error:
            message = str(error)
        if run.stop is not None:
            raise KeyboardInterrupt
        return {
            "steps": run.trainer.step,
            "samples": run.trainer.samples,
            "seconds": run.elapsed(),
            "parameters": parameters(run.model),
            "rollbacks": run.trainer.rollbacks,
            "threads": torch.get_num_threads(),
            "diverged": bool(message),
            "saved": run.folder.latest() is not None,
            "message": message,
        }

    def open(self, folder: Path, device: torch.device) -> Pipeline:
        """Its newest checkpoint, the default average of its weights."""
        return load(folder, device=device)

    def ways(self, name: str, settings: ContestSettings) -> list[Way]:
        """The sampler with few steps and with all; few are for the quality only."""
        last = settings.counts[-1]
        return [Way(f"{name}-{n}-steps", name, "diffusion", SAMPLER, n, 1.0, quick=n != last) for n in settings.counts]

    def drawing(self, settings: ContestSettings, training: Pictures) -> float:
        """One pass of the network, as often as there are steps."""
        spec, device = training.spec, runtime.pick_device(settings.device)
        with seeded(0):
            model = building.build_model(diffusion_config(settings, spec.size, 0).model, spec).to(device).eval()
        x, t = torch.zeros(PROBED, *spec.shape, device=device), torch.full((PROBED,), 0.5, device=device)
        with torch.no_grad():
            labels = torch.zeros(PROBED, dtype=torch.int64, device=device)
            cond = None if model.conditioner is None else model.condition(labels)
            model.denoiser(x, t, cond)
            began = time.perf_counter()
            model.denoiser(x, t, cond)
        return (time.perf_counter() - began) / PROBED * sum(settings.counts)


@dataclass(frozen=True)
class OfRivals:
    """A kind of `kakusan.rivals`.

    Args:
        kind: its name there.
    """

    kind: str

    def check(self) -> None:
        """Look its class up, which imports what it needs."""
        rivals.RIVALS[self.kind]

    def train(
        self, settings: ContestSettings, training: Pictures, held_out: Pictures, folder: Path, seed: int
    ) -> dict[str, Any]:
        """Under another name, which it loses when it is whole: a rival that was stopped begins anew."""
        from kakusan.rivals.training import train_rival

        if (folder / FACTS).is_file():
            # Killed between the training and the note of it.
            return {**rivals.load(folder).training, "saved": True}
        part = folder.with_name(f".part-{folder.name}")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        facts = train_rival(
            self.kind,
            training,
            held_out,
            part,
            seconds=settings.seconds,
            batch=BATCH,
            seed=seed,
            device=settings.device,
            threads=torch.get_num_threads(),
            say=lambda line: None,
        )
        if facts.message.startswith("stopped"):
            raise KeyboardInterrupt
        if facts.saved:
            os.replace(part, folder)
        return {name: value for name, value in facts.record().items() if name != "path"}

    def open(self, folder: Path, device: torch.device) -> RivalPipeline:
        """The default average of its weights."""
        return rivals.load(folder, device=device)

    def ways(self, name: str, settings: ContestSettings) -> list[Way]:
        """The only one."""
        return [Way(name, name, self.kind)]

    def drawing(self, settings: ContestSettings, training: Pictures) -> float:
        """A few pictures."""
        with seeded(0):
            rival = rivals.RIVALS[self.kind].for_data(training).to(runtime.pick_device(settings.device)).eval()
        rival.sample([0])
        began = time.perf_counter()
        rival.sample(list(range(PROBED)))
        return (time.perf_counter() - began) / PROBED


def _keep_time(step: TrainStep, run: TrainingRun) -> None:
    """Plan the run again and again, as rivals do: of itself it does so only after a measurement."""
    if step.step % max(1, run.trainer.steps // 50) or run.config.run.minutes is None:
        return
    if run.elapsed() >= 60.0 * run.config.run.minutes:
        run.trainer.steps = run.trainer.step
        return
    run.trainer.steps = steps_again(run.config.run, run.trainer.step, run.elapsed()) or run.trainer.steps


KINDS: Mapping[str, Kind] = {"diffusion": Diffusion(), **{kind: OfRivals(kind) for kind in rivals.RIVALS}}


def diffusion_config(settings: ContestSettings, size: Sequence[int], seed: int) -> TrainConfig:
    """The demo's recipe, its patches grown with the pictures so that a step costs the same."""
    patch = next(p for p in (8, 4, 2, 1) if p == 1 or (min(size) // p >= 16 and all(s % p == 0 for s in size)))
    fits = all(s // patch % 4 == 0 for s in size)
    run = {"minutes": settings.seconds / 60.0, "seed": seed, "batch": BATCH, "device": settings.device}
    quiet = {"measurements": 0, "previews": 0, "checkpoints": 3, "spaced": 0, "snapshots": 0, "watch": 0}
    changes: dict[str, dict[str, Any]] = {
        "data": {k: v for k, v in dataclasses.asdict(settings.parts).items() if v is not None},
        "model": {"patch": patch, "multipliers": [1, 2, 2] if fits else []},
        "run": {**run, **quiet, "threads": torch.get_num_threads()},
    }
    base = {name: part for name, part in recipe().items() if name != "data"}
    return merge(merge(TrainConfig(), base), changes)
