"""Training CLIP on pictures with captions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kakusan.data.augment import Transformations, transform
from kakusan.encoders.clip import Clip
from kakusan.noise import Stream, uniform
from kakusan.train.captioned import Captioned, all_pairs, embed, order, shared, some_embedded, spaced
from kakusan.train.ema import Ema, EmaProfile
from kakusan.train.keeping import under

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
SCALAR_HASTE = 10.0
"""Scale and bias learn so many times as fast: a short run would leave them where they began."""
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
        rate: largest learning rate (AdamW); it rises over a twentieth of the training and falls to zero.
        decay: of the weights.
        augment: how far pictures are moved, turned and scaled, as a fraction (0.08: a shift of up to 8 % of a side).
        seed: of weights, order, choice of captions and augmentation.
    """

    minutes: float = 5.0
    steps: int | None = None
    batch: int = 128
    rate: float = 1e-3
    decay: float = 0.1
    augment: float = 0.08
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.minutes < math.inf or (self.steps is not None and self.steps < 1):
            raise ValueError(f"minutes are positive and steps at least 1, got {self.minutes} and {self.steps}")
        if self.batch < 2:
            raise ValueError(f"a batch needs at least 2 pairs, so that there is something to tell apart; {self.batch}")
        if not 0.0 < self.rate < math.inf or not 0.0 <= self.decay < math.inf or not 0.0 <= self.augment < 0.5:
            raise ValueError(
                f"the rate is positive, decay not negative, augment in [0, 0.5); got {self.rate}, {self.decay} and "
                f"{self.augment}"
            )


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
        say: takes lines for people.

    Raises:
        ValueError: fewer than two pairs, or numbers that stay not finite.
    """
    run = ClipRun(clip, training, held_out, how=how, say=say)
    run.go_on()
    return run.finished()


class ClipRun:
    """A training that can be stopped after any step and go on, bit for bit where it is counted in steps.

    Args:
        clip: on the device to train on.
        training: pairs.
        held_out: those to measure on; None where there are none.
        how: how long, and how.
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
        say: Callable[[str], None] | None = None,
    ) -> None:
        if len(training) < 2:
            raise ValueError(f"CLIP learns to tell pairs apart and needs at least 2, got {len(training)}")
        self.clip, self.training, self.how, self._say = clip, training, how, say
        apart = held_out is not None and len(held_out) >= 2
        self._measured = held_out if apart and held_out is not None else training
        self.measured_on = "held-out" if apart else "training"
        groups = [
            {"params": [p for p in clip.parameters() if p.dim() >= 2], "weight_decay": how.decay},
            {"params": [p for p in clip.parameters() if p.dim() == 1], "weight_decay": 0.0},
            {"params": [clip.log_scale, clip.bias], "weight_decay": 0.0, "haste": SCALAR_HASTE},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=how.rate, betas=(0.9, 0.98))
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
            self._take(_batch(self.clip, self.training, self.step, min(self.how.batch, len(self.training)), self.how))
            self.seconds = before + time.monotonic() - began
            if self.done >= self._marks / MEASUREMENTS:
                self._measure()
                self.seconds = before + time.monotonic() - began
                measured()
            if self.done < 1.0 and stopped():
                return False
        return True

    def _take(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        """One step of the optimizer."""
        clip, how, done = self.clip, self.how, self.done
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("haste", 1.0) * how.rate * min(1.0, done / 0.05 + 0.01) * (1.0 - done)
        clip.train()
        loss = clip.batch_loss(*batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        if bool(torch.isfinite(loss.detach()) & norm.isfinite()):
            self._bad = 0
            self.optimizer.step()
            clip.clamp()
            self.ema.update()
        else:
            self._bad, self.skipped = self._bad + 1, self.skipped + 1
            if self._bad > BAD_STEPS:
                first = self.step - BAD_STEPS
                raise ValueError(f"the loss is not finite since step {first}; try a rate below {how.rate}")
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
            f"optimizer/{index}/{key}": value
            for index, values in self.optimizer.state_dict()["state"].items()
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
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in under(tensors, "optimizer/").items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
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


def _batch(clip: Clip, pairs: Captioned, step: int, batch: int, how: ClipTraining) -> tuple[Tensor, Tensor, Tensor]:
    numbers = torch.arange(step * batch, (step + 1) * batch)
    rows = order(numbers, len(pairs), how.seed)
    seeds = torch.full((batch,), how.seed)
    texts = pairs.pick(rows, uniform(seeds, Stream.CAPTION, numbers))
    x = _moved(pairs.read(rows).to(clip.device), pairs.flip, uniform(seeds, Stream.AUGMENT, numbers, shape=(5,)), how)
    return x, clip.text.tokens(texts).to(clip.device), shared(pairs, rows, texts)


def _moved(x: Tensor, flip: bool, dice: Tensor, how: ClipTraining) -> Tensor:
    if how.augment == 0.0 and not flip:
        return x
    still = torch.zeros(len(x), dtype=torch.float64)
    amount = 2.0 * how.augment * (dice - 0.5) * 2.0
    mirrored = (dice[:, 0] < 0.5).double() if flip else still
    done = Transformations(
        mirrored, still, amount[:, 1], amount[:, 2], still, still,
        0.5 * amount[:, 3] * x.shape[3], 0.5 * amount[:, 4] * x.shape[2],
    )  # fmt: skip
    return transform(x, done)


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
