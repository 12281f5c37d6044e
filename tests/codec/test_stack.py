"""The entropy coder: pops and pushes are inverses, rates are those of the distributions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakusan.codec.stack import Stack, Undecodable, Underflow


def filled(words: int = 400, seed: int = 0) -> Stack:
    return Stack(np.random.default_rng(seed).integers(1, 2**32, words, dtype=np.uint32))


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=40), st.floats(0.3, 30.0), st.integers(0, 99))
def test_a_push_undoes_a_pop(means: list[float], std: float, seed: int) -> None:
    stack, mean = filled(seed=seed), np.array(means)
    before = stack.words()
    drawn = stack.pop_normal(mean, std)
    spread = np.full(len(mean), std)
    wide = stack.pop_any(mean, spread)
    table = stack.pop_table(5, 3, lambda rows: np.tile([0.2, 0.5, 0.3], (rows.stop - rows.start, 1)))
    assert stack.bits <= 32 * len(before)
    if std >= 1.0 and len(means) >= 20:
        # The likeliest symbol costs 1.3 bits or more, so 40 of them are over the 32 that whole words can hide.
        assert stack.bits < 32 * len(before)
    stack.push_table(table, 3, lambda rows: np.tile([0.2, 0.5, 0.3], (rows.stop - rows.start, 1)))
    stack.push_any(wide, mean, spread)
    stack.push_normal(drawn, mean, std)
    np.testing.assert_array_equal(stack.words(), before)


@given(
    st.lists(st.tuples(st.integers(-(2**30), 2**30), st.floats(-1e6, 1e6), st.floats(0.3, 50.0)), max_size=30),
    st.integers(1, 256),
)
def test_whatever_was_pushed_is_popped(rows: list[tuple[int, float, float]], size: int) -> None:
    symbols, mean, std = (np.array([row[k] for row in rows], kind) for k, kind in enumerate((np.int64, float, float)))
    levels = np.abs(symbols) % size
    stack = Stack()
    stack.push_any(symbols, mean, std)
    stack.push_uniform(levels, size)
    again = Stack(stack.words(), guarded=False)
    np.testing.assert_array_equal(again.pop_uniform(len(rows), size), levels)
    np.testing.assert_array_equal(again.pop_any(mean, std), symbols)
    assert again.empty


def test_draws_are_gaussian_and_cost_their_entropy() -> None:
    count, std = 20_000, 6.0
    stack, mean = filled(40_000), np.linspace(-3.0, 3.0, 20_000)
    before = stack.bits
    drawn = stack.pop_normal(mean, std) - mean
    # Rounding adds 1/12 to the variance; five standard errors.
    variance = std**2 + 1.0 / 12.0
    assert abs(drawn.mean()) < 5.0 * std / math.sqrt(count)
    assert abs(drawn.var() / variance - 1.0) < 5.0 * math.sqrt(2.0 / count)
    entropy = 0.5 * math.log2(2.0 * math.pi * math.e * std**2)
    error = 0.5 / math.log(2.0) * math.sqrt(2.0 / count)
    assert abs((before - stack.bits) / count - entropy) < 5.0 * error + 64.0 / count


def test_the_bottom_is_seen() -> None:
    with pytest.raises(Underflow):
        filled(3).pop_normal(np.zeros(100), 5.0)


def test_a_copy_is_a_place_to_go_back_to() -> None:
    stack = filled(50)
    before, copy = stack.words(), stack.copy()
    copy.pop_uniform(20, 256)
    np.testing.assert_array_equal(stack.words(), before)
    assert copy.lowest < stack.bits


def test_impossible_symbols_and_words_are_refused() -> None:
    with pytest.raises(Undecodable):
        filled().push_normal(np.array([1000]), np.zeros(1), 2.0)
    with pytest.raises(Undecodable):
        Stack(np.array([1, 0], np.uint32))
    with pytest.raises(ValueError, match="not finite"):
        filled().push_any(np.zeros(1, np.int64), np.array([np.nan]), np.ones(1))
