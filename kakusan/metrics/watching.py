"""Distances of a model while it learns: few samples of fixed seeds, the same real pictures, one point for each step.

All points of a run use the same seeds and the same cuts of the real pictures, so the curve is smooth and two of its
points stand nearer to each other than their standard errors, which are those of other samples, let one think.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.data.source import Pictures, Subset
from kakusan.metrics.distance import Distance
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.record import MetricRecord, digest
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces.base import Space
from kakusan.specs import suggestion

KIND = "watch"
"""Of the lines in `metrics.jsonl` and `watch.jsonl`."""

FEWEST_SAMPLES = 48
POOL = 768
# Real pictures in memory while judges learn: at most so many bytes of each part.
BUDGET = 400 << 20
# |difference| of this many standard errors is chance one time in ten.
BEYOND = 1.6448536269514722
# Of a distance that chooses; what is right only at its null cannot.
SIGNS = {"low": 1.0, "high": -1.0}
RATIO = "times real pictures"
DEVIATIONS = "deviations from real pictures"

Make = Callable[[], Distance]
Open = Callable[..., list[Space]]


@dataclass(frozen=True)
class WatchPlan:
    """What is measured at every point.

    Args:
        num: samples; fewer where there are not twice as many real pictures.
        num_steps: of the default sampler.
        seed: of the samples and of the dealing of the real pictures.
        spaces: names of feature spaces; the first chooses the best checkpoint, the others only report.
        distances: names; the first chooses.

    Raises:
        ValueError: too few samples, or no space or distance.
    """

    num: int = 128
    num_steps: int = 8
    seed: int = 0
    spaces: tuple[str, ...] = ("self-supervised", "random")
    distances: tuple[str, ...] = ("frechet", "sliced", "kernel", "precision", "recall", "coverage")

    def __post_init__(self) -> None:
        if self.num < FEWEST_SAMPLES:
            raise ValueError(f"watching needs at least {FEWEST_SAMPLES} samples, got {self.num}")
        if self.num_steps < 1:
            raise ValueError(f"samples need at least one step, got {self.num_steps}")
        if not self.spaces or not self.distances:
            raise ValueError("watching needs at least one feature space and one distance")
        if len(set(self.spaces)) < len(self.spaces) or len(set(self.distances)) < len(self.distances):
            raise ValueError("a feature space or a distance is named twice; name each once")

    @property
    def hash(self) -> str:
        """Points of one plan make one curve."""
        return digest(dataclasses.asdict(self))


@dataclass(frozen=True)
class Point:
    """What was measured at one step.

    Args:
        step: of the run.
        model: hash of the checkpoint.
        plan: hash of what was measured.
        records: one for each space and distance.
        seconds: it took.
    """

    step: int
    model: str
    plan: str
    records: tuple[MetricRecord, ...]
    seconds: float

    def line(self) -> dict[str, Any]:
        """Values of a line of the log: the records, and each value by a name of its own for TensorBoard."""
        flat = {series(record): record.value for record in self.records if math.isfinite(record.value)}
        return {
            "model": self.model,
            "plan": self.plan,
            "seconds": round(self.seconds, 3),
            "records": [record.record() for record in self.records],
            **flat,
        }

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Point:
        """From such a line, with its `step`.

        Raises:
            ValueError: a value is missing or of the wrong kind.
        """
        try:
            records = tuple(MetricRecord.from_record(record) for record in line["records"])
            return cls(int(line["step"]), str(line["model"]), str(line["plan"]), records, float(line["seconds"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a point of watching: {error!r}") from None

    def get(self, name: str, space: str) -> MetricRecord | None:
        """The record of a distance in a space."""
        return next((r for r in self.records if (r.name, r.space) == (name, space)), None)

    def text(self) -> str:
        """One line for people: the first distance in each space."""
        shown = [record for record in self.records if record.name == self.records[0].name]
        heights = [(record.space, *scaled(record)) for record in shown]
        values = ", ".join(f"{height:.2f} +- {error:.2f} ({space})" for space, height, error, *_ in heights)
        unit = RATIO if all(ratio for *_, ratio in heights) else DEVIATIONS
        return f"step {self.step}: {shown[0].name} {values} {unit}" if shown else f"step {self.step}: nothing"


def series(record: MetricRecord) -> str:
    """What the curve of such records is called."""
    return f"{record.name} ({record.space})"


def scaled(record: MetricRecord, *, ratio: bool = True) -> tuple[float, float, float, bool]:
    """(height, its standard error, half the width of the null's band, whether the null is at 1).

    The ratio to the null, where real pictures are at 1. Where the null is about zero, as for unbiased distances, or
    where no `ratio` is wanted, the distance to it in its standard deviations, with real pictures at 0.
    """
    null, spread = record.null or 0.0, record.null_stderr or 0.0
    if ratio and abs(null) > spread and null:
        return record.value / null, record.stderr / abs(null), spread / abs(null), True
    scale = spread or 1.0
    return (record.value - null) / scale, record.stderr / scale, 1.0, False


def points_of(lines: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The points among the lines of a log, by step; of two at one step the later. Lines that are damaged are left
    out.
    """
    found: dict[int, Point] = {}
    for line in lines:
        if line.get("kind") == KIND:
            try:
                point = Point.of(line)
            except ValueError:
                continue
            found[point.step] = point
    return [found[step] for step in sorted(found)]


def one_curve(points: Sequence[Point]) -> list[Point]:
    """Those that may be compared with the last: same plan, real pictures, spaces and number."""
    if not points:
        return []
    last = points[-1]

    def alike(point: Point) -> bool:
        pairs = [(r, point.get(r.name, r.space)) for r in last.records]
        return all(other is not None and not r.unlike(other, across=("model",)) for r, other in pairs)

    return [point for point in points if alike(point)]


@dataclass(frozen=True)
class Finding:
    """The best point and the last in one space, by one distance.

    Args:
        chosen: of the best point.
        last: of the last.
        difference: by how much the last is worse, in units of the distance; negative where it is better.
        stderr: of that, as of independent samples: an upper bound here, where both have the same seeds.
    """

    chosen: MetricRecord
    last: MetricRecord
    difference: float
    stderr: float

    @property
    def beyond(self) -> bool:
        """Whether chance does so less than one time in ten."""
        return abs(self.difference) > BEYOND * self.stderr

    @property
    def says(self) -> str:
        """What the last is beside the best, for people."""
        if not self.beyond:
            return "no difference beyond the error"
        return "worse beyond the error" if self.difference > 0 else "better beyond the error"


@dataclass(frozen=True)
class Verdict:
    """Which checkpoint is best where one chooses, and what the other spaces say about it.

    Args:
        best: the point with the best value of the first distance in the first space.
        last: the last point.
        choosing: both, there.
        reporting: both in the other spaces, by the same distance: those had no say, so they flatter nobody.
    """

    best: Point
    last: Point
    choosing: Finding
    reporting: tuple[Finding, ...]

    def lines(self) -> list[str]:
        """For people."""
        where = series(self.choosing.chosen)
        if self.best.step == self.last.step:
            found = [f"the last checkpoint, step {self.last.step}, is the best by {where}: {_at(self.choosing.chosen)}"]
            return found + [f"  by {series(f.chosen)}, which had no say: {_at(f.chosen)}" for f in self.reporting]
        found = [f"the best checkpoint by {where} is that of step {self.best.step}: {self._beside(self.choosing)}"]
        return found + [f"  by {series(f.chosen)}, which had no say: {self._beside(f)}" for f in self.reporting]

    def _beside(self, found: Finding) -> str:
        return f"{_at(found.chosen)}; the last, step {self.last.step}, has {_at(found.last, unit=False)}: {found.says}"


def _at(record: MetricRecord, *, unit: bool = True) -> str:
    height, error, _, ratio = scaled(record)
    return f"{height:.2f} +- {error:.2f}" + f" {RATIO if ratio else DEVIATIONS}" * unit


def verdict(points: Sequence[Point], kept: Collection[int] | None = None) -> Verdict | None:
    """The best of the points that may be compared with the last; None without any.

    Args:
        points: of a run; their first record chooses.
        kept: only among these steps, whose checkpoints are still there; among all when not given.
    """
    curve = one_curve(points)
    if not curve or not curve[-1].records:
        return None
    last = curve[-1]
    first = last.records[0]

    def badness(point: Point) -> float:
        found = _record(point, first)
        value = SIGNS[found.better] * found.value
        return value if math.isfinite(value) else math.inf

    best = min([point for point in curve if kept is None or point.step in kept] or [last], key=badness)

    def finding(record: MetricRecord) -> Finding:
        chosen = _record(best, record)
        change, error = chosen.difference(record, across=("model",))
        return Finding(chosen, record, SIGNS[record.better] * change, error)

    others = [r for r in last.records[1:] if r.name == first.name]
    return Verdict(best, last, finding(first), tuple(map(finding, others)))


def _record(point: Point, like: MetricRecord) -> MetricRecord:
    found = point.get(like.name, like.space)
    assert found is not None
    return found


def check_names(plan: WatchPlan) -> None:
    """Refuse spaces and distances that do not exist, before anything slow begins.

    Raises:
        ValueError: with a suggestion.
    """
    from kakusan.metrics.distances import DISTANCES
    from kakusan.metrics.spaces import SPACES

    asked = [("feature space", list(SPACES), name.partition("=")[0]) for name in plan.spaces]
    asked += [("distance", list(DISTANCES), name) for name in plan.distances]
    for what, known, name in asked:
        if name not in known:
            raise ValueError(f"no {what} {name!r} to watch{suggestion(name, known)}; there are {', '.join(known)}")
    better = DISTANCES[plan.distances[0]]().better
    if better not in SIGNS:
        raise ValueError(f"the first distance chooses the best checkpoint, which {plan.distances[0]!r} cannot")


def enough(training: int, held_out: int) -> str | None:
    """Why so many pictures are too few to watch; None when they are enough."""
    pool = training - training // 2 + held_out
    if pool >= 2 * FEWEST_SAMPLES:
        return None
    return (
        f"half of the {training} training pictures and the {held_out} held-out ones are {pool}, and "
        f"{2 * FEWEST_SAMPLES} are needed"
    )


class Watcher:
    """Real pictures and feature spaces of a run, opened once; measures any number of sample sets.

    Args:
        training: what the model learns from.
        held_out: what it does not.
        plan: what to measure.
        folder: where trained networks of the spaces are kept.
        say: takes lines for people.

    Raises:
        ValueError: too few pictures, or a name that does not exist.
    """

    def __init__(
        self,
        training: Pictures,
        held_out: Pictures,
        plan: WatchPlan,
        *,
        folder: Path | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        from kakusan.metrics.distances import DISTANCES
        from kakusan.metrics.spaces import open_spaces

        few = enough(len(training), len(held_out))
        if few is not None:
            raise ValueError(f"there are too few pictures to watch distances: {few}")
        self.plan = plan
        dealt = deal(training, held_out)
        spaces = open_spaces(plan.spaces, dealt, folder=folder, say=say)
        # What judges learnt from is not needed any more.
        pool = _part(dealt.pool, POOL, plan.seed)
        none = pool.take([])
        self.reference = Reference(none, pool, none, none)
        self.evaluation = Evaluation(self.reference, spaces, [DISTANCES[name]() for name in plan.distances])

    @property
    def num(self) -> int:
        """Samples of a point."""
        return min(self.plan.num, self.reference.most())

    def labels(self) -> Tensor | None:
        """Classes (num,) of the samples, in the proportions of the real pictures; None without classes."""
        return self.reference.proportions(self.num)

    def measure(self, samples: PictureSet, *, step: int, model: str, began: float | None = None) -> Point:
        """The point of a step.

        Args:
            samples: `num` of them.
            step: of the run.
            model: hash of the checkpoint.
            began: time.perf_counter() when the drawing of the samples began.

        Raises:
            ValueError: samples of another shape or number.
        """
        began = time.perf_counter() if began is None else began
        records = tuple(self.evaluation.measure(samples))
        return Point(step, model, self.plan.hash, records, time.perf_counter() - began)


def deal(training: Pictures, held_out: Pictures) -> Reference:
    """The real pictures as `kakusan eval` deals them, so that both use the same judges; fewer where they are large."""
    spec = training.spec
    each = spec.bits // 8 * spec.channels * math.prod(spec.size)
    most = max(512, min(4000, BUDGET // each))
    few = held_out
    if len(held_out) > most:
        order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
        few = Subset(held_out, order[:most].tolist())
    return Reference.of(training, few, most=most, most_training=0)


def _part(pictures: PictureSet, most: int, seed: int) -> PictureSet:
    if len(pictures) <= most:
        return pictures
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    return pictures.take(order[:most].sort().values)
