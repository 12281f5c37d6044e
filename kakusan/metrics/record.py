"""`MetricRecord`: a number with everything it depends on, which refuses to be compared with unlike numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

REPEAT = 1.6448536269514722 * math.sqrt(2.0)
"""Two equal measurements differ by less than this many standard errors nine times in ten."""

STUDIED = ("model", "weights", "sampling", "seeds")
"""What a comparison may be about. All else (extractor, reference, number, resizer ...) makes numbers unlike."""


def digest(value: Any) -> str:
    """A short, stable hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Provenance:
    """What a measurement depends on beside the pictures themselves.

    Args:
        model: hash of the checkpoint, or of the pictures where no model made them.
        weights: which of its weights.
        sampling: sampler, grid, steps, guidance: whatever beside the seeds decides the samples.
        seeds: of the samples, in words ("0 to 255").
        conditions: what the samples were asked for, in words.
        reference: hash of the real pictures.
        extractor: hash of the network that made the features; "" where there is none.
        resizer: how pictures were brought to the extractor's size; "none" at their own size.
        quantiser: how samples became integers.
        settings: of the metric.
    """

    model: str = ""
    weights: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seeds: str = ""
    conditions: str = "none"
    reference: str = ""
    extractor: str = ""
    resizer: str = "none"
    quantiser: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricRecord:
    """One number about samples.

    Args:
        name: of the metric, in the field's words.
        value: the number.
        stderr: its standard error over other samples of the same source, the reference kept; NaN when not known.
        n: samples it was measured on.
        of: its provenance.
        space: name of the feature space; "" where there is none.
        null: what real pictures score in the place of the samples, at equal n; None where that has no meaning.
        null_stderr: standard deviation of that over other halves of the real pictures.
        better: "low", "high", or "null" when nothing but the null is right.
    """

    name: str
    value: float
    stderr: float
    n: int
    of: Provenance
    space: str = ""
    null: float | None = None
    null_stderr: float | None = None
    better: str = "low"

    def __post_init__(self) -> None:
        if self.better not in ("low", "high", "null"):
            raise ValueError(f"better is low, high or null, got {self.better!r}")
        if self.n < 1:
            raise ValueError(f"{self.name} of {self.n} samples is not a measurement")

    @property
    def ratio(self) -> float | None:
        """Value over null: 1 is as good as real pictures. Of little meaning where the null is about zero: see `z`."""
        return self.value / self.null if self.null else None

    @property
    def z(self) -> float | None:
        """(value - null) in standard deviations of the null."""
        if self.null is None or not self.null_stderr:
            return None
        return (self.value - self.null) / self.null_stderr

    @property
    def repeat(self) -> float:
        """A measurement with other seeds lands within this of `value` nine times in ten."""
        return REPEAT * self.stderr

    def unlike(self, other: MetricRecord, across: Collection[str] = ()) -> list[str]:
        """The facts in which two records differ, without those that the comparison is about.

        Raises:
            ValueError: `across` names something that a comparison cannot be about.
        """
        for name in across:
            if name not in STUDIED:
                raise ValueError(f"records compare across {', '.join(STUDIED)}, not {name!r}")
        found = [name for name in ("name", "space", "n") if getattr(self, name) != getattr(other, name)]
        for entry in fields(Provenance):
            mine, theirs = (_plain(getattr(record.of, entry.name)) for record in (self, other))
            if mine != theirs and entry.name not in across:
                found.append(entry.name)
        return found

    def difference(self, other: MetricRecord, *, across: Collection[str] = ()) -> tuple[float, float]:
        """(other - self, its standard error).

        Args:
            across: what the comparison is about, of `STUDIED`. Nothing else may differ.

        Raises:
            ValueError: the records are unlike; the message names the facts.
        """
        unlike = self.unlike(other, across)
        if unlike:
            said = f" across {', '.join(across)}" if across else ""
            who = f"{self.name} {self.space} of {self.of.model[:12]!r} and of {other.of.model[:12]!r}"
            raise ValueError(f"{who} do not compare{said}: they differ in {', '.join(unlike)}")
        return other.value - self.value, math.hypot(self.stderr, other.stderr)

    def record(self) -> dict[str, Any]:
        """Plain values for `eval.json`; `from_record` is the inverse. Numbers that are not finite become null."""
        plain = asdict(self) | {"ratio": self.ratio, "z": self.z, "repeat": self.repeat}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> MetricRecord:
        """From the values in a file.

        Raises:
            ValueError: a value is missing or of the wrong kind.
        """
        try:
            known = {entry.name for entry in fields(Provenance)}
            of = Provenance(**{name: value for name, value in record["of"].items() if name in known})
            return cls(
                name=str(record["name"]),
                value=_number(record["value"]),
                stderr=_number(record["stderr"]),
                n=int(record["n"]),
                of=of,
                space=str(record["space"]),
                null=None if record["null"] is None else float(record["null"]),
                null_stderr=None if record["null_stderr"] is None else float(record["null_stderr"]),
                better=str(record["better"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is not the record of a metric: {error!r}") from None

    def text(self) -> str:
        """One line for people."""
        error = f" +- {self.stderr:.2g}" if math.isfinite(self.stderr) else ""
        line = f"{self.name}{f' ({self.space})' if self.space else ''}: {self.value:.4g}{error}"
        if self.null is not None:
            line += f", real pictures {self.null:.4g}"
        return line


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, Mapping) else value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
