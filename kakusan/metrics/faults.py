"""What is wrong with samples, by name: noisy, blurred, wrong colour, copies, mode missing, labels ignored.

One fault shows in many numbers: blurred pictures are nearer to their neighbours, a judge that reads colours misses a
class when the colours are wrong. So faults are looked for in a fixed order, pixels first, and a fault once found is
given to the real pictures as well (or taken from the samples) before the next is looked for: what is then still
different is another fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kakusan.metrics.fault_tests import TESTS, Fault, Room
from kakusan.metrics.modes import JudgedClasses, modes_of
from kakusan.metrics.sets import PictureSet

if TYPE_CHECKING:
    from kakusan.metrics.classifier import Classifier
    from kakusan.metrics.evaluation import Evaluation

__all__ = ["FALSE_ALARMS", "FEWEST", "NAMES", "Examination", "Fault", "examine", "find_faults"]

NAMES = ("noisy", "blurred", "wrong colour", "copies", "mode missing", "labels ignored")
"""In the order in which they are looked for."""
FALSE_ALARMS = 0.01
"""Perfect samples are given any fault at most this often: shared equally by the names, and within each by its tests."""
FEWEST = 16


@dataclass(frozen=True)
class Examination:
    """All that was looked for.

    Args:
        faults: in the order of `NAMES`; empty when nothing was found.
        p: name -> chance of such evidence from real pictures, for every fault that could be looked for.
        level: what `p` is below where a fault is named.
        notes: what could not be looked for, and why.
    """

    faults: tuple[Fault, ...]
    p: dict[str, float]
    level: float
    notes: tuple[str, ...]


def find_faults(evaluation: Evaluation, samples: PictureSet, *, judge: Classifier | None) -> list[Fault]:
    """The faults of some samples, in the order of `NAMES`; none when they could be real pictures.

    Args:
        evaluation: the real pictures and the spaces to look in.
        samples: to examine, with the labels they were asked for.
        judge: a classifier that learnt from `evaluation.reference.learning` only; without one, modes are clusters and
            labels are not looked at.

    Raises:
        ValueError: samples of another shape than the real pictures, or fewer than 16.
    """
    return list(examine(evaluation, samples, judge=judge).faults)


def examine(
    evaluation: Evaluation, samples: PictureSet, *, judge: Classifier | None, false_alarms: float = FALSE_ALARMS
) -> Examination:
    """The same with the chance of each finding and what could not be looked for.

    Args:
        evaluation: the real pictures and the spaces to look in.
        samples: to examine.
        judge: see `find_faults`.
        false_alarms: how often perfect samples may be given any fault.

    Raises:
        ValueError: samples of another shape than the real pictures, or fewer than 16.
    """
    pool = evaluation.reference.pool
    if samples.spec.shape != pool.spec.shape:
        raise ValueError(f"the samples are {samples.spec.shape}, the real pictures {pool.spec.shape}")
    if len(samples) < FEWEST:
        raise ValueError(f"{len(samples)} samples say nothing about faults; draw at least {FEWEST}")
    if len(pool.spec.size) != 2 or not pool.spec.classes:
        judge = None
    modes = modes_of(evaluation, judge, len(samples))
    seen = next((kind for kind in modes if isinstance(kind, JudgedClasses)), None)
    room = Room(evaluation, samples, seen, modes, false_alarms / len(NAMES))
    for look in TESTS:
        look(room)
    faults = sorted(room.faults, key=lambda fault: NAMES.index(fault.name))
    return Examination(tuple(faults), room.p, room.level, tuple(room.notes))
