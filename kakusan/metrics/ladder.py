"""Which of several ways to draw is best, which differences are beyond the error, and what the best costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kakusan.metrics.claims import MODELS
from kakusan.metrics.contestants import Entry
from kakusan.metrics.record import MetricRecord

BEYOND = 1.959963984540054
"""Standard errors of a difference that equals stay within 19 times in 20."""


@dataclass(frozen=True)
class Rung:
    """A way to draw beside the best, in one space.

    Args:
        entry: the way.
        record: its distance.
        lead: of the best: its distance less this one's, with the sign turned; 0 or more.
        margin: half the 95 % interval of `lead`.
    """

    entry: Entry
    record: MetricRecord
    lead: float
    margin: float

    @property
    def behind(self) -> bool:
        """Whether the best is better beyond the error."""
        return self.lead > self.margin


@dataclass(frozen=True)
class Ladder:
    """All ways to draw in every space, the best first.

    Args:
        spaces: rungs by the name of the space.
    """

    spaces: dict[str, list[Rung]]

    @classmethod
    def of(cls, entries: Sequence[Entry], name: str = "frechet") -> Ladder:
        """Set entries beside the best by a distance of this name.

        The records are compared across models, weights and sampling; their samples' seeds are the same, which makes the
        error of a difference an upper end where two ways follow the same noise.

        Raises:
            ValueError: unlike records.
        """
        found: dict[str, list[Rung]] = {}
        for space in dict.fromkeys(r.space for e in entries for r in e.records if r.name == name):
            pairs = [(e, r) for e in entries if (r := e.find(name, space)) is not None]
            _, best = min(pairs, key=lambda pair: pair[1].value)
            rungs = []
            for entry, record in pairs:
                lead, error = (0.0, 0.0) if record is best else best.difference(record, across=MODELS)
                rungs.append(Rung(entry, record, lead, BEYOND * error if math.isfinite(error) else math.inf))
            found[space] = sorted(rungs, key=lambda rung: rung.record.value)
        return cls(found)

    def cheapest(self, space: str) -> Rung:
        """Of the ways that the best does not beat beyond the error, the one with the fewest network calls."""
        return min((r for r in self.spaces[space] if not r.behind), key=lambda r: (r.entry.network_calls, r.lead))

    def text(self) -> list[str]:
        """For people, a line for each space."""
        lines = []
        for space, rungs in self.spaces.items():
            best, cheapest = rungs[0], self.cheapest(space)
            line = f"{space}: best is {label(best.entry)}, {_calls(best.entry)}, ratio {best.record.ratio or 0.0:.3g}"
            if cheapest.entry is not best.entry:
                line += f"; as good within the error for {_calls(cheapest.entry)}: {label(cheapest.entry)}"
            lines.append(line)
        return lines

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "ladder": {
                space: [
                    {
                        "name": r.entry.name,
                        "network_calls": r.entry.network_calls,
                        "value": r.record.value,
                        "behind_by": r.lead,
                        "margin": r.margin if math.isfinite(r.margin) else None,
                        "beyond_the_error": r.behind,
                    }
                    for r in rungs
                ]
                for space, rungs in self.spaces.items()
            }
        }


def _calls(entry: Entry) -> str:
    return f"{entry.network_calls:g} network call{'' if entry.network_calls == 1 else 's'}"


def label(entry: Entry) -> str:
    """What a way to draw is called for people."""
    if entry.num_steps is None:
        return entry.run
    scale = f", scale {entry.guidance_scale:g}" if entry.guidance_scale not in (None, 1.0) else ""
    return f"{entry.run}, {entry.sampler}, {entry.num_steps} step{'' if entry.num_steps == 1 else 's'}{scale}"
