"""What was measured survives its file, and is not taken for anything else."""

import json
import math
from pathlib import Path

import pytest

from kakusan.metrics.contestants import Contestant, Entry, kept, save, spread
from kakusan.metrics.record import MetricRecord, Provenance


def entry(name: str = "a", value: float = 1.0) -> Entry:
    of = Provenance(model="m", sampling={"steps": 3})
    records = [
        MetricRecord("frechet", value, 0.1, 64, of, "random", 0.5, 0.1),
        MetricRecord("x", 2.0, math.nan, 64, of),
    ]
    return Entry(name, "run", "diffusion", "ddim", 3, 2.0, 6.0, math.nan, records, {"ratios": [1.0]}, {"missing": []})


def test_entries_and_contestants_come_back_as_they_were() -> None:
    whole = Contestant("diffusion", 1, entry(), [entry("b", 2.0)], {"steps": 5, "seconds": 1.5}, "bound", "")
    plain = json.loads(json.dumps(whole.record(), allow_nan=False))
    back = Contestant.from_record(plain)
    assert json.dumps(back.record()) == json.dumps(whole.record())
    assert back.entry is not None
    assert math.isnan(back.entry.seconds)
    assert back.entry.find("frechet", "random") == whole.entry.find("frechet")  # type: ignore[union-attr]
    assert back.entry.find("frechet", "patches") is None
    assert back.rungs[0].records[0].value == 2.0


def test_a_model_that_was_never_saved_has_diverged() -> None:
    lost = Contestant.from_record(Contestant("gan", 0, trouble="NaN").record())
    assert lost.diverged
    assert not Contestant("gan", 0, entry()).diverged


@pytest.mark.parametrize(
    "values", [{}, {"entry": None}, {"entry": 3, "rungs": []}, {"entry": None, "rungs": [], "z": 1}]
)
def test_what_is_no_contestant_is_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="not a"):
        Contestant.from_record(values)


def test_only_the_same_key_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "a.json"
    assert kept(place, "k") is None
    save(place, "k", {"value": 1.5})
    assert kept(place, "k") == {"value": 1.5}
    assert kept(place, "other") is None
    for damage in ("", "[1]", '{"format": 99, "key": "k"}', place.read_text("utf-8")[:20]):
        place.write_text(damage, encoding="utf-8")
        assert kept(place, "k") is None


def test_spread() -> None:
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2.0)))
    assert math.isnan(spread([1.0])[1])
