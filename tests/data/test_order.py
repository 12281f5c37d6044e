"""Laws of the data order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.order import Blocks, order


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


BLOCKS = st.builds(Blocks, st.lists(st.integers(1, 9), min_size=1, max_size=12).map(tuple), window=st.integers(1, 5))


@given(blocks=BLOCKS, seed=st.integers(0, 2**64 - 1), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_blocks_are_visited_window_by_window(blocks: Blocks, seed: int, cuts: list[int]) -> None:
    length = sum(blocks.sizes)
    epochs = order(seed, 0, 2 * length, length, blocks).reshape(2, length)
    owner = np.repeat(np.arange(len(blocks.sizes)), blocks.sizes)
    for epoch in epochs:
        assert sorted(epoch) == list(range(length))
        # Each block belongs to one stretch of the epoch, together with at most `window - 1` others.
        visited, place = owner[epoch], 0
        while place < length:
            group: set[int] = set()
            end = place
            while end < length and len(group | {int(visited[end])}) <= blocks.window:
                group.add(int(visited[end]))
                end += 1
            assert end - place >= 1
            assert not group & set(visited[end:].tolist())
            place = end
    start = 0
    parts = []
    for cut in cuts:
        parts.append(order(seed, start, cut, length, blocks))
        start += cut
    assert np.array_equal(np.concatenate([*parts, []]), order(seed, 0, start, length, blocks))


def test_a_window_over_all_blocks_is_the_plain_order() -> None:
    assert np.array_equal(order(4, 3, 50, 20, Blocks((5, 15), 2)), order(4, 3, 50, 20))
    assert not np.array_equal(order(4, 3, 50, 20, Blocks((5, 15), 1)), order(4, 3, 50, 20))


@given(blocks=BLOCKS, data=st.data())
def test_blocks_of_a_subset(blocks: Blocks, data: st.DataObject) -> None:
    length = sum(blocks.sizes)
    chosen = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1)))
    taken = blocks.taken(chosen)
    assert taken is not None
    owner = np.repeat(np.arange(len(blocks.sizes)), blocks.sizes)[chosen]
    assert list(taken.sizes) == [int((owner == b).sum()) for b in np.unique(owner)]
    assert blocks.taken([]) is None
    assert blocks.taken([0, 0]) is None


def test_blocks_of_another_set_are_refused() -> None:
    with pytest.raises(ValueError, match="hold 7 pictures, the data set 8"):
        order(0, 0, 1, 8, Blocks((3, 4), 1))
    for sizes, window in (((), 1), ((0, 1), 1), ((1,), 0)):
        with pytest.raises(ValueError, match="blocks hold at least one"):
            Blocks(sizes, window)
