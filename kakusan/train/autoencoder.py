"""Training an autoencoder by the trainer of diffusion models: two sides, one feed, averages, and a run that goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan import runtime
from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.discriminator import PatchDiscriminator
from kakusan.autoencoders.health import Health, measure_health
from kakusan.autoencoders.kinds import KINDS
from kakusan.autoencoders.losses import AutoencoderLosses, Bench, JudgeLoss, MakerLoss
from kakusan.autoencoders.networks import NetworkSize
from kakusan.autoencoders.perceptual import Features, empty_features, features_of
from kakusan.data.source import Pictures
from kakusan.nn.count import parameters
from kakusan.run_folder import RunFolder
from kakusan.specs import suggestion
from kakusan.train import autoencoder_checkpoint as checkpoint
from kakusan.train import keeping
from kakusan.train.autoencoder_checkpoint import averaged_with, measured_latents
from kakusan.train.autoencoder_settings import MINUTES, AutoencoderConfig
from kakusan.train.ema import EmaProfile
from kakusan.train.feed import Feed
from kakusan.train.metrics_log import MetricsLog, read_records
from kakusan.train.optim import OptimSettings
from kakusan.train.pace import Moments, choose_threads, pace_of_a_step
from kakusan.train.signals import catch_signals
from kakusan.train.trainer import Group, Trainer, TrainStep, seeded

MEASURED, MEASURED_LAST = 64, 256
"""Held-out pictures of one measurement during the run, and at its end."""
MEASURED_LATENTS = 4096
"""Training pictures over which the latents' mean and deviation are measured in the end: deviations are right to about
1% if only one number in each picture told something new, and there are hundreds."""
PROFILE = "ema-0.05"
MAKER = OptimSettings(optimizer="muon", rate=6e-3, warmup=30, decay=0.5)
JUDGE = OptimSettings(rate=5e-4, warmup=0, decay=0.3, beta1=0.5, beta2=0.9, clip=1.0)


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    """An autoencoder and how to train it.

    Args:
        kind: kl or vq.
        factor: pixels a side of one place of the latent, a power of 2.
        latent_channels: channels of the latent.
        codes: of a vector-quantised one's codebook.
        size: of the network.
        losses: the parts of the loss.
        minutes: how long; ignored when `steps` is given.
        steps: of the optimizer.
        batch: pictures in a step.
        seed: of the first weights, the order of the data and all noise.
        maker: the autoencoder's optimizer.
        judge: the discriminator's.
        measurements: of the health on held-out pictures during the run, beside the one at its end.
        checkpoints: during the run, beside the one at its end.

    Raises:
        ValueError: numbers out of range.
    """

    kind: str = "kl"
    factor: int = 4
    latent_channels: int = 4
    codes: int = 1024
    size: NetworkSize = field(default_factory=NetworkSize)
    losses: AutoencoderLosses = field(default_factory=AutoencoderLosses)
    minutes: float = MINUTES
    steps: int | None = None
    batch: int = 16
    seed: int = 0
    maker: OptimSettings = MAKER
    judge: OptimSettings = JUDGE
    measurements: int = 5
    checkpoints: int = 3

    def __post_init__(self) -> None:
        if not 0.0 < self.minutes < math.inf or (self.steps is not None and self.steps < 1) or self.batch < 1:
            raise ValueError(
                f"minutes are positive, steps and batch at least 1; got {self.minutes}, {self.steps} and {self.batch}"
            )
        if min(self.measurements, self.checkpoints) < 0:
            raise ValueError(f"measurements and checkpoints are at least 0, got {self}")
        if self.kind not in KINDS:
            raise ValueError(
                f"no autoencoder {self.kind!r}{suggestion(self.kind, list(KINDS))}; there are {', '.join(KINDS)}"
            )

    @classmethod
    def of(cls, config: AutoencoderConfig) -> AutoencoderTraining:
        """As a configuration says; sections and these classes call the same things by the same names.

        Raises:
            ValueError: numbers out of range.
        """
        run, length = config.run, MINUTES if config.run.minutes is None else config.run.minutes
        return cls(
            **vars(config.model),
            size=NetworkSize(**vars(config.size)),
            losses=AutoencoderLosses(**vars(config.losses)),
            minutes=length,
            steps=run.steps,
            batch=run.batch,
            seed=run.seed,
            measurements=run.measurements,
            checkpoints=run.checkpoints,
        )

    def fixed(self) -> dict[str, Any]:
        """What a run that goes on cannot change: all but its length and what is measured. Plain values."""
        said: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for name in ("minutes", "steps", "measurements", "checkpoints"):
            del said[name]
        return said

    def build(self, pictures: Pictures) -> Autoencoder:
        """The autoencoder for these pictures, with fresh weights from torch's generator (seeded by the caller).

        Raises:
            ValueError: numbers out of range.
        """
        spec = pictures.spec
        more = {"codes": self.codes} if self.kind == "vq" else {}
        return KINDS[self.kind](  # type: ignore[call-arg]
            channels=spec.channels,
            factor=self.factor,
            latent_channels=self.latent_channels,
            rank=len(spec.size),
            size=self.size,
            **more,
        )


class AutoencoderRun:
    """One training in a folder. Starting again with the same settings goes on where it stopped.

    Args:
        how: what and how.
        training: the pictures.
        held_out: others, to measure on; the training pictures are measured where there are none.
        out: the folder.
        device: a device's name, or "auto".
        threads: of the CPU; chosen when not given.
        precision: of products: auto, fp32 or bf16.
        config: text that the folder keeps as `config.toml`, when given.
        say: takes lines for people.
        on_step: called after every step.

    Raises:
        ValueError: a folder that holds something else, or a run of other settings or data.
    """

    def __init__(
        self,
        how: AutoencoderTraining,
        training: Pictures,
        held_out: Pictures,
        out: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
        config: str | None = None,
        say: Callable[[str], None] = print,
        on_step: Callable[[TrainStep, AutoencoderRun], None] | None = None,
    ) -> None:
        self._config = config
        self.how, self.training, self.held_out, self.say, self.on_step = how, training, held_out, say, on_step
        self.folder = RunFolder(out)
        old = checkpoint.opened(self.folder, how.fixed(), training.fingerprint)
        self.device = runtime.pick_device(device)
        self._fixed_threads = threads is not None or how.steps is not None or self.device.type != "cpu"
        runtime.tune(threads=threads if old is None else old.get("threads", threads), device=self.device)
        with seeded(how.seed, self.device):
            self.bench = Bench(how.build(training), how.losses).to(self.device)
        self._elapsed_before, self._began = 0.0, 0.0
        self._paces: list[float] = []
        self.features = self._features(old)
        self.maker = MakerLoss(self.bench, how.losses, self.features, seed=how.seed, progress=lambda: self.progress)
        groups = [Group(self.bench.maker_parameters(), self.maker, how.maker)]
        if self.bench.discriminator is not None:
            groups.append(Group(list(self.bench.discriminator.parameters()), JudgeLoss(self.maker), how.judge))
        feed = Feed(training, seed=how.seed, batch=min(how.batch, len(training)), device=self.device)
        profiles = {PROFILE: EmaProfile(0.05)}
        autocast = runtime.pick_precision(precision, self.device).autocast
        self.trainer = Trainer(
            self.bench, groups, feed, steps=how.steps or 1, profiles=profiles, seed=how.seed, autocast=autocast
        )
        self.stop: str | None = None
        self._moments = Moments()
        if old is not None:
            self._elapsed_before = checkpoint.restore(self.folder, self.trainer, self.bench)
            if how.steps is not None:
                self.trainer.steps = how.steps
            say(f"continuing {out} from step {self.trainer.step} of {self.trainer.steps}")

    @property
    def autoencoder(self) -> Autoencoder:
        """What is trained."""
        return self.bench.autoencoder

    @property
    def progress(self) -> float:
        """The share of the training that is done."""
        return self.trainer.step / max(1, self.trainer.steps)

    def elapsed(self) -> float:
        """Seconds of training so far, over all sessions."""
        return self._elapsed_before + (time.perf_counter() - self._began if self._began else 0.0)

    def _features(self, old: Mapping[str, Any] | None) -> Features | None:
        losses = self.how.losses
        if losses.perceptual == 0.0 or len(self.training.spec.size) != 2:
            return None
        if old is not None:
            features = empty_features(self.training.spec.channels)
            features.load_state_dict(checkpoint.features(self.folder))
            return features.to(self.device)
        began = time.perf_counter()
        features = features_of(losses.features, self.training, seed=self.how.seed).to(self.device)
        self._elapsed_before += time.perf_counter() - began
        return features

    def run(self) -> Health:
        """Train to the end of the budget, or until a signal, and save; returns the last measurement.

        Raises:
            ValueError: training diverged. What was saved stays whole.
        """
        count, latent = parameters(self.autoencoder), self.autoencoder.latent_shape(self.training.spec.shape)
        judge: PatchDiscriminator | None = self.bench.discriminator
        self.say(
            f"{self.how.kind}: {count / 1e6:.2f} M parameters, "
            f"{' x '.join(map(str, self.training.spec.shape))} to {' x '.join(map(str, latent))}"
            + ("" if judge is None else f", discriminator {parameters(judge) / 1e6:.2f} M")
        )
        self._began = time.perf_counter()
        if self.trainer.step == 0:
            self._plan()
        lock = keeping.create(self.folder, self.how.fixed(), self.training.fingerprint, self._config)
        self._log = self._open_log()
        restore = catch_signals(lambda name: setattr(self, "stop", name))
        try:
            if self.trainer.step == 0:
                self.save()
            self.maker.watched.take()
            for step in self.trainer.run():
                self._after(step)
                if self.stop is not None:
                    break
            health = self._measure(MEASURED_LAST)
            self.save(last=self.stop is None)
            if self.stop is not None:
                self.say(f"stopped by {self.stop} at step {self.trainer.step}; the same command goes on")
            return health
        finally:
            restore()
            self._log.close()
            lock.close()

    def records(self) -> list[dict[str, Any]]:
        """All that was logged."""
        return read_records(self.folder.metrics)

    def _open_log(self) -> MetricsLog:
        return MetricsLog(self.folder.metrics, step=self.trainer.step, tensorboard=False)

    def _plan(self) -> None:
        """Settle the threads and the number of steps."""
        if self.how.steps is not None:
            return
        if self._fixed_threads:
            pace = pace_of_a_step(self.trainer)
        else:
            pace, _ = choose_threads(lambda: pace_of_a_step(self.trainer), self.say)
        self.autoencoder.after_step(seed=self.how.seed, step=0, good=False)
        # The discriminator's part comes later and costs about a third more.
        seconds = pace.seconds * (1.0 if self.bench.discriminator is None else 1.15)
        left = 60.0 * self.how.minutes - self.elapsed()
        self.trainer.steps = max(1, int(left / max(seconds, 1e-6)))
        self.say(f"a step of {self.trainer.feed.size} takes {pace.seconds:.2g} s: about {self.trainer.steps} steps")

    def _plan_again(self) -> None:
        """Keep a run that was asked for in minutes to its time, by the pace so far of this session."""
        trainer = self.trainer
        if self.how.steps is not None:
            return
        if not (trainer.step % max(1, trainer.steps // 40) == 0 or trainer.steps - trainer.step < 10):
            return
        taken = self._paces[-max(10, len(self._paces) // 4) :]
        left = 60.0 * self.how.minutes - self.elapsed()
        trainer.steps = max(trainer.step, trainer.step + int(left / max(sum(taken) / len(taken), 1e-6)))

    def _after(self, step: TrainStep) -> None:
        self._paces.append(step.seconds + step.wait)
        good = step.trouble is None
        self.autoencoder.after_step(seed=self.how.seed, step=step.step, good=good)
        self.maker.decoded.clear()
        watched = self.maker.watched.take()
        if step.trouble is not None:
            if step.rolled_back:
                self._moments.forget()
                self._log.close()
                self._log = self._open_log()
                self.say(f"went back to step {self.trainer.step}, at {self.trainer.rate_scale:g} of the rate")
            self._log.write("trouble", self.trainer.step, message=str(step.trouble), rolled_back=step.rolled_back)
            self.say(f"skipped: {step.trouble}")
        else:
            used = watched.pop("codes", None)
            if isinstance(used, list):
                watched["codes_used"] = sum(share > 0.0 for share in used) / len(used)
            self._log.write(
                "step",
                step.step,
                samples=step.samples,
                loss=step.losses[0],
                losses=list(step.losses),
                gradient_norm=step.gradient_norms[0],
                gradient_norms=list(step.gradient_norms),
                rate=step.rate,
                images_per_second=self.trainer.feed.size / max(step.seconds, 1e-9),
                seconds=step.seconds,
                **watched,
            )
        if self.on_step is not None:
            self.on_step(step, self)
        if step.rolled_back:
            return
        if self._due("measurements"):
            self._measure()
        if self._due("checkpoints") and not self.trainer.troubled:
            self.save()
        self._plan_again()

    def _due(self, what: str) -> bool:
        """Whether it is time for what the settings call `what`; the end has its own."""
        step, steps, times = self.trainer.step, self.trainer.steps, getattr(self.how, what)
        return self._moments.due(what, times + 1, step, steps) and step < steps

    @torch.no_grad()
    def _measure(self, most: int = MEASURED) -> Health:
        """Health on held-out pictures, by the averaged weights, which are those that will be loaded."""
        pictures = self.held_out if len(self.held_out) else self.training
        with averaged_with(self.bench, self.average):
            kept = self.autoencoder.latent_mean.clone(), self.autoencoder.latent_std.clone()
            measured_latents(self.autoencoder, self.training, most=most)
            health = measure_health(self.autoencoder, shown(pictures, most))
            self.autoencoder.latent_mean.copy_(kept[0])
            self.autoencoder.latent_std.copy_(kept[1])
        self._log.write("health", self.trainer.step, **health.record(), elapsed=self.elapsed())
        self.say(f"step {self.trainer.step}: {health.text()}")
        return health

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged tensors."""
        return self.trainer.ema.averages[PROFILE]

    def save(self, *, last: bool = False) -> Path:
        """Write a checkpoint, which is a model folder; `last`: with latents measured more exactly."""
        self._log.sync()
        record = {
            "how": self.how.fixed(),
            "steps": self.trainer.step,
            "samples": self.trainer.samples,
            "seconds": self.elapsed(),
            "data": self.training.fingerprint,
            "threads": torch.get_num_threads(),
            "device": self.device.type,
            "torch": torch.__version__,
        }
        measured = MEASURED_LATENTS if last else MEASURED_LAST
        path = checkpoint.save(self.folder, self.trainer, self.bench, self.features, self.training, record, measured)
        self.trainer.keep()
        return path


def shown(pictures: Pictures, most: int) -> Tensor:
    """Up to `most` pictures, spread evenly over a data set: (n, C, *size) in model units."""
    count = min(most, len(pictures))
    rows = torch.linspace(0, len(pictures) - 1, count).round().long()
    return pictures.spec.to_model(pictures.read(rows.numpy()))
