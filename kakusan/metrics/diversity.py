"""How far samples of one class are from each other, beside real pictures of that class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.metrics.sets import PictureSet

if TYPE_CHECKING:
    from kakusan.metrics.evaluation import Evaluation
    from kakusan.metrics.spaces.base import Space


@dataclass(frozen=True)
class PairDistance:
    """Mean distance of the pairs of one set, an unbiased estimate at any number of pictures (Hoeffding 1948).

    Args:
        mean: over all pairs.
        spread: standard deviation over pictures of their mean distance to the others; a set of n has the standard error
            2 spread / sqrt(n).
        n: pictures.
    """

    mean: float
    spread: float
    n: int

    @classmethod
    def of(cls, features: Tensor) -> PairDistance | None:
        """Of features (N, D); None below three."""
        n = len(features)
        if n < 3:
            return None
        distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
        each = distances.sum(1) / (n - 1)
        return cls(float(each.mean()), float(each.std()), n)


@dataclass(frozen=True)
class ClassDiversity:
    """One class; `label` is None where there are no classes."""

    label: int | None
    samples: PairDistance
    real: PairDistance

    @property
    def ratio(self) -> float:
        """1: as diverse as real pictures of the class; 0: one picture over and over."""
        return self.samples.mean / self.real.mean if self.real.mean else math.nan


def diversity(evaluation: Evaluation, samples: PictureSet, space: Space) -> list[ClassDiversity]:
    """Every class with at least three samples and three real pictures; all together without labels."""
    pool = evaluation.reference.pool
    mine, theirs = evaluation.features(space, samples), evaluation.features(space, pool)
    if samples.labels is None or pool.labels is None:
        parts: list[tuple[int | None, Tensor, Tensor]] = [(None, mine, theirs)]
    else:
        parts = [
            (label, mine[samples.labels == label], theirs[pool.labels == label])
            for label in samples.labels.unique().tolist()
        ]
    found = []
    for label, a, b in parts:
        both = PairDistance.of(a), PairDistance.of(b)
        if both[0] is not None and both[1] is not None:
            found.append(ClassDiversity(label, both[0], both[1]))
    return found


def diversity_records(
    evaluation: Evaluation, samples: PictureSet, space: Space, *, by_class: bool = False
) -> list[MetricRecord]:
    """The mean distance of pairs within a class, mean over classes; nothing where no class has three pictures.

    Args:
        evaluation: with the real pictures.
        samples: to measure.
        space: where distances are taken.
        by_class: one more record for each class.
    """
    rows = diversity(evaluation, samples, space)
    if not rows:
        return []
    names, of = samples.spec.classes, evaluation.provenance(samples, space)
    found = [_record("diversity within classes" if rows[0].label is not None else "diversity", rows, of, space.name)]
    if by_class:
        found += [
            _record(f"diversity of {names[row.label]}", [row], of, space.name) for row in rows if row.label is not None
        ]
    return found


def _record(name: str, rows: list[ClassDiversity], of: Provenance, space: str) -> MetricRecord:
    k = len(rows)
    samples = sum(4.0 * row.samples.spread**2 / row.samples.n for row in rows)
    null = sum(4.0 * row.real.spread**2 * (1.0 / row.samples.n + 1.0 / row.real.n) for row in rows)
    return MetricRecord(
        name=name,
        value=math.fsum(row.samples.mean for row in rows) / k,
        stderr=math.sqrt(samples) / k,
        n=sum(row.samples.n for row in rows),
        of=of,
        space=space,
        null=math.fsum(row.real.mean for row in rows) / k,
        null_stderr=math.sqrt(null) / k or None,
        better="null",
    )
