"""The best way to draw, those within the error of it, and the cheapest of these."""

from dataclasses import replace

import pytest

from kakusan.metrics.contestants import Entry
from kakusan.metrics.ladder import Ladder, label
from kakusan.metrics.record import MetricRecord, Provenance


def entry(steps: int, value: float, stderr: float = 0.1, *, sampler: str = "ddim", scale: float = 1.0) -> Entry:
    of = Provenance(model="m", sampling={"steps": steps, "sampler": sampler})
    records = [MetricRecord("frechet", value, stderr, 64, of, "random", 0.5, 0.1)]
    calls = steps * (2.0 if scale != 1.0 else 1.0)
    return Entry(f"{sampler}-{steps}", "run", "diffusion", sampler, steps, scale, calls, 0.1, records)


def test_the_best_is_first_and_only_clear_losers_are_behind() -> None:
    ladder = Ladder.of([entry(5, 9.0), entry(10, 1.2), entry(40, 1.0), entry(20, 1.1, scale=2.0)])
    rungs = ladder.spaces["random"]
    assert [r.entry.num_steps for r in rungs] == [40, 20, 10, 5]
    assert [r.behind for r in rungs] == [False, False, False, True]
    assert rungs[0].lead == 0.0
    assert rungs[3].lead == pytest.approx(8.0)
    # Of the three that are as good, ten steps take the fewest calls.
    assert ladder.cheapest("random").entry.num_steps == 10
    (line,) = ladder.text()
    assert "40 steps" in line
    assert "10 network calls" in line
    assert [row["beyond_the_error"] for row in ladder.record()["ladder"]["random"]] == [False, False, False, True]


def test_one_way_alone_is_the_best() -> None:
    ladder = Ladder.of([entry(5, 2.0)])
    assert ladder.cheapest("random").entry.num_steps == 5
    assert "as good" not in ladder.text()[0]


def test_unlike_records_are_refused() -> None:
    other = entry(10, 2.0)
    unlike = replace(other, records=[replace(other.records[0], n=128)])
    with pytest.raises(ValueError, match="differ in n"):
        Ladder.of([entry(5, 1.0), unlike])


def test_names() -> None:
    assert label(entry(1, 1.0)) == "run, ddim, 1 step"
    assert label(entry(5, 1.0, scale=2.0)) == "run, ddim, 5 steps, scale 2"
    assert label(Entry("a", "gan", "gan")) == "gan"
