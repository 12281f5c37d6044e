"""Does a model give its training pictures back?

Samples are set beside pictures the model has not seen: how near the nearest training picture is, and how much nearer
than the second (Yoon et al. 2023; the bound 1/3 on the ratio as in 2505.16959). Both numbers say little alone: plain
pictures are near to everything, so what held-out pictures score decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.metrics.nearest import TrainingPictures, TwoNearest, distinct
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.significance import below_order_statistic, more
from kakusan.metrics.spectrum import batches, block_means

if TYPE_CHECKING:
    from PIL import Image

    from kakusan.metrics.evaluation import Evaluation
    from kakusan.metrics.spaces.base import Space

COPY = 1.0 / 3.0
"""First over second distance below which a sample is usually called a copy."""
RARE = 0.01
"""Suspicious is what is nearer, by that ratio, than this share of new pictures."""
MOST_UNSEEN = 1000
MOST_PIXELS = 32
"""Blocks a side that pixels of larger pictures are averaged over: a copy is one at any size, and memory has an end."""
PIXELS = "pixels"


@dataclass(frozen=True)
class Suspect:
    """A sample that stands nearer to one training picture than new pictures do.

    Args:
        sample: its place among the samples.
        neighbour: place of the training picture in `reference.training`.
        distance: between them.
        ratio: that over the distance to the next distinct training picture.
    """

    sample: int
    neighbour: int
    distance: float
    ratio: float


@dataclass(frozen=True)
class MemorisationReport:
    """Samples beside unseen pictures in one space.

    Args:
        space: its name, or "pixels".
        records: share of copies, median nearest distance, median ratio, each beside that of unseen pictures.
        suspects: nearest first by ratio.
        limit: ratio below which a sample is a suspect.
        first: distance of each sample to its nearest training picture.
        ratio: first over second distance of each sample.
        unseen_first: the same distances of unseen pictures.
        unseen_ratio: the same ratios of unseen pictures.
        unseen: what those are: "held-out pictures", or "training pictures without themselves" where none is held out.
        p: chance of so many near samples if the model copied nothing; of two tests, both counted: of samples below the
            limit, and of samples with a ratio below a third.
        strict_p: of the second test alone, which asks less of how alike unseen pictures are to samples without copies.
        distinct: training pictures that are not exact duplicates of another.
        duplicates: those that are.
    """

    space: str
    records: tuple[MetricRecord, ...]
    suspects: tuple[Suspect, ...]
    limit: float
    first: tuple[float, ...]
    ratio: tuple[float, ...]
    unseen_first: tuple[float, ...]
    unseen_ratio: tuple[float, ...]
    unseen: str
    p: float
    strict_p: float
    distinct: int
    duplicates: int

    @property
    def beside_new(self) -> bool:
        """Whether samples were set beside pictures that the model has not seen."""
        return self.unseen == HELD_OUT

    def text(self) -> str:
        """For people."""
        copies, n = sum(r < COPY for r in self.ratio), len(self.ratio)
        real, m = sum(r < COPY for r in self.unseen_ratio), len(self.unseen_ratio)
        found = (
            f"{copies} of {n} samples are less than a third as far from one training picture as from the next "
            f"({self.space}); of {m} {self.unseen}, {real} are"
        )
        if self.duplicates:
            found += f". {self.duplicates} exact duplicates in the training set count once"
        if not self.beside_new:
            found += ". Nothing was held out, so each training picture was set beside the others instead"
        return found + "."


HELD_OUT = "held-out pictures"
OTHERS = "training pictures without themselves"


def memorisation(
    evaluation: Evaluation, samples: PictureSet, space: Space | None = None, *, unseen: PictureSet | None = None
) -> MemorisationReport:
    """Search the training pictures for each sample.

    Where training may mirror pictures (`spec.flip`), a picture and its mirror image are one.

    Args:
        evaluation: with the training pictures and those held out.
        samples: to look up.
        space: where distances are taken; pixels when not given.
        unseen: what to set the samples beside; the held-out pictures when not given.

    Raises:
        ValueError: fewer than four distinct training pictures.
    """
    reference = evaluation.reference
    keep = distinct(reference.training)
    if len(keep) < 4:
        raise ValueError(f"copies cannot be told among {len(keep)} distinct training pictures; at least 4 are needed")
    known = TrainingPictures(
        _vectors(evaluation, reference.training, space), keep, _mirrored(evaluation, reference.training, space)
    )
    mine = known.two_nearest(_vectors(evaluation, samples, space))
    held_out = reference.held_out if unseen is None else unseen
    if len(held_out) >= 2:
        if len(held_out) > MOST_UNSEEN:
            held_out = held_out.take(range(MOST_UNSEEN))
        what = f"two nearest of {reference.training.hash} in {PIXELS if space is None else space.hash}"

        def look_up() -> Tensor:
            found = known.two_nearest(_vectors(evaluation, held_out, space))
            return torch.stack([found.index.float(), found.first, found.second])

        index, first, second = evaluation.once(what, held_out, look_up)
        new, kind = TwoNearest(index.long(), first, second), HELD_OUT
    else:
        places = torch.linspace(0, len(keep) - 1, min(len(keep), MOST_UNSEEN)).long().unique()
        new, kind = known.two_nearest(known.vectors[places], own=places), OTHERS
    order = max(1, round(RARE * len(new.ratio)))
    limit = float(new.ratio.sort().values[order - 1])
    n, m = len(mine.ratio), len(new.ratio)
    copies, real = int((mine.ratio < COPY).sum()), int((new.ratio < COPY).sum())
    by_rank = below_order_statistic(int((mine.ratio < limit).sum()), n, order, m)
    strict = more(copies, n, real, m)
    name = PIXELS if space is None else space.name
    return MemorisationReport(
        space=name,
        records=_records(evaluation, samples, space, name, mine, new, kind),
        suspects=_suspects(mine, max(limit, 0.0)),
        limit=limit,
        first=tuple(mine.first.tolist()),
        ratio=tuple(mine.ratio.tolist()),
        unseen_first=tuple(new.first.tolist()),
        unseen_ratio=tuple(new.ratio.tolist()),
        unseen=kind,
        p=min(1.0, 2.0 * min(by_rank, strict)),
        strict_p=strict,
        distinct=len(keep),
        duplicates=len(reference.training) - len(keep),
    )


def _vectors(evaluation: Evaluation, pictures: PictureSet, space: Space | None) -> Tensor:
    if space is None:
        return torch.cat([block_means(x, MOST_PIXELS).flatten(1) for x in batches(pictures)])
    return evaluation.features(space, pictures).float()


def _mirrored(evaluation: Evaluation, pictures: PictureSet, space: Space | None) -> Tensor | None:
    if not pictures.spec.flip:
        return None
    turned = PictureSet(pictures.stored.flip(-1), pictures.spec, pictures.labels)
    return _vectors(evaluation, turned, space)


def _suspects(mine: TwoNearest, limit: float) -> tuple[Suspect, ...]:
    rows = (mine.ratio < limit).nonzero()[:, 0].tolist()
    found = [Suspect(i, int(mine.index[i]), float(mine.first[i]), float(mine.ratio[i])) for i in rows]
    return tuple(sorted(found, key=lambda suspect: (suspect.ratio, suspect.sample)))


def _records(
    evaluation: Evaluation,
    samples: PictureSet,
    space: Space | None,
    name: str,
    mine: TwoNearest,
    new: TwoNearest,
    kind: str,
) -> tuple[MetricRecord, ...]:
    n, m = len(mine.ratio), len(new.ratio)
    of = evaluation.provenance(
        samples,
        space,
        training=evaluation.reference.training.hash,
        beside=kind,
        blocks=MOST_PIXELS if space is None else 0,
    )
    copies, real = float((mine.ratio < COPY).double().mean()), float((new.ratio < COPY).double().mean())
    spread = math.sqrt(real * (1.0 - real) * (1.0 / n + 1.0 / m))
    found = [
        MetricRecord(
            f"share with d1/d2 below {COPY:.2f}",
            copies,
            math.sqrt(copies * (1.0 - copies) / n),
            n,
            of,
            name,
            real,
            spread or None,
            "null",
        )
    ]
    for what, a, b in (
        ("median distance to the nearest training picture", mine.first, new.first),
        ("median d1/d2", mine.ratio, new.ratio),
    ):
        own, other = _median_error(a), _median_error(b)
        # Of n pictures the median of real ones would vary by what theirs does, scaled to n, beside their own error.
        spread = other * math.sqrt(m / n + 1.0)
        found.append(
            MetricRecord(what, float(a.double().median()), own, n, of, name, float(b.median()), spread or None, "null")
        )
    return tuple(found)


def _median_error(values: Tensor) -> float:
    """Standard error of a median, from the order statistics a standard deviation of ranks to either side."""
    ordered, n = values.double().sort().values, len(values)
    reach = math.sqrt(n) / 2.0
    low, high = max(0, math.floor((n - 1) / 2 - reach)), min(n - 1, math.ceil((n - 1) / 2 + reach))
    return float(ordered[high] - ordered[low]) / 2.0


def suspicious_strip(
    report: MemorisationReport, samples: PictureSet, training: PictureSet, *, most: int = 12
) -> Image.Image | None:
    """Each suspicious sample above its nearest training picture, the nearest first; None without suspects.

    Args:
        report: of these samples.
        samples: as they were measured.
        training: `reference.training`.
        most: pairs shown.

    Raises:
        ValueError: pictures that are not two-dimensional.
    """
    from kakusan.report.grids import grid

    shown = report.suspects[:most]
    if not shown:
        return None
    if len(samples.spec.size) != 2:
        raise ValueError(f"only pictures (H, W) can be drawn, these have size {samples.spec.size}")
    rows = (samples.take([s.sample for s in shown]), training.take([s.neighbour for s in shown]))
    cells = [picture for row in rows for picture in row.spec.to_pil(row.x())]
    return grid(
        cells,
        columns=len(shown),
        row_labels=["sample", "training picture"],
        column_labels=[f"{s.ratio:.2f}" for s in shown],
    )
