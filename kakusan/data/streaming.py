"""Sets that are read where they lie: large files with many pictures each, looked at in part and decoded when read.

Up to `STREAM_ABOVE` bytes they are treated as a folder is: every picture looked at, kept in memory or in the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from kakusan.data.decoding import Decoder, LazyPictures, thread_count
from kakusan.data.description import attempt, describe, measure, refuse_bad, spread
from kakusan.data.metadata import Entry, Listing
from kakusan.data.modes import Plan
from kakusan.data.opening import Opening, Reader, open_listed
from kakusan.data.order import Blocks
from kakusan.data.reading import Picture, UnreadablePicture
from kakusan.data.source import Pictures
from kakusan.data.store import Store

STREAM_ABOVE = 2 * 2**30
"""Bytes of pictures, as they are stored, above which a set is streamed."""
LOOKED_AT = 512
"""Pictures of a streamed set that are looked at, to choose size and mode and to measure."""


class PartStore(Store, Protocol):
    """Many pictures in a few large files."""

    def size(self, name: str) -> int:
        """Bytes of one picture as it is stored (about, where it is compressed)."""
        ...

    def identity(self, name: str) -> str:
        """What distinguishes one picture, found without reading it."""
        ...


@dataclass(frozen=True)
class Parts:
    """What is in the files: the store, its listing, and the blocks that are best read together, if any."""

    store: PartStore
    found: Listing
    blocks: Blocks | None = None


def open_parts_of(
    parts: Parts, opening: Opening, *, source: Path, where: str, selection: object, stream_above: int
) -> Pictures:
    """The data set: opened like a folder up to `stream_above` bytes, streamed above.

    Raises:
        ValueError: unreadable pictures (up to 10 are named), or none at all.
    """
    store, found = parts.store, parts.found
    if sum(store.size(e.name) for e in found.entries) <= stream_above:
        return open_listed(store, found, opening, source=source, where=where, selection=selection)
    reader = Reader(store, opening.max_pixels)
    with ThreadPoolExecutor(thread_count(opening.workers)) as pool:
        rows = _sample(len(found.entries), parts.blocks)
        looked = attempt(pool, reader.look, [found.entries[i] for i in rows])
        bad = [r for r in looked if isinstance(r, UnreadablePicture)]
        good = [
            (found.entries[i], r) for i, r in zip(rows, looked, strict=True) if not isinstance(r, UnreadablePicture)
        ]
        said = refuse_bad(bad, opening.skip_unreadable, len(good), where)
        plan, notes = opening.plan([r[0] for _, r in good], [e.shown for e, _ in good])
        notes = [*store.notes, *found.notes, f"{len(rows)} of {len(found.entries)} pictures were looked at", *notes]
        if opening.skip_unreadable:
            found, said = _without_bad(found, plan, reader, pool, where)
    decode = _Decode(found.entries, plan, reader)
    decoder = Decoder(decode, (plan.channels, *plan.size), plan.dtype, opening.workers)
    blocks = parts.blocks if len(found.entries) == len(parts.found.entries) else None
    sample = decoder.read(_sample(len(found.entries), blocks))
    notes += [*said, f"streamed: pictures are decoded when read, and measured on {len(sample)} of them"]
    notes.append("exact duplicates are not looked for in streamed pictures")
    digests = [hashlib.sha256(store.identity(e.name).encode("utf-8", "replace")).hexdigest() for e in found.entries]
    about = describe(found, digests, plan, measure(sample, plan, whole=False), flip=opening.flip, notes=notes)
    return LazyPictures(about, decoder, digests, blocks)


def _sample(count: int, blocks: Blocks | None) -> np.ndarray:
    """Evenly spread numbers; of a few blocks where reading one picture means to read its block."""
    if blocks is None:
        return spread(count, LOOKED_AT)
    ends = np.cumsum(blocks.sizes)
    chosen = spread(len(blocks.sizes), 8)
    rows = [ends[b] - blocks.sizes[b] + spread(blocks.sizes[b], LOOKED_AT // len(chosen)) for b in chosen]
    return np.concatenate(rows)


@dataclass(frozen=True)
class _Decode:
    """Decoding under a plan that was made from some of the pictures, so that the others may not fit it."""

    entries: Sequence[Entry]
    plan: Plan
    reader: Reader

    def __call__(self, index: int) -> np.ndarray:
        entry, plan = self.entries[index], self.plan
        picture = self.reader.picture(entry)
        bits, channels = 8 * picture.values.dtype.itemsize, picture.values.shape[2]
        if bits > plan.bits:
            raise UnreadablePicture(entry.shown, f"has {bits} bits, the pictures looked at first have {plan.bits}")
        if (picture.mode == "" or plan.mode == "") and channels != plan.channels:
            raise UnreadablePicture(
                entry.shown, f"has {channels} channels, the pictures looked at first have {plan.channels}"
            )
        return plan.apply(picture if plan.mode else Picture(picture.values, ""))


def _without_bad(
    found: Listing, plan: Plan, reader: Reader, pool: ThreadPoolExecutor, where: str
) -> tuple[Listing, list[str]]:
    """The listing without pictures that cannot be decoded, all of which are tried."""
    decode = _Decode(found.entries, plan, reader)

    def check(index: int) -> None:
        decode(index)

    results = attempt(pool, check, range(len(found.entries)))
    bad = [r for r in results if isinstance(r, UnreadablePicture)]
    good = tuple(e for e, r in zip(found.entries, results, strict=True) if not isinstance(r, UnreadablePicture))
    return replace(found, entries=good), refuse_bad(bad, True, len(good), where)
