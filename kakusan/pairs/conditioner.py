"""The conditioner of models that start from a picture, and from a class or a text too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.conditioning import Condition, Conditioner
from kakusan.nn.norms import full_precision
from kakusan.noise import Draws
from kakusan.pairs.base import Given, Pair
from kakusan.specs import register

# Numbers of `Draws`: the first are the pair's own.
_LEVEL, _NOISE = 6, 7
_WAVES = 4


@dataclass(frozen=True, eq=False)
class Start:
    """Raw values of a batch: what `PairConditioner` makes a condition of.

    Args:
        spatial: (B, channels, *size), under its noise already.
        level: (B,) of that noise.
        labels: (B, ...) raw values of what else is asked for (class indices, token numbers), or None where there is
            nothing else.
    """

    spatial: Tensor
    level: Tensor
    labels: Any


@register
class PairConditioner(Conditioner):
    """A picture to start from, under a known amount of noise, and a class or a text where there are any.

    Noise on the condition (Ho et al. 2021, arXiv 2106.15282, section 4; Saharia et al. 2021) makes a model forgive the
    faults of what it is given: in training its level s is uniform from 0 to `noise`, the picture c becomes
    sqrt(1 - s^2) c + s n, and the network is told s. At sampling the user chooses s.

    The dropout plan: with probability `dropout` picture and class (or text) are dropped together, which is what
    guidance needs; with half of it each, the class alone and the picture alone. So a model also works from a picture of
    an unknown class, and from a class alone.

    Args:
        pair: how the picture to start from is made of x0.
        shape: of x0, (C, *size).
        labels: makes conditions of classes (`ClassLabels`) or texts (`TextConditioner`); None for a model of neither.
        width: of `Condition.vector`; 0 where there are neither classes, texts nor noise.
        noise: most of the noise on the condition, from 0 to 1.
        dropout: see above.
    """

    _place: Tensor

    def __init__(
        self,
        *,
        pair: Pair,
        shape: Sequence[int],
        labels: Conditioner | None = None,
        width: int = 0,
        noise: float = 0.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        pair.check(shape)
        if not 0.0 <= noise <= 1.0:
            raise ValueError(f"the most noise on a condition lies between 0 and 1, got {noise}")
        if not 0.0 <= dropout < 0.5:
            raise ValueError(f"condition dropout of pairs is a probability in [0, 0.5), got {dropout}")
        if noise == 0.0 and pair.noisy_itself:
            raise ValueError(f"{type(pair).__name__} without noise has nothing to undo; set pair_noise above 0")
        if (width > 0) != (labels is not None or noise > 0.0):
            raise ValueError(f"a width of {width} does not go with these classes or texts and this noise")
        self.pair, self.shape, self.noise, self.dropout = pair, tuple(shape), noise, dropout
        self.labels = labels
        self.classes = () if labels is None else labels.classes
        self.reads_texts = labels is not None and labels.reads_texts
        # Knows the device also where there are no parameters.
        self.register_buffer("_place", torch.zeros(()), persistent=False)
        self.level = nn.Linear(2 * _WAVES, width, bias=False) if noise > 0.0 else None

    @property
    def channels(self) -> int:
        """Channels of `Condition.spatial`."""
        return self.pair.channels(self.shape)

    @property
    def asking(self) -> Conditioner:
        return self if self.labels is None else self.labels

    def asked(self, labels: Sequence[int | str]) -> Any:
        return super().asked(labels) if self.labels is None else self.labels.asked(labels)

    def forward(self, raw: Any) -> Condition:
        """Raw values of a batch, or what `asked` gave alone, -> vector, tokens and spatial condition."""
        if not isinstance(raw, Start):
            if self.labels is None:
                raise ValueError("this model was trained without classes or texts; give it a picture to start from")
            other = self.labels(raw)
            raw = replace(self._nothing(other.batch, self._place.device), labels=None)
        else:
            with full_precision(raw.spatial):
                other = Condition() if self.labels is None else self.labels(raw.labels)
        vector = other.vector
        if self.level is not None:
            with full_precision(raw.spatial):
                told = self.level(waves(raw.level))
            vector = told if vector is None else vector + told
        return replace(other, vector=vector, spatial=raw.spatial)

    def raw(
        self,
        x0: Tensor,
        labels: Tensor | None,
        draws: Draws,
        partner: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Start:
        """Raw values of training samples x0 (B, C, *size) with labels (B,) or None.

        Args:
            partner: (B, channels, *size), the other pictures, where they come with the data.
        """
        shape = tuple(x0.shape[1:])
        if self.pair.brought:
            if partner is None:
                raise ValueError("this model starts from pictures that come with the data, and there are none")
            spatial = self.pair.spatial(partner, shape)
        else:
            spatial = self.pair(x0, draws)
        level = torch.zeros(len(x0), dtype=torch.float64)
        if self.noise > 0.0:
            level = self.noise * draws.uniform(_LEVEL)
        other = None if self.labels is None else self.labels.raw(x0, labels, draws, partner, text)
        return self._start(self.noised(spatial, level, draws), level, other)

    def start(self, given: Given, labels: Any, seeds: Tensor) -> Condition:
        """The condition of samples that start from pictures.

        Args:
            given: the pictures, one for each sample or one for all.
            labels: what `asked` gave, for each sample; None for no class or text.
            seeds: (B,) of the samples.

        Raises:
            ValueError: more noise than in training, or no class or text where training dropped none.
        """
        if given.noise > self.noise:
            raise ValueError(
                f"this model was trained with noise of 0 to {self.noise:g} on what it starts from, got {given.noise:g}"
            )
        if labels is None and self.labels is not None and self.dropout == 0.0:
            raise ValueError(
                "this model was trained without condition dropout, so it needs a class or a text; give a label"
            )
        device = self._place.device
        spatial = given.expand(len(seeds)).spatial.to(device)
        level = torch.full((len(seeds),), given.noise, dtype=torch.float64)
        draws = Draws(seeds.cpu(), torch.zeros_like(seeds.cpu()))
        if not self.pair.noisy_itself:
            spatial = self.noised(spatial, level, draws)
        return self(self._start(spatial, level, None if labels is None else labels.to(device)))

    def null_raw(self, raw: Any) -> Any:
        if not isinstance(raw, Start):
            return self.asking.null_raw(raw)
        labels = None if self.labels is None else self.labels.null_raw(raw.labels)
        return Start(torch.zeros_like(raw.spatial), torch.zeros_like(raw.level), labels)

    def nothing(self, batch: int) -> Start:
        return self._nothing(batch, self._place.device)

    def null(self, batch: int = 1) -> Condition:
        if self.dropout == 0.0:
            raise ValueError(
                "this model was trained without condition dropout, so it cannot be guided nor sampled without a "
                "picture to start from; use guidance_scale=1, or train with condition dropout > 0"
            )
        return self(self._nothing(batch, self._place.device))

    def drop(self, raw: Start, uniform: Tensor) -> Start:
        """Training: the plan above, sample by sample, by `uniform` (B,)."""
        uniform = uniform.cpu()
        half = 0.5 * self.dropout if self.labels is not None else 0.0
        both = uniform < self.dropout
        first = both | ((uniform >= self.dropout) & (uniform < self.dropout + half))
        second = both | ((uniform >= self.dropout + half) & (uniform < self.dropout + 2.0 * half))
        null = self.null_raw(raw)
        labels = raw.labels
        if labels is not None:
            dropped = first.to(labels.device).view(-1, *[1] * (labels.dim() - 1))
            labels = torch.where(dropped, null.labels, labels)
        where = second.to(raw.spatial.device)
        return Start(
            torch.where(where.view(-1, *[1] * (raw.spatial.dim() - 1)), null.spatial, raw.spatial),
            torch.where(where.to(raw.level.device), null.level, raw.level),
            labels,
        )

    def noised(self, spatial: Tensor, level: Tensor, draws: Draws) -> Tensor:
        """A spatial condition (B, channels, *size) under noise of level (B,), where anything is known of it."""
        if self.noise == 0.0:
            return spatial
        picture, known = spatial[:, :-1], spatial[:, -1:]
        s = level.to(spatial).view(-1, *[1] * (spatial.dim() - 1))
        # Rounding of a square must not leave less than nothing.
        kept = (1.0 - s * s).clamp_min(0.0).sqrt()
        return torch.cat([(kept * picture + s * draws.normal(_NOISE, picture)) * known, known], dim=1)

    def _start(self, spatial: Tensor, level: Tensor, labels: Any) -> Start:
        if self.labels is None:
            labels = None
        elif labels is None:
            # Pictures whose class or text nobody knows.
            labels = self.labels.nothing(len(spatial))
        return Start(spatial, level.to(spatial), labels)

    def _nothing(self, batch: int, device: torch.device) -> Start:
        spatial = torch.zeros(batch, self.channels, *self.shape[1:], device=device)
        labels = None if self.labels is None else self.labels.nothing(batch)
        return Start(spatial, torch.zeros(batch, device=device), labels)


def waves(level: Tensor) -> Tensor:
    """(B,) in [0, 1] -> (B, 8) float32: cosines and sines, of which zero gives ones and zeros."""
    angles = level.float().view(-1, 1) * math.pi * torch.arange(1, _WAVES + 1, device=level.device)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
