"""Losses that bring pictures and their texts together and drive others apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.specs import register


class ContrastiveLoss(Protocol):
    """A loss of the similarities in a batch, with where its scale and bias begin."""

    @property
    def first_log_scale(self) -> float:
        """Logarithm of the factor on cosines at the beginning."""
        ...

    @property
    def first_bias(self) -> float:
        """What is added to the scaled cosines at the beginning."""
        ...

    def __call__(self, logits: Tensor, same: Tensor) -> Tensor:
        """Mean loss, () float32.

        Args:
            logits: (B, B), scaled similarity of picture i (rows) and text j; pairs stand on the diagonal.
            same: (B, B) bool, True where text j says the same as text i (the diagonal is True).
        """
        ...


@register
@dataclass(frozen=True)
class SoftmaxContrast:
    """Each picture picks its text out of the batch and each text its picture (Radford et al. 2021, arXiv 2103.00020).

    Equal texts are no rivals of each other: they are left out of the sums but for the pair's own.
    """

    @property
    def first_log_scale(self) -> float:
        return math.log(1.0 / 0.07)

    @property
    def first_bias(self) -> float:
        return 0.0

    def __call__(self, logits: Tensor, same: Tensor) -> Tensor:
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        rivals = logits.float().masked_fill(same & ~own, -math.inf)
        right = torch.arange(len(logits), device=logits.device)
        return 0.5 * (F.cross_entropy(rivals, right) + F.cross_entropy(rivals.T, right))


@register
@dataclass(frozen=True)
class SigmoidContrast:
    """Each picture and text alone are told to belong together or not (Zhai et al. 2023, arXiv 2303.15343).

    A picture belongs to every text that says the same as its own. The sum over all B^2 pairs is divided by B. The bias
    begins at -5, about -log(B) for batches of hundreds; SigLIP's -10 is for tens of thousands.
    """

    @property
    def first_log_scale(self) -> float:
        return math.log(10.0)

    @property
    def first_bias(self) -> float:
        return -5.0

    def __call__(self, logits: Tensor, same: Tensor) -> Tensor:
        signs = torch.where(same, 1.0, -1.0)
        return -F.logsigmoid(signs * logits.float()).sum() / len(logits)


LOSSES: dict[str, ContrastiveLoss] = {"softmax": SoftmaxContrast(), "sigmoid": SigmoidContrast()}
"""By the names that people choose."""


def same_texts(ids: Tensor) -> Tensor:
    """(B, B) bool, True where two rows of token numbers (B, L) are equal."""
    return (ids[:, None] == ids[None]).all(-1)
