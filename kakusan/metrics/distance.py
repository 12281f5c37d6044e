"""What a distance between samples and real pictures is, and how it is set beside its null."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Compared = Callable[[Tensor, Tensor], float]
"""(rows of the samples, rows of the real pictures) -> the distance; rows index the features it was made of."""


class Cloud:
    """Features (N, D) of all pictures, and what several distances need of them, each computed once.

    Raises:
        ValueError: features of another shape, or values that are not finite.
    """

    def __init__(self, features: Tensor) -> None:
        if features.dim() != 2 or 0 in features.shape:
            raise ValueError(f"features are (N, D) with N and D of at least 1, got {tuple(features.shape)}")
        if not bool(features.isfinite().all()):
            raise ValueError("the features hold values that are not finite")
        self.features = features.detach().cpu().double()

    @classmethod
    def of(cls, features: Tensor | Cloud) -> Cloud:
        """Features as they were given, or made into a cloud."""
        return features if isinstance(features, Cloud) else cls(features)

    @property
    def dim(self) -> int:
        """D."""
        return self.features.shape[1]

    @cached_property
    def centred(self) -> Tensor:
        """Features less the mean of all (N, D): differences stay as they are, and rounding is small."""
        return self.features - self.features.mean(0)

    @cached_property
    def products(self) -> Tensor:
        """Inner products of the centred features (N, N)."""
        return self.centred @ self.centred.T

    def squares(self) -> Tensor:
        """Squared Euclidean distances (N, N), float64. Rows that differ by rounding only are at 0: a copy is a copy."""
        norms = self.centred.square().sum(1)
        found = (self.centred @ self.centred.T).mul_(-2.0).add_(norms[:, None]).add_(norms)
        # What rounding leaves of a difference of nothing, from the products and from taking the mean.
        least = (1e-14 * self.features.abs().max()).square() * self.dim
        return found.masked_fill_(found <= 1e-13 * (norms[:, None] + norms) + least, 0.0)

    @cached_property
    def distances(self) -> Tensor:
        """Euclidean distances (N, N), float32: equal ones come out equal, where float64 would keep their rounding."""
        return self.squares().float().sqrt_()


@runtime_checkable
class Distance(Protocol):
    """A number about two sets of features."""

    @property
    def name(self) -> str:
        """In the field's words."""
        ...

    @property
    def better(self) -> str:
        """ "low", "high", or "null" when nothing but the null is right."""
        ...

    @property
    def paired(self) -> bool:
        """Whether it depends, beside their laws, on how many samples there are for each real picture."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """What the number depends on beside the features; plain values."""
        ...

    def on(self, features: Tensor | Cloud) -> Compared:
        """Prepare (N, D) features of all pictures; what it returns compares any rows of them.

        What can be shared between comparisons (a matrix of distances, projections) is computed here once. Give the
        same `Cloud` to several distances, and they share it too.
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
    """How a distance is set beside its null, and what its standard error is.

    The real pictures are cut in two halves of n again and again; the samples are compared with the first half, the
    second half in their place gives the null. With labels, every half has each class in the same proportion, as the
    samples have when they are asked for by class: else chance in the number of each class would be in the null and not
    in the value.

    The standard error is a jackknife: the samples are dealt into quarters, each is left out in turn, and the variance
    of what is left is multiplied by 3 (Shao & Wu 1989, delete-d with d = n / 4). For a mean that is exact. For a
    distance near its null, which is quadratic in what differs, it is up to the root of 2 too large. Leaving out single
    pictures serves quantities made of nearest neighbours badly, and a bootstrap would show them each picture beside
    itself. `benchmarks/eval_repeat.py` measures how often another seed lands where it says.

    Args:
        count: cuts of the pool.
        turns: times that the samples are dealt into quarters.
        seed: of both.
    """

    count: int = 16
    turns: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 2 or self.turns < 1:
            raise ValueError(f"at least two cuts and one turn are needed, got {self.count} and {self.turns}")

    def measure(
        self,
        compare: Compared,
        *,
        n: int,
        pool: int,
        labels: Tensor | None = None,
        pool_labels: Tensor | None = None,
        paired: bool = False,
    ) -> Measured:
        """Measure n samples, rows 0 to n - 1 of the features, against the pool, the rows behind them.

        Args:
            compare: the distance on those features.
            n: samples, at least 8.
            pool: real pictures.
            labels: (n,) classes that the samples were asked for; another seed has as many of each.
            pool_labels: (pool,) classes of the real pictures; used when `labels` is given too.
            paired: the distance depends on how many samples there are for each real picture; where samples are left
                out, so are real ones.

        Raises:
            ValueError: a pool of fewer than 2 n, or fewer than 8 samples.
        """
        if n < FEWEST_SAMPLES:
            raise ValueError(f"a distance and its error need at least {FEWEST_SAMPLES} samples, there are {n}")
        if pool < 2 * n:
            raise ValueError(f"{n} samples need {2 * n} real pictures to be set beside, there are {pool}")
        generator = torch.Generator().manual_seed(self.seed)
        real = None if labels is None else pool_labels
        cuts = [deal(pool, 2, n, generator, real) for _ in range(self.count)]
        values = [compare(torch.arange(n), n + first) for first, _ in cuts]
        nulls = [compare(n + second, n + first) for first, second in cuts]
        variances = []
        for turn in range(self.turns):
            firsts = [cuts[(REFERENCES * turn + i) % self.count][0] for i in range(REFERENCES)]
            if paired:
                dealt = [
                    (first, deal(n, QUARTERS, n // QUARTERS, generator, None if real is None else real[first]))
                    for first in firsts
                ]
                firsts = [first[torch.cat(parts[1:])] for first, parts in dealt]
            quarters = deal(n, QUARTERS, n // QUARTERS, generator, labels)
            left = [torch.cat(quarters[:i] + quarters[i + 1 :]) for i in range(QUARTERS)]
            variances.append(_variance([_mean([compare(rows, n + first) for first in firsts]) for rows in left]))
        # The variance with N - 1 over Q leave-outs, times (Q - 1)^2 / Q.
        stderr = math.sqrt(_mean(variances) * (QUARTERS - 1) ** 2 / QUARTERS)
        return Measured(_mean(values), stderr, _mean(nulls), math.sqrt(_variance(nulls)))

    @property
    def comparisons(self) -> int:
        """How often `measure` compares two sets, for estimates of time."""
        return 2 * self.count + self.turns * QUARTERS * REFERENCES

    def settings(self) -> dict[str, Any]:
        """For the record. `turns` decides no value, only how well the standard error is known."""
        return {"splits": self.count, "split_seed": self.seed}


QUARTERS = 4
"""Parts of the samples, each left out in turn."""

REFERENCES = 4
"""Halves of the pool that each leave-out is compared with: the standard error is of a mean over many of them."""

FEWEST_SAMPLES = 8
"""Below this a quarter is one sample."""


def deal(total: int, parts: int, size: int, generator: torch.Generator, labels: Tensor | None = None) -> list[Tensor]:
    """Disjoint random parts (size,) of the rows below `total`; with labels (total,), each class evenly over them.

    Raises:
        ValueError: fewer rows than parts times size.
    """
    if parts * size > total:
        raise ValueError(f"{parts} parts of {size} need {parts * size} rows, there are {total}")
    order = torch.randperm(total, generator=generator)
    if labels is not None:
        order = order[labels[order].argsort(stable=True)]
    # At even distances along the classes: the order within a class is random, so any choice of places is.
    places = (torch.arange(parts * size) * total) // (parts * size)
    # Which part gets the odd one of a class is left to chance too.
    turned = order[places].reshape(size, parts)
    turns = torch.rand(size, parts, generator=generator).argsort(dim=1)
    dealt = turned.gather(1, turns)
    return [dealt[torch.randperm(size, generator=generator), i] for i in range(parts)]


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: list[float]) -> float:
    mean = _mean(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
