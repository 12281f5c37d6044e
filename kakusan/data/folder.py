"""Opening a folder or zip file of pictures as a data set."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kakusan.data.fit import CenterCrop, Fit
from kakusan.data.metadata import Entry, Listing, list_pictures, select, some
from kakusan.data.modes import Plan, make_plan
from kakusan.data.reading import MAX_PIXELS, Header, Picture, UnreadablePicture, read_header, read_picture
from kakusan.data.source import ArrayPictures, Pictures
from kakusan.data.spec import DataSpec, measure_statistics
from kakusan.data.store import Store, open_store

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded pictures that are kept in memory; larger sets are decoded when read."""
STATISTICS_SAMPLE = 2048
"""Pictures whose mean and std stand for a set that is not kept in memory."""
_CACHE_BYTES = 256 * 2**20

T = TypeVar("T")
R = TypeVar("R")


def open_folder(
    source: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    fit: Fit | None = None,
    flip: bool = False,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    limit_per_class: int | None = None,
    labeled: bool | None = None,
    metadata: str | Path | None = None,
    skip_unreadable: bool = False,
    max_pixels: int = MAX_PIXELS,
    memory_limit: int = MEMORY_LIMIT,
    workers: int | None = None,
) -> Pictures:
    """Pictures of a folder (plain, with class sub-folders, or with `metadata.jsonl` or `.csv`) or of a zip file.

    Args:
        source: folder or zip file.
        size: (H, W), or one number for a square. When not given: the size all pictures share if it is at most 256, else
            the median short side rounded down to a multiple of 8, at most 64.
        fit: how other sizes are brought to `size`; `CenterCrop()` when not given.
        flip: allow mirroring in training.
        channels: 1, 2, 3 or 4; when not given, the fewest that lose nothing.
        classes: take only these, names or patterns such as `*rose*`.
        limit_per_class: take at most so many of each class, the first by name.
        labeled: True: classes required; False: classes ignored; None: taken where they are plain to see.
        metadata: a metadata file kept elsewhere.
        skip_unreadable: go on without pictures that cannot be read; `notes` names them.
        max_pixels: larger pictures are refused before decoding.
        memory_limit: bytes of decoded pictures to keep in memory. A larger set is decoded at every read; it is then
            measured on a sample, and read once in full at opening only with `skip_unreadable`.
        workers: decoding threads; results never depend on it.

    Raises:
        ValueError: nothing to read, metadata or labels that do not fit, or unreadable pictures (up to 10 are named).
    """
    path = Path(source)
    store = open_store(path)
    where = f"{'the folder' if path.is_dir() else 'the archive'} {str(source)!r}"
    outside = None if metadata is None else Path(metadata)
    found = list_pictures(store, labeled=labeled, metadata=outside, where=where)
    found = select(found, classes=classes, limit_per_class=limit_per_class)
    target = (size, size) if isinstance(size, int) else size
    if target is not None and (len(target) != 2 or min(target) < 1):
        raise ValueError(f"size is (height, width), both at least 1, got {tuple(target)}")
    with ThreadPoolExecutor(_workers(workers)) as pool:
        reader = _Reader(store, max_pixels)
        looked = _attempt(pool, reader.look, found.entries)
        found, kept, bad = _without_bad(found, looked)
        headers, digests = [h for h, _ in kept], [d for _, d in kept]
        if bad and not found.entries:
            raise ValueError(f"none of the {len(bad)} pictures of {where} can be read: {some(map(str, bad))}")
        shown = [e.shown for e in found.entries]
        plan, notes = make_plan(headers, shown, size=target, fit=fit or CenterCrop(), channels=channels)
        count = len(found.entries)
        resident = count * plan.channels * plan.size[0] * plan.size[1] * plan.bits // 8 <= memory_limit
        stored = np.empty((count if resident else 0, plan.channels, *plan.size), plan.dtype)

        def decode(index: int) -> None:
            pixels = plan.apply(reader.picture(found.entries[index]))
            if resident:
                stored[index] = pixels

        if resident or skip_unreadable:
            done = _attempt(pool, decode, range(count))
            good = [i for i, result in enumerate(done) if not isinstance(result, UnreadablePicture)]
            bad += [result for result in done if isinstance(result, UnreadablePicture)]
            if len(good) < count:
                found = replace(found, entries=tuple(found.entries[i] for i in good))
                digests, stored = [digests[i] for i in good], stored[good] if resident else stored
    if bad:
        _refuse_or_skip(bad, skip_unreadable, len(found.entries), where)
        notes.append(f"{len(bad)} unreadable pictures are left out: {some(map(str, bad))}")
    notes = [*store.notes, *found.notes, *notes]
    return _finish(found, digests, stored if resident else None, plan, reader, notes, flip=flip, workers=workers)


def _finish(
    found: Listing,
    digests: list[str],
    stored: np.ndarray | None,
    plan: Plan,
    reader: _Reader,
    notes: list[str],
    *,
    flip: bool,
    workers: int | None,
) -> Pictures:
    """The data set, measured."""
    entries = found.entries
    empty = [c for c in found.classes if c not in {e.label for e in entries}]
    if empty:
        notes.append(f"{len(empty)} classes have no pictures: {some(empty)}")
    lazy = None
    if stored is None:
        lazy = _Lazy(entries, plan, reader, _workers(workers))
        sample = np.unique(np.linspace(0, len(entries) - 1, min(STATISTICS_SAMPLE, len(entries))).astype(np.int64))
        measured = lazy.read(sample)
        notes.append(f"too many pictures for memory: they are decoded when read, and measured on {len(sample)} of them")
    else:
        measured = stored
    high = float(2**plan.bits - 1)
    if plan.bits == 16 and stored is not None:
        # Cameras and scanners often use 10, 12 or 14 of 16 bits; the model should see the range that is used.
        used = max(1, int(stored.max()).bit_length())
        if used < 16:
            high = float(2**used - 1)
            notes.append(f"16-bit values reach only {stored.max()}, so 0 to {high:g} is taken as the full range")
    mean, std = measure_statistics(measured, low=0.0, high=high)
    spec = DataSpec(
        channels=plan.channels,
        size=plan.size,
        mean=mean,
        std=std,
        mode="I;16" if plan.mode == "L" and plan.bits == 16 else plan.mode,
        bits=plan.bits,
        high=high,
        classes=found.classes,
        fit=plan.fit,
        flip=flip,
    )
    numbers = {name: i for i, name in enumerate(found.classes)}
    labels = torch.tensor([numbers[e.label or ""] for e in entries]) if found.classes else None
    captions = [e.caption or "" for e in entries] if any(e.caption for e in entries) else None
    content = hashlib.sha256(repr(found.classes).encode())
    for entry, digest in zip(entries, digests, strict=True):
        content.update(repr((entry.shown, entry.label, entry.caption, digest)).encode())
    names = [e.shown for e in entries]
    fingerprint = content.hexdigest()
    if stored is not None:
        return ArrayPictures(
            spec,
            stored,
            labels=labels,
            names=names,
            captions=captions,
            fingerprint=fingerprint,
            notes=notes,
            digests=digests,
        )
    assert lazy is not None
    return LazyPictures(spec, lazy, names, labels, captions, fingerprint, notes, digests)


class LazyPictures:
    """Pictures decoded when they are read, with a small cache; for sets that do not fit in memory."""

    def __init__(
        self,
        spec: DataSpec,
        lazy: _Lazy,
        names: Sequence[str],
        labels: Tensor | None,
        captions: Sequence[str] | None,
        fingerprint: str,
        notes: Sequence[str],
        digests: Sequence[str],
    ) -> None:
        self.spec = spec
        self.labels = labels
        self.captions = captions
        self.fingerprint = fingerprint
        self.notes: tuple[str, ...] = tuple(notes)
        self._lazy = lazy
        self._names = names
        self._digests = digests

    def __len__(self) -> int:
        return len(self._names)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Stored pictures (n, C, H, W), uint8 or uint16; raises `UnreadablePicture` for a damaged file."""
        return torch.from_numpy(self._lazy.read(np.asarray(indices, np.int64)))

    def name(self, index: int) -> str:
        """Path of one picture below the source."""
        return self._names[index]

    def digest(self, index: int) -> str:
        """Hash of one file."""
        return self._digests[index]


class _Reader:
    """Bytes and pixels of entries, with the limits of this session."""

    def __init__(self, store: Store, max_pixels: int) -> None:
        self._store = store
        self._max_pixels = max_pixels

    def _bytes(self, entry: Entry) -> bytes:
        if entry.name in self._store.refused:
            raise UnreadablePicture(entry.shown, self._store.refused[entry.name])
        try:
            return self._store.read(entry.name)
        except UnreadablePicture as error:
            raise UnreadablePicture(entry.shown, error.reason) from error

    def look(self, entry: Entry) -> tuple[Header, str]:
        data = self._bytes(entry)
        return read_header(data, entry.shown, max_pixels=self._max_pixels), hashlib.sha256(data).hexdigest()

    def picture(self, entry: Entry) -> Picture:
        return read_picture(self._bytes(entry), entry.shown, max_pixels=self._max_pixels)


class _Lazy:
    def __init__(self, entries: Sequence[Entry], plan: Plan, reader: _Reader, workers: int) -> None:
        self._entries = entries
        self._plan = plan
        self._reader = reader
        self._pool = ThreadPoolExecutor(workers)
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self._room = max(1, _CACHE_BYTES // (plan.channels * plan.size[0] * plan.size[1] * plan.bits // 8))

    def read(self, indices: np.ndarray) -> np.ndarray:
        found = np.empty((len(indices), self._plan.channels, *self._plan.size), self._plan.dtype)
        for row, pixels in enumerate(self._pool.map(self._one, indices.tolist())):
            found[row] = pixels
        return found

    def _one(self, index: int) -> np.ndarray:
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        pixels = self._plan.apply(self._reader.picture(self._entries[index]))
        with self._lock:
            self._cache[index] = pixels
            while len(self._cache) > self._room:
                self._cache.popitem(last=False)
        return pixels


def _workers(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise ValueError(f"workers is at least 1, got {asked}")
    return asked or min(8, os.cpu_count() or 1)


def _attempt(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Sequence[T]) -> list[R | UnreadablePicture]:
    def safe(item: T) -> R | UnreadablePicture:
        try:
            return work(item)
        except UnreadablePicture as error:
            return error

    return list(pool.map(safe, items))


def _without_bad(
    found: Listing, looked: Sequence[tuple[Header, str] | UnreadablePicture]
) -> tuple[Listing, list[tuple[Header, str]], list[UnreadablePicture]]:
    pairs = list(zip(found.entries, looked, strict=True))
    good = [(e, r) for e, r in pairs if not isinstance(r, UnreadablePicture)]
    bad = [r for r in looked if isinstance(r, UnreadablePicture)]
    return replace(found, entries=tuple(e for e, _ in good)), [r for _, r in good], bad


def _refuse_or_skip(bad: list[UnreadablePicture], skip: bool, left: int, where: str) -> None:
    if left == 0:
        raise ValueError(f"none of the {len(bad)} pictures of {where} can be read: {some(map(str, bad))}")
    if not skip:
        raise ValueError(
            f"{len(bad)} of {len(bad) + left} pictures of {where} cannot be read: {some(map(str, bad))}. Repair or "
            "remove them, or go on without them with skip_unreadable=True (--skip-unreadable)"
        )
