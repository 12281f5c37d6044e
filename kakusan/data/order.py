"""The order in which training sees the data: a pure function of (seed, samples seen)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def order(seed: int, start: int, count: int, length: int) -> np.ndarray:
    """Indices (count,) int64 of samples `start` to `start + count - 1` of an endless training run.

    Every epoch is one permutation of `range(length)`, keyed by (seed, epoch), so any window costs the window and its
    epochs, and the same window comes out however the run is cut into calls, processes or restarts.

    Args:
        seed: 0 to 2**64 - 1.
        start: samples already seen.
        count: how many to take.
        length: size of the data set.

    Raises:
        ValueError: an empty data set, or a negative number.
    """
    if length < 1:
        raise ValueError("the data set is empty: there is nothing to put in order")
    if start < 0 or count < 0 or not 0 <= seed < 2**64:
        raise ValueError(f"start, count and seed (below 2**64) cannot be negative, got {start}, {count} and {seed}")
    taken = np.empty(count, np.int64)
    done = 0
    while done < count:
        epoch, offset = divmod(start + done, length)
        part = _permutation(seed, epoch, length)[offset : offset + count - done]
        taken[done : done + len(part)] = part
        done += len(part)
    return taken


# Raw 64-bit draws of a counter-based generator and a stable sort: both are fixed by definition, whereas
# `Generator.permutation` may change between numpy versions.
@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    draws = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(length)
    permutation = np.argsort(draws, kind="stable").astype(np.int64)
    permutation.setflags(write=False)
    return permutation
