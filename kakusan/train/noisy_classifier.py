"""Training the classifier of noisy samples that classifier guidance asks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.data.source import Pictures
from kakusan.levels import Level, blend
from kakusan.nn.noisy_classifier import NoisyConvNet
from kakusan.noise import Stream, normal, uniform
from kakusan.schedules import NoiseSchedule
from kakusan.train.ema import Ema, EmaProfile

LOG_SNRS = (9.0, 6.0, 4.0, 2.0, 0.0, -2.0, -4.0, -6.0)
"""Noise levels at which accuracy is reported, as far as the schedule reaches them."""
MEASUREMENTS = 6
_MEASURED_AT_ONCE = 128
_SHOWN, _WATCHED = 1024, 128
"""Samples measured at the end, and meanwhile."""

Read = Callable[[Tensor], Tensor]
"""Clean samples (n, C, *spatial) in model units, by their row numbers (n,)."""


@dataclass(frozen=True)
class Labelled:
    """Samples with their classes.

    Args:
        read: clean samples by row.
        labels: (N,) class indices.
        flip: whether a mirrored sample is as good.
    """

    read: Read
    labels: Tensor
    flip: bool = False

    @classmethod
    def of(cls, pictures: Pictures) -> Labelled:
        """The pictures of a data set.

        Raises:
            ValueError: they have no labels, or only one class.
        """
        if pictures.labels is None or len(pictures.spec.classes) < 2:
            raise ValueError(
                "a classifier needs pictures with labels of at least two classes; this run's data have none, so use "
                "guidance that needs no classifier"
            )
        spec = pictures.spec
        return cls(lambda rows: spec.to_model(pictures.read(rows.tolist())), pictures.labels, spec.flip)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """How long and how to train.

    Args:
        minutes: of the wall clock; ignored when `steps` is given.
        steps: of the optimizer; the same steps give the same weights on one machine.
        batch: samples in a step.
        rate: largest learning rate (AdamW); it rises over a twentieth of the training and falls to zero.
        decay: of the weights.
        seed: of weights, order, times and noise.
    """

    minutes: float = 2.0
    steps: int | None = None
    batch: int = 64
    rate: float = 2e-3
    decay: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.minutes < math.inf or (self.steps is not None and self.steps < 1) or self.batch < 1:
            raise ValueError(
                f"minutes are positive, steps and batch at least 1; got {self.minutes}, {self.steps} and {self.batch}"
            )
        if not 0.0 < self.rate < math.inf or not 0.0 <= self.decay < math.inf:
            raise ValueError(f"the rate is positive and decay not negative, got {self.rate} and {self.decay}")


@dataclass(frozen=True)
class LevelAccuracy:
    """How well classes are told at one noise level.

    Args:
        log_snr: of the level.
        accuracy: share of samples whose likeliest class is theirs.
        cross_entropy: mean of -log p(own class), nats.
    """

    log_snr: float
    accuracy: float
    cross_entropy: float


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with what became of its training.

    Args:
        network: with the averaged weights of its best measurement.
        levels: accuracy at each noise level.
        steps: taken.
        best: the step of the best measurement.
        measured_on: "held-out", or "training" where nothing was held out.
    """

    network: NoisyConvNet
    levels: tuple[LevelAccuracy, ...]
    steps: int
    best: int
    measured_on: str

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "levels": [asdict(level) for level in self.levels],
            "steps": self.steps,
            "best_step": self.best,
            "measured_on": self.measured_on,
        }


def train_noisy_classifier(
    network: NoisyConvNet,
    training: Labelled,
    held_out: Labelled | None,
    schedule: NoiseSchedule,
    *,
    how: ClassifierTraining,
    say: Callable[[str], None] | None = None,
) -> TrainedClassifier:
    """Train `network` on noised samples at times even in the schedule's own t.

    Small sets are learnt by heart: of several measurements on the held-out samples the one with the least cross-entropy
    is kept, with weights averaged over the last part of the training before it.

    Args:
        network: on the device to train on.
        training: the samples.
        held_out: those to measure on; None where there are none.
        schedule: the path of the model that will be guided.
        how: how long, and how.
        say: takes lines for people.

    Raises:
        ValueError: no samples, or a loss that is not finite.
    """
    if len(training) == 0:
        raise ValueError("there are no pictures to train the classifier on")
    measured = training if held_out is None or len(held_out) == 0 else held_out
    optimizer = torch.optim.AdamW(network.parameters(), lr=how.rate, weight_decay=how.decay)
    ema = Ema(network, {"average": EmaProfile(0.1)})
    order = _Order(len(training), how.seed)
    where = "training" if measured is training else "held-out"
    step, done, marks, best = 0, 0.0, 1, (math.inf, 0, _copied(ema))
    began = time.monotonic()
    while done < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = how.rate * min(1.0, done / 0.05 + 0.01) * (1.0 - done)
        network.train()
        loss = _loss(network, training, order.take(how.batch), schedule, how, step)
        if not bool(loss.isfinite()):
            raise ValueError(f"the classifier's loss is not finite at step {step}; try a lower rate than {how.rate}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        ema.update()
        step += 1
        done = _progress(step, began, how)
        if done >= marks / MEASUREMENTS:
            marks = math.floor(done * MEASUREMENTS) + 1
            found = _mean(_viewed(network, ema, measured, schedule, how.seed))
            if found < best[0]:
                best = (found, step, _copied(ema))
            if say is not None:
                say(f"step {step}: loss {float(loss.detach()):.3f}, {where} cross-entropy {found:.3f}")
    _put(network, best[2])
    network.eval().requires_grad_(False)
    levels = measure(network, measured, schedule, seed=how.seed)
    return TrainedClassifier(network, tuple(levels), step, best[1], where)


@torch.no_grad()
def measure(
    network: NoisyConvNet, samples: Labelled, schedule: NoiseSchedule, *, seed: int = 0, most: int = _SHOWN
) -> list[LevelAccuracy]:
    """Accuracy and cross-entropy at each noise level that the schedule reaches, on at most `most` samples."""
    training = network.training
    network.eval()
    device = network.head.weight.device
    rows = torch.arange(len(samples))[:: -(-len(samples) // most)]
    ends = (schedule.log_snr(torch.tensor([end], dtype=torch.float64)) for end in (schedule.t_max, schedule.t_min))
    low, high = (float(end.detach()) for end in ends)
    found = []
    for log_snr in LOG_SNRS:
        if not low <= log_snr <= high:
            continue
        t = float(schedule.time(torch.tensor(log_snr, dtype=torch.float64)).detach())
        right, lost = 0.0, 0.0
        for part in rows.split(_MEASURED_AT_ONCE):
            x0 = samples.read(part).to(device)
            # The same noise at every level: the curve over levels is smooth.
            noise = normal(part + (seed << 32), Stream.HELD_OUT, shape=x0.shape[1:], dtype=x0.dtype, device=device)
            level = Level.of(schedule, t, x0)
            log_p = network.log_probabilities(blend(x0, level.alpha, noise, level.sigma), level)
            labels = samples.labels[part].to(device)
            right += float((log_p.argmax(1) == labels).sum())
            lost += float(F.nll_loss(log_p, labels, reduction="sum"))
        found.append(LevelAccuracy(log_snr, right / len(rows), lost / len(rows)))
    network.train(training)
    return found


class _Order:
    """Rows in an order of chance, every row once before any comes again."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._left = count, torch.empty(0, dtype=torch.int64)
        self._generator = torch.Generator().manual_seed(seed)

    def take(self, batch: int) -> Tensor:
        while len(self._left) < batch:
            self._left = torch.cat([self._left, torch.randperm(self._count, generator=self._generator)])
        chosen, self._left = self._left[:batch], self._left[batch:]
        return chosen


def _loss(
    network: NoisyConvNet, samples: Labelled, rows: Tensor, schedule: NoiseSchedule, how: ClassifierTraining, step: int
) -> Tensor:
    device, count = network.head.weight.device, len(rows)
    # Without gradients: a learned schedule is not trained here.
    with torch.no_grad():
        x0 = samples.read(rows).to(device)
        seeds, draws = torch.full((count,), how.seed), torch.arange(step * count, (step + 1) * count)
        if samples.flip:
            mirrored = uniform(seeds, Stream.AUGMENT, draws, device=device) < 0.5
            x0 = torch.where(mirrored.view(-1, *[1] * (x0.dim() - 1)), x0.flip(-1), x0)
        # Stratified: one time in each of as many equal parts as there are samples.
        parts = (torch.arange(count, device=device) + uniform(seeds, Stream.TIME, draws, device=device)) / count
        level = Level.of(schedule, schedule.t_min + (schedule.t_max - schedule.t_min) * parts, x0)
        noise = normal(seeds, Stream.TRAINING_NOISE, draws, shape=x0.shape[1:], dtype=x0.dtype, device=device)
        x_t = blend(x0, level.alpha, noise, level.sigma)
    return F.nll_loss(network.log_probabilities(x_t, level), samples.labels[rows].to(device))


def _progress(step: int, began: float, how: ClassifierTraining) -> float:
    if how.steps is not None:
        return step / how.steps
    return (time.monotonic() - began) / (60.0 * how.minutes)


def _viewed(
    network: NoisyConvNet, ema: Ema, samples: Labelled, schedule: NoiseSchedule, seed: int
) -> list[LevelAccuracy]:
    """Measured with the averaged weights; the others come back."""
    live = {name: p.detach().clone() for name, p in network.named_parameters()}
    _put(network, _copied(ema))
    try:
        return measure(network, samples, schedule, seed=seed, most=_WATCHED)
    finally:
        _put(network, live)


def _copied(ema: Ema) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in ema.averages["average"].items()}


@torch.no_grad()
def _put(network: NoisyConvNet, values: Mapping[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        parameter.copy_(values[name])


def _mean(levels: Sequence[LevelAccuracy]) -> float:
    return sum(level.cross_entropy for level in levels) / len(levels)
