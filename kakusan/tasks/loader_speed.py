"""How fast pictures can be handed to training, without any network: opening, decoding, whole batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kakusan.config import DataSettings
from kakusan.data.cache import size_text
from kakusan.data.source import decoder_of
from kakusan.train.feed import Feed
from kakusan.train.resident import stored_bytes
from kakusan.train.sources import open_parts


@dataclass(frozen=True)
class LoaderSpeed:
    """What was measured.

    Args:
        source: the data.
        pictures: in the training part.
        stored_bytes: of all of them, decoded.
        opening_seconds: from the call to the first picture.
        batch: samples in a batch.
        resident: whether the batches were cut out of a set on the device.
        per_second: pictures a second in whole batches, ready for the network.
        decoding: pictures a second by number of threads, for sets that are decoded when read.
        notes: what was decided while opening.
    """

    source: str
    pictures: int
    stored_bytes: int
    opening_seconds: float
    batch: int
    resident: bool
    per_second: float
    decoding: dict[int, float]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for `json.dump`."""
        return asdict(self)

    def text(self) -> str:
        """The report for people."""
        lines = [
            f"{self.source}",
            f"  pictures   {self.pictures} for training, {size_text(self.stored_bytes)} decoded",
            f"  opening    {self.opening_seconds:.2f} s",
        ]
        for workers, rate in self.decoding.items():
            lines.append(f"  decoding   {rate:.0f} pictures/s with {workers} thread{'s' if workers > 1 else ''}")
        where = "cut out of the set on the device" if self.resident else "read ahead by one thread"
        lines += [
            f"  batches    {self.per_second:.0f} pictures/s in batches of {self.batch}, {where}",
            f"  so a step of {self.batch} waits for its data when it takes less than "
            f"{1000 * self.batch / max(self.per_second, 1e-9):.2f} ms",
            *(f"  note       {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def measure(
    data: DataSettings, *, batch: int = 64, seconds: float = 3.0, device: torch.device | str = "cpu", seed: int = 0
) -> LoaderSpeed:
    """Measure the loader alone, in the order that training would use.

    Args:
        data: what to open, and how.
        batch: samples in a batch.
        seconds: for each figure, about.
        device: where batches go.
        seed: of the order.

    Raises:
        ValueError: data that cannot be opened, or numbers below 1.
    """
    if batch < 1 or not seconds > 0.0:
        raise ValueError(f"batch is at least 1 and seconds are positive, got {batch} and {seconds}")
    notes: list[str] = []
    began = time.perf_counter()
    pictures, _ = open_parts(data, seed=seed, say=notes.append)
    pictures.read([0])
    opening = time.perf_counter() - began
    feed = Feed(pictures, seed=seed, batch=batch, device=device)
    decoder = decoder_of(pictures)
    decoding: dict[int, float] = {}
    place = 0
    if decoder is not None:
        workers = 1
        while workers <= decoder.most:
            decoder.workers = workers
            # Nothing measured may come from what was kept by the measurement before.
            decoder.forget()

            def one() -> int:
                nonlocal place
                count = len(feed.batch(place))
                place += count
                return count

            decoding[workers] = _rate(one, seconds)
            workers *= 2
        decoder.workers = max(decoding, key=decoding.__getitem__)
        decoder.forget()
    with contextlib.closing(feed.read_ahead(place)) as batches:
        made: Iterator[Any] = iter(batches)
        next(made)
        per_second = _rate(lambda: len(next(made)), seconds)
    return LoaderSpeed(
        data.source,
        len(pictures),
        stored_bytes(pictures),
        opening,
        batch,
        feed.resident,
        per_second,
        decoding,
        tuple(note.removeprefix("data: ") for note in notes),
    )


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Pictures a second of `work`, which says how many it made."""
    began, count, spent = time.perf_counter(), 0, 0.0
    while spent < seconds:
        count += work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent = time.perf_counter() - began
    return count / spent
