"""The claim that the field makes, set beside the figures: shown, refuted, or not decided within the error.

"Diffusion is sharper than a VAE, covers better than a GAN, is cheaper than a flow at equal quality." Every part is
a rule on records, so that nobody's wish writes the answer.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kakusan.metrics.contestants import Contestant, Entry
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sharpness import NAME as SHARPNESS

Verdict = Literal["shown", "refuted", "not decided"]

MODELS = ("model", "weights", "sampling")
"""What a comparison of models is about; the samples' seeds and conditions are the same."""
NORMAL = 1.959963984540054
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: 95 % of differences of equals are smaller, in its standard errors.

    Raises:
        ValueError: no degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"Student's t needs a degree of freedom, got {freedom}")
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    # The first terms of the expansion in 1 / freedom (Fisher & Cornish 1960), good to 1e-3 here.
    z = NORMAL
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


@dataclass(frozen=True)
class Comparison:
    """Two kinds of model in one figure.

    Args:
        what: the figure.
        ours: mean over our trainings.
        theirs: mean over theirs.
        lead: how much better ours are, in the figure's units; negative when they are worse.
        margin: half the 95 % interval of `lead`.
    """

    what: str
    ours: float
    theirs: float
    lead: float
    margin: float

    @property
    def verdict(self) -> Verdict:
        """Whether ours are better, beyond the error."""
        if not (math.isfinite(self.lead) and math.isfinite(self.margin)) or abs(self.lead) <= self.margin:
            return "not decided"
        return "shown" if self.lead > 0 else "refuted"


def goodness(record: MetricRecord) -> float:
    """The value with its sign turned so that more is better."""
    if record.better == "null":
        return -abs(record.value - (record.null or 0.0))
    return record.value if record.better == "high" else -record.value


def compare(
    what: str, ours: Sequence[MetricRecord], theirs: Sequence[MetricRecord], *, better: str | None = None
) -> Comparison:
    """Compare trainings of two kinds, one record each.

    The error of a mean over k trainings is their spread over the root of k, but no less than the error of the samples
    allows; 2.78 of them (Student's t of three against three) make the margin. With one training of a kind only the
    error of the samples is known, and what is compared is these two models, not the kinds.

    Args:
        better: of what counts as better, in place of the records' own.

    Raises:
        ValueError: no records, or unlike ones.
    """
    if not ours or not theirs:
        raise ValueError(f"{what}: there is nothing to compare")
    for record in (*ours[1:], *theirs):
        ours[0].difference(record, across=MODELS)
    if better is not None:
        ours, theirs = ([replace(record, better=better) for record in side] for side in (ours, theirs))
    means, variances = [], []
    for side in (ours, theirs):
        values = [goodness(record) for record in side]
        own = statistics.fmean(record.stderr**2 for record in side)
        between = statistics.variance(values) if len(values) > 1 else 0.0
        means.append(statistics.fmean(values))
        variances.append(max(own, between) / len(values))
    freedom = len(ours) + len(theirs) - 2
    width = student(freedom) if min(len(ours), len(theirs)) > 1 else NORMAL
    values = [statistics.fmean(record.value for record in side) for side in (ours, theirs)]
    return Comparison(what, values[0], values[1], means[0] - means[1], width * math.sqrt(sum(variances)))


def all_of(comparisons: Sequence[Comparison]) -> Verdict:
    """Shown when every comparison shows it, refuted when one refutes it."""
    found = {comparison.verdict for comparison in comparisons}
    return "refuted" if "refuted" in found else "shown" if found == {"shown"} else "not decided"


def most_of(comparisons: Sequence[Comparison]) -> Verdict:
    """Shown when at least half of the comparisons show it and none speaks against it; refuted the other way round."""
    found = [comparison.verdict for comparison in comparisons]
    sides: tuple[tuple[Verdict, Verdict], ...] = (("shown", "refuted"), ("refuted", "shown"))
    for verdict, other in sides:
        if 2 * found.count(verdict) >= len(found) > 0 and other not in found:
            return verdict
    return "not decided"


@dataclass(frozen=True)
class Finding:
    """One part of the claim, decided.

    Args:
        claim: in the field's words.
        rival: the kind compared with.
        verdict: what the figures say.
        rule: how that was decided.
        text: the figures in words.
        comparisons: what it rests on.
    """

    claim: str
    rival: str
    verdict: Verdict
    rule: str
    text: str
    comparisons: Sequence[Comparison] = ()

    def record(self) -> dict[str, Any]:
        """Plain values."""
        rows = []
        for c in self.comparisons:
            numbers = {"ours": c.ours, "theirs": c.theirs, "lead": c.lead, "margin": c.margin}
            finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
            rows.append({"what": c.what, **finite, "verdict": c.verdict})
        plain = {"claim": self.claim, "rival": self.rival, "verdict": self.verdict, "rule": self.rule}
        return {**plain, "text": self.text, "comparisons": rows}


Decide = Callable[[Sequence[Entry], Sequence[Entry], Sequence[Contestant]], tuple[Verdict, str, list[Comparison]]]


def _sharper(
    ours: Sequence[Entry], theirs: Sequence[Entry], _: Sequence[Contestant]
) -> tuple[Verdict, str, list[Comparison]]:
    mine, others = _records(ours, SHARPNESS), _records(theirs, SHARPNESS)
    comparisons = [
        compare("more high-frequency power (log2 of real)", mine, others, better="high"),
        compare("high-frequency power nearer to that of real pictures", mine, others),
    ]
    ours_share, theirs_share = (2.0**v for v in (comparisons[0].ours, comparisons[0].theirs))
    text = f"high-frequency power: diffusion has {ours_share:.2f} of real pictures', the VAE {theirs_share:.2f}"
    return all_of(comparisons), text, comparisons


def _covers(
    ours: Sequence[Entry], theirs: Sequence[Entry], _: Sequence[Contestant]
) -> tuple[Verdict, str, list[Comparison]]:
    comparisons = []
    for name, space in _figures(ours[0], ("recall", "coverage", "kinds covered")):
        what = f"{name} ({space})" if space else name
        comparisons.append(compare(what, _records(ours, name, space), _records(theirs, name, space)))
    verdicts = [comparison.verdict for comparison in comparisons]
    text = (
        f"of {len(comparisons)} figures {verdicts.count('shown')} speak for diffusion and "
        f"{verdicts.count('refuted')} for the GAN, beyond the error"
    )
    return most_of(comparisons), text, comparisons


def _cheaper(
    ours: Sequence[Entry], theirs: Sequence[Entry], contestants: Sequence[Contestant]
) -> tuple[Verdict, str, list[Comparison]]:
    """The fewest steps at which no space finds the flow better; there the times are compared."""
    seconds = _records(theirs, "seconds per picture")
    steps = sorted({rung.num_steps for c in contestants for rung in c.rungs if rung.num_steps is not None})
    quality: list[Comparison] = []
    for count in steps:
        rungs = [rung for c in contestants for rung in c.rungs if rung.num_steps == count]
        quality = [
            compare(f"{name} ({space}) at {count} steps", _records(rungs, name, space), _records(theirs, name, space))
            for name, space in _figures(rungs[0], ("frechet",))
        ]
        if not quality or any(comparison.verdict == "refuted" for comparison in quality):
            continue
        time = compare("seconds per picture", _records(rungs, "seconds per picture"), seconds)
        text = (
            f"with {count} steps diffusion is as good as the flow or better in every space, at {time.ours:.2g} s for a "
            f"picture against {time.theirs:.2g} s"
        )
        return time.verdict, text, [*quality, time]
    if not quality:
        return "not decided", "no quality was measured", []
    return "refuted", f"even with {steps[-1]} steps the flow is better in at least one space", quality


def _records(entries: Sequence[Entry], name: str, space: str | None = None) -> list[MetricRecord]:
    found = [entry.find(name, space) for entry in entries]
    return [record for record in found if record is not None]


def _figures(entry: Entry, names: Sequence[str]) -> list[tuple[str, str]]:
    return [(record.name, record.space) for record in entry.records if record.name in names]


_ALL = "shown when both figures show it beyond the error, refuted when one says the opposite"
_MOST = "shown when at least half of the figures show it beyond the error and none says the opposite; or the reverse"
_EQUAL = "at the fewest steps where the flow's Frechet distance is nowhere better beyond the error, the times decide"
CLAIMS: tuple[tuple[str, str, str, Decide], ...] = (
    ("is sharper than a VAE", "vae", _ALL, _sharper),
    ("covers better than a GAN", "gan", _MOST, _covers),
    ("is cheaper than a flow at equal quality", "flow", _EQUAL, _cheaper),
)


def findings(contestants: Sequence[Contestant]) -> list[Finding]:
    """Every part of the claim, decided from the records of the contestants."""
    return [_finding(contestants, *claim) for claim in CLAIMS]


def _finding(contestants: Sequence[Contestant], claim: str, rival: str, rule: str, decide: Decide) -> Finding:
    mine = [c for c in contestants if c.kind == "diffusion" and c.entry is not None]
    sides = [[c.entry for c in contestants if c.kind == kind and c.entry is not None] for kind in ("diffusion", rival)]
    for kind, side in zip(("diffusion", rival), sides, strict=True):
        if not side:
            return Finding(claim, rival, "not decided", rule, f"there is no trained model of the kind {kind}")
    try:
        verdict, text, comparisons = decide(sides[0], sides[1], mine)
    except ValueError as error:
        return Finding(claim, rival, "not decided", rule, str(error))
    if min(map(len, sides)) == 1:
        text += "; one training of a kind tells of these models, not of the kinds"
    return Finding(claim, rival, verdict, rule, text, comparisons)


def sentence(found: Sequence[Finding]) -> str:
    """The whole claim with what became of it."""
    return "Diffusion " + ", ".join(f"{f.claim} ({f.verdict})" for f in found) + "."
