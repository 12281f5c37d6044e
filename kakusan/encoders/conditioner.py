"""Texts as conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.conditioning import Condition, Conditioner, TokenSet
from kakusan.encoders.base import TextEncoder, Word
from kakusan.encoders.weighting import apply_weights, token_weights, weighted
from kakusan.noise import Draws
from kakusan.specs import register

TOKENS = "text"
"""Name of the token set that carries a text."""


@dataclass(frozen=True)
class WeightedTexts:
    """Token numbers with weights, of prompts that ask for some of their words louder than others.

    Args:
        ids: (B, L) int64.
        weights: (B, L), 1 where nothing is changed.
    """

    ids: Tensor
    weights: Tensor

    def to(self, device: torch.device | str) -> WeightedTexts:
        """The same on a device."""
        return WeightedTexts(self.ids.to(device), self.weights.to(device))


@register
class TextConditioner(Conditioner):
    """A text -> its tokens, for cross-attention, and a vector (B, width) of the whole of it.

    "No condition" is the empty text, so that a prompt of nothing means what it says.

    Args:
        encoder: reads the texts; trained along with the model unless `frozen`.
        width: of the vector.
        dropout: how often training puts the empty text in place of a caption.
        frozen: keep the encoder as it is.
    """

    reads_texts = True

    def __init__(self, *, encoder: TextEncoder, width: int, dropout: float = 0.1, frozen: bool = False) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"condition dropout is a probability in [0, 1), got {dropout}")
        self.dropout, self.frozen = dropout, frozen
        self.encoder = encoder
        self.project = nn.Linear(encoder.vector_width, width)
        if frozen:
            encoder.requires_grad_(False)
        # Knows the device also where the encoder keeps its weights elsewhere.
        self.register_buffer("_empty", encoder.tokens([""]), persistent=False)

    def train(self, mode: bool = True) -> TextConditioner:
        """As every module; a frozen encoder stays as it is used."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, raw: Tensor | WeightedTexts) -> Condition:
        """Token numbers (B, L) int64, with weights or without -> tokens and vector.

        Raises:
            ValueError: class indices, which this model was not trained on.
        """
        ids, weights = (raw.ids, raw.weights) if isinstance(raw, WeightedTexts) else (raw, None)
        if ids.dim() != 2:
            raise ValueError("this model was trained on texts, not on classes; ask it with a text")
        # Rows are as long as the longest text of all; what no text of this batch reaches need not be computed.
        used = (ids != self.encoder.pad).any(0).nonzero()
        features = self.encoder(ids[:, : max(1, int(used[-1]) + 1 if len(used) else 1)])
        if weights is not None:
            features = apply_weights(features, self.encoder(self.nothing(1)), weights)
        return Condition(
            vector=self.project(features.vector), tokens={TOKENS: TokenSet(features.values, features.mask)}
        )

    def raw(
        self,
        x0: Tensor,
        labels: Tensor | None,
        draws: Draws,
        partner: Tensor | None = None,
        text: Tensor | None = None,
    ) -> Tensor:
        """The token numbers; the empty text where the data have none."""
        return self.nothing(len(x0)).to(x0.device) if text is None else text

    def asked(self, labels: Sequence[int | str]) -> Tensor | WeightedTexts:
        """Prompts, in which `(word:1.3)` weighs a part (`kakusan.encoders.weighting`) -> token numbers (B, L)."""
        numbers = [label for label in labels if not isinstance(label, str)]
        if numbers:
            raise ValueError(f"this model was trained on texts, not on classes: ask it with a text, got {numbers[0]!r}")
        prompts = [weighted(str(label)) for label in labels]
        ids = self.encoder.tokens([prompt.text for prompt in prompts])
        if not any(prompt.spans for prompt in prompts):
            return ids
        return WeightedTexts(ids, torch.stack([token_weights(self.encoder, prompt) for prompt in prompts]))

    def notes(self, prompt: str) -> list[str]:
        """What happened to a prompt on its way here, one sentence for each thing worth saying."""
        said = weighted(prompt)
        return [*said.notes, *self.encoder.report(said.text).notes()]

    def words(self, prompt: str) -> list[Word]:
        """The words of a prompt with the places of their tokens."""
        return self.encoder.words(weighted(prompt).text)

    def null_raw(self, raw: Tensor) -> Tensor:
        return self.nothing(len(raw)).to(raw.device)

    def null(self, batch: int = 1) -> Condition:
        if self.dropout == 0.0:
            raise ValueError(
                "this model was trained without condition dropout, so it never learned 'no text' and cannot be guided; "
                "sample it with guidance_scale=1, or train with condition dropout > 0"
            )
        return self(self.nothing(batch))

    def start(self, given: Any, labels: Any, seeds: Tensor) -> Condition:
        raise ValueError("this model was trained on texts, so it cannot start from a picture; train with --pair")

    def nothing(self, batch: int) -> Tensor:
        empty = self._empty
        assert isinstance(empty, Tensor)
        return empty.expand(batch, -1)
