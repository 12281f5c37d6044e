"""Pictures that are decoded when they are read, by several threads, with the last ones kept."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from kakusan.data.description import Description
from kakusan.data.order import Blocks

CACHE_BYTES = 256 * 2**20
"""Bytes of decoded pictures that a decoder keeps."""
MOST_WORKERS = 32


def thread_count(asked: int | None) -> int:
    """Threads of decoding: the number asked for, else one for each core up to eight.

    Raises:
        ValueError: fewer than one.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"workers is at least 1, got {asked}")
    return asked or min(8, os.cpu_count() or 1)


class Decoder:
    """Decodes pictures by number; what comes out never depends on the number of threads.

    Args:
        decode: number -> (C, H, W); called from several threads at once.
        shape: (C, H, W).
        dtype: uint8 or uint16.
        workers: threads; when not given they are `measured`: whoever reads may change `workers` at any time.
    """

    def __init__(
        self,
        decode: Callable[[int], np.ndarray],
        shape: tuple[int, ...],
        dtype: np.dtype[np.generic],
        workers: int | None = None,
    ) -> None:
        self._decode = decode
        self._shape, self._dtype = shape, dtype
        self.measured = workers is None
        self.workers = thread_count(workers)
        self.most = max(self.workers, min(MOST_WORKERS, os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(self.most, thread_name_prefix="kakusan-decode")
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._room = max(1, CACHE_BYTES // int(np.prod(shape) * dtype.itemsize))

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Stored pictures (n, C, H, W); raises what `decode` raises."""
        found = np.empty((len(indices), *self._shape), self._dtype)
        # Whoever is free takes the next one, so that a large picture holds up nobody.
        waiting = deque(enumerate(indices.tolist()))

        def take() -> None:
            while True:
                try:
                    row, index = waiting.popleft()
                except IndexError:
                    return
                try:
                    found[row] = self._one(index)
                except BaseException:
                    waiting.clear()
                    raise

        for future in [self._pool.submit(take) for _ in range(min(self.workers, len(indices)))]:
            future.result()
        return found

    def forget(self) -> None:
        """Drop what is kept, so that the next reading decodes again (to measure it)."""
        with self._lock:
            self._kept.clear()

    def _one(self, index: int) -> np.ndarray:
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        pixels = self._decode(index)
        with self._lock:
            self._kept[index] = pixels
            while len(self._kept) > self._room:
                self._kept.popitem(last=False)
        return pixels


class LazyPictures:
    """Pictures decoded when they are read; for sets that do not fit in memory.

    Args:
        about: everything but the pixels.
        decoder: reads them by number.
        digests: N hashes of content.
        blocks: parts of the set that are best read together, if any.
    """

    def __init__(
        self, about: Description, decoder: Decoder, digests: Sequence[str], blocks: Blocks | None = None
    ) -> None:
        self.spec = about.spec
        self.labels = about.labels
        self.captions = about.captions
        self.texts = about.texts
        self.fingerprint = about.fingerprint
        self.notes = about.notes
        self.decoder = decoder
        self.blocks = blocks
        self._names = about.names
        self._digests = digests

    def __len__(self) -> int:
        return len(self._names)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Stored pictures (n, C, H, W), uint8 or uint16; raises `UnreadablePicture` for a damaged file."""
        return torch.from_numpy(self.decoder.read(np.asarray(indices, np.int64)))

    def name(self, index: int) -> str:
        """What to call one picture."""
        return self._names[index]

    def digest(self, index: int) -> str:
        """Hash of one picture's content."""
        return self._digests[index]
