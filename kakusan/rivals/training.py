"""Training a rival by the trainer of diffusion models: same feed, same optimizers, same averages, same budget."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kakusan import runtime
from kakusan.data.source import Pictures
from kakusan.nn.count import parameters
from kakusan.rivals import RIVALS, folder
from kakusan.rivals.base import Rival
from kakusan.rivals.facts import RivalFacts as RivalFacts
from kakusan.train.feed import Feed
from kakusan.train.metrics_log import MetricsLog
from kakusan.train.optim import OptimSettings
from kakusan.train.pace import choose_threads, pace_of_a_step
from kakusan.train.signals import catch_signals
from kakusan.train.trainer import Trainer, TrainingDiverged, TrainStep, prepared, seeded

MEASURED = 32
MEASURED_LAST = 256
"""Held-out pictures of one measurement of the likelihood, during the run and at its end."""


def train_rival(
    kind: str,
    training: Pictures,
    held_out: Pictures,
    out: str | Path,
    *,
    seconds: float | None = None,
    steps: int | None = None,
    batch: int = 32,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    settings: OptimSettings | None = None,
    options: Mapping[str, Any] | None = None,
    measurements: int = 3,
    say: Callable[[str], None] = print,
) -> RivalFacts:
    """Train a rival and write its folder.

    Args:
        kind: of `kakusan.rivals.RIVALS`.
        training: the pictures.
        held_out: others, for the likelihood; may be empty.
        out: a folder that does not exist or is empty.
        seconds: how long to train; the steps are planned from a measured pace, again and again as the run goes on.
        steps: how many steps to train instead; with the same threads the same weights come out.
        batch: samples in a step.
        seed: of the first weights, the order of the data and all noise.
        device: a device's name, or "auto".
        threads: of the CPU; chosen when not given.
        settings: of the optimizers, in place of the rival's own.
        options: arguments of the rival in place of the usual ones.
        measurements: of the held-out likelihood during the run, beside the one at its end.
        say: where lines for people go.

    Raises:
        ValueError: a budget, folder or data that cannot be used.
        KeyError: no such kind.
        ImportError: a package that this kind needs is not installed.
    """
    run = RivalRun(
        kind,
        training,
        held_out,
        out,
        seconds=seconds,
        steps=steps,
        batch=batch,
        seed=seed,
        device=device,
        threads=threads,
        settings=settings,
        options=options,
        measurements=measurements,
        say=say,
    )
    before = torch.get_num_threads()
    try:
        return run.run()
    finally:
        torch.set_num_threads(before)


class RivalRun:
    """One training of a rival; arguments as `train_rival`."""

    def __init__(
        self,
        kind: str,
        training: Pictures,
        held_out: Pictures,
        out: str | Path,
        *,
        seconds: float | None,
        steps: int | None,
        batch: int,
        seed: int,
        device: str,
        threads: int | None,
        settings: OptimSettings | None,
        options: Mapping[str, Any] | None,
        measurements: int,
        say: Callable[[str], None],
    ) -> None:
        if (seconds is None) == (steps is None):
            raise ValueError("a rival is trained for a number of seconds or of steps: give one of the two")
        if batch < 1 or measurements < 0 or (seconds is not None and not 0.0 < seconds < math.inf):
            raise ValueError(
                f"batch is at least 1, measurements at least 0 and seconds above 0, got {batch}, {measurements}, "
                f"{seconds}"
            )
        self.out = _free(Path(out))
        self.training, self.held_out, self.say = training, held_out, say
        self.seconds, self.batch, self.seed, self.measurements = seconds, batch, seed, measurements
        self._began = time.perf_counter()
        where = runtime.pick_device(device)
        self._fixed_threads = threads is not None or where.type != "cpu" or seconds is None
        runtime.tune(threads=threads, device=where)
        with seeded(seed, where):
            self.rival: Rival = RIVALS[kind].for_data(training, **(options or {})).to(where)
            feed = Feed(training, seed=seed, batch=batch, device=where)
            self.rival.start(feed.batch(0))
        self.trainer = Trainer(
            self.rival,
            self.rival.groups(seed=seed, settings=settings),
            feed,
            steps=steps if steps is not None else 1,
            profiles=self.rival.profiles(),
            seed=seed,
        )
        self.stop: str | None = None
        self._losses: list[tuple[float, ...]] = []
        self._ends: list[float] = []
        self._troubles, self._measured = 0, 0
        self._in_steps = 0.0

    def run(self) -> RivalFacts:
        """Train to the end of the budget, or until a signal, and save."""
        flops = self._flops()
        self._plan()
        self.out.mkdir(parents=True, exist_ok=True)
        self._log = self._open_log()
        message, diverged = "", False
        restore = catch_signals(lambda name: setattr(self, "stop", name))
        self._ends.append(self._elapsed())
        try:
            for step in self.trainer.run():
                self._after(step)
                if self.stop is not None:
                    message = f"stopped by {self.stop}"
                    break
        except TrainingDiverged as error:
            message, diverged = str(error), True
        finally:
            restore()
        try:
            return self._finish(flops, message, diverged)
        finally:
            self._log.close()

    def _open_log(self) -> MetricsLog:
        return MetricsLog(self.out / "metrics.jsonl", step=self.trainer.step, tensorboard=False)

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    def _flops(self) -> tuple[int, int]:
        """(of a training step for one sample, of drawing one picture)."""
        batch = self.trainer.feed.batch(0, 2)
        with self.trainer.undone(), seeded(self.seed, self.rival.device):
            with FlopCounterMode(display=False) as training:
                for group in self.trainer.groups:
                    group.loss(prepared(group, batch)).loss.sum().backward()
            self.rival.eval()
            with FlopCounterMode(display=False) as drawing:
                self.rival.sample([0])
        return training.get_total_flops() // len(batch), int(drawing.get_total_flops())

    def _plan(self) -> None:
        """Settle the threads, measure the pace, and say what comes."""
        count = parameters(self.rival)
        if self.seconds is None:
            self.say(f"{self.rival.kind}: {count / 1e6:.2f} M parameters, {self.trainer.steps} steps of {self.batch}")
            return
        if self._fixed_threads:
            pace = pace_of_a_step(self.trainer)
        else:
            pace, _ = choose_threads(lambda: pace_of_a_step(self.trainer), self.say)
        left = max(0.0, self.seconds - self._elapsed())
        self.trainer.steps = max(1, int(left / max(pace.seconds, 1e-6)))
        self.say(
            f"{self.rival.kind}: {count / 1e6:.2f} M parameters; a step of {self.batch} takes {pace.seconds:.3g} s: "
            f"about {self.trainer.steps} steps in {self.seconds:g} s"
        )

    def _plan_again(self) -> None:
        """Set the steps that fit into what is left, by the pace of the last quarter of the run."""
        if self.seconds is None:
            return
        trainer, taken = self.trainer, len(self._ends) - 1
        window = min(taken, max(10, taken // 4))
        pace = (self._ends[-1] - self._ends[-1 - window]) / window
        left = self.seconds - self._ends[-1]
        # Not at every step, so that the rate falls smoothly; near the end it must be exact.
        if taken % max(1, trainer.steps // 50) == 0 or left < 5.0 * pace:
            trainer.steps = max(trainer.step, trainer.step + round(left / max(pace, 1e-6)))

    def _after(self, step: TrainStep) -> None:
        self._in_steps += step.wait + step.seconds
        if step.trouble is not None:
            self._troubles += 1
            if step.rolled_back:
                self._log.close()
                self._log = self._open_log()
                self.say(f"went back to step {self.trainer.step}, at {self.trainer.rate_scale:g} of the rate")
            self._log.write("trouble", self.trainer.step, message=str(step.trouble), rolled_back=step.rolled_back)
        else:
            self._losses.append(step.losses)
            self._log.write(
                "step",
                step.step,
                samples=step.samples,
                loss=step.losses[0],
                losses=list(step.losses),
                gradient_norm=step.gradient_norms[0],
                gradient_norms=list(step.gradient_norms),
                rate=step.rate,
                images_per_second=self.batch / max(step.seconds, 1e-9),
                seconds=step.seconds,
                elapsed=self._elapsed(),
            )
        due = self.trainer.step * (self.measurements + 1) // max(1, self.trainer.steps)
        if not step.rolled_back and self._measured < due <= self.measurements:
            self._measured = due
            found = self._measure(MEASURED)
            if found is not None:
                self.say(f"step {self.trainer.step}: {found[0]:.3f} bits/dim on {found[2]} held-out pictures")
        self._ends.append(self._elapsed())
        self._plan_again()

    def _measure(self, most: int) -> tuple[float, float, int] | None:
        """(mean bits per dimension, its standard error, pictures) by the average that will be loaded."""
        count = min(most, len(self.held_out))
        if self.rival.likelihood_kind == "none" or count == 0:
            return None
        rows = np.linspace(0, len(self.held_out) - 1, count).round().astype(np.int64)
        stored = self.held_out.read(rows)
        labels = self.held_out.labels if self.rival.classes else None
        chosen = None if labels is None else labels[torch.from_numpy(rows)]
        parts: list[Tensor] = []
        with averaged(self.trainer):
            for start in range(0, count, 32):
                some = slice(start, start + 32)
                found = self.rival.log_likelihood(
                    stored[some], None if chosen is None else chosen[some], seeds=torch.from_numpy(rows[some])
                )
                assert found is not None
                parts.append(found.cpu())
        bits = torch.cat(parts)
        value, error = float(bits.mean()), float(bits.std() / math.sqrt(count)) if count > 1 else math.nan
        self._log.write("held-out", self.trainer.step, loss=value, bits_per_dim=value, error=error, count=count)
        return value, error, count

    def _finish(self, flops: tuple[int, int], message: str, diverged: bool) -> RivalFacts:
        trainer, seconds = self.trainer, self._elapsed()
        taken = max(1, len(self._ends) - 1)
        last = self._losses[-max(1, len(self._losses) // 20) :]
        bits = self._measure(MEASURED_LAST)
        facts = RivalFacts(
            kind=self.rival.kind,
            path=self.out,
            steps=trainer.step,
            samples=trainer.samples,
            seconds=seconds,
            seconds_per_step=self._in_steps / taken,
            parameters=parameters(self.rival),
            flops_per_sample=flops[0],
            flops_to_sample=flops[1],
            batch=self.batch,
            seed=self.seed,
            threads=torch.get_num_threads(),
            losses=tuple(math.fsum(each) / len(each) for each in zip(*last, strict=True)),
            troubles=self._troubles,
            rollbacks=trainer.rollbacks,
            diverged=diverged or (bits is not None and not math.isfinite(bits[0])),
            message=message,
            held_out_bits=None if bits is None else bits[0],
            held_out_error=None if bits is None else bits[1],
            held_out_count=0 if bits is None else bits[2],
            likelihood_kind=self.rival.likelihood_kind,
        )
        record = {
            **facts.record(),
            "data": self.training.fingerprint,
            "device": self.rival.device.type,
            "torch": torch.__version__,
            "optim": [dataclasses.asdict(group.settings) for group in trainer.groups],
        }
        # Where the folder is now is no fact about the model.
        del record["path"], record["saved"]
        try:
            folder.write(self.out, self.rival, record, trainer.ema.averages)
        except ValueError as error:
            return dataclasses.replace(facts, diverged=True, saved=False, message=message or str(error))
        return facts


@contextlib.contextmanager
def averaged(trainer: Trainer) -> Iterator[None]:
    """Context in which the module has the weights of the first average, ready to be used."""
    average = next(iter(trainer.ema.averages.values()))
    live = dict(trainer.module.named_parameters())
    kept = {name: value.detach().clone() for name, value in live.items()}
    was = trainer.module.training
    try:
        with torch.no_grad():
            for name, value in live.items():
                value.copy_(average[name])
        trainer.module.eval()
        yield
    finally:
        with torch.no_grad():
            for name, value in live.items():
                value.copy_(kept[name])
        trainer.module.train(was)


def _free(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty; choose another folder for this rival, nothing is overwritten")
    return out
