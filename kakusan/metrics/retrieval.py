"""Retrieval and zero-shot accuracy, with standard errors and the level of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

KS = (1, 5, 10)


@dataclass(frozen=True)
class Rate:
    """A share of successes.

    Args:
        value: the share.
        error: its standard error, of independent queries.
        chance: what guessing gives.
        count: queries.
    """

    value: float
    error: float
    chance: float
    count: int

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} +- {self.error:.3f} (chance {self.chance:.3f}, n {self.count})"


def recall(similarity: Tensor, right: Tensor, ks: Sequence[int] = KS) -> dict[int, Rate]:
    """Recall at k: the share of queries with a right answer among the k most similar.

    A wrong answer that is as similar as the best right one stands before it, so a model that says the same of all
    finds nothing.

    Args:
        similarity: (N, M), queries by answers; larger is more alike.
        right: (N, M) bool, the right answers of each query, at least one.
        ks: how many answers are looked at.

    Returns:
        k -> rate. Chance is that of k answers drawn without regard to the query.

    Raises:
        ValueError: shapes that differ, numbers that are not finite, or a query without a right answer.
    """
    if similarity.dim() != 2 or similarity.shape != right.shape or not len(similarity):
        raise ValueError(f"expected (N, M) twice, got {tuple(similarity.shape)} and {tuple(right.shape)}")
    if not bool(similarity.isfinite().all()):
        raise ValueError("the similarities hold numbers that are not finite")
    if not bool(right.any(1).all()):
        raise ValueError("a query has no right answer")
    best = similarity.masked_fill(~right, -math.inf).amax(1, keepdim=True)
    before = ((similarity >= best) & ~right).sum(1)
    many = right.sum(1)
    found = {}
    for k in ks:
        share = float((before < k).double().mean())
        found[k] = _rate(share, len(similarity), _chance(similarity.shape[1], many, k))
    return found


def accuracy(similarity: Tensor, labels: Tensor) -> Rate:
    """Share of queries whose most similar answer is `labels` (N,), similarity (N, K); a tie is a miss."""
    right = torch.nn.functional.one_hot(labels, similarity.shape[1]).bool()
    return recall(similarity, right, (1,))[1]


def _rate(share: float, count: int, chance: float) -> Rate:
    return Rate(share, math.sqrt(share * (1.0 - share) / count), chance, count)


def _chance(answers: int, many: Tensor, k: int) -> float:
    """Mean over queries of 1 - C(M - r, k) / C(M, k), r of M answers being right."""
    if k >= answers:
        return 1.0
    missed = torch.ones(len(many), dtype=torch.float64)
    for drawn in range(k):
        missed *= (answers - many.double().cpu() - drawn).clamp_min(0.0) / (answers - drawn)
    return float((1.0 - missed).mean())
