"""Training CLIP on pictures with captions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.encoders.clip import Clip
from kakusan.runtime import pick_precision
from kakusan.specs import suggestion
from kakusan.train.captioned import (
    Batch,
    Captioned,
    all_pairs,
    batch_of,
    embed,
    order,
    shared,
    some_embedded,
    spaced,
)
from kakusan.train.ema import Ema, EmaProfile
from kakusan.train.keeping import under
from kakusan.train.optim import OptimSettings

__all__ = [
    "Captioned",
    "ClipRun",
    "ClipTraining",
    "TrainedClip",
    "embed",
    "held_out_loss",
    "order",
    "shared",
    "some_embedded",
    "spaced",
    "train_clip",
]

MEASUREMENTS = 8
AVERAGED, AVERAGE = "average", 0.06
RATES = {"muon": 1e-2, "adamw": 1e-3}
"""Learning rate by optimizer, where none is given."""
SCALAR_RATE = 1e-2
"""Of scale and bias: as slow as AdamW is on matrices, a short run would leave them where they began."""
BAD_STEPS = 8
"""So many steps in a row may be passed over for numbers that are not finite."""
_WATCHED = 512
_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class ClipTraining:
    """How long and how to train.

    Args:
        minutes: of the wall clock; ignored when `steps` is given.
        steps: of the optimizer; the same steps give the same weights on one machine.
        batch: pairs in a step; each picture has so many texts less one to be told from.
        optimizer: muon (for matrices and kernels; AdamW for the rest) or adamw.
        rate: largest learning rate, 0.01 of muon and 0.001 of adamw when not given; it rises over a twentieth of the
            training and falls to zero.
        decay: of the weights.
        agree: weight of the texts of a picture agreeing with each other, where some picture has several; each step then
            reads two of every picture. 0 reads one.
        augment: how far pictures are moved, turned and scaled, as a fraction (0.08: a shift of up to 8 % of a side).
        seed: of weights, order, choice of captions and augmentation.
    """

    minutes: float = 5.0
    steps: int | None = None
    batch: int = 128
    optimizer: str = "muon"
    rate: float | None = None
    decay: float = 0.1
    agree: float = 1.0
    augment: float = 0.08
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.minutes < math.inf or (self.steps is not None and self.steps < 1):
            raise ValueError(f"minutes are positive and steps at least 1, got {self.minutes} and {self.steps}")
        if self.batch < 2:
            raise ValueError(f"a batch needs at least 2 pairs, so that there is something to tell apart; {self.batch}")
        if self.optimizer not in RATES:
            near = suggestion(self.optimizer, list(RATES))
            raise ValueError(f"no optimizer {self.optimizer!r}{near}; there are {', '.join(RATES)}")
        if self.rate is None:
            object.__setattr__(self, "rate", RATES[self.optimizer])
        if not 0.0 < self.highest < math.inf or not 0.0 <= self.decay < math.inf or not 0.0 <= self.augment < 0.5:
            raise ValueError(
                f"the rate is positive, decay not negative, augment in [0, 0.5); got {self.rate}, {self.decay} and "
                f"{self.augment}"
            )
        if not 0.0 <= self.agree < math.inf:
            raise ValueError(f"the weight of texts agreeing is not negative, got {self.agree}")

    @property
    def highest(self) -> float:
        """The largest learning rate."""
        assert self.rate is not None
        return self.rate


@dataclass(frozen=True)
class TrainedClip:
    """A CLIP with what became of its training.

    Args:
        clip: with the averaged weights of its best measurement.
        steps: taken.
        best: the step of the best measurement.
        measured_on: "held-out", or "training" where nothing was held out.
        history: records of the losses, for a curve.
        seconds: of training.
        skipped: steps passed over for numbers that are not finite.
    """

    clip: Clip
    steps: int
    best: int
    measured_on: str
    history: tuple[dict[str, float], ...] = field(default_factory=tuple)
    seconds: float = 0.0
    skipped: int = 0

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "steps": self.steps,
            "best_step": self.best,
            "measured_on": self.measured_on,
            "seconds": round(self.seconds, 1),
            "skipped": self.skipped,
            "scale": float(self.clip.scale.detach()),
            "bias": float(self.clip.bias.detach()),
        }


def train_clip(
    clip: Clip,
    training: Captioned,
    held_out: Captioned | None,
    *,
    how: ClipTraining,
    precision: str = "auto",
    say: Callable[[str], None] | None = None,
) -> TrainedClip:
    """Train both towers; keep the averaged weights of the measurement with the least held-out loss.

    At the end the means of both kinds and the map between them are measured on the training pairs, unchanged by
    augmentation, and kept in the model.

    Args:
        clip: on the device to train on.
        training: pairs.
        held_out: those to measure on; None where there are none.
        how: how long, and how.
        precision: of products in training: auto, fp32 or bf16.
        say: takes lines for people.

    Raises:
        ValueError: fewer than two pairs, or numbers that stay not finite.
    """
    run = ClipRun(clip, training, held_out, how=how, precision=precision, say=say)
    run.go_on()
    return run.finished()


class ClipRun:
    """A training that can be stopped after any step and go on, bit for bit where it is counted in steps.

    Args:
        clip: on the device to train on.
        training: pairs.
        held_out: those to measure on; None where there are none.
        how: how long, and how.
        precision: of products in training: auto, fp32 or bf16.
        say: takes lines for people.

    Raises:
        ValueError: fewer than two pairs.
    """

    def __init__(
        self,
        clip: Clip,
        training: Captioned,
        held_out: Captioned | None,
        *,
        how: ClipTraining,
        precision: str = "auto",
        say: Callable[[str], None] | None = None,
    ) -> None:
        if len(training) < 2:
            raise ValueError(f"CLIP learns to tell pairs apart and needs at least 2, got {len(training)}")
        self.clip, self.training, self.how, self._say = clip, training, how, say
        self.precision = pick_precision(precision, clip.device)
        apart = held_out is not None and len(held_out) >= 2
        self._measured = held_out if apart and held_out is not None else training
        self.measured_on = "held-out" if apart else "training"
        self.optimizers = _optimizers(clip, how)
        self.ema = Ema(clip, {AVERAGED: EmaProfile(AVERAGE)})
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self._marks, self._bad = 1, 0
        self._best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, _copied(self.ema))
        self.history: list[dict[str, float]] = []

    @property
    def done(self) -> float:
        """The share of the training that is over, 1 and more at its end."""
        how = self.how
        return self.step / how.steps if how.steps is not None else self.seconds / (60.0 * how.minutes)

    def go_on(
        self, *, stopped: Callable[[], bool] = lambda: False, measured: Callable[[], object] = lambda: None
    ) -> bool:
        """Train to the end, or until `stopped` says so after a step; returns whether the end was reached.

        Args:
            stopped: whether to stop.
            measured: called after each measurement.

        Raises:
            ValueError: numbers that stay not finite.
        """
        before, began = self.seconds, time.monotonic()
        while self.done < 1.0:
            self._take(self._batch())
            self.seconds = before + time.monotonic() - began
            if self.done >= self._marks / MEASUREMENTS:
                self._measure()
                self.seconds = before + time.monotonic() - began
                measured()
            if self.done < 1.0 and stopped():
                return False
        return True

    def _batch(self) -> Batch:
        """Of this step: a pure function of seed and step."""
        how, count = self.how, min(self.how.batch, len(self.training))
        numbers = torch.arange(self.step * count, (self.step + 1) * count)
        return batch_of(self.clip, self.training, numbers, seed=how.seed, augment=how.augment, two=how.agree > 0.0)

    def _take(self, batch: Batch) -> None:
        """One step of the optimizer."""
        clip, how, done = self.clip, self.how, self.done
        pace = min(1.0, done / 0.05 + 0.01) * (1.0 - done)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * pace
            optimizer.zero_grad(set_to_none=True)
        clip.train()
        with self.precision.autocast():
            loss = clip.batch_loss(batch.x, batch.ids, batch.also, second=batch.second, agree=how.agree)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        if bool(torch.isfinite(loss.detach()) & norm.isfinite()):
            self._bad = 0
            for optimizer in self.optimizers:
                optimizer.step()
            clip.clamp()
            self.ema.update()
        else:
            self._bad, self.skipped = self._bad + 1, self.skipped + 1
            if self._bad > BAD_STEPS:
                first = self.step - BAD_STEPS
                raise ValueError(f"the loss is not finite since step {first}; try a rate below {how.highest}")
        self.history.append({"step": float(self.step), "loss": float(loss.detach())})
        self.step += 1

    def _measure(self) -> None:
        self._marks = math.floor(self.done * MEASUREMENTS) + 1
        found = _viewed(self.clip, self.ema, self._measured)
        self.history[-1]["held_out_loss"] = found
        if found < self._best[0]:
            self._best = (found, self.step, _copied(self.ema))
        if self._say is not None:
            loss, scale = self.history[-1]["loss"], float(self.clip.scale.detach())
            self._say(f"step {self.step}: loss {loss:.3f}, {self.measured_on} {found:.3f}, scale {scale:.1f}")

    def finished(self) -> TrainedClip:
        """The CLIP of the best measurement, with its means and the map between them measured; training is over."""
        clip = self.clip
        _put(clip, self._best[2])
        clip.eval().requires_grad_(False)
        clip.measure_gap(*all_pairs(clip, self.training))
        return TrainedClip(
            clip, self.step, self._best[1], self.measured_on, tuple(self.history), self.seconds, self.skipped
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything but weights and averages that going on needs: tensors, and plain numbers."""
        tensors = {
            f"optimizer/{which}/{index}/{key}": value
            for which, optimizer in enumerate(self.optimizers)
            for index, values in optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }
        tensors |= {f"best/{name}": value for name, value in self._best[2].items()}
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "marks": self._marks,
            "bad": self._bad,
            "updates": self.ema.updates,
            "best": [None if math.isinf(self._best[0]) else self._best[0], self._best[1]],
            "history": self.history,
        }
        return tensors, facts

    def load_state(
        self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], averages: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Go on from `state()` and saved averages; the weights are loaded by the caller."""
        for which, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in under(tensors, f"optimizer/{which}/").items():
                index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.ema.load(averages, int(facts["updates"]))
        self.step, self.seconds, self.skipped = int(facts["step"]), float(facts["seconds"]), int(facts["skipped"])
        self._marks, self._bad = int(facts["marks"]), int(facts["bad"])
        loss, step = facts["best"]
        kept = {name: value.to(self.clip.device) for name, value in under(tensors, "best/").items()}
        self._best = (math.inf if loss is None else float(loss), int(step), kept)
        self.history = [dict(record) for record in facts["history"]]


@torch.no_grad()
def held_out_loss(clip: Clip, pairs: Captioned, *, group: int = _GROUP, most: int = _WATCHED) -> float:
    """Mean contrastive loss over groups of `group` pairs, the first text of each picture."""
    rows = torch.arange(len(pairs))[:: max(1, len(pairs) // most)][:most]
    # Classes stand in turn or in runs in most data; a fixed shuffle makes each group a fair sample.
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    parts = [part for part in rows.split(group) if len(part) >= 2]
    lost = 0.0
    for part in parts:
        x = pairs.read(part).to(clip.device)
        ids = clip.text.tokens([pairs.texts[row][0] for row in part.tolist()]).to(clip.device)
        lost += float(clip.batch_loss(x, ids)) * len(part)
    return lost / sum(map(len, parts))


def _optimizers(clip: Clip, how: ClipTraining) -> list[torch.optim.Optimizer]:
    """Of the towers, and of scale and bias apart; every group knows its largest rate."""
    tables = {id(m.weight) for m in clip.modules() if isinstance(m, nn.Embedding)}
    towers = [*clip.image.parameters(), *clip.text.parameters()]
    settings = OptimSettings(optimizer=how.optimizer, rate=how.highest, beta2=0.98, weight_decay=how.decay)
    scalars = torch.optim.AdamW([clip.log_scale, clip.bias], SCALAR_RATE, (0.9, 0.98), weight_decay=0.0)
    found = [*settings.build(towers, tables), scalars]
    for optimizer in found:
        for group in optimizer.param_groups:
            group["highest"] = group["lr"]
    return found


def _viewed(clip: Clip, ema: Ema, pairs: Captioned) -> float:
    """Measured with the averaged weights; the others come back."""
    live = {name: p.detach().clone() for name, p in clip.named_parameters()}
    _put(clip, ema.averages[AVERAGED])
    clip.eval()
    try:
        return held_out_loss(clip, pairs)
    finally:
        _put(clip, live)


def _copied(ema: Ema) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in ema.averages[AVERAGED].items()}


@torch.no_grad()
def _put(clip: Clip, values: dict[str, Tensor]) -> None:
    for name, parameter in clip.named_parameters():
        parameter.copy_(values[name])
