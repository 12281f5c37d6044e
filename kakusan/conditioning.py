"""Conditions: what a sample is asked to be, and the only place that makes them.

A `Condition` is a typed value with one slot for each way a backbone can use it. A `Conditioner` turns raw input
(labels) into a `Condition`, alone knows the null value that stands for "no condition", and owns the dropout plan that
classifier-free guidance needs (Ho & Salimans 2022, arXiv 2207.12598).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.noise import Draws
from kakusan.specs import register, suggestion


@dataclass(frozen=True)
class TokenSet:
    """A named sequence for cross-attention: `values` (B, L, D); `mask` (B, L), True where a token is real."""

    values: Tensor
    mask: Tensor | None = None

    def filled(self, length: int) -> TokenSet:
        """The same with `length` tokens, the further ones not real.

        Raises:
            ValueError: a set without a mask, all of whose tokens are real.
        """
        more = length - self.values.shape[1]
        if more == 0:
            return self
        if self.mask is None:
            raise ValueError("token sets of different lengths need masks")
        return TokenSet(F.pad(self.values, (0, 0, 0, more)), F.pad(self.mask, (0, more)))


@dataclass(frozen=True)
class Condition:
    """What the backbone is told beside the noise level.

    Args:
        vector: (B, D), added to the noise-level embedding.
        tokens: named token sets for cross-attention.
        spatial: (B, C, *spatial), concatenated to the input.
        augment: (B, D), how a training sample was changed (`kakusan.data.augment`); zeros and None mean not at all, so
            sampling never gives it.
    """

    vector: Tensor | None = None
    tokens: Mapping[str, TokenSet] = field(default_factory=dict)
    spatial: Tensor | None = None
    augment: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """The same condition with `function` applied to every tensor."""
        return Condition(
            vector=None if self.vector is None else function(self.vector),
            tokens={
                name: TokenSet(function(t.values), None if t.mask is None else function(t.mask))
                for name, t in self.tokens.items()
            },
            spatial=None if self.spatial is None else function(self.spatial),
            augment=None if self.augment is None else function(self.augment),
        )

    def combine(self, other: Condition, function: Callable[[Tensor, Tensor], Tensor]) -> Condition:
        """`function(mine, theirs)` on every tensor; both must fill the same slots."""
        if len(self.tensors()) != len(other.tensors()) or set(self.tokens) != set(other.tokens):
            raise ValueError("two conditions of different kinds cannot be combined")
        lengths = {name: max(len(c.tokens[name].values[0]) for c in (self, other)) for name in self.tokens}
        mine, theirs = self._of_length(lengths), other._of_length(lengths)
        pairs = iter(theirs.tensors())
        return mine.map(lambda own: function(own, next(pairs)))

    def _of_length(self, lengths: Mapping[str, int]) -> Condition:
        """The same with token sets filled up to these lengths by tokens that are not real."""
        if all(self.tokens[name].values.shape[1] == length for name, length in lengths.items()):
            return self
        filled = {name: tokens.filled(lengths[name]) for name, tokens in self.tokens.items()}
        return replace(self, tokens=filled)

    def tensors(self) -> list[Tensor]:
        """Every tensor held, in a fixed order."""
        found = [] if self.vector is None else [self.vector]
        for name in self.tokens:
            tokens = self.tokens[name]
            found += [tokens.values] if tokens.mask is None else [tokens.values, tokens.mask]
        return found + [part for part in (self.spatial, self.augment) if part is not None]

    @property
    def batch(self) -> int:
        """B, the number of samples described."""
        tensors = self.tensors()
        if not tensors:
            raise ValueError("an empty condition has no batch size; pass cond=None instead")
        return len(tensors[0])

    def expand(self, batch: int) -> Condition:
        """One condition (B = 1) for `batch` samples; unchanged when it already has that many."""
        if self.batch == batch:
            return self
        if self.batch != 1:
            raise ValueError(f"a condition for {self.batch} samples was given with {batch} samples")
        return self.map(lambda x: x.expand(batch, *x.shape[1:]))

    def cat(self, other: Condition) -> Condition:
        """Both, one after the other along the batch."""
        return self.combine(other, lambda a, b: torch.cat([a, b]))


class Conditioner(nn.Module):
    """Maker of conditions; base class.

    `dropout` is the probability with which training replaces a sample's whole condition (all parts together) by the
    null value. Zero means that the model never saw "no condition", so it cannot be guided.
    """

    dropout: float = 0.0
    classes: tuple[str, ...] = ()
    """Names of the classes that can be asked for; empty where there are none."""
    reads_texts: bool = False
    """Whether it is asked with texts in place of classes."""
    follows_both: bool = True
    """Whether a class or text and what is given to start from can be followed at once."""

    def forward(self, raw: Any) -> Condition:
        """Raw values (B, ...) -> Condition."""
        raise NotImplementedError

    def raw(
        self,
        x0: Tensor,
        labels: Tensor | None,
        draws: Draws,
        partner: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Any:
        """What training makes a condition of: here the labels (B,) of the samples, None where they have none.

        Args:
            x0: (B, C, *spatial), the samples.
            labels: (B,) or None.
            draws: the samples' own randomness.
            partner: (B, C, *spatial), the other pictures of data that come in pairs.
            text: (B, L) int64, token numbers of one caption for each sample, padded.
        """
        return labels

    def asked(self, labels: Sequence[int | str]) -> Any:
        """Raw values of what a user asks for: here class indices (B,); texts where `reads_texts`.

        Raises:
            ValueError: not something that this conditioner reads.
        """
        least, most = min(map(int, labels)), max(map(int, labels))
        if not 0 <= least <= most < len(self.classes):
            raise ValueError(f"labels run from {least} to {most}; the model has classes 0 to {len(self.classes) - 1}")
        return torch.tensor([int(label) for label in labels])

    def nothing(self, batch: int) -> Any:
        """The raw null value of `batch` samples, on the model's device."""
        raise NotImplementedError

    @property
    def asking(self) -> Conditioner:
        """What reads classes or texts: this conditioner, or the part of it that does."""
        return self

    def start(self, given: Any, labels: Any, seeds: Tensor) -> Condition:
        """The condition of samples that start from pictures (`kakusan.pairs.Given`), `labels` being what `asked` gave.

        Raises:
            ValueError: this model was not trained to.
        """
        raise ValueError("this model was not trained on pairs, so it cannot start from a picture; train with --pair")

    def null_raw(self, raw: Any) -> Any:
        """The raw null value in the shape of `raw`."""
        raise NotImplementedError

    def null(self, batch: int = 1) -> Condition:
        """ "No condition" for `batch` samples.

        Raises:
            ValueError: the model was trained without condition dropout.
        """
        raise NotImplementedError

    def drop(self, raw: Any, uniform: Tensor) -> Any:
        """Training: null in place of `raw` where `uniform` (B,) is below `dropout`, sample by sample."""
        dropped = uniform.to(raw.device) < self.dropout
        return torch.where(dropped.view(-1, *[1] * (raw.dim() - 1)), self.null_raw(raw), raw)


@register
class ClassLabels(Conditioner):
    """One of `classes` -> a learned vector (B, width).

    The table has one more row, the null class, which is what dropped samples and the unconditional half of guidance
    use.
    """

    def __init__(self, *, classes: Sequence[str], width: int, dropout: float = 0.1) -> None:
        super().__init__()
        if not classes:
            raise ValueError("ClassLabels needs at least one class name")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"condition dropout is a probability in [0, 1), got {dropout}")
        self.classes = tuple(classes)
        self.dropout = dropout
        self.table = nn.Embedding(len(classes) + 1, width)
        # At the scale of a unit vector, so that the class is as loud as the noise level from the first step.
        nn.init.normal_(self.table.weight, std=width**-0.5)

    def forward(self, raw: Tensor) -> Condition:
        """Class indices (B,) int64, the null class included -> `Condition(vector=(B, width))`."""
        return Condition(vector=self.table(raw))

    def null_raw(self, raw: Tensor) -> Tensor:
        return torch.full_like(raw, len(self.classes))

    def nothing(self, batch: int) -> Tensor:
        return torch.full((batch,), len(self.classes), device=self.table.weight.device)

    def null(self, batch: int = 1) -> Condition:
        if self.dropout == 0.0:
            raise ValueError(
                "this model was trained without condition dropout, so it never learned 'no condition' and cannot be "
                "guided or sampled without a label; sample it with guidance_scale=1, or train with condition "
                "dropout > 0"
            )
        return self(self.nothing(batch))

    def index(self, label: str | int) -> int:
        """Index of a label given by name or number.

        Raises:
            ValueError: no such label, with the nearest name.
        """
        return class_index(self.classes, label)


def class_index(classes: Sequence[str], label: str | int) -> int:
    """Index of a class given by name or number.

    Raises:
        ValueError: no such class, with the nearest name.
    """
    if isinstance(label, str) and label in classes:
        return list(classes).index(label)
    # Folders are often called 074_rose: the name without its number will do when it is the only one.
    bare = [i for i, name in enumerate(classes) if _bare(name) == _bare(str(label))]
    if len(bare) == 1 and _bare(str(label)):
        return bare[0]
    try:
        number = int(label)
    except ValueError:
        known = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
        raise ValueError(
            f"no class {label!r}{suggestion(str(label), list(classes))}; the classes are {known}"
        ) from None
    if not 0 <= number < len(classes):
        raise ValueError(f"label {number} is out of range: the model has classes 0 to {len(classes) - 1}")
    return number


def _bare(name: str) -> str:
    """A class name without a leading number, in lower case, with spaces for separators."""
    return name.lstrip("0123456789").replace("_", " ").replace("-", " ").strip().lower()
