"""The order in which training sees the data: a pure function of (seed, samples seen)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """Parts of a data set that are read as a whole, such as the row groups of a parquet file.

    Args:
        sizes: pictures in each part, in the order of the data set.
        window: how many parts are mixed with each other.

    Raises:
        ValueError: an empty part, or a window below 1.
    """

    sizes: tuple[int, ...]
    window: int

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or self.window < 1:
            raise ValueError(f"blocks hold at least one picture each and a window at least one block, got {self}")

    def taken(self, indices: Sequence[int] | np.ndarray) -> Blocks | None:
        """The blocks of a subset that keeps the order of the data set; None for any other, or an empty one."""
        chosen = np.asarray(indices, np.int64)
        if len(chosen) == 0 or (np.diff(chosen) <= 0).any():
            return None
        counts = np.bincount(np.searchsorted(np.cumsum(self.sizes), chosen, side="right"), minlength=len(self.sizes))
        return Blocks(tuple(int(n) for n in counts if n), self.window)


def order(seed: int, start: int, count: int, length: int, blocks: Blocks | None = None) -> np.ndarray:
    """Indices (count,) int64 of samples `start` to `start + count - 1` of an endless training run.

    Every epoch is one permutation of `range(length)`, keyed by (seed, epoch), so any window costs the window and its
    epochs, and the same window comes out however the run is cut into calls, processes or restarts.

    Args:
        seed: 0 to 2**64 - 1.
        start: samples already seen.
        count: how many to take.
        length: size of the data set.
        blocks: parts that are read as a whole. The permutation then takes `blocks.window` of them at a time, in random
            order, and mixes the pictures of these, so that few parts are open at any time.

    Raises:
        ValueError: an empty data set, a negative number, or blocks of another data set.
    """
    if length < 1:
        raise ValueError("the data set is empty: there is nothing to put in order")
    if start < 0 or count < 0 or not 0 <= seed < 2**64:
        raise ValueError(f"start, count and seed (below 2**64) cannot be negative, got {start}, {count} and {seed}")
    if blocks is not None and sum(blocks.sizes) != length:
        raise ValueError(f"the blocks hold {sum(blocks.sizes)} pictures, the data set {length}")
    taken = np.empty(count, np.int64)
    done = 0
    while done < count:
        epoch, offset = divmod(start + done, length)
        part = _permutation(seed, epoch, length, blocks)[offset : offset + count - done]
        taken[done : done + len(part)] = part
        done += len(part)
    return taken


# Raw 64-bit draws of a counter-based generator and a stable sort: both are fixed by definition, whereas
# `Generator.permutation` may change between numpy versions.
@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int, blocks: Blocks | None = None) -> np.ndarray:
    source = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    draws = source.random_raw(length)
    permutation = np.argsort(draws, kind="stable").astype(np.int64)
    if blocks is not None:
        places = np.argsort(np.argsort(source.random_raw(len(blocks.sizes)), kind="stable"))
        windows = np.repeat(places // blocks.window, blocks.sizes)
        permutation = permutation[np.argsort(windows[permutation], kind="stable")]
    permutation.setflags(write=False)
    return permutation
