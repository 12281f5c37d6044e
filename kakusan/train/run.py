"""A training run in a folder: started, resumed, measured, interrupted and finished without losing anything."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from kakusan import building, choices, runtime
from kakusan.config import TrainConfig, to_toml
from kakusan.files import write_text
from kakusan.model_folder import CorruptModel, ModelFacts, read_facts
from kakusan.run_folder import RunFolder, worth_keeping
from kakusan.train.adapt import adapt
from kakusan.train.continuing import check_checkpoint, check_continues, stored_config
from kakusan.train.distributed import hush
from kakusan.train.ema import EmaProfile
from kakusan.train.estimate import Estimate
from kakusan.train.feed import Feed
from kakusan.train.joining import join
from kakusan.train.latents import open_trained
from kakusan.train.levers import choose_levers, pull, uncompiled
from kakusan.train.measuring import Measuring
from kakusan.train.memory import Portions
from kakusan.train.metrics_log import MetricsLog, NoLog
from kakusan.train.outlook import Beside, beside_of, estimate_of, watches_of
from kakusan.train.pace import Moments, Pace, choose_threads, pace_of_a_step, planned_steps, steps_again
from kakusan.train.pairing import Pairing, shown_of
from kakusan.train.parallel import parallel
from kakusan.train.posthoc import Snapshots, storage
from kakusan.train.previews import SHOWN, draw_watched, end_report, preview
from kakusan.train.record import environment_of, facts_of
from kakusan.train.signals import catch_signals
from kakusan.train.sources import coupled
from kakusan.train.trainer import DiffusionLoss, Group, Trainer, TrainingDiverged, TrainStep, seeded
from kakusan.train.watching import Watching

T = TypeVar("T")


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
        building.check(config)
        self.world = join(config.run.device)
        if not self.world.main:
            say, on_step = hush, None
        self.say, self.on_step = say, on_step
        self.folder = RunFolder(out)
        self.folder.check_free()
        self.snapshots = Snapshots(self.folder.path)
        old = stored_config(out)
        if old is not None:
            check_continues(old, config, self.folder.path)
            if config.run.threads is None:
                # Sums depend on the number of threads in their last bits.
                config = dataclasses.replace(config, run=dataclasses.replace(config.run, threads=old.run.threads))
            if config.run.watch is None:
                config = dataclasses.replace(config, run=dataclasses.replace(config.run, watch=old.run.watch or 0))
        self.config = config
        self.device = self.world.device
        self.facts_of_machine = runtime.tune(threads=config.run.threads, device=self.device)
        self.precision = runtime.pick_precision(config.run.precision, self.device)
        opening = partial(open_trained, config.data, seed=config.run.seed, say=say, vectors=config.vectors)
        self.training, self.held_out = self.world.first(opening)
        self.spec = self.training.spec
        self.pairing = Pairing.open(config, self.training, self.held_out)
        with seeded(config.run.seed):
            like = self.folder.latest() if old is not None else None
            self.model = self.pairing.build(config, self.spec, like or init_from).to(self.device)
        self.pairing = self.pairing.read_by(self.model)
        backbone, minutes = self.model.denoiser.backbone, config.run.minutes if config.run.steps is None else None
        self.levers = choose_levers(
            config.engine,
            self.device,
            backbone=backbone,
            precision=self.precision.name,
            minutes=minutes,
            processes=self.world.size,
        )
        if self.levers.compile:
            self.facts_of_machine = runtime.tune(threads=config.run.threads, device=self.device, lasting=True)
        pull(backbone, self.levers, asked=config.engine.compile is True)
        self.objective = coupled(choices.build_objective(config.objective, self.spec), self.training)
        self.model.denoiser.independent_noise = self.objective.coupling.independent
        self.stop: str | None = None
        self._moments = Moments()
        self._elapsed_before = 0.0
        self._began: float | None = None
        self._saving = False
        self._latest = self.folder.latest() if old is not None else None
        if init_from is not None and self._latest is None:
            self.say(f"starting from {init_from}: " + adapt(self.model, init_from).text())
        self.parallel = parallel(config.engine.parallel, self.world)
        self.trainer = self._trainer()
        # Measuring and drawing keep no activations: what is enough for training is enough for several times as many.
        few = None if config.engine.micro_batch is None else 4 * config.engine.micro_batch
        self.measuring = Measuring(self, few)
        self.drawing = Portions(few, device=self.device, what="drawing previews")
        self.watching = Watching(self, draw_watched)
        # Several processes plan without it, and plan again as the run goes on.
        self._beside: Beside | None = None if self.world.size == 1 else (None, None, None)
        self.step_pace = Pace(0.0, 0)
        self._unlogged: list[dict[str, Any]] = []
        if self._latest in (None, self.folder.checkpoint(0)):
            self.step_pace = self._pace()
            watches = watches_of(self)
            self.config = dataclasses.replace(self.config, run=dataclasses.replace(self.config.run, watch=watches))
            planned = self.config.run.minutes is not None and self.config.run.steps is None
            beside = self.estimate().beside if planned else 0.0
            self.trainer.steps = planned_steps(self.config.run, self.step_pace.seconds, beside)
        if old is not None and self._latest is not None:
            self._resume(self._latest, old)

    def _loss(self) -> DiffusionLoss:
        return DiffusionLoss(self.model, self.objective, seed=self.config.run.seed)

    def _feed(self) -> Feed:
        run = self.config.run
        return self.pairing.feed(self.training, seed=run.seed, batch=run.batch, device=self.device, world=self.world)

    def _pace(self) -> Pace:
        """What one step takes. A run keeps its number of threads, because sums depend on it in their last bits."""
        before = self.trainer.portions.most
        pace: Pace | None = None
        if self.device.type == "cpu" and self.config.run.threads is None:
            # A compiled network would be compiled anew for each number of threads.
            with uncompiled(self.model):
                pace, threads = choose_threads(self._step_pace, self.say)
            self.facts_of_machine = runtime.tune(threads=threads, device=self.device)
            self.config = dataclasses.replace(self.config, run=dataclasses.replace(self.config.run, threads=threads))
        if pace is None or self.levers.compile:
            if self.levers.compile:
                self.say("compiling the network, which takes a minute or two")
            pace = self._step_pace()
        if self.trainer.portions.most != before:
            self._narrowed(self.trainer.portions)
        return pace

    def _step_pace(self) -> Pace:
        pace = pace_of_a_step(self.trainer)
        return Pace(*self.world.decide(lambda: dataclasses.astuple(pace)))

    def _trainer(self) -> Trainer:
        run = self.config.run
        if not run.ema:
            raise ValueError("a run keeps at least one weight average; give --ema a width such as 0.1")
        # First, because it may replace the parameters.
        loss = self.parallel.share(self.model, self._loss(), self._feed())
        group = Group(list(self.model.parameters()), loss, self.config.optim)
        return Trainer(
            self.model,
            [group],
            self._feed(),
            steps=run.steps or 1,
            profiles={f"ema-{width:g}": EmaProfile(width) for width in run.ema},
            seed=run.seed,
            autocast=self.precision.autocast,
            micro_batch=self.config.engine.micro_batch,
            parallel=self.parallel,
        )

    @property
    def average(self) -> dict[str, torch.Tensor]:
        """The tensors of the profile that is sampled."""
        return next(iter(self.trainer.ema.averages.values()))

    def estimate(self) -> Estimate:
        """Time and memory of the run, from a piece of everything it will do."""
        if self._beside is None:
            self._beside = beside_of(self)
        return estimate_of(self, *self._beside)

    def fitting(self, portions: Portions, count: int, attempt: Callable[[int], T]) -> T:
        """`attempt` with as many of `count` samples at once as fit into memory, which is remembered and said."""
        before = portions.most
        with uncompiled(self.model):
            found = portions.run(count, attempt)
        if portions.most != before:
            self._narrowed(portions)
        return found

    def _narrowed(self, portions: Portions) -> None:
        """Say and log that memory ran out and that the work was cut smaller."""
        self.say(f"out of memory while {portions.what}: from here on {portions.most} at once; nothing is lost")
        self._unlogged.append({"what": portions.what, "at_once": portions.most})
        self._log_memory()

    def _log_memory(self) -> None:
        while self._began is not None and self._unlogged:
            self.log.write("memory", self.trainer.step, **self._unlogged.pop(0))

    def _resume(self, checkpoint: Path, old: TrainConfig) -> None:
        check_checkpoint(read_facts(checkpoint), self.config, checkpoint)
        weights, optimizer, averages, state = self.parallel.read(checkpoint, self.trainer)
        try:
            if state["data"] != self.pairing.fingerprint(self.training):
                raise ValueError(
                    f"the data are not those that the run in {self.folder.path} was started with; bring them back, or "
                    "choose another --out (with --init-from to start from this model)"
                )
            self.model.load_state_dict(weights)
            self.trainer.load_state(optimizer, state["trainer"], averages)
            self.measuring.best = None if state["best"] is None else (state["best"][0], state["best"][1])
            self._elapsed_before = float(state["elapsed"])
            if self.config.engine.micro_batch == old.engine.micro_batch:
                # What memory has taught; another setting is the user's own answer to it.
                self.trainer.portions.most = state.get("micro_batch", self.config.engine.micro_batch)
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
        return facts_of(self)

    def elapsed(self) -> float:
        """Seconds of training so far, over all sessions."""
        return self._elapsed_before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def run(self) -> Path | None:
        """Train to the end, or until a signal; returns the last checkpoint.

        Raises:
            ValueError: the disk is full, or training diverged. What was saved stays whole.
        """
        create = partial(self.folder.create, to_toml(self.config))
        with self.world.watch(), contextlib.closing(self.world.alone(create) or io.StringIO()):
            if self.world.main and self.folder.latest() != self._latest:
                raise ValueError(f"another process has trained in {self.folder.path} meanwhile; start again")
            # Of updates that this run has not made: it was killed, or sent back to an earlier checkpoint.
            if self.world.main:
                self.snapshots.drop_after(self.trainer.ema.updates)
                write_text(self.folder.path / "env.json", json.dumps(environment_of(self), indent=1) + "\n")
            self._began = time.perf_counter()
            self.log = self._open_log()
            self.watching.reload()
            restore = catch_signals(lambda name: setattr(self, "stop", name))
            try:
                # Inside the handlers: torchrun asks the others to end as soon as one is lost.
                with self.world.watch():
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

    def _open_log(self) -> MetricsLog:
        return MetricsLog(self.folder.metrics, step=self.trainer.step) if self.world.main else NoLog()

    def _train(self) -> None:
        self.measuring.begin()
        if self.world.decide(lambda: self.folder.latest() is None):
            # From here on a run without a checkpoint is one that has lost it.
            self.save()
        self._log_memory()
        if self.trainer.step == 0 and self.config.run.snapshots:
            count = sum(p.numel() for p in self.model.parameters())
            self.say(storage(count, len(self.trainer.ema.profiles), self.config.run.snapshots))
        if self.trainer.step == 0 and self.config.run.previews:
            self._preview()
        elif self.trainer.step >= self.trainer.steps:
            self.say(f"the run is finished at step {self.trainer.step}; a larger --steps or --minutes goes on")
        self.watching.resume(self._due("watch"))
        for step in self.trainer.run():
            self._after(step)
            if self.world.any(self.stop is not None):
                self.stop = self.stop or "another process"
                break
        if self.world.decide(lambda: self.folder.latest() != self.folder.checkpoint(self.trainer.step)):
            self.save()
        if self.stop is not None:
            self.say(f"stopped by {self.stop} at step {self.trainer.step}; all is saved, the same command goes on")
        else:
            self.finish()

    def _rescue(self) -> None:
        """Keep what was trained since the last checkpoint when something else fails, such as reading data."""
        if not self.parallel.can_rescue or self.trainer.troubled or self._saving:
            return
        if self.folder.latest() == self.folder.checkpoint(self.trainer.step):
            return
        with contextlib.suppress(Exception):
            self.save()
            self.say(f"step {self.trainer.step} was saved; the same command goes on from there")

    def _due(self, what: str) -> bool:
        """Whether it is time for what the settings of the run call `what`."""
        times = getattr(self.config.run, what) or 0
        return self._moments.due(what, times, self.trainer.step, self.trainer.steps)

    def _after(self, step: TrainStep) -> None:
        run = self.config.run
        if step.trouble is not None:
            if step.rolled_back:
                self._moments.forget()
                self.log.close()
                self.log = self._open_log()
                self.watching.reload()
                if self.world.main:
                    self.snapshots.drop_after(self.trainer.ema.updates)
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
                seconds=step.seconds,
                wait=step.wait,
            )
        if step.narrowed is not None:
            self._narrowed(self.trainer.portions)
        if self.on_step is not None:
            self.on_step(step, self)
        if step.rolled_back:
            return
        if self._due("measurements"):
            self._measure()
        if self._due("previews") and self.trainer.step < self.trainer.steps:
            self._preview()
        if self._due("snapshots"):
            ema, kept = self.parallel.ema(self.trainer), dataclasses.asdict(self.config)
            self.world.alone(lambda: self.snapshots.take(ema, self.trainer.step, kept))
        watch = self.watching.due(self._due("watch"))
        # A state that may be about to be given up is not worth a checkpoint.
        due = self._due("checkpoints") and self.trainer.step < self.trainer.steps and not self.trainer.troubled
        if watch or due:
            self.save()
        if watch:
            self.watching.measure()

    def _measure(self) -> None:
        model, average = self.parallel.shown(self.trainer)
        self.world.alone(lambda: self.measuring.measure(model, average))
        if self.trainer.step < self.trainer.steps:
            self._plan_again()

    def _plan_again(self) -> None:
        once = self.watching.once
        steps = self.world.decide(lambda: steps_again(self.config.run, self.trainer.step, self.elapsed(), once))
        if steps is not None:
            self.trainer.steps = steps

    def _preview(self) -> None:
        step, facts, seed = self.trainer.step, self.facts(), self.config.run.seed
        model, average = self.parallel.shown(self.trainer)
        draw = partial(preview, self.folder, step, model, facts, average, shown_of(self, SHOWN), seed)
        self.world.alone(lambda: self.fitting(self.drawing, SHOWN, draw))

    def save(self) -> Path:
        """Write a checkpoint and thin out the old ones."""
        state = {
            "trainer": self.trainer.state()[1],
            "data": self.pairing.fingerprint(self.training),
            "best": self.measuring.best,
            "elapsed": self.elapsed(),
            "micro_batch": self.trainer.portions.most,
        }
        self._saving = True
        self.log.sync()
        model, averages, tensors = self.parallel.whole(self.trainer, self.folder)
        self.world.alone(lambda: self.folder.save(self.trainer.step, model, self.facts(), averages, tensors, state))
        self._saving = False
        if not self.trainer.troubled:
            self.trainer.keep()
        if self.world.main:
            best = None if self.measuring.best is None else self.measuring.best[1]
            self.folder.thin(worth_keeping(self.folder.steps(), self.trainer.steps, self.config.run.spaced, best))
        return self.folder.checkpoint(self.trainer.step)

    def finish(self) -> None:
        """Last pictures and the page."""
        if self.config.run.previews:
            self._preview()
        self.watching.conclude()
        self.world.alone(lambda: end_report(self.folder, self.facts(), drawn=bool(self.config.run.previews)))
