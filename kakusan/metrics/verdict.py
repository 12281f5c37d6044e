"""What an evaluation comes to, in words: which numbers are set beside real pictures how, and two sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kakusan.metrics.record import MetricRecord
from kakusan.metrics.results import EvaluationResult


@dataclass(frozen=True)
class Scale:
    """How a distance is read.

    Args:
        title: of a figure that shows it.
        axis: what its axis shows.
        ratio: whether it is divided by what real pictures score.
        log: whether its axis is logarithmic.
    """

    title: str
    axis: str
    ratio: bool = False
    log: bool = False


RATIO = Scale("How many times as far as real pictures are", "distance / distance between real pictures", True, True)
LOOKS = Scale("Does every sample look real?", "share")
COVERS = Scale("Is everything that is real drawn too?", "share")
SCALES: Mapping[str, Scale] = {
    "frechet": RATIO,
    "sliced": RATIO,
    "kernel": Scale("Kernel distance, in standard deviations of its null", "(value - null) / deviation of the null"),
    "precision": LOOKS,
    "density": LOOKS,
    "recall": COVERS,
    "coverage": COVERS,
}

QUALITY: Sequence[tuple[float, str]] = (
    (1.1, "The samples are about as close to real pictures as other real pictures are"),
    (1.4, "The samples are close to real pictures, and a measurement can still tell them apart"),
    (2.5, "The samples resemble real pictures, and differ from them clearly"),
    (6.0, "The samples differ strongly from real pictures"),
    (math.inf, "The samples have little in common with real pictures"),
)
"""What the median ratio of the Frechet distances comes to at `USUAL` samples: the first bound that is not passed."""
USUAL = 256

FAULTS: Mapping[str, str] = {
    "noisy": "noise",
    "blurred": "blur",
    "wrong colour": "wrong colours",
    "copies": "copied training pictures",
    "mode missing": "kinds of pictures that are never drawn",
    "labels ignored": "samples that do not show the class they were asked for",
}
"""Faults in a beginner's words."""


def ratios(records: Sequence[MetricRecord], name: str = "frechet") -> dict[str, float]:
    """Ratio to real pictures in each space."""
    return {r.space: r.ratio for r in records if r.name == name and r.ratio is not None}


def verdict(result: EvaluationResult) -> tuple[str, str]:
    """Two sentences for a beginner: how close to real pictures, and what is wrong first."""
    found = ratios(result.records) or ratios(result.records, "sliced")
    if found:
        middle = statistics.median(found.values())
        # What samples and real pictures share falls as 1 / n, so the same model has a larger ratio at larger n.
        n = next(r.n for r in result.records if r.space in found and r.ratio is not None)
        usual = 1.0 + (middle - 1.0) * USUAL / n
        worst = max(found, key=lambda space: found[space])
        said = next(text for bound, text in QUALITY if usual <= bound)
        first = f"{said}: in {len(found)} feature space{'s' if len(found) > 1 else ''} their distance is "
        first += f"{middle:.3g} times that between real pictures"
        first += f" (up to {found[worst]:.3g}, {worst})." if len(found) > 1 else "."
    else:
        first = "No distance to real pictures was measured, so nothing is said of the quality."
    return first, _second(result.faults, result.memorisation)


def _second(faults: Sequence[Mapping[str, Any]], memorisation: Mapping[str, Any]) -> str:
    if not faults:
        copied = "" if not memorisation else " and no sign of copied training pictures"
        return f"No known fault was found{copied}."
    names = [FAULTS.get(str(fault["name"]), str(fault["name"])) for fault in faults]
    said = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"What stands out is {said}; what to try stands below."


def summary(result: EvaluationResult) -> str:
    """The verdict and the main numbers, for a terminal."""
    lines = [*verdict(result), ""]
    for record in result.records:
        if record.name not in SCALES:
            continue
        by_ratio = SCALES[record.name].ratio
        beside = f"{record.ratio:.3g} times real pictures" if by_ratio and record.ratio is not None else ""
        if not by_ratio and record.z is not None:
            beside = f"{record.z:.1f} deviations from real pictures"
        lines.append(f"  {record.name:<11}{record.space:<17}{record.value:>10.4g}  {beside}")
    return "\n".join(lines)
