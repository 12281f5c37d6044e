"""An evaluation goes through its file and back, and two of them compare number by number or not at all."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.metrics.results import EvaluationResult, compare, comparison_text
from kakusan.metrics.verdict import summary, verdict

OF = Provenance(model="a", weights="raw", sampling={"steps": 3}, seeds="0 to 9", reference="r", extractor="e")
finite = st.floats(-1e9, 1e9)


def record(name: str = "frechet", value: float = 2.0, stderr: float = 0.1, **more: object) -> MetricRecord:
    facts = {"space": "random", "null": 1.0, "null_stderr": 0.1, **more}
    n = int(facts.pop("n", 256))  # type: ignore[call-overload]
    return MetricRecord(name, value, stderr, n, facts.pop("of", OF), **facts)  # type: ignore[arg-type]


def result(*records: MetricRecord, subject: str = "x", **more: object) -> EvaluationResult:
    return EvaluationResult(subject, records, **more)  # type: ignore[arg-type]


@given(finite, finite, st.booleans(), st.dictionaries(st.text(max_size=5), finite, max_size=3))
def test_what_is_written_is_read_back(value: float, null: float, complete: bool, cost: dict[str, float]) -> None:
    before = result(record(value=value, null=null), cost=cost, complete=complete, notes=("n",), faults=({"name": "x"},))
    text = json.dumps(before.record(), allow_nan=False)
    assert EvaluationResult.from_record(json.loads(text)) == before


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path: Path) -> None:
    result(record(stderr=math.nan), curves={"a": [1.0, math.inf]}).write(tmp_path / "eval.json")
    found = json.loads((tmp_path / "eval.json").read_text("utf-8"))
    assert found["records"][0]["stderr"] is None
    assert found["curves"]["a"] == [1.0, None]
    assert math.isnan(EvaluationResult.read(tmp_path).records[0].stderr)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[]", "not the result of an evaluation"),
        ("{", "not JSON"),
        ("\xff\xfe", "not"),
        ('{"records": [], "format": 99, "kakusan": "9.9"}', "9.9"),
        ('{"records": [], "format": "1"}', "format"),
        ('{"records": [{}], "format": 1}', "not the record of a metric"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "eval.json").write_text(content, "latin-1")
    with pytest.raises(ValueError, match=match):
        EvaluationResult.read(tmp_path / "eval.json")


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kakusan eval"):
        EvaluationResult.read(tmp_path)


@pytest.mark.parametrize(
    ("better", "after", "said"),
    [
        ("low", 2.0 - 0.3, "better"),
        ("low", 2.0 + 0.3, "worse"),
        ("high", 2.0 + 0.3, "better"),
        ("high", 2.0 - 0.3, "worse"),
        ("null", 2.0 + 0.3, "differs"),
        # 1.645 standard errors of the difference, 0.1 * sqrt(2) each, are 0.2326.
        ("low", 2.0 - 0.23, "within the error"),
        ("low", 2.0 - 0.235, "better"),
    ],
)
def test_a_difference_is_told_from_its_error(better: str, after: float, said: str) -> None:
    rows = compare(result(record(better=better)), result(record(value=after, better=better)))
    assert [row.verdict for row in rows] == [said]


def test_equal_measurements_differ_beyond_the_error_once_in_ten_times() -> None:
    import torch

    draws = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [
        compare(result(record(value=a, stderr=1.0)), result(record(value=b, stderr=1.0)))[0] for a, b in draws.tolist()
    ]
    share = sum(row.beyond for row in rows) / len(rows)
    assert abs(share - 0.1) < 3 * math.sqrt(0.09 / len(rows))


def test_models_compare_and_unlike_records_do_not() -> None:
    other = dataclasses.replace(OF, model="b", weights="ema", sampling={}, seeds="9 to 18")
    assert not compare(result(record()), result(record(of=other)))[0].unlike
    for fact in ("reference", "extractor", "resizer", "quantiser", "conditions"):
        unlike = dataclasses.replace(OF, **{fact: "another"})
        (row,) = compare(result(record()), result(record(of=unlike)))
        assert row.unlike == (fact,)
        assert not row.beyond
        with pytest.raises(ValueError, match=fact):
            comparison_text(result(record()), result(record(of=unlike)))


def test_one_unlike_record_does_not_hide_the_others() -> None:
    unlike = record("kernel", of=dataclasses.replace(OF, extractor="another"))
    text = comparison_text(result(record(), record("kernel")), result(record(value=9.0), unlike))
    assert "not comparable: they differ in extractor" in text
    assert "worse" in text
    assert "1 of 1" in text


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(ValueError, match="no number in common"):
        comparison_text(result(record()), result(record("kernel")))


@pytest.mark.parametrize(
    ("value", "said"),
    [(1.0, "about as close"), (1.3, "close to"), (2.4, "resemble"), (5.0, "strongly"), (99.0, "little")],
)
def test_the_verdict_follows_the_median_ratio(value: float, said: str) -> None:
    records = [record(value=value, space=space) for space in "abc"] + [record(value=1e6, space="d")]
    first, second = verdict(result(*records[:3]))
    assert said in first
    assert "No known fault" in second
    # A single space does not decide.
    assert said in verdict(result(*records))[0]


def test_the_verdict_names_the_first_fault_and_the_others() -> None:
    faults = ({"name": "blurred", "verdict": "The samples are soft."}, {"name": "copies", "verdict": "x"})
    second = verdict(result(record(), faults=faults))[1]
    assert "blur and copied training pictures" in second


def test_the_same_model_has_the_same_verdict_at_any_number_of_samples() -> None:
    """Value = excess + bias / n, null = bias / n: measured so on the embedded flowers, docs/evaluation.md."""
    said = {verdict(result(record(n=n, value=1.2 + 1138 / n, null=1138 / n)))[0].split(":")[0] for n in (64, 256, 1024)}
    assert len(said) == 1


def test_no_distance_gives_no_praise() -> None:
    assert "nothing is said" in verdict(result())[0]
    assert "nothing is said" in summary(result(record("mean of red")))
