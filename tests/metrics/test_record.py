"""Laws of records: unlike ones are refused and the fact is named, files give back what was written."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.record import STUDIED, MetricRecord, Provenance, digest

OF = Provenance(
    model="a1",
    weights="ema",
    sampling={"sampler": "ddim", "num_steps": 20},
    seeds="0 to 255",
    conditions="classes in turn",
    reference="b2",
    extractor="c3",
    resizer="bicubic",
    quantiser="half to even",
    settings={"k": 5},
)
RECORD = MetricRecord("frechet", 2.0, 0.3, 256, OF, space="classifier", null=0.5, null_stderr=0.1)
OTHER = {"sampling": {"sampler": "ddim", "num_steps": 40}, "settings": {"k": 3}}


def with_other(name: str) -> MetricRecord:
    """The record with another value of one fact of its provenance."""
    return replace(RECORD, of=replace(OF, **{name: OTHER.get(name, "another")}))


@pytest.mark.parametrize("name", [entry.name for entry in fields(Provenance)])
def test_every_fact_that_differs_is_refused_and_named(name):
    other = with_other(name)
    with pytest.raises(ValueError, match=f"they differ in {name}$"):
        RECORD.difference(other)
    with pytest.raises(ValueError, match=f"they differ in {name}$"):
        other.difference(RECORD)
    if name in STUDIED:
        assert RECORD.difference(other, across=[name])[0] == 0.0
        rest = [studied for studied in STUDIED if studied != name]
        with pytest.raises(ValueError, match=f"they differ in {name}$"):
            RECORD.difference(other, across=rest)
    else:
        with pytest.raises(ValueError, match=f"they differ in {name}$"):
            RECORD.difference(other, across=STUDIED)
        with pytest.raises(ValueError, match=f"not '{name}'"):
            RECORD.difference(other, across=[name])


@pytest.mark.parametrize(("name", "value"), [("name", "kernel"), ("space", "patches"), ("n", 128)])
def test_other_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f"they differ in {name}$"):
        RECORD.difference(replace(RECORD, **{name: value}), across=STUDIED)


def test_all_facts_are_named_together():
    other = replace(with_other("extractor"), n=64)
    assert RECORD.unlike(other) == ["n", "extractor"]
    assert RECORD.unlike(RECORD) == []


@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(0, 1e3))
def test_a_difference_has_the_errors_of_both(value, mine, theirs):
    a = replace(RECORD, stderr=mine)
    b = replace(with_other("seeds"), value=value, stderr=theirs)
    found, error = a.difference(b, across=["seeds"])
    assert found == value - 2.0
    assert error == pytest.approx(math.sqrt(mine**2 + theirs**2))


NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBER, NUMBER | st.just(math.nan), st.integers(1, 10**6), st.none() | NUMBER, st.none() | NUMBER)
def test_files_give_back_what_was_written(value, stderr, n, null, null_stderr):
    record = replace(RECORD, value=value, stderr=stderr, n=n, null=null, null_stderr=null_stderr)
    text = json.dumps(record.record(), allow_nan=False)
    back = MetricRecord.from_record(json.loads(text))
    assert json.dumps(back.record(), allow_nan=False) == text
    assert back.unlike(record) == []
    assert back == record or (math.isnan(stderr) and replace(back, stderr=0.0) == replace(record, stderr=0.0))


def test_what_is_not_a_number_is_written_as_nothing():
    record = replace(RECORD, value=math.nan, stderr=math.inf)
    plain = json.loads(json.dumps(record.record(), allow_nan=False))
    assert plain["value"] is None
    assert plain["stderr"] is None
    assert plain["repeat"] is None
    back = MetricRecord.from_record(plain)
    assert math.isnan(back.value)
    assert math.isnan(back.stderr)
    assert "+-" not in back.text()


def test_settings_survive_a_file_also_where_they_were_tuples():
    record = replace(RECORD, of=replace(OF, settings={"sizes": (1, 2)}))
    back = MetricRecord.from_record(json.loads(json.dumps(record.record())))
    assert record.unlike(back) == []


def test_files_of_later_versions_and_broken_ones():
    plain = RECORD.record()
    assert MetricRecord.from_record({**plain, "new": 1, "of": {**plain["of"], "newer": 2}}) == RECORD
    for broken in ({}, {**plain, "of": 3}, {k: v for k, v in plain.items() if k != "value"}, {**plain, "n": None}):
        with pytest.raises(ValueError, match="not the record of a metric"):
            MetricRecord.from_record(broken)
    for wrong in ({"value": "much"}, {"n": 0}, {"better": "blue"}):
        with pytest.raises(ValueError):
            MetricRecord.from_record({**plain, **wrong})


def test_ratio_and_z_beside_the_null():
    assert RECORD.ratio == 4.0
    assert RECORD.z == pytest.approx(15.0)
    assert replace(RECORD, null=None).ratio is None
    assert replace(RECORD, null=None).z is None
    assert replace(RECORD, null=0.0).ratio is None
    assert replace(RECORD, null_stderr=0.0).z is None
    assert RECORD.text() == "frechet (classifier): 2 +- 0.3, real pictures 0.5"


def test_repeat_holds_nine_equal_measurements_in_ten():
    # Two draws of one normal law, of which the first tells the error.
    drawn = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)) * 0.3
    inside = ((drawn[:, 0] - drawn[:, 1]).abs() <= RECORD.repeat).double().mean()
    assert float(inside) == pytest.approx(0.9, abs=0.01)


def test_wrong_records_are_refused():
    with pytest.raises(ValueError, match="low, high or null"):
        replace(RECORD, better="up")
    with pytest.raises(ValueError, match="0 samples"):
        replace(RECORD, n=0)


def test_a_digest_is_of_the_values():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
