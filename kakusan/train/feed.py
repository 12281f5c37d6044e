"""Batches of training samples: which, in which order, mirrored or not, all a pure function of (seed, samples seen)."""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.autoencoders.latents import LatentPictures
from kakusan.data.augment import Augmentation
from kakusan.data.order import order
from kakusan.data.source import Pictures, blocks_of, decoder_of
from kakusan.noise import Draws, Stream, uniform
from kakusan.train.distributed import World
from kakusan.train.partners import Partners
from kakusan.train.resident import Resident, fits
from kakusan.train.texts import Texts
from kakusan.train.workers import DecodingPace


@dataclass(frozen=True)
class Batch:
    """Training samples.

    Args:
        x0: (B, C, *size) fp32 in model units.
        raw: raw condition values (B,), or None.
        numbers: (B,) int64, the place of each sample in the whole training.
        indices: (B,) int64, the place of each sample in the data set.
        augment: (B, 9), what was done to each sample (`kakusan.data.augment`), or None.
        eps: (B, C, *size), the noise that goes with each sample where a coupling settled that for the whole batch.
        partner: (B, C, *size), the other pictures of data that come in pairs.
        text: (B, L) int64, token numbers of a caption of each sample.
    """

    x0: Tensor
    raw: Tensor | None
    numbers: Tensor
    indices: Tensor
    augment: Tensor | None = None
    eps: Tensor | None = None
    partner: Tensor | None = None
    text: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x0)

    def part(self, rows: slice) -> Batch:
        """Some of the samples."""
        optional = (self.raw, self.augment, self.eps, self.partner, self.text)
        raw, augment, eps, partner, text = (None if part is None else part[rows] for part in optional)
        return Batch(self.x0[rows], raw, self.numbers[rows], self.indices[rows], augment, eps, partner, text)


class Feed:
    """Batches of a data set, read ahead in a thread or cut out of a set that stays on the device.

    `waited` is the time in seconds that the last batch of `read_ahead` kept its user waiting; `resident` says which of
    the two it is.

    Args:
        pictures: the data set.
        seed: of the order and of the mirroring.
        batch: samples in a batch, of all processes together.
        device: where batches are wanted.
        world: which part of each batch this process takes; all when not given.
        resident: keep the whole set on the device; when not given, on an accelerator where it comfortably fits. The
            batches are the same.
        partners: the other pictures of data that come in pairs; they are read ahead and not kept on the device.
        texts: the captions, for models of texts.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        seed: int,
        batch: int,
        device: torch.device | str = "cpu",
        world: World | None = None,
        resident: bool | None = None,
        partners: Partners | None = None,
        texts: Texts | None = None,
    ) -> None:
        if len(pictures) == 0:
            raise ValueError("the data set is empty: there is nothing to train on")
        self.pictures, self.seed, self.size, self.device = pictures, seed, batch, torch.device(device)
        self.world = World() if world is None else world
        self.waited, self.partners, self.texts = 0.0, partners, texts
        self._blocks, self._decoder = blocks_of(pictures), decoder_of(pictures)
        alone = partners is None and not pictures.spec.networks()
        self.resident = alone and (fits(pictures, self.device) if resident is None else resident)
        self._resident: Resident | None = None

    def batch(self, start: int, count: int | None = None) -> Batch:
        """The batch that begins at sample number `start` of the training."""
        return self._made(*self._read(start, self.size if count is None else count))

    def _chosen(self, start: int, count: int) -> tuple[int, Tensor]:
        """(start, indices) of the part of a batch that this process takes."""
        first, count = self.world.part(count)
        start += first
        return start, torch.from_numpy(order(self.seed, start, count, len(self.pictures), self._blocks))

    def _read(self, start: int, count: int) -> tuple[int, Tensor, Tensor, Tensor | None, float]:
        """(start, indices, stored pictures, their partners, seconds): decoding, which may wait for the disk."""
        began = time.perf_counter()
        start, indices = self._chosen(start, count)
        stored = self._seen(indices, start)
        partner = None if self.partners is None else self.partners.read(indices.numpy())
        return start, indices, stored, partner, time.perf_counter() - began

    def _seen(self, indices: Tensor, start: int) -> Tensor:
        """Stored pictures; latents are drawn for each sample of the training, and may be of mirrored pictures."""
        if isinstance(self.pictures, LatentPictures):
            return self.pictures.seen(indices, self.seed, torch.arange(start, start + len(indices)))
        return self.pictures.read(indices.numpy())

    def _made(
        self, start: int, indices: Tensor, stored: Tensor, partner: Tensor | None = None, _: float = 0.0
    ) -> Batch:
        self.pictures.spec.check(stored)
        labels = self.pictures.labels
        raw = None if labels is None else labels[indices].to(self.device)
        if stored.dtype == torch.uint8:
            # These bytes travel, not the four times as many of the numbers they become.
            stored = stored.to(self.device, non_blocking=True)
        return self._finished(start, indices, stored, raw, partner)

    def _cut_out(self, resident: Resident, start: int, count: int) -> Batch:
        start, indices = self._chosen(start, count)
        return self._finished(start, indices, *resident.take(indices))

    def _finished(
        self, start: int, indices: Tensor, stored: Tensor, raw: Tensor | None, partner: Tensor | None = None
    ) -> Batch:
        spec = self.pictures.spec
        numbers = torch.arange(start, start + len(indices))
        x0 = spec.to_model(stored).to(self.device, non_blocking=True)
        own = x0.shape[1]
        if partner is not None:
            # One picture from here on: what happens to the one happens to the other.
            x0 = torch.cat([x0, partner.to(self.device, non_blocking=True)], dim=1)
        if spec.flip:
            mirrored = uniform(torch.full_like(numbers, self.seed), Stream.AUGMENT, numbers) < 0.5
            x0 = torch.where(mirrored.view(-1, *[1] * (x0.dim() - 1)).to(x0.device), x0.flip(-1), x0)
        done: Tensor | None = None
        if spec.augment:
            x0, done = Augmentation(spec.augment)(x0, self.seed, numbers)
        if partner is not None:
            x0, partner = x0[:, :own].contiguous(), x0[:, own:].contiguous()
        # A changed picture is one that could be stored, as every other is: likelihoods count on that.
        text = None
        if self.texts is not None:
            text = self.texts.take(indices, Draws(torch.full_like(numbers, self.seed), numbers)).to(self.device)
        return Batch(spec.snap(x0) if spec.augment else x0, raw, numbers, indices, done, partner=partner, text=text)

    def read_ahead(self, start: int, ahead: int = 2) -> Generator[Batch]:
        """Endless batches from sample number `start`, the next ones read while one is used.

        Only reading happens in the other thread. A tensor operation there would start a second team of OpenMP threads,
        which then spins on the cores that the network needs: steps took nearly twice as long.
        """
        if self.resident:
            yield from self._from_device(start)
            return
        pace = None if self._decoder is None else DecodingPace(self._decoder)
        with ThreadPoolExecutor(1, thread_name_prefix="kakusan-feed") as pool:
            waiting = [pool.submit(self._read, start + i * self.size, self.size) for i in range(ahead)]
            place = start + ahead * self.size
            try:
                while True:
                    began = time.perf_counter()
                    ready = waiting.pop(0)
                    waiting.append(pool.submit(self._read, place, self.size))
                    place += self.size
                    read = ready.result()
                    batch = self._made(*read)
                    given = time.perf_counter()
                    self.waited = given - began
                    yield batch
                    if pace is not None:
                        pace.observe(read[-1], time.perf_counter() - given)
            finally:
                for future in waiting:
                    future.cancel()

    def _from_device(self, start: int) -> Generator[Batch]:
        """Endless batches of a set that stays on the device; it is brought there once."""
        if self._resident is None:
            self._resident = Resident(self.pictures, self.device)
        while True:
            began = time.perf_counter()
            batch = self._cut_out(self._resident, start, self.size)
            start += self.size
            self.waited = time.perf_counter() - began
            yield batch
