"""The claim is decided by the figures: planted leads are found, noise is not, and the two sides are treated alike."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.claims import NORMAL, all_of, compare, findings, most_of, sentence, student
from kakusan.metrics.contestants import Contestant, Entry
from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.metrics.sharpness import NAME

FLOATS = st.floats(-100.0, 100.0)


def record(
    value: float, stderr: float = 0.1, *, name: str = "frechet", space: str = "random", better: str = "low", n: int = 64
) -> MetricRecord:
    return MetricRecord(name, value, stderr, n, Provenance(model="m", reference="r"), space, 1.0, 0.1, better)


class TestStudent:
    @pytest.mark.parametrize(("freedom", "value"), [(4, 2.776445), (10, 2.228139), (12, 2.178813), (30, 2.042272)])
    def test_quantiles_are_those_of_the_tables(self, freedom: int, value: float) -> None:
        assert student(freedom) == pytest.approx(value, abs=1e-3)

    def test_it_falls_to_the_normal_quantile(self) -> None:
        values = [student(k) for k in range(1, 200)]
        assert values == sorted(values, reverse=True)
        assert values[-1] == pytest.approx(NORMAL, abs=0.02)

    def test_no_freedom_is_refused(self) -> None:
        with pytest.raises(ValueError, match="degree of freedom"):
            student(0)


class TestCompare:
    @given(
        st.lists(FLOATS, min_size=1, max_size=4),
        st.lists(FLOATS, min_size=1, max_size=4),
        st.sampled_from(["low", "high"]),
    )
    def test_turning_the_sides_round_turns_the_answer_round(self, a: list[float], b: list[float], better: str) -> None:
        ours, theirs = ([record(v, better=better) for v in side] for side in (a, b))
        one, other = compare("x", ours, theirs), compare("x", theirs, ours)
        assert one.lead == pytest.approx(-other.lead, abs=1e-9)
        assert one.margin == pytest.approx(other.margin)
        turned = {"shown": "refuted", "refuted": "shown", "not decided": "not decided"}
        assert one.verdict == turned[other.verdict] or abs(abs(one.lead) - one.margin) < 1e-9

    def test_low_and_high_mean_what_they_say(self) -> None:
        low = compare("x", [record(1.0)], [record(5.0)])
        high = compare("x", [record(1.0, better="high")], [record(5.0, better="high")])
        assert (low.verdict, high.verdict) == ("shown", "refuted")

    def test_where_the_null_is_right_both_directions_are_wrong(self) -> None:
        ours, theirs = [record(1.1, 0.01, better="null")], [record(0.2, 0.01, better="null")]
        assert compare("x", ours, theirs).verdict == "shown"
        assert compare("x", ours, [record(1.8, 0.01, better="null")]).verdict == "shown"

    def test_the_spread_over_trainings_counts_and_the_error_of_samples_is_its_floor(self) -> None:
        apart = compare("x", [record(v, 0.0) for v in (1.0, 2.0, 3.0)], [record(v, 0.0) for v in (2.5, 3.5, 4.5)])
        assert apart.margin == pytest.approx(student(4) * math.sqrt(2.0 / 3.0))
        assert apart.verdict == "not decided"
        same = compare("x", [record(1.0, 0.3)] * 3, [record(1.5, 0.3)] * 3)
        assert same.margin == pytest.approx(student(4) * math.sqrt(2 * 0.09 / 3.0))

    def test_equal_kinds_are_told_apart_one_time_in_twenty(self) -> None:
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(1500, 2, 3, generator=generator, dtype=torch.float64).tolist()
        wrong = [
            compare("x", [record(v, 0.0) for v in a], [record(v, 0.0) for v in b]).verdict != "not decided"
            for a, b in draws
        ]
        assert 0.03 < sum(wrong) / len(wrong) < 0.07

    def test_unlike_records_are_refused(self) -> None:
        with pytest.raises(ValueError, match="differ in n"):
            compare("x", [record(1.0)], [record(1.0, n=65)])
        other = replace(record(1.0), of=Provenance(model="m", reference="other"))
        with pytest.raises(ValueError, match="reference"):
            compare("x", [record(1.0)], [other])
        with pytest.raises(ValueError, match="nothing to compare"):
            compare("x", [], [record(1.0)])


def test_rules_over_several_figures() -> None:
    yes, no = (compare("x", [record(1.0)], [record(v)]) for v in (5.0, -5.0))
    open_ = compare("x", [record(1.0)], [record(1.05)])
    assert [c.verdict for c in (yes, no, open_)] == ["shown", "refuted", "not decided"]
    assert all_of([yes, yes]) == "shown"
    assert all_of([yes, open_]) == "not decided"
    assert all_of([yes, no]) == "refuted"
    assert most_of([yes, yes, open_, open_]) == "shown"
    assert most_of([yes, open_, open_]) == "not decided"
    assert most_of([yes, yes, no]) == "not decided"
    assert most_of([no, no, open_]) == "refuted"
    assert most_of([]) == "not decided"


def entry(kind: str, *, sharp: float, covers: float, frechet: float, seconds: float, steps: int | None = None) -> Entry:
    records = [
        record(sharp, 0.02, name=NAME, space="", better="null"),
        *(record(covers, 0.01, name=name, better="high") for name in ("recall", "coverage")),
        record(frechet, 0.05),
        record(seconds, 0.1 * seconds, name="seconds per picture", space=""),
    ]
    # The null of sharpness is 0: as sharp as real pictures.
    records[0] = replace(records[0], null=0.0)
    return Entry("e", "r", kind, num_steps=steps, seconds=seconds, records=records)


def contest(*, good: bool = True, rung_quality: float = 2.0) -> list[Contestant]:
    found = []
    for seed in range(3):
        jitter = 0.01 * seed
        best = (
            {"sharp": -0.1, "covers": 0.9, "frechet": 1.5} if good else {"sharp": -3.0, "covers": 0.1, "frechet": 9.0}
        )
        full = entry("diffusion", seconds=0.2, steps=16, **{k: v + jitter for k, v in best.items()})
        few = entry("diffusion", sharp=-0.1, covers=0.9, frechet=rung_quality + jitter, seconds=0.02, steps=2)
        found.append(Contestant("diffusion", seed, full, [few, full]))
        found.append(Contestant("vae", seed, entry("vae", sharp=-2.0 + jitter, covers=0.5, frechet=6.0, seconds=0.01)))
        found.append(Contestant("gan", seed, entry("gan", sharp=0.1, covers=0.3 + jitter, frechet=3.0, seconds=0.01)))
        found.append(Contestant("flow", seed, entry("flow", sharp=-0.5, covers=0.6, frechet=4.0 + jitter, seconds=0.1)))
    return found


class TestFindings:
    def test_a_planted_truth_is_shown(self) -> None:
        found = findings(contest())
        assert [f.verdict for f in found] == ["shown"] * 3
        assert "with 2 steps" in found[2].text
        assert sentence(found).count("(shown)") == 3

    def test_a_planted_lie_is_refuted(self) -> None:
        found = findings(contest(good=False, rung_quality=9.0))
        assert [f.verdict for f in found] == ["refuted"] * 3
        assert "even with 16 steps" in found[2].text

    def test_equal_quality_is_bought_with_as_many_steps_as_it_takes(self) -> None:
        # Two steps are worse than the flow, sixteen better: those take twice the flow's time.
        found = findings(contest(rung_quality=8.0))[2]
        assert found.verdict == "refuted"
        assert "with 16 steps" in found.text

    def test_more_power_than_real_pictures_is_not_sharper(self) -> None:
        grain = [
            replace(c, entry=entry("diffusion", sharp=4.0 + 0.01 * c.seed, covers=0.9, frechet=2.0, seconds=0.1))
            if c.kind == "diffusion"
            else c
            for c in contest()
        ]
        assert findings(grain)[0].verdict == "refuted"

    def test_a_kind_that_is_missing_or_diverged_decides_nothing(self) -> None:
        some = [Contestant("vae", 0, trouble="NaN") if c.kind == "vae" else c for c in contest() if c.kind != "flow"]
        found = findings(some)
        assert [f.verdict for f in found] == ["not decided", "shown", "not decided"]
        assert "no trained model of the kind vae" in found[0].text

    def test_one_training_says_that_it_is_one(self) -> None:
        found = findings([c for c in contest() if c.seed == 0])
        assert all("one training of a kind" in f.text for f in found)

    def test_unlike_records_are_no_verdict(self) -> None:
        broken = contest()
        assert broken[1].entry is not None
        records = [replace(r, n=65) for r in broken[1].entry.records]
        broken[1] = replace(broken[1], entry=replace(broken[1].entry, records=records))
        found = findings(broken)[0]
        assert found.verdict == "not decided"
        assert "do not compare" in found.text

    def test_plain_values_hold_every_figure(self) -> None:
        plain = findings(contest())[1].record()
        assert [row["what"] for row in plain["comparisons"]] == ["recall (random)", "coverage (random)"]
        assert all(row["verdict"] == "shown" for row in plain["comparisons"])
