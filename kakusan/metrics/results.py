"""`EvaluationResult`: everything one evaluation found, as it stands in `eval.json`, and how two of them compare."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kakusan import __version__
from kakusan.files import write_text
from kakusan.metrics.record import STUDIED, MetricRecord

FORMAT = 1
BEYOND = 1.6448536269514722
"""Standard errors of a difference beyond which equal models land once in ten times."""


@dataclass(frozen=True)
class EvaluationResult:
    """What one evaluation found. Equal seeds give it equal to the bit, but for `circumstances`.

    Args:
        subject: what was measured, in words.
        records: every number with all it depends on.
        faults: what is wrong with the samples, each with its evidence; plain values.
        memorisation: whether training pictures were copied; plain values, empty when not measured.
        classes: one row for each class; plain values.
        curves: what figures are drawn from; plain values.
        cost: what a sample takes, as far as it does not depend on the machine.
        notes: what a reader must know beside the numbers.
        circumstances: times, dates, machine: what may differ between equal results.
        complete: whether everything that was asked for has been measured.
    """

    subject: str
    records: Sequence[MetricRecord]
    faults: Sequence[Mapping[str, Any]] = ()
    memorisation: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[Mapping[str, Any]] = ()
    curves: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True

    def record(self) -> dict[str, Any]:
        """Plain values for `eval.json`; `from_record` is the inverse. Numbers that are not finite become null."""
        return {
            "format": FORMAT,
            "kakusan": __version__,
            "subject": self.subject,
            "complete": self.complete,
            "records": [record.record() for record in self.records],
            "faults": _finite(list(self.faults)),
            "memorisation": _finite(self.memorisation),
            "classes": _finite(list(self.classes)),
            "curves": _finite(self.curves),
            "cost": _finite(self.cost),
            "notes": list(self.notes),
            "circumstances": _finite(self.circumstances),
        }

    @classmethod
    def from_record(cls, values: Any) -> EvaluationResult:
        """From the values in a file.

        Raises:
            ValueError: not an evaluation, or one of a later version.
        """
        if not isinstance(values, dict) or not isinstance(values.get("records"), list):
            raise ValueError("this is not the result of an evaluation; kakusan eval writes such as eval.json")
        if not isinstance(values.get("format"), int) or values["format"] > FORMAT:
            raise ValueError(
                f"this result has the format {values.get('format')!r}, known here is {FORMAT}: read it with the "
                f"version of kakusan that wrote it ({values.get('kakusan')})"
            )
        given = {k: values[k] for k in ("memorisation", "curves", "cost", "circumstances") if k in values}
        given |= {k: tuple(values[k]) for k in ("faults", "classes", "notes") if k in values}
        records = tuple(MetricRecord.from_record(record) for record in values["records"])
        return cls(str(values.get("subject", "")), records, complete=bool(values.get("complete", True)), **given)

    def write(self, path: Path) -> None:
        """Writes `eval.json`, whole or not at all."""
        write_text(path, json.dumps(self.record(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> EvaluationResult:
        """Reads `eval.json`, or that of a folder.

        Raises:
            ValueError: no such file, or not an evaluation.
        """
        places = [path, path / "eval.json", path / "eval" / "eval.json"]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise ValueError(f"there is no evaluation at {path}; make one with: kakusan eval {path}")
        try:
            return cls.from_record(json.loads(found.read_text("utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{found} is not JSON ({error}); kakusan eval writes such a file as eval.json") from None
        except ValueError as error:
            raise ValueError(f"{found}: {error}") from None

    def find(self, name: str, space: str | None = None) -> MetricRecord | None:
        """The first record of that name (and space), None where there is none."""
        return next((r for r in self.records if r.name == name and space in (None, r.space)), None)


@dataclass(frozen=True)
class Difference:
    """One number of two evaluations.

    Args:
        name: of the metric.
        space: of its features.
        before: value of the first.
        after: value of the second.
        stderr: of their difference; NaN when not known.
        better: whether low or high values are good, or only the null.
        unlike: the facts that forbid the comparison; nothing else is meant then.
    """

    name: str
    space: str
    before: float
    after: float
    stderr: float
    better: str
    unlike: tuple[str, ...] = ()

    @property
    def beyond(self) -> bool:
        """Whether equal models would differ so much only once in ten times."""
        return not self.unlike and abs(self.after - self.before) > BEYOND * self.stderr

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.unlike:
            return f"not comparable: they differ in {', '.join(self.unlike)}"
        if math.isnan(self.stderr):
            return "no error is known"
        if not self.beyond:
            return "within the error"
        if self.better not in ("low", "high"):
            return "differs"
        return "better" if (self.after < self.before) == (self.better == "low") else "worse"


def compare(before: EvaluationResult, after: EvaluationResult) -> list[Difference]:
    """Every number that both have, with what can be said of the difference.

    Model, weights, sampling and seeds may differ: that is what the comparison is about. Whatever else differs makes
    numbers unlike.
    """
    found = []
    others = {(r.name, r.space): r for r in before.records}
    for mine in after.records:
        theirs = others.get((mine.name, mine.space))
        if theirs is not None:
            unlike = tuple(theirs.unlike(mine, STUDIED))
            stderr = math.hypot(theirs.stderr, mine.stderr)
            found.append(Difference(mine.name, mine.space, theirs.value, mine.value, stderr, mine.better, unlike))
    return found


def comparison_text(before: EvaluationResult, after: EvaluationResult) -> str:
    """The differences for people.

    Raises:
        ValueError: nothing in them can be compared; the message names why.
    """
    rows = compare(before, after)
    reasons = sorted({reason for row in rows for reason in row.unlike})
    if not rows or all(row.unlike for row in rows):
        why = f"they differ in {', '.join(reasons)}" if reasons else "they have no number in common"
        raise ValueError(f"{before.subject} and {after.subject} cannot be compared: {why}")
    lines = [f"{before.subject} -> {after.subject}"]
    for row in rows:
        name = f"{row.name} ({row.space})" if row.space else row.name
        numbers = "" if row.unlike else f"{row.before:>10.4g} -> {row.after:<10.4g}"
        lines.append(f"  {name:<36}{numbers}{row.verdict}")
    able = [row for row in rows if not row.unlike and not math.isnan(row.stderr)]
    beyond = sum(row.beyond for row in able)
    lines.append(
        f"{beyond} of {len(able)} differences are beyond the error; between equal models about one in ten would be "
        "by chance"
    )
    return "\n".join(lines)


def _finite(value: Any) -> Any:
    """Plain values as JSON can hold them."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
