"""Do samples show what they were asked for?"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.metrics.modes import JudgedClasses
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.significance import more

if TYPE_CHECKING:
    from kakusan.metrics.classifier import Classifier
    from kakusan.metrics.evaluation import Evaluation


@dataclass(frozen=True)
class ConditionCount:
    """The judge's errors on samples and on real pictures of the same labels.

    Args:
        wrong: samples whose class in the judge's eyes is not the one asked for.
        n: samples.
        expected: share of real pictures, weighted to the same labels, that the judge gets wrong.
        equal_number: how many equally weighted real pictures would give `expected` with the same certainty.
        by_label: label -> (right, asked, right of real pictures, real pictures).
    """

    wrong: int
    n: int
    expected: float
    equal_number: int
    by_label: dict[int, tuple[int, int, int, int]]

    @property
    def p(self) -> float:
        """Chance of so many errors when samples are as real pictures."""
        return more(self.wrong, self.n, round(self.expected * self.equal_number), self.equal_number)

    @property
    def accuracy(self) -> float:
        """Share of samples that show what was asked for."""
        return 1.0 - self.wrong / self.n

    def ignoring(self, classes: int) -> float:
        """Estimated share of samples made without regard to the label: those that show it by chance are among them."""
        real, chance = 1.0 - self.expected, 1.0 / classes
        return min(1.0, max(0.0, (real - self.accuracy) / (real - chance))) if real > chance else math.nan


def condition_count(
    judge: JudgedClasses, samples: PictureSet, real: PictureSet, *, without: Collection[int] = ()
) -> ConditionCount | None:
    """Count the judge's errors; None where there are no labels in common.

    Args:
        judge: who looks.
        samples: with the labels they were asked for.
        real: with their labels.
        without: labels left out.
    """
    if samples.labels is None or real.labels is None:
        return None
    mine, theirs = judge.strata(samples) == samples.labels, judge.strata(real) == real.labels
    by_label = {}
    for label in samples.labels.unique().tolist():
        asked, shown = samples.labels == label, real.labels == label
        if label not in without and bool(shown.any()):
            by_label[label] = (int(mine[asked].sum()), int(asked.sum()), int(theirs[shown].sum()), int(shown.sum()))
    if not by_label:
        return None
    right, asked, real_right, real_asked = (
        torch.tensor(column).double() for column in zip(*by_label.values(), strict=True)
    )
    shares = asked / asked.sum()
    expected = float((shares * (1.0 - real_right / real_asked)).sum())
    equal = max(1, int(1.0 / float((shares.square() / real_asked).sum())))
    return ConditionCount(int((asked - right).sum()), int(asked.sum()), expected, equal, by_label)


def condition_records(
    evaluation: Evaluation, samples: PictureSet, *, judge: Classifier | None, by_class: bool = False
) -> list[MetricRecord]:
    """Condition accuracy, beside what the judge scores on real pictures; nothing without labels or a judge.

    Args:
        evaluation: with the real pictures.
        samples: with the labels they were asked for.
        judge: a classifier that learnt from `reference.learning` only.
        by_class: one more record for each class.
    """
    if judge is None or not evaluation.reference.pool.spec.classes:
        return []
    count = condition_count(JudgedClasses(judge, evaluation), samples, evaluation.reference.pool)
    if count is None:
        return []
    of = evaluation.provenance(samples, judge="classifier")

    def record(name: str, right: float, n: int, real: float, m: float) -> MetricRecord:
        value = right / n
        stderr = math.sqrt(value * (1.0 - value) / n)
        spread = math.sqrt(real * (1.0 - real) * (1.0 / n + 1.0 / m))
        return MetricRecord(name, value, stderr, n, of, "", real, spread or None, "high")

    right = count.n - count.wrong
    found = [record("condition accuracy", right, count.n, 1.0 - count.expected, count.equal_number)]
    names = evaluation.reference.pool.spec.classes
    for label, (right, asked, real_right, real_asked) in count.by_label.items() if by_class else ():
        found.append(record(f"condition accuracy of {names[label]}", right, asked, real_right / real_asked, real_asked))
    return found


def confusion(judge: JudgedClasses, samples: PictureSet) -> Tensor | None:
    """(asked for, seen) counts; None without labels."""
    classes = len(judge.names)
    if samples.labels is None:
        return None
    cells = samples.labels * classes + judge.strata(samples)
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)
