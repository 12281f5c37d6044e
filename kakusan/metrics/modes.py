"""Kinds of pictures and how often each is shown: classes as a judge sees them, or clusters of the real pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from kakusan.metrics.clusters import Clusters, Thumbnail
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sets import PictureSet

if TYPE_CHECKING:
    from kakusan.metrics.classifier import Classifier
    from kakusan.metrics.evaluation import Evaluation

FEWEST_EXPECTED = 8
"""Samples of a mode below which its absence could be chance; such modes are not tested."""
DOUBTFUL = 0.02
MISSING = 0.5
"""A mode shown less than half as often as in the real pictures is called missing, if that is no chance."""


class Modes(Protocol):
    """A way to sort pictures into kinds."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of `members`."""
        ...

    @property
    def kinds(self) -> Mapping[int, str]:
        """The numbers that `strata` gives, and what they are called."""
        ...

    def members(self, pictures: PictureSet) -> Tensor:
        """(N, modes) bool: which picture shows which mode. Modes may lie within each other."""
        ...

    def strata(self, pictures: PictureSet) -> Tensor:
        """(N,) one number for each picture: modes that do not overlap."""
        ...


class JudgedClasses:
    """The likeliest class in the eyes of a classifier; each set is looked at once.

    Args:
        judge: the classifier.
        evaluation: whose real pictures need no second look either.
    """

    def __init__(self, judge: Classifier, evaluation: Evaluation) -> None:
        from kakusan.metrics.spaces.base import hash_of_network

        self.judge, self.evaluation = judge, evaluation
        self.names = tuple(evaluation.reference.pool.spec.classes)
        self.kinds = dict(enumerate(self.names))
        self._key = f"judged by {hash_of_network(judge)}"
        self._seen: dict[str, Tensor] = {}

    def strata(self, pictures: PictureSet) -> Tensor:
        """(N,) classes."""
        if pictures.hash not in self._seen:
            self._seen[pictures.hash] = self.evaluation.once(self._key, pictures, lambda: judged(self.judge, pictures))
        return self._seen[pictures.hash]

    def members(self, pictures: PictureSet) -> Tensor:
        """(N, classes), one for each picture."""
        return torch.nn.functional.one_hot(self.strata(pictures), len(self.names)).bool()


@torch.no_grad()
def judged(judge: Classifier, pictures: PictureSet, *, batch: int = 256) -> Tensor:
    """The likeliest class of each picture, (N,) int64."""
    device = next(judge.parameters()).device
    parts = [
        judge.predict(pictures.x(slice(start, start + batch)).to(device)).cpu()
        for start in range(0, len(pictures), batch)
    ]
    return torch.cat(parts)


def modes_of(evaluation: Evaluation, judge: Classifier | None, n: int) -> list[Modes]:
    """Classes where there is a judge, else clusters in every space of the evaluation (thumbnails where it has none)."""
    reference = evaluation.reference
    if judge is not None:
        return [JudgedClasses(judge, evaluation)]
    if len(reference.learning) < 4:
        return []
    smallest = min(0.5, 1.5 * FEWEST_EXPECTED / n)
    spaces = list(evaluation.spaces) or [Thumbnail()]
    return [Clusters(space, evaluation, smallest=smallest) for space in spaces]


@dataclass(frozen=True)
class ModeCount:
    """One mode: how many samples and how many real pictures show it.

    Args:
        name: of the mode.
        samples: that show it.
        real: pictures that show it.
        p: chance of so few samples, this mode alone.
        family_p: chance that any of the modes looked at is shown by so few.
    """

    name: str
    samples: int
    real: int
    p: float
    family_p: float


def mode_counts(kinds: Sequence[Modes], samples: PictureSet, real: PictureSet, *, draws: int = 2000) -> list[ModeCount]:
    """Every mode that enough samples should show.

    Modes overlap, so the chance over all of them comes from dealing out anew which pictures are samples (a permutation
    test of the least p); where that is too coarse, Bonferroni's bound is taken.

    Args:
        kinds: ways to sort pictures.
        samples: n of them.
        real: m of them.
        draws: permutations.
    """
    n, m = len(samples), len(real)
    names = [name for modes in kinds for name in modes.names]
    members = torch.cat([torch.cat([modes.members(part) for modes in kinds], 1) for part in (samples, real)])
    a, b = members[:n].sum(0), members[n:].sum(0)
    kept = (b * n >= FEWEST_EXPECTED * m).nonzero()[:, 0]
    if len(kept) == 0:
        return []
    table = _tails(a[kept] + b[kept], n, m)
    p = table.gather(1, a[kept, None])[:, 0]
    # Far from any doubt the bound is enough.
    null = _least(members[:, kept], table, n, draws) if float(p.min()) < DOUBTFUL else torch.zeros(0)
    found = []
    for row, column in enumerate(kept.tolist()):
        mine = float(p[row])
        dealt = (1 + int((null <= mine * (1 + 1e-9)).sum())) / (1 + len(null))
        found.append(ModeCount(names[column], int(a[column]), int(b[column]), mine, min(dealt, len(kept) * mine)))
    return found


def _least(members: Tensor, table: Tensor, n: int, draws: int) -> Tensor:
    """(draws,) the least p over all modes when n of the pictures (rows of `members`) are called samples by chance."""
    generator = torch.Generator().manual_seed(0)
    least, inside = [], members.float().T
    for start in range(0, draws, 250):
        dealt = torch.rand(min(250, draws - start), len(members), generator=generator).argsort(1)[:, :n]
        chosen = torch.zeros(len(dealt), len(members)).scatter_(1, dealt, 1.0)
        least.append(table.gather(1, (inside @ chosen.T).long()).amin(0))
    return torch.cat(least)


def _tails(found: Tensor, n: int, m: int) -> Tensor:
    """(modes, most + 1) chance of at most 0, 1, ... among n when `found` (modes,) are among n + m (hypergeometric)."""
    found = found.double()[:, None]
    k = torch.arange(min(n, int(found.max())) + 1, dtype=torch.float64)
    possible = (k <= found) & (found - k <= m)
    inner = (found - k).clamp(0, m)
    logs = _log_choose(torch.tensor(float(n)), k) + _log_choose(torch.tensor(float(m)), inner)
    logs = logs - _log_choose(torch.tensor(float(n + m)), found)
    return torch.where(possible, logs.exp(), torch.zeros_like(logs)).cumsum(1).clamp(max=1.0)


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    n = n.double()
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def is_missing(count: ModeCount, n: int, m: int, level: float) -> bool:
    """Whether a mode is shown less than half as often as it should be, and that is no chance over all modes."""
    return count.family_p < level and count.samples / n < MISSING * count.real / m


def mode_records(evaluation: Evaluation, samples: PictureSet, *, judge: Classifier | None) -> list[MetricRecord]:
    """The share of the samples that show each class, or each of the clusters of the first space."""
    pool, n = evaluation.reference.pool, len(samples)
    of = evaluation.provenance(samples, modes="clusters" if judge is None else "classes")
    found = []
    for modes in modes_of(evaluation, judge, n)[:1]:
        mine, theirs = modes.strata(samples), modes.strata(pool)
        for number, name in modes.kinds.items():
            value, null = (float((part == number).double().mean()) for part in (mine, theirs))
            spread = (null * (1.0 - null) * (1.0 / n + 1.0 / len(pool))) ** 0.5
            stderr = (value * (1.0 - value) / n) ** 0.5
            found.append(MetricRecord(f"share of {name}", value, stderr, n, of, "", null, spread or None, "null"))
    return found
