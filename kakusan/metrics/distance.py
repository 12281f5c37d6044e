"""What a distance between samples and real pictures is, and how it is set beside its null."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Compared = Callable[[Tensor, Tensor], float]
"""(rows of the samples, rows of the real pictures) -> the distance; rows index the features it was made of."""


@runtime_checkable
class Distance(Protocol):
    """A number about two sets of features."""

    @property
    def name(self) -> str:
        """In the field's words."""
        ...

    @property
    def better(self) -> str:
        """ "low" or "high"."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What the number depends on beside the features; plain values."""
        ...

    def on(self, features: Tensor) -> Compared:
        """Prepare (N, D) float64 features of all pictures; what it returns compares any rows of them.

        What can be shared between comparisons (a matrix of distances, projections) is computed here once.
        """
        ...


@dataclass(frozen=True)
class Measured:
    """A distance beside what real pictures score.

    Args:
        value: mean over the splits of the pool.
        stderr: over other samples of the same source, the splits kept.
        null: what one half of the real pictures scores against the other, mean over the splits.
        null_stderr: standard deviation of one split's null.
    """

    value: float
    stderr: float
    null: float
    null_stderr: float


@dataclass(frozen=True)
class Splits:
    """How a distance is set beside its null.

    The real pictures are cut in two halves of n again and again; the samples are compared with the first half, the
    second half in their place gives the null. The standard error comes from random halves of the samples, drawn without
    replacement: for a mean over n samples the variance over such halves is exactly that of the mean. A bootstrap would
    show neighbours-based metrics every picture beside itself.

    Args:
        count: cuts of the pool.
        halves: of the samples, for the standard error.
        seed: of both.
    """

    count: int = 16
    halves: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 2 or self.halves < 2:
            raise ValueError(f"at least two cuts and two halves are needed, got {self.count} and {self.halves}")

    def measure(self, compare: Compared, *, n: int, pool: int) -> Measured:
        """Measure n samples, rows 0 to n - 1 of the features, against the pool, the rows behind them.

        Raises:
            ValueError: a pool of fewer than 2 n.
        """
        if pool < 2 * n:
            raise ValueError(f"{n} samples need {2 * n} real pictures to be set beside, there are {pool}")
        generator = torch.Generator().manual_seed(self.seed)
        samples, values, nulls = torch.arange(n), [], []
        for _ in range(self.count):
            rows = n + torch.randperm(pool, generator=generator)[: 2 * n]
            first, second = rows[:n], rows[n:]
            values.append(compare(samples, first))
            nulls.append(compare(second, first))
        # The reference stays as it was, of the same size as the half of the samples.
        real = n + torch.randperm(pool, generator=generator)[: n // 2]
        halves = [compare(torch.randperm(n, generator=generator)[: n // 2], real) for _ in range(self.halves)]
        return Measured(_mean(values), _deviation(halves), _mean(nulls), _deviation(nulls))

    def settings(self) -> dict[str, Any]:
        """For the record."""
        return {"splits": self.count, "split_seed": self.seed}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: list[float]) -> float:
    mean = _mean(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
