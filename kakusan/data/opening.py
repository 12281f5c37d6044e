"""From a list of files to a data set: looked at, planned, then decoded into memory or mapped from the cache."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kakusan.data.cache import Cache, Looks, find_cache, pack_key, place_key, size_text
from kakusan.data.decoding import Decoder, LazyPictures, thread_count
from kakusan.data.description import Measured, attempt, describe, measure, refuse_bad, spread
from kakusan.data.fit import CenterCrop, Fit
from kakusan.data.metadata import Entry, Listing
from kakusan.data.modes import Plan, make_plan
from kakusan.data.packed import Pack, PackedPictures, PackFacts, PackWriter, write_pack
from kakusan.data.reading import MAX_PIXELS, Header, Picture, UnreadablePicture, read_header, read_picture
from kakusan.data.source import ArrayPictures, Pictures
from kakusan.data.store import Store

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded pictures that are kept in memory; larger sets are decoded when read."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How files become a data set; the fields are arguments of `kakusan.data.folder.open_folder`.

    Raises:
        ValueError: a size or a number of workers below 1.
    """

    size: int | tuple[int, int] | None = None
    fit: Fit | None = None
    flip: bool = False
    channels: int | None = None
    skip_unreadable: bool = False
    max_pixels: int = MAX_PIXELS
    memory_limit: int = MEMORY_LIMIT
    workers: int | None = None
    cache: str | Path = "auto"

    def __post_init__(self) -> None:
        target = self.target
        if target is not None and (len(target) != 2 or min(target) < 1):
            raise ValueError(f"size is (height, width), both at least 1, got {tuple(target)}")
        thread_count(self.workers)

    @property
    def target(self) -> tuple[int, int] | None:
        """(H, W), or None when it is found from the pictures."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def plan(self, headers: Sequence[Header], names: Sequence[str]) -> tuple[Plan, list[str]]:
        """What every picture becomes, and what to tell about it."""
        return make_plan(headers, names, size=self.target, fit=self.fit or CenterCrop(), channels=self.channels)


class Reader:
    """Bytes and pixels of entries, with the limits of this session."""

    def __init__(self, store: Store, max_pixels: int, looks: Looks | None = None) -> None:
        self._store = store
        self._max_pixels = max_pixels
        self._looks = Looks(None, max_pixels) if looks is None else looks

    def _bytes(self, entry: Entry) -> bytes:
        if entry.name in self._store.refused:
            raise UnreadablePicture(entry.shown, self._store.refused[entry.name])
        try:
            return self._store.read(entry.name)
        except UnreadablePicture as error:
            raise UnreadablePicture(entry.shown, error.reason) from error

    def look(self, entry: Entry) -> tuple[Header, str]:
        """Header and content hash; the file is not read while the system says that it is as it was."""
        stamp = None if entry.name in self._store.refused else self._store.stamp(entry.name)
        known = self._looks.get(entry.name, stamp)
        if known is None:
            data = self._bytes(entry)
            known = read_header(data, entry.shown, max_pixels=self._max_pixels), hashlib.sha256(data).hexdigest()
            self._looks.put(entry.name, stamp, known)
        return known

    def picture(self, entry: Entry) -> Picture:
        """The pixels."""
        return read_picture(self._bytes(entry), entry.shown, max_pixels=self._max_pixels)


@dataclass(frozen=True)
class _Looked:
    """Pictures whose headers are good, and what they become."""

    found: Listing
    digests: Sequence[str]
    plan: Plan
    reader: Reader
    opening: Opening
    where: str

    def decode(self, index: int) -> np.ndarray:
        return self.plan.apply(self.reader.picture(self.found.entries[index]))

    @property
    def whole(self) -> bool:
        """Whether all fit into memory. Statistics are then those of all, cache or not."""
        return len(self.digests) * self.plan.row_bytes <= self.opening.memory_limit

    def kept(self, rows: Sequence[int]) -> _Looked:
        if len(rows) == len(self.digests):
            return self
        entries = tuple(self.found.entries[i] for i in rows)
        return replace(self, found=replace(self.found, entries=entries), digests=[self.digests[i] for i in rows])


def open_listed(
    store: Store, found: Listing, opening: Opening, *, source: Path, where: str, selection: object = None
) -> Pictures:
    """The data set of the pictures in `found`, each of which is looked at.

    Args:
        store: the files.
        found: which of them, with classes and captions.
        opening: how.
        source: where they come from, for the cache.
        where: what to call that in messages.
        selection: what distinguishes `found` from other choices of the same source; plain data.

    Raises:
        ValueError: unreadable pictures (up to 10 are named), or none at all.
    """
    cache, cache_note = find_cache(opening.cache, source)
    looks = Looks.at(cache, source, opening.max_pixels)
    reader = Reader(store, opening.max_pixels, looks)
    with ThreadPoolExecutor(thread_count(opening.workers)) as pool:
        results = attempt(pool, reader.look, found.entries)
        bad = [r for r in results if isinstance(r, UnreadablePicture)]
        good = [(e, r) for e, r in zip(found.entries, results, strict=True) if not isinstance(r, UnreadablePicture)]
        found = replace(found, entries=tuple(e for e, _ in good))
        if not good:
            refuse_bad(bad, True, 0, where)
        headers = [header for _, (header, _) in good]
        plan, planned = opening.plan(headers, [e.shown for e in found.entries])
        looked = _Looked(found, [digest for _, (_, digest) in good], plan, reader, opening, where)
        notes = [*store.notes, *found.notes, *planned]
        # With an error that is certain, decoding all into a file would only find more of them.
        worth = cache is not None and sum(h.height * h.width for h in headers) >= cache.worth
        if cache is not None and worth and (opening.skip_unreadable or not bad):
            cached = _from_cache(looked, cache, looks, pool, bad, notes, source=source, selection=selection)
            if cached is not None:
                return cached
        if cache_note is not None and not looked.whole:
            notes.append(cache_note)
        return _without_cache(looked, pool, bad, notes)


def _from_cache(
    looked: _Looked,
    cache: Cache,
    looks: Looks,
    pool: ThreadPoolExecutor,
    bad: Sequence[UnreadablePicture],
    notes: list[str],
    *,
    source: Path,
    selection: object,
) -> Pictures | None:
    """The data set mapped from a packed file, which is made when there is none; None when none can be made."""
    key = pack_key(looked.plan, looked.digests, whole=looked.whole)
    pack, trouble = cache.open(key)
    notes += [trouble] if trouble else []
    made = pack is None
    try:
        if pack is None:
            pack = _make_pack(looked, cache, key, place_key(source, looked.plan, selection), pool, source, bad)
            cache.tidy(pack.facts)
        looks.save()
    except OSError as error:
        notes.append(f"the cache {cache.folder} cannot be written ({error.strerror or error}); going on without it")
        if pack is None:
            return None
    facts = pack.facts
    unreadable = [UnreadablePicture(name, reason) for name, reason in facts.unreadable.values()]
    rows = np.array([i for i in range(facts.count) if i not in facts.unreadable], np.int64)
    looked = looked.kept(rows.tolist())
    size = size_text(pack.bytes)
    notes = [
        *notes,
        *refuse_bad([*bad, *unreadable], looked.opening.skip_unreadable, len(rows), looked.where),
        f"decoded once into {pack.path} ({size})" if made else f"taken from {pack.path} ({size}) without decoding",
    ]
    measured = Measured(facts.high, facts.mean, facts.std, facts.notes)
    about = describe(looked.found, looked.digests, looked.plan, measured, flip=looked.opening.flip, notes=notes)
    return PackedPictures(
        about, pack, rows, looked.decode, looked.digests, lambda said: warnings.warn(said, stacklevel=3)
    )


def _make_pack(
    looked: _Looked,
    cache: Cache,
    key: str,
    place: str,
    pool: ThreadPoolExecutor,
    source: Path,
    bad: Sequence[UnreadablePicture],
) -> Pack:
    plan, count = looked.plan, len(looked.digests)
    shape = (plan.channels, *plan.size)
    # Beside the pixels there are four bytes of check for each picture, and the facts.
    cache.check_room(count * (plan.row_bytes + 4) + 2**16)

    def fill(writer: PackWriter) -> PackFacts:
        done = attempt(pool, lambda index: writer.put(index, looked.decode(index)), range(count))
        failed = {i: error for i, error in enumerate(done) if isinstance(error, UnreadablePicture)}
        rows = np.array([i for i in range(count) if i not in failed], np.int64)
        refuse_bad([*bad, *failed.values()], looked.opening.skip_unreadable, len(rows), looked.where)
        stored = writer.view()
        rows = rows if looked.whole else rows[spread(len(rows))]
        measured = measure(stored[rows] if len(rows) < count else stored, plan, whole=looked.whole)
        return PackFacts(
            key=key,
            place=place,
            source=str(source.resolve()),
            count=count,
            shape=shape,
            dtype=plan.dtype.name,
            high=measured.high,
            mean=measured.mean,
            std=measured.std,
            unreadable={i: (error.path, error.reason) for i, error in failed.items()},
            notes=measured.notes,
        )

    write_pack(cache.path(key), count, shape, plan.dtype, fill)
    pack, trouble = cache.open(key)
    if pack is None:
        raise OSError(trouble or "the file just written is gone")
    return pack


def _without_cache(
    looked: _Looked, pool: ThreadPoolExecutor, bad: Sequence[UnreadablePicture], notes: list[str]
) -> Pictures:
    plan, count, opening = looked.plan, len(looked.digests), looked.opening
    resident = looked.whole
    shape = (plan.channels, *plan.size)
    stored = np.empty((count if resident else 0, *shape), plan.dtype)

    def decode(index: int) -> None:
        pixels = looked.decode(index)
        if resident:
            stored[index] = pixels

    if resident or opening.skip_unreadable:
        done = attempt(pool, decode, range(count))
        good = [i for i, result in enumerate(done) if not isinstance(result, UnreadablePicture)]
        bad = [*bad, *(result for result in done if isinstance(result, UnreadablePicture))]
        if len(good) < count:
            looked, stored = looked.kept(good), stored[good] if resident else stored
    notes = [*notes, *refuse_bad(bad, opening.skip_unreadable, len(looked.digests), looked.where)]
    if resident:
        measured = measure(stored, plan, whole=True)
        about = describe(looked.found, looked.digests, plan, measured, flip=opening.flip, notes=notes)
        return ArrayPictures(
            about.spec,
            stored,
            labels=about.labels,
            names=about.names,
            texts=about.texts,
            fingerprint=about.fingerprint,
            notes=about.notes,
            digests=looked.digests,
        )
    decoder = Decoder(looked.decode, shape, plan.dtype, opening.workers)
    sample = decoder.read(spread(len(looked.digests)))
    notes.append(f"too many pictures for memory: they are decoded when read, and measured on {len(sample)} of them")
    measured = measure(sample, plan, whole=False)
    about = describe(looked.found, looked.digests, plan, measured, flip=opening.flip, notes=notes)
    return LazyPictures(about, decoder, looked.digests)
