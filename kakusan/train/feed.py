"""Batches of training samples: which, in which order, mirrored or not, all a pure function of (seed, samples seen)."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.data.order import order
from kakusan.data.source import Pictures
from kakusan.noise import Stream, uniform


@dataclass(frozen=True)
class Batch:
    """Training samples.

    Args:
        x0: (B, C, *size) fp32 in model units.
        raw: raw condition values (B,), or None.
        numbers: (B,) int64, the place of each sample in the whole training.
        indices: (B,) int64, the place of each sample in the data set.
    """

    x0: Tensor
    raw: Tensor | None
    numbers: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.x0)

    def part(self, rows: slice) -> Batch:
        """Some of the samples."""
        return Batch(
            self.x0[rows], None if self.raw is None else self.raw[rows], self.numbers[rows], self.indices[rows]
        )


class Feed:
    """Batches of a data set, read ahead in a thread."""

    def __init__(self, pictures: Pictures, *, seed: int, batch: int, device: torch.device | str = "cpu") -> None:
        if len(pictures) == 0:
            raise ValueError("the data set is empty: there is nothing to train on")
        self.pictures, self.seed, self.size, self.device = pictures, seed, batch, torch.device(device)

    def batch(self, start: int, count: int | None = None) -> Batch:
        """The batch that begins at sample number `start` of the training."""
        return self._made(*self._read(start, self.size if count is None else count))

    def _read(self, start: int, count: int) -> tuple[int, Tensor, Tensor]:
        """(start, indices, stored pictures): decoding, which may wait for the disk."""
        indices = torch.from_numpy(order(self.seed, start, count, len(self.pictures)))
        return start, indices, self.pictures.read(indices.numpy())

    def _made(self, start: int, indices: Tensor, stored: Tensor) -> Batch:
        spec = self.pictures.spec
        spec.check(stored)
        numbers = torch.arange(start, start + len(indices))
        x0 = spec.to_model(stored)
        if spec.flip:
            mirrored = uniform(torch.full_like(numbers, self.seed), Stream.AUGMENT, numbers) < 0.5
            x0 = torch.where(mirrored.view(-1, *[1] * (x0.dim() - 1)), x0.flip(-1), x0)
        labels = self.pictures.labels
        raw = None if labels is None else labels[indices].to(self.device)
        return Batch(x0.to(self.device, non_blocking=True), raw, numbers, indices)

    def read_ahead(self, start: int, ahead: int = 2) -> Generator[Batch]:
        """Endless batches from sample number `start`, the next ones read while one is used.

        Only reading happens in the other thread. A tensor operation there would start a second team of OpenMP threads,
        which then spins on the cores that the network needs: steps took nearly twice as long.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="kakusan-feed") as pool:
            waiting = [pool.submit(self._read, start + i * self.size, self.size) for i in range(ahead)]
            place = start + ahead * self.size
            try:
                while True:
                    ready = waiting.pop(0)
                    waiting.append(pool.submit(self._read, place, self.size))
                    place += self.size
                    yield self._made(*ready.result())
            finally:
                for future in waiting:
                    future.cancel()
