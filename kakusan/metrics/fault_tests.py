"""The tests behind `kakusan.metrics.faults`, in the order in which they run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.metrics.colour import Summary, channel_names, moment_names, moments
from kakusan.metrics.conditions import condition_count
from kakusan.metrics.degrade import Degradation, recoloured
from kakusan.metrics.memorisation import MemorisationReport, memorisation
from kakusan.metrics.modes import JudgedClasses, ModeCount, Modes, is_missing, mode_counts
from kakusan.metrics.palette import Palette
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.significance import Shift, compare_means, two_sided
from kakusan.metrics.spectrum import Colours, bands_of, fineness, log_powers

if TYPE_CHECKING:
    from kakusan.metrics.evaluation import Evaluation
    from kakusan.metrics.spaces.base import Space

FINE_BANDS = 16
COARSE, FINE = 4, 8
"""Blocks a side whose colours are compared."""
STRONGER = 1.25
"""A fault is given to the real pictures as it was measured and a little stronger: neither may explain what is left."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Args:
        name: in a word or two.
        verdict: for people: what is wrong, by how much, and what to try.
        evidence: the numbers that it rests on.
        p: chance of such evidence from real pictures, all tests for this fault counted.
    """

    name: str
    verdict: str
    evidence: list[MetricRecord]
    p: float = 0.0


@dataclass
class Room:
    """What the tests share.

    Args:
        evaluation: the real pictures and spaces.
        samples: that are examined.
        judge: who sees classes, if anyone does.
        modes: ways to sort pictures into kinds.
        level: chance below which a fault is named.
        pools: the real pictures, or with the faults found so far, in several strengths.
        unseen: held-out pictures likewise.
        views: the samples, or with the faults found so far undone, in several ways.
        missing: classes that are missing.
        faults: found so far.
        p: name of a fault -> chance.
        notes: what could not be looked for.
    """

    evaluation: Evaluation
    samples: PictureSet
    judge: JudgedClasses | None
    modes: list[Modes]
    level: float
    pools: list[PictureSet] = field(init=False)
    unseen: list[PictureSet] = field(init=False)
    views: list[PictureSet] = field(init=False)
    missing: set[int] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    p: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        reference = self.evaluation.reference
        self.pools, self.unseen, self.views = [reference.pool], [reference.held_out], [self.samples]

    def record(self, name: str, value: float, stderr: float, null: float, null_stderr: float) -> MetricRecord:
        """Evidence: a number about the samples beside real pictures, faults found before taken into account."""
        of = self.evaluation.provenance(self.samples, weighted="to the modes of the samples")
        spread = null_stderr if null_stderr > 0.0 and math.isfinite(null_stderr) else None
        return MetricRecord(name, value, stderr, len(self.samples), of, "", null, spread, "null")

    def shares(self, name: str, a: float, n: float, b: float, m: float) -> MetricRecord:
        """The same for a share `a` of n beside a share `b` of m."""
        return self.record(name, a, math.sqrt(a * (1 - a) / n), b, math.sqrt(b * (1 - b) * (1 / n + 1 / m)))

    def compare(self, values: Callable[[PictureSet], Tensor]) -> list[Shift]:
        """Means of numbers (N, K) read off each picture: over all, and within the kinds of each way to sort them."""
        mine, found = values(self.samples), []
        for pool in self.pools:
            theirs = values(pool)
            found.append(compare_means(mine, theirs))
            for modes in self.modes:
                found.append(compare_means(mine, theirs, (modes.strata(self.samples), modes.strata(pool))))
        return found


def steady(shifts: Sequence[Shift]) -> Tensor:
    """(K,) the least z of all comparisons, 0 where they disagree in sign.

    Real pictures pass each comparison alone, so they pass this; a mode shown too often moves the mean of all, and a
    judge led astray moves the means within its classes, but neither moves both.
    """
    together = torch.stack([shift.z for shift in shifts])
    agree = (together > 0).all(0) | (together < 0).all(0)
    return torch.where(agree, together.abs().min(0).values * together[0].sign(), torch.zeros_like(together[0]))


def _evidence(room: Room, shifts: Sequence[Shift], k: int, name: str, middle: float = 0.0) -> MetricRecord:
    weakest = min(shifts, key=lambda shift: abs(float(shift.z[k])))
    columns = (weakest.value + middle, weakest.stderr, weakest.null + middle, weakest.null_stderr)
    return room.record(name, *(float(column[k]) for column in columns))


def detail(room: Room) -> None:
    """Noisy, blurred: the power of fine bands over that of coarse ones."""
    bands = bands_of(room.samples.spec)
    if bands is None:
        room.notes.append("the pictures are too small for a spectrum: noise and blur were not looked for")
        return
    shifts = room.compare(lambda x: fineness(room.evaluation.once("log powers", x, lambda: log_powers(x, bands))))
    z = steady(shifts)
    found = {}
    for name, side in (("noisy", z), ("blurred", -z)):
        best = int(side.argmax())
        room.p[name] = min(1.0, len(z) * two_sided(float(side[best])) / 2.0) if side[best] > 0 else 1.0
        if room.p[name] < room.level:
            said = f"log power over that of coarse bands, {bands.name(len(bands) - len(z) + best)}"
            found[name] = _evidence(room, shifts, best, said)
    if not found:
        return
    rings = bands_of(room.samples.spec, FINE_BANDS) or bands
    pool = room.pools[0]
    weights = _weights(room.modes[0].strata(room.samples), room.modes[0].strata(pool)) if room.modes else None
    fault = Degradation.between(
        room.samples, pool, rings, weights=weights, blur="blurred" in found, noise="noisy" in found
    )
    spec = room.samples.spec
    levels = fault.noise_level * (spec.high - spec.low) / 2.0
    words = {
        "noisy": f"The samples have noise that real pictures have not: standard deviation {levels:.3g} of "
        f"{spec.high - spec.low:.0f} levels ({fault.noise_level:.2g} in [-1, 1]). Try more sampling steps or a "
        "deterministic sampler, averaged weights, or longer training at low noise.",
        "blurred": f"The samples lack fine detail, as real pictures do that are blurred by {fault.radius:.2g} pixels "
        "(standard deviation of a Gaussian). Try more sampling steps, a grid with more of them at low noise, less "
        "averaging of weights, or longer training.",
    }
    room.faults += [Fault(name, words[name], [record], room.p[name]) for name, record in found.items()]
    strengths = (fault, fault.scaled(STRONGER))
    room.pools = [each(pool) for each in strengths]
    room.unseen = [each(room.unseen[0], seed=1) for each in strengths]


def _weights(mine: Tensor, theirs: Tensor) -> Tensor:
    """Weights of real pictures that give their strata the samples' shares."""
    count = int(torch.cat([mine, theirs]).max()) + 1
    a, b = (torch.bincount(part, minlength=count).double() for part in (mine, theirs))
    weights = (a / b.clamp_min(1.0))[theirs]
    return weights if float(weights.sum()) > 0 else torch.ones_like(weights)


def colour(room: Room) -> None:
    """Wrong colour: moments of the channels, and shares of colours."""
    reference = room.evaluation.reference
    around = Colours.of(reference.pool).mean
    # Where noise or blur was found, larger blocks: the real pictures were given it, but never quite the same.
    blocks = COARSE if room.faults else FINE
    palette = Palette.of(reference.learning if len(reference.learning) else reference.pool, blocks=blocks)

    def values(pictures: PictureSet) -> Tensor:
        def compute() -> Tensor:
            return torch.cat([moments(pictures, around, blocks=blocks), palette.shares(pictures)], dim=1)

        return room.evaluation.once(f"colours of {blocks} blocks", pictures, compute)

    shifts = room.compare(values)
    z = steady(shifts)
    chances = [min(1.0, len(z) * two_sided(value)) for value in z.tolist()]
    room.p["wrong colour"] = min(chances)
    if room.p["wrong colour"] >= room.level:
        return
    spec = room.samples.spec
    names = (*moment_names(spec.channels), *palette.names(spec))
    worst = sorted((k for k in range(len(z)) if chances[k] < room.level), key=lambda k: -abs(float(z[k])))
    # Means were taken around those of the real pictures.
    middle = [*around.tolist(), *[0.0] * (len(names) - len(around))]
    evidence = [_evidence(room, shifts, k, names[k], middle[k]) for k in worst[:6]]
    verdict = (
        f"The colours are not those of real pictures: {_colour_words(room, Summary.of(shifts[0], around))}. Clearest: "
        f"{evidence[0].name} {evidence[0].value:.3g}, in real pictures {evidence[0].null:.3g}. Check the data range "
        "and the order of channels where samples are written, lower the guidance scale, or train longer (the mean of a "
        "picture is decided at high noise)."
    )
    room.faults.append(Fault("wrong colour", verdict, evidence, room.p["wrong colour"]))
    room.views = recoloured(room.samples, room.pools[0])


def _colour_words(room: Room, summary: Summary) -> str:
    spec = room.samples.spec
    scale, names = (spec.high - spec.low) / 2.0, channel_names(spec.channels)
    moved = ((summary.mean[0] - summary.mean[1]) * scale).tolist()
    times = (summary.deviation[0] / summary.deviation[1].clamp_min(1e-9)).tolist()
    said = [
        f"{name} {change:+.2g} levels of {2 * scale:.0f} in the mean and {ratio:.2f} times the standard deviation"
        for name, change, ratio in zip(names, moved, times, strict=True)
    ]
    return "; ".join(said[:4]) + (" ..." if len(said) > 4 else "")


def copies(room: Room) -> None:
    """Copies: one training picture much nearer than the next.

    Where noise or blur was found, the held-out pictures were given it, but never quite the same: then only the share
    below the usual bound counts, not the finer order of ratios.
    """

    def chance(report: MemorisationReport) -> float:
        return report.strict_p if len(room.unseen) > 1 else report.p

    spaces: list[Space | None] = [None, *room.evaluation.spaces]
    reports: list[MemorisationReport] = []
    for space in spaces:
        try:
            found = [memorisation(room.evaluation, room.samples, space, unseen=unseen) for unseen in room.unseen]
            reports.append(max(found, key=chance))
        except ValueError as error:
            room.notes.append(f"copies were not looked for in {'pixels' if space is None else space.name}: {error}")
    if not reports:
        return
    best = min(reports, key=chance)
    room.p["copies"] = min(1.0, len(reports) * chance(best))
    if not best.beside_new:
        room.notes.append("nothing is held out: to look for copies, each training picture was set beside the others")
    if room.p["copies"] >= room.level:
        return
    first = min(best.suspects, key=lambda suspect: suspect.ratio, default=None)
    where = (
        "" if first is None else f" The clearest is sample {first.sample} beside training picture {first.neighbour}."
    )
    verdict = (
        f"Some samples are copies of training pictures: {best.text()}{where} Try more data, a smaller network or less "
        "training, augmentation or dropout, and remove duplicates."
    )
    room.faults.append(Fault("copies", verdict, list(best.records), room.p["copies"]))


def modes(room: Room) -> None:
    """Mode missing: a class or cluster shown less than half as often as in real pictures."""
    n, m = len(room.samples), len(room.pools[0])
    # A mode that any correction brings back was not missing.
    least: dict[str, ModeCount] = {}
    seen: list[set[str]] = []
    for view, pool in itertools.product(room.views, room.pools):
        counts = {count.name: count for count in mode_counts(room.modes, view, pool)}
        seen.append(set(counts))
        for name, count in counts.items():
            if name not in least or count.family_p > least[name].family_p:
                least[name] = count
    tested = [count for name, count in least.items() if all(name in names for names in seen)]
    if not tested:
        room.notes.append(f"among {n} samples no mode is so frequent that its absence would be more than chance")
        return
    rare = [count for count in tested if is_missing(count, n, m, 1.0)]
    room.p["mode missing"] = min((count.family_p for count in rare), default=1.0)
    if room.judge is not None and len(room.judge.names) > len(tested):
        skipped = len(room.judge.names) - len(tested)
        room.notes.append(f"{skipped} of {len(room.judge.names)} classes are too rare to be missed among {n} samples")
    missing = [count for count in rare if is_missing(count, n, m, room.level)]
    if not missing:
        return
    missing.sort(key=lambda count: count.p)
    found = len(missing)
    # Without classes most of them are one mode seen from many sides: the clearest speaks for all.
    missing = missing if room.judge is not None else missing[:1]
    evidence = [room.shares(f"share of {c.name}", c.samples / n, n, c.real / m, m) for c in missing[:8]]
    shown = "; ".join(f"{c.name}: {c.samples} of {n} samples, {c.real / m * n:.1f} expected" for c in missing[:5])
    more = f" and {found - 5} more" if room.judge is not None and found > 5 else ""
    kind = "classes" if room.judge is not None else "overlapping clusters of real pictures"
    verdict = (
        f"{found} of {len(tested)} {kind} {'is' if found == 1 else 'are'} missing or rare: {shown}{more}. Check that "
        "the training data have what is missing and that the samples were asked for it, lower the guidance scale, or "
        "train longer."
    )
    room.faults.append(Fault("mode missing", verdict, evidence, room.p["mode missing"]))
    if room.judge is not None:
        room.missing = {room.judge.names.index(count.name) for count in missing}


def labels(room: Room) -> None:
    """Labels ignored: the judge sees another class than was asked for, missing classes apart."""
    if room.judge is None:
        room.notes.append("there are no classes or no judge of them: it was not looked at whether labels are followed")
        return
    counts = [
        condition_count(room.judge, view, pool, without=room.missing)
        for view, pool in itertools.product(room.views, room.pools)
    ]
    known = [count for count in counts if count is not None]
    if not known:
        room.notes.append("the samples have no labels that real pictures have: it was not looked at whether they fit")
        return
    best = max(known, key=lambda count: count.p)
    room.p["labels ignored"] = best.p
    if best.p >= room.level:
        return
    real = 1.0 - best.expected
    share = best.ignoring(len(room.judge.names))
    verdict = (
        f"The judge sees the class that was asked for in {best.accuracy:.0%} of the samples, in real pictures in "
        f"{real:.0%}: about {share:.0%} of the samples do not follow their label. Try a higher guidance scale, check "
        "that the labels reach the network, or train longer."
    )
    evidence = [room.shares("condition accuracy", best.accuracy, best.n, real, best.equal_number)]
    room.faults.append(Fault("labels ignored", verdict, evidence, best.p))


TESTS: tuple[Callable[[Room], None], ...] = (detail, colour, copies, modes, labels)
