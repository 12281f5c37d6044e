"""Laws of the data order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.order import order


@given(
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 200),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    length=st.integers(1, 30),
)
@settings(deadline=None)
def test_any_cut_gives_the_same_samples(seed: int, start: int, cuts: list[int], length: int) -> None:
    whole = order(seed, start, sum(cuts), length)
    parts, seen = [np.empty(0, np.int64)], start
    for count in cuts:
        parts.append(order(seed, seen, count, length))
        seen += count
    assert np.array_equal(whole, np.concatenate(parts))


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 5), length=st.integers(1, 100))
@settings(deadline=None)
def test_every_epoch_is_a_permutation(seed: int, epoch: int, length: int) -> None:
    assert sorted(order(seed, epoch * length, length, length)) == list(range(length))


def test_epochs_and_seeds_differ() -> None:
    first = order(0, 0, 1000, 1000)
    assert not np.array_equal(first, order(0, 1000, 1000, 1000))
    assert not np.array_equal(first, order(1, 0, 1000, 1000))


def test_the_order_is_the_one_of_the_generator_by_definition() -> None:
    # Philox4x64-10 of Random123 with a zero key and counter 1 (numpy counts up before it draws), sorted.
    draws = np.random.Philox(key=np.array([7, 2], np.uint64)).random_raw(50)
    assert np.array_equal(order(7, 100, 50, 50), np.argsort(draws, kind="stable"))


def test_every_place_is_equally_likely() -> None:
    # Over 3000 seeds each of 6 elements comes first about 500 times; 6 standard deviations are 122.
    counts = np.bincount([order(seed, 0, 1, 6)[0] for seed in range(3000)], minlength=6)
    assert np.abs(counts - 500).max() < 122


@pytest.mark.parametrize("bad", [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, -1, 1), (0, 0, 1, 0), (2**64, 0, 1, 1)])
def test_bad_numbers_are_refused(bad: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"negative|empty"):
        order(*bad)
