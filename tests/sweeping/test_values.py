"""Values of an axis: what is written is what is read, and nothing else is taken."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakusan.sweeping.values import MOST, distinct, numbers, said, split

finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))


class TestRanges:
    @given(finite, finite, st.integers(2, 60))
    def test_a_range_has_both_ends_and_equal_steps(self, first: float, last: float, count: int) -> None:
        values = numbers(f"{first!r}:{last!r}:{count}", "x")
        assert len(values) == count
        assert values[0] == pytest.approx(first, rel=1e-11, abs=1e-15)
        assert values[-1] == pytest.approx(last, rel=1e-11, abs=1e-15)
        steps = [b - a for a, b in itertools.pairwise(values)]
        assert max(steps) - min(steps) <= 1e-11 * max(1.0, abs(first), abs(last))

    def test_the_issues_own_example(self) -> None:
        values = numbers("-10:10:41", "x")
        assert values == [-10.0 + 0.5 * i for i in range(41)]
        assert math.copysign(1.0, values[20]) == 1.0

    def test_tenths_are_tenths(self) -> None:
        assert numbers("0:1:11", "x") == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]

    def test_whole_numbers_are_rounded_within_a_range(self) -> None:
        assert numbers("1:10:4", "x", whole=True) == [1, 4, 7, 10]
        assert numbers("5:50:4", "x", whole=True) == [5, 20, 35, 50]

    def test_one_value_is_a_range_without_length(self) -> None:
        assert numbers("3:3:1", "x") == [3.0]
        with pytest.raises(ValueError, match="ask for at least 2"):
            numbers("3:4:1", "x")


class TestLists:
    @given(st.lists(finite, min_size=1, max_size=20))
    def test_a_list_is_read_as_it_stands(self, values: list[float]) -> None:
        assert numbers(",".join(map(repr, values)), "x") == values

    def test_a_long_seed_keeps_every_digit(self) -> None:
        assert numbers("9007199254740993", "seed", whole=True) == [9007199254740993]

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "has no values"),
            ("  ", "has no values"),
            ("1,,2", "empty value"),
            ("1,2,", "empty value"),
            ("1,zwei", "'zwei', which is not a number"),
            ("nan", "expected a number"),
            ("inf,1", "expected a number"),
            ("0:1", "expected first:last:count"),
            ("0:1:2:3", "expected first:last:count"),
            ("0::3", "expected first:last:count"),
            ("0:1:2.5", "expected a whole number"),
            ("0:1:0", "expected 1 to"),
            ("0:1:100000000000", "expected 1 to"),
            ("0:inf:3", "expected a number"),
        ],
    )
    def test_what_is_no_value_is_refused(self, text: str, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            numbers(text, "x")

    def test_a_whole_number_is_asked_for(self) -> None:
        with pytest.raises(ValueError, match=r"'2.5'; expected a whole number"):
            numbers("1,2.5", "steps", whole=True)

    def test_names_are_split_and_trimmed(self) -> None:
        assert split("rose, tulip", "label") == ["rose", "tulip"]

    def test_a_value_stands_once(self) -> None:
        assert distinct([1, 2], "x") == (1, 2)
        with pytest.raises(ValueError, match="the value 1 twice"):
            distinct([1, 2, 1], "x")
        with pytest.raises(ValueError, match="at most"):
            distinct(range(MOST + 1), "x")


def test_values_are_said_for_people() -> None:
    assert [said(value) for value in (-0.5, 2.0, 7, "rose", None)] == ["−0.5", "2", "7", "rose", "none"]
