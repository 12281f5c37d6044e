"""Training CLIP on pictures with captions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kakusan.data.augment import Transformations, transform
from kakusan.data.source import Pictures
from kakusan.encoders.clip import Clip
from kakusan.noise import Stream, uniform
from kakusan.train.ema import Ema, EmaProfile
from kakusan.train.texts import texts_of

MEASUREMENTS = 8
AVERAGE = 0.06
SCALAR_HASTE = 10.0
"""Scale and bias learn so many times as fast: a short run would leave them where they began."""
BAD_STEPS = 8
"""So many steps in a row may be passed over for numbers that are not finite."""
_WATCHED = 512
_GROUP = 64
_GAP_PAIRS = 8192
_LOOKED_AT = 2000


@dataclass(frozen=True)
class Captioned:
    """Pictures with their texts; those without any are left out.

    Args:
        read: stored pictures by row, in model units (n, C, H, W).
        texts: all texts of each picture, at least one.
        labels: (N,) class indices, or None.
        flip: whether a mirrored picture is as good.
        rows: places of the pictures in the data set.
    """

    read: Callable[[Tensor], Tensor]
    texts: tuple[tuple[str, ...], ...]
    labels: Tensor | None = None
    flip: bool = False
    rows: tuple[int, ...] = ()

    @classmethod
    def of(cls, pictures: Pictures) -> Captioned:
        """The pictures of a data set that have captions.

        Raises:
            ValueError: none has.
        """
        texts = texts_of(pictures)
        rows = torch.tensor([row for row, several in enumerate(texts) if several])
        spec = pictures.spec

        def read(places: Tensor) -> Tensor:
            return spec.to_model(pictures.read(rows[places].tolist()))

        labels = None if pictures.labels is None else pictures.labels[rows]
        return cls(read, tuple(tuple(texts[row]) for row in rows.tolist()), labels, spec.flip, tuple(rows.tolist()))

    def __len__(self) -> int:
        return len(self.texts)

    def pick(self, rows: Tensor, dice: Tensor) -> list[str]:
        """One text of each of the pictures at `rows` (n,), by `dice` (n,) in (0, 1)."""
        chosen = zip(rows.tolist(), dice.tolist(), strict=True)
        return [self.texts[row][int(die * len(self.texts[row]))] for row, die in chosen]


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
    if len(training) < 2:
        raise ValueError(f"CLIP learns to tell pairs apart and needs at least 2, got {len(training)}")
    apart = held_out is not None and len(held_out) >= 2
    measured = held_out if apart and held_out is not None else training
    where = "held-out" if apart else "training"
    groups = [
        {"params": [p for p in clip.parameters() if p.dim() >= 2], "weight_decay": how.decay},
        {"params": [p for p in clip.parameters() if p.dim() == 1], "weight_decay": 0.0},
        {"params": [clip.log_scale, clip.bias], "weight_decay": 0.0, "haste": SCALAR_HASTE},
    ]
    optimizer = torch.optim.AdamW(groups, lr=how.rate, betas=(0.9, 0.98))
    ema = Ema(clip, {"average": EmaProfile(AVERAGE)})
    batch = min(how.batch, len(training))
    step, done, marks, bad, skipped = 0, 0.0, 1, 0, 0
    best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, _copied(ema))
    history: list[dict[str, float]] = []
    began = time.monotonic()
    while done < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = group.get("haste", 1.0) * how.rate * min(1.0, done / 0.05 + 0.01) * (1.0 - done)
        clip.train()
        loss = clip.batch_loss(*_batch(clip, training, step, batch, how))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        if bool(torch.isfinite(loss.detach()) & norm.isfinite()):
            bad = 0
            optimizer.step()
            clip.clamp()
            ema.update()
        else:
            bad, skipped = bad + 1, skipped + 1
            if bad > BAD_STEPS:
                raise ValueError(f"the loss is not finite since step {step - BAD_STEPS}; try a rate below {how.rate}")
        history.append({"step": float(step), "loss": float(loss.detach())})
        step += 1
        done = step / how.steps if how.steps is not None else (time.monotonic() - began) / (60.0 * how.minutes)
        if done >= marks / MEASUREMENTS:
            marks = math.floor(done * MEASUREMENTS) + 1
            found = _viewed(clip, ema, measured)
            history[-1]["held_out_loss"] = found
            if found < best[0]:
                best = (found, step, _copied(ema))
            if say is not None:
                scale = float(clip.scale.detach())
                say(f"step {step}: loss {float(loss.detach()):.3f}, {where} {found:.3f}, scale {scale:.1f}")
    seconds = time.monotonic() - began
    _put(clip, best[2])
    clip.eval().requires_grad_(False)
    clip.measure_gap(*_all_pairs(clip, training))
    return TrainedClip(clip, step, best[1], where, tuple(history), seconds, skipped)


@torch.no_grad()
def embed(clip: Clip, pairs: Captioned, *, which: int = 0, most: int = 8192) -> tuple[Tensor, Tensor]:
    """Directions (n, D) of pictures and of their text number `which`; of at most so many pairs."""
    images, texts = some_embedded(clip, pairs, spaced(len(pairs), most), which)
    return images, clip.embed_texts(texts)


def _all_pairs(clip: Clip, pairs: Captioned) -> tuple[Tensor, Tensor]:
    """Directions (n, D) of pictures and texts, each picture as often as it has texts, `_GAP_PAIRS` at most."""
    several = max(map(len, pairs.texts))
    rows = spaced(len(pairs), max(2, _GAP_PAIRS // several))
    images, _ = some_embedded(clip, pairs, rows, 0)
    owners = [(place, text) for place, row in enumerate(rows.tolist()) for text in pairs.texts[row]]
    return images[[place for place, _ in owners]], clip.embed_texts([text for _, text in owners])


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


def shared(pairs: Captioned, rows: Tensor, texts: Sequence[str]) -> Tensor:
    """(B, B) bool, True where text j is one of all texts of picture i, or text i one of picture j's."""
    owned = [frozenset(pairs.texts[row]) for row in rows.tolist()]
    belongs = torch.tensor([[text in own for text in texts] for own in owned])
    return belongs | belongs.T


def order(numbers: Tensor, count: int, seed: int) -> Tensor:
    """Rows of the samples with these numbers: every row once in an order of chance before any comes again.

    A pure function of (seed, number), so it needs no state.
    """
    epochs = (numbers // count).tolist()
    shuffled = {
        epoch: torch.randperm(count, generator=torch.Generator().manual_seed((seed << 20) + epoch))
        for epoch in dict.fromkeys(epochs)
    }
    return torch.stack([shuffled[e][n] for e, n in zip(epochs, (numbers % count).tolist(), strict=True)])


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
    _put(clip, ema.averages["average"])
    clip.eval()
    try:
        return held_out_loss(clip, pairs)
    finally:
        _put(clip, live)


def _copied(ema: Ema) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in ema.averages["average"].items()}


@torch.no_grad()
def _put(clip: Clip, values: dict[str, Tensor]) -> None:
    for name, parameter in clip.named_parameters():
        parameter.copy_(values[name])


def spaced(count: int, most: int) -> Tensor:
    """Up to `most` of `count` rows, drawn once and for all, in order."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most].sort().values


@torch.no_grad()
def some_embedded(clip: Clip, pairs: Captioned, rows: Tensor, which: int) -> tuple[Tensor, list[str]]:
    """Directions (n, D) of the pictures at `rows`, and their text number `which`, the last where there are fewer."""
    images = torch.cat([clip.embed_images(pairs.read(part)) for part in rows.split(256)])
    return images, [pairs.texts[row][min(which, len(pairs.texts[row]) - 1)] for row in rows.tolist()]


def notes_on(clip: Clip, pairs: Captioned, pictures: int) -> list[str]:
    """What a person should know of these captions before training."""
    notes = []
    if len(pairs) < pictures:
        notes.append(f"{pictures - len(pairs)} of {pictures} pictures have no caption and are left out")
    different = sorted({text for several in pairs.texts for text in several})
    looked = [different[place] for place in spaced(len(different), _LOOKED_AT).tolist()]
    cut = sum(1 for text in looked if clip.text.report(text).cut)
    if cut:
        notes.append(f"{cut} of {len(looked)} captions looked at are too long and lose their end; raise --length")
    if len(different) < len(pairs):
        notes.append(f"only {len(different)} captions differ: equal ones are no negatives of each other")
    return notes
