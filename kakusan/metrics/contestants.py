"""What a comparison has measured of each model, as it stands in `compare.json`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kakusan.files import write_text
from kakusan.metrics.record import MetricRecord

FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One way to draw samples, and how good and how dear they are.

    Args:
        name: what it is called in tables, and its files.
        run: what the model is called.
        kind: "diffusion", or the kind of a rival.
        sampler: of a diffusion model; "" for rivals.
        num_steps: of the sampler.
        guidance_scale: of the sampler.
        network_calls: passes of the network for each picture; guidance takes two an evaluation.
        seconds: for each picture, on this machine.
        records: every figure.
        spectrum: "frequencies" and "ratios" of power to real pictures.
        kinds: "seen", kinds of pictures in the samples and in as many real ones, and "missing".
    """

    name: str
    run: str
    kind: str
    sampler: str = ""
    num_steps: int | None = None
    guidance_scale: float | None = None
    network_calls: float = 1.0
    seconds: float = math.nan
    records: Sequence[MetricRecord] = ()
    spectrum: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, Any] = field(default_factory=dict)

    def find(self, name: str, space: str | None = None) -> MetricRecord | None:
        """The record of this name (in this space)."""
        return next((r for r in self.records if r.name == name and space in (None, r.space)), None)

    def record(self) -> dict[str, Any]:
        """Plain values; `from_record` is the inverse."""
        return _plain(self) | {"records": [record.record() for record in self.records]}

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Entry:
        """From the values in a file.

        Raises:
            ValueError: a value is missing or of the wrong kind.
        """
        try:
            records = [MetricRecord.from_record(record) for record in values["records"]]
            seconds = math.nan if values["seconds"] is None else float(values["seconds"])
            return cls(**{**values, "records": records, "seconds": seconds})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is not an entry of a comparison: {error!r}") from None


@dataclass(frozen=True)
class Contestant:
    """One trained model.

    Args:
        kind: "diffusion", or the kind of a rival.
        seed: of its training.
        entry: how its samples are; None for a model that could not be sampled.
        rungs: the same model with fewer steps, the cheapest first; empty for rivals.
        training: seconds, steps, samples seen, parameters, times it went back.
        likelihood: "exact", "bound" or "none": of what its bits per dimension state.
        trouble: why there is no model, or what went wrong with it; "" when all went well.
    """

    kind: str
    seed: int
    entry: Entry | None = None
    rungs: Sequence[Entry] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    likelihood: str = "none"
    trouble: str = ""

    @property
    def diverged(self) -> bool:
        """Whether its training was given up."""
        return bool(self.training.get("diverged", self.entry is None))

    def record(self) -> dict[str, Any]:
        """Plain values; `from_record` is the inverse."""
        entries = {"entry": None if self.entry is None else self.entry.record()}
        return _plain(self) | entries | {"rungs": [rung.record() for rung in self.rungs]}

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Contestant:
        """From the values in a file.

        Raises:
            ValueError: a value is missing or of the wrong kind.
        """
        try:
            entry = None if values["entry"] is None else Entry.from_record(values["entry"])
            rungs = [Entry.from_record(rung) for rung in values["rungs"]]
            return cls(**{**values, "entry": entry, "rungs": rungs})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is not a contestant: {error!r}") from None


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = _finite(asdict(value))
    return plain


def _finite(value: Any) -> Any:
    """Numbers that JSON does not have become null."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(path: Path, key: str, values: Mapping[str, Any]) -> None:
    """Keep what was measured under a key, whole or not at all."""
    content = {"format": FORMAT, "key": key, **values}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def kept(path: Path, key: str) -> dict[str, Any] | None:
    """What was measured under the same key; None when nothing was, or the file is of something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("key") != key:
        return None
    return {name: value for name, value in found.items() if name not in ("format", "key")}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation; NaN for one value alone)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
