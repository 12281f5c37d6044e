"""A training run in a folder: started, resumed, measured, interrupted and finished without losing anything."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import platform
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kakusan import __version__, choices, runtime
from kakusan.config import TrainConfig, to_toml
from kakusan.data.source import Pictures
from kakusan.files import write_text
from kakusan.model_folder import CorruptModel, ModelFacts, read_facts
from kakusan.run_folder import RunFolder, read_state
from kakusan.train.adapt import adapt
from kakusan.train.continuing import check_checkpoint, check_continues, stored_config
from kakusan.train.ema import EmaProfile
from kakusan.train.estimate import Estimate, duration
from kakusan.train.feed import Feed
from kakusan.train.held_out import FixedPairs
from kakusan.train.metrics_log import MetricsLog
from kakusan.train.pace import choose_threads, planned_steps, seconds_of_a_step, steps_again
from kakusan.train.previews import preview, write_report
from kakusan.train.sources import coupled, open_parts
from kakusan.train.trainer import DiffusionLoss, Group, Trainer, TrainingDiverged, TrainStep, seeded


class TrainingRun:
    """Everything between a configuration and a trained model folder.

    Args:
        config: the settings.
        out: the run's folder.
        init_from: a run or model to start from.
        say: where lines for people go.
        on_step: called after every step.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: str | Path,
        *,
        init_from: str | Path | None = None,
        say: Callable[[str], None] = print,
        on_step: Callable[[TrainStep, TrainingRun], None] | None = None,
    ) -> None:
        choices.check(config)
        self.say, self.on_step = say, on_step
        self.folder = RunFolder(out)
        self.folder.check_free()
        old = stored_config(out)
        if old is not None:
            check_continues(old, config, self.folder.path)
            if config.run.threads is None:
                # Sums depend on the number of threads in their last bits.
                config = dataclasses.replace(config, run=dataclasses.replace(config.run, threads=old.run.threads))
        self.config = config
        self.device = runtime.pick_device(config.run.device)
        self.facts_of_machine = runtime.tune(threads=config.run.threads, device=self.device)
        self.precision = runtime.pick_precision(config.run.precision, self.device)
        self.training, self.held_out = open_parts(config.data, seed=config.run.seed, say=say)
        self.spec = self.training.spec
        with seeded(config.run.seed):
            self.model = choices.build_model(config.model, self.spec, coupling=config.objective.coupling).to(
                self.device
            )
        self.objective = coupled(choices.build_objective(config.objective, self.spec), self.training)
        self.model.denoiser.independent_noise = self.objective.coupling.independent
        self.stop: str | None = None
        self.best: tuple[float, int] | None = None
        self._elapsed_before = 0.0
        self._began: float | None = None
        self._saving = False
        self._latest = self.folder.latest() if old is not None else None
        if init_from is not None and self._latest is None:
            self.say(f"starting from {init_from}: " + adapt(self.model, init_from).text())
        fresh = self._latest in (None, self.folder.checkpoint(0))
        self._seconds = self._pace() if fresh else 0.0
        self.trainer = self._trainer()
        if old is not None and self._latest is not None:
            self._resume(self._latest, old)

    def _loss(self) -> DiffusionLoss:
        return DiffusionLoss(self.model, self.objective, seed=self.config.run.seed)

    def _feed(self) -> Feed:
        run = self.config.run
        return Feed(self.training, seed=run.seed, batch=run.batch, device=self.device)

    def _pace(self) -> float:
        """Seconds of one step. A run keeps its number of threads, because sums depend on it in their last bits."""
        batch, loss = self._feed().batch(0), self._loss()

        def probe() -> float:
            return seconds_of_a_step(self.model, loss, batch, precision=self.precision, device=self.device)

        if self.device.type != "cpu" or self.config.run.threads is not None:
            return probe()
        seconds, threads = choose_threads(probe, self.say)
        self.facts_of_machine = runtime.tune(threads=threads, device=self.device)
        self.config = dataclasses.replace(self.config, run=dataclasses.replace(self.config.run, threads=threads))
        return seconds

    def _trainer(self) -> Trainer:
        run = self.config.run
        if not run.ema:
            raise ValueError("a run keeps at least one weight average; give --ema a width such as 0.1")
        group = Group(list(self.model.parameters()), self._loss(), self.config.optim)
        return Trainer(
            self.model,
            [group],
            self._feed(),
            steps=planned_steps(run, self._seconds),
            profiles={f"ema-{width:g}": EmaProfile(width) for width in run.ema},
            seed=run.seed,
            autocast=self.precision.autocast,
        )

    @property
    def average(self) -> dict[str, torch.Tensor]:
        """The tensors of the profile that is sampled."""
        return next(iter(self.trainer.ema.averages.values()))

    def estimate(self) -> Estimate:
        """Time and memory of the run."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return Estimate(self._seconds, self.trainer.steps, parameters, runtime.peak_memory(self.device))

    def _resume(self, checkpoint: Path, old: TrainConfig) -> None:
        check_checkpoint(read_facts(checkpoint), self.config, checkpoint)
        weights, optimizer, averages, state = read_state(checkpoint)
        try:
            if state["data"] != self.training.fingerprint:
                raise ValueError(
                    f"the data are not those that the run in {self.folder.path} was started with; bring them back, or "
                    "choose another --out (with --init-from to start from this model)"
                )
            self.model.load_state_dict(weights)
            self.trainer.load_state(optimizer, state["trainer"], averages)
            self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
            self._elapsed_before = float(state["elapsed"])
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise CorruptModel(f"{checkpoint} does not fit this run: {error}") from None
        run = self.config.run
        if run.steps is not None:
            self.trainer.steps = run.steps
        elif run.minutes != old.run.minutes:
            self._plan_again()
        self.say(f"continuing {self.folder.path} from step {self.trainer.step} of {self.trainer.steps}")

    def facts(self) -> ModelFacts:
        """What the model folder says."""
        trainer = self.trainer
        elapsed = self.elapsed()
        return ModelFacts(
            self.spec,
            self.objective,
            {
                "steps": trainer.step,
                "samples": trainer.samples,
                "epochs": trainer.samples / len(self.training),
                "pictures": len(self.training),
                "held_out_pictures": len(self.held_out),
                "data": self.training.fingerprint,
                "source": self.config.data.source,
                "seconds": round(elapsed, 1),
                "config": dataclasses.asdict(self.config),
                "machine": self.environment(),
                "figures": {
                    "steps": trainer.step,
                    "pictures": len(self.training),
                    "pictures seen": trainer.samples,
                    "time": duration(elapsed),
                    "parameters": sum(p.numel() for p in self.model.parameters()),
                },
            },
            tuple(trainer.ema.profiles),
        )

    def environment(self) -> dict[str, Any]:
        """Versions and machine, for `env.json`."""
        return {
            "kakusan": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "device": str(self.device),
            "precision": self.precision.name,
            "runtime": dataclasses.asdict(self.facts_of_machine),
        }

    def elapsed(self) -> float:
        """Seconds of training so far, over all sessions."""
        return self._elapsed_before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def run(self) -> Path | None:
        """Train to the end, or until a signal; returns the last checkpoint.

        Raises:
            ValueError: the disk is full, or training diverged. What was saved stays whole.
        """
        with contextlib.closing(self.folder.create(to_toml(self.config))):
            if self.folder.latest() != self._latest:
                raise ValueError(f"another process has trained in {self.folder.path} meanwhile; start again")
            write_text(self.folder.path / "env.json", json.dumps(self.environment(), indent=1) + "\n")
            self._began = time.perf_counter()
            self.log = MetricsLog(self.folder.metrics, step=self.trainer.step)
            restore = self._catch_signals()
            try:
                self._train()
            except (TrainingDiverged, KeyboardInterrupt):
                raise
            except Exception:
                self._rescue()
                raise
            finally:
                restore()
                self.log.close()
        return self.folder.latest()

    def _train(self) -> None:
        self.pairs = {"training": self._pairs(self.training)}
        if len(self.held_out):
            self.pairs["held-out"] = self._pairs(self.held_out)
        if self.folder.latest() is None:
            # From here on a run without a checkpoint is one that has lost it.
            self.save()
        if self.trainer.step == 0 and self.config.run.previews:
            self._preview()
        elif self.trainer.step >= self.trainer.steps:
            self.say(f"the run is finished at step {self.trainer.step}; a larger --steps or --minutes goes on")
        for step in self.trainer.run():
            self._after(step)
            if self.stop is not None:
                break
        if self.folder.latest() != self.folder.checkpoint(self.trainer.step):
            self.save()
        if self.stop is not None:
            self.say(f"stopped by {self.stop} at step {self.trainer.step}; all is saved, the same command goes on")
        else:
            self.finish()

    def _rescue(self) -> None:
        """Keep what was trained since the last checkpoint when something else fails, such as reading data."""
        if self.trainer.troubled or self._saving or self.folder.latest() == self.folder.checkpoint(self.trainer.step):
            return
        with contextlib.suppress(Exception):
            self.save()
            self.say(f"step {self.trainer.step} was saved; the same command goes on from there")

    def _pairs(self, pictures: Pictures) -> FixedPairs:
        return FixedPairs(pictures, coupled(self.objective, pictures), seed=self.config.run.seed, device=self.device)

    def _catch_signals(self) -> Callable[[], None]:
        """The first SIGINT or SIGTERM asks for a checkpoint and an end; a second SIGINT acts as usual."""
        kept: dict[int, Any] = {}

        def ask(number: int, _: object) -> None:
            self.stop = signal.Signals(number).name
            signal.signal(number, kept[number])

        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                kept[number] = signal.signal(number, ask)
        except ValueError:  # not in the main thread: the caller handles signals
            return lambda: None

        def restore() -> None:
            for number, handler in kept.items():
                signal.signal(number, handler)

        return restore

    def _due(self, times: int) -> bool:
        """Whether one of `times` evenly spread events falls on this step."""
        step, steps = self.trainer.step, self.trainer.steps
        return step > 0 and step * times // steps != (step - 1) * times // steps

    def _after(self, step: TrainStep) -> None:
        run = self.config.run
        if step.trouble is not None:
            if step.rolled_back:
                self.log.close()
                self.log = MetricsLog(self.folder.metrics, step=self.trainer.step)
                self.say(f"went back to step {self.trainer.step}, at {self.trainer.rate_scale:g} of the rate")
            self.log.write("trouble", self.trainer.step, message=str(step.trouble), rolled_back=step.rolled_back)
            self.say(f"skipped: {step.trouble}")
        else:
            self.log.write(
                "step",
                step.step,
                samples=step.samples,
                loss=step.losses[0],
                gradient_norm=step.gradient_norms[0],
                rate=step.rate,
                images_per_second=run.batch / max(step.seconds, 1e-9),
            )
        if self.on_step is not None:
            self.on_step(step, self)
        if step.rolled_back:
            return
        if self._due(run.measurements):
            self._measure()
        if self._due(run.previews) and self.trainer.step < self.trainer.steps:
            self._preview()
        # A state that may be about to be given up is not worth a checkpoint.
        if self._due(run.checkpoints) and self.trainer.step < self.trainer.steps and not self.trainer.troubled:
            self.save()

    def _measure(self) -> None:
        for kind, pairs in self.pairs.items():
            report = pairs.measure(self.model, self.average)
            self.log.write(kind, self.trainer.step, **report.record())
            better = self.best is None or report.loss < self.best[0]
            if kind == "held-out" and better and math.isfinite(report.loss):
                self.best = (report.loss, self.trainer.step)
        if self.trainer.step < self.trainer.steps:
            self._plan_again()

    def _plan_again(self) -> None:
        steps = steps_again(self.config.run, self.trainer.step, self.elapsed())
        if steps is not None:
            self.trainer.steps = steps

    def _preview(self) -> None:
        preview(self.folder, self.trainer.step, self.model, self.facts(), self.average, seed=self.config.run.seed)

    def save(self) -> Path:
        """Write a checkpoint and thin out the old ones."""
        tensors, numbers = self.trainer.state()
        state = {
            "trainer": numbers,
            "data": self.training.fingerprint,
            "best": self.best,
            "elapsed": self.elapsed(),
        }
        self._saving = True
        self.log.sync()
        path = self.folder.save(self.trainer.step, self.model, self.facts(), self.trainer.ema.averages, tensors, state)
        self._saving = False
        if not self.trainer.troubled:
            self.trainer.keep()
        self.folder.thin(self._kept())
        return path

    def _kept(self) -> set[int]:
        """Checkpoints to keep for good: spread over the run, and the one nearest to the lowest held-out loss."""
        steps = self.folder.steps()
        kept: set[int] = set()
        if not steps:
            return kept
        for i in range(1, self.config.run.spaced + 1):
            mark = self.trainer.steps * i / self.config.run.spaced
            near = [s for s in steps if 0 < s <= mark]
            if near and mark <= steps[-1]:
                kept.add(near[-1])
        if self.best is not None:
            kept.add(min(steps, key=lambda s: abs(s - self.best[1])))  # type: ignore[index]
        return kept

    def finish(self) -> None:
        """Last pictures and the page."""
        shown: list[tuple[Path, str]] = []
        if self.config.run.previews:
            self._preview()
            drawn = sorted(self.folder.samples.glob("step-*.png"))
            shown.append((drawn[-1], "The same seeds with the averaged and with the raw weights, at the end."))
            if len(drawn) > 1:
                shown.append((drawn[0], "And before the first step."))
        write_report(self.folder, self.facts(), title=self.folder.path.resolve().name, pictures=shown)
