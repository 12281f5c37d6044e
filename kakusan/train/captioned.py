"""Pictures with captions as CLIP is trained and measured on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kakusan.data.augment import Transformations, transform
from kakusan.data.source import Pictures
from kakusan.encoders.clip import Clip
from kakusan.noise import Stream, uniform
from kakusan.train.texts import texts_of

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

    @cached_property
    def several(self) -> bool:
        """Whether some picture has more than one text."""
        return any(len(texts) > 1 for texts in self.texts)

    def pick_two(self, rows: Tensor, dice: Tensor) -> tuple[list[str], list[str]]:
        """Two texts of each of the pictures at `rows` (n,), by `dice` (n, 2) in (0, 1); different ones where there are
        two.
        """
        first, second = [], []
        for row, (one, other) in zip(rows.tolist(), dice.tolist(), strict=True):
            texts = self.texts[row]
            place = int(one * len(texts))
            first.append(texts[place])
            second.append(texts[(place + 1 + int(other * (len(texts) - 1))) % len(texts)])
        return first, second

    def pick(self, rows: Tensor, dice: Tensor) -> list[str]:
        """One text of each of the pictures at `rows` (n,), by `dice` (n,) in (0, 1)."""
        chosen = zip(rows.tolist(), dice.tolist(), strict=True)
        return [self.texts[row][int(die * len(self.texts[row]))] for row, die in chosen]


def shared(owned: Sequence[frozenset[str]], texts: Sequence[str]) -> Tensor:
    """(B, B) bool, True where text j is one of all texts `owned` by picture i, or text i one of picture j's."""
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


@dataclass(frozen=True)
class Batch:
    """What CLIP reads in a step.

    Args:
        x: pictures (B, C, H, W).
        ids: tokens (B, L) of one text of each.
        also: (B, B), which texts belong to which pictures too.
        second: the latter two of another text of each, where two are read.
    """

    x: Tensor
    ids: Tensor
    also: Tensor
    second: tuple[Tensor, Tensor] | None


def batch_of(clip: Clip, pairs: Captioned, numbers: Tensor, *, seed: int, augment: float, two: bool) -> Batch:
    """The batch of the samples with these numbers, a pure function of seed and numbers.

    Args:
        clip: whose tokenizer reads, and on whose device the batch shall be.
        pairs: those that are trained on.
        numbers: (B,), of samples.
        seed: of order, choice of captions and augmentation.
        augment: how far pictures are moved, turned and scaled.
        two: read two texts of each picture, where some picture has several.
    """
    rows, seeds = order(numbers, len(pairs), seed), torch.full((len(numbers),), seed)
    dice = uniform(seeds, Stream.AUGMENT, numbers, shape=(5,))
    x = _moved(pairs.read(rows).to(clip.device), pairs.flip, dice, augment)
    owned = [frozenset(pairs.texts[row]) for row in rows.tolist()]

    def told(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return clip.text.tokens(texts).to(clip.device), shared(owned, texts)

    if not two or not pairs.several:
        return Batch(x, *told(pairs.pick(rows, uniform(seeds, Stream.CAPTION, numbers))), None)
    first, second = pairs.pick_two(rows, uniform(seeds, Stream.CAPTION, numbers, shape=(2,)))
    return Batch(x, *told(first), told(second))


def _moved(x: Tensor, flip: bool, dice: Tensor, augment: float) -> Tensor:
    if augment == 0.0 and not flip:
        return x
    still = torch.zeros(len(x), dtype=torch.float64)
    amount = 2.0 * augment * (dice - 0.5) * 2.0
    mirrored = (dice[:, 0] < 0.5).double() if flip else still
    done = Transformations(
        mirrored, still, amount[:, 1], amount[:, 2], still, still,
        0.5 * amount[:, 3] * x.shape[3], 0.5 * amount[:, 4] * x.shape[2],
    )  # fmt: skip
    return transform(x, done)


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


@torch.no_grad()
def embed(clip: Clip, pairs: Captioned, *, which: int = 0, most: int = 8192) -> tuple[Tensor, Tensor]:
    """Directions (n, D) of pictures and of their text number `which`; of at most so many pairs."""
    images, texts = some_embedded(clip, pairs, spaced(len(pairs), most), which)
    return images, clip.embed_texts(texts)


def all_pairs(clip: Clip, pairs: Captioned) -> tuple[Tensor, Tensor]:
    """Directions (n, D) of pictures and texts, each picture as often as it has texts, `_GAP_PAIRS` at most."""
    several = max(map(len, pairs.texts))
    rows = spaced(len(pairs), max(2, _GAP_PAIRS // several))
    images, _ = some_embedded(clip, pairs, rows, 0)
    owners = [(place, text) for place, row in enumerate(rows.tolist()) for text in pairs.texts[row]]
    return images[[place for place, _ in owners]], clip.embed_texts([text for _, text in owners])
