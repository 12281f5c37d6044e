"""Tar shards of the WebDataset layout, read member by member where they lie.

A sample is a group of members of one name: `0001.jpg` with `0001.cls` (class, a number or a name), `0001.txt` (caption)
or `0001.json` (`label`, `class_name`, `caption`). Headers are read once to find where everything is; a picture is then
one read at its place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import BinaryIO

from kakusan.data.cache import Cache, find_cache, load_index, save_index
from kakusan.data.captions import file_captions
from kakusan.data.decoding import thread_count
from kakusan.data.fit import Fit
from kakusan.data.kinds import common_folder, part_names
from kakusan.data.metadata import Entry, Listing, Row, json_row, label_rows, select, some
from kakusan.data.opening import MEMORY_LIMIT, Opening
from kakusan.data.reading import FOREIGN_SUFFIXES, MAX_BYTES, MAX_PIXELS, SUFFIXES, UnreadablePicture
from kakusan.data.source import Pictures
from kakusan.data.store import file_stamp
from kakusan.data.streaming import STREAM_ABOVE, Parts, open_parts_of
from kakusan.data.tar import Member, members, read_at

LABEL, CAPTION, RECORD = "cls", "txt", "json"
MOST_TEXT = 2**20
"""Bytes of a label, caption or record."""
WORTH_INDEXING = 1000
"""Samples of a shard from which on its index is kept in the cache."""


def open_shards(
    files: Sequence[str | Path],
    *,
    size: int | tuple[int, int] | None = None,
    fit: Fit | None = None,
    flip: bool = False,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    limit_per_class: int | None = None,
    labeled: bool | None = None,
    skip_unreadable: bool = False,
    max_pixels: int = MAX_PIXELS,
    memory_limit: int = MEMORY_LIMIT,
    workers: int | None = None,
    cache: str | Path = "auto",
    stream_above: int = STREAM_ABOVE,
) -> Pictures:
    """Pictures of tar shards.

    Args:
        files: the shards; their order is the order of the data.
        size: this and what follows up to `cache` are as in `kakusan.data.folder.open_folder`.
        stream_above: sets of more bytes are streamed: only some pictures are looked at, and none is kept.

    Raises:
        ValueError: no pictures, a damaged shard, a name twice, labels that do not fit, or unreadable pictures.
    """
    opening = Opening(
        size=size,
        fit=fit,
        flip=flip,
        channels=channels,
        skip_unreadable=skip_unreadable,
        max_pixels=max_pixels,
        memory_limit=memory_limit,
        workers=workers,
        cache=cache,
    )
    if not files:
        raise ValueError("no shards were given")
    paths = [Path(f) for f in files]
    where = f"the shards {some([p.name for p in paths], 3)}"
    source = common_folder(paths)
    kept, _ = find_cache(cache, source)
    store, listing = list_shards(paths, labeled=labeled, where=where, workers=workers, cache=kept)
    found = select(listing, classes=classes, limit_per_class=limit_per_class)
    selection = [store.shown, None if classes is None else list(classes), limit_per_class]
    return open_parts_of(
        Parts(store, found), opening, source=source, where=where, selection=selection, stream_above=stream_above
    )


@dataclass
class _Sample:
    """Members of one name: the picture, and what the texts beside it say."""

    name: str
    picture: Member | None = None
    texts: dict[str, str] = field(default_factory=dict)


class ShardStore:
    """Pictures by "shard/member", read at their places."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.names: list[str] = []
        self.refused: dict[str, str] = {}
        self.notes: list[str] = []
        self._paths, self.shown = paths, part_names(paths)
        self._stamps = [file_stamp(path) for path in paths]
        self._places: dict[str, tuple[int, Member]] = {}

    def add(self, shard: int, member: Member) -> str:
        """Take a member in; returns its name here."""
        name = f"{self.shown[shard]}/{member.name}"
        self._places[name] = shard, member
        reason = member.refused
        if reason is None and member.size > MAX_BYTES:
            reason = f"the file is larger than {MAX_BYTES // 2**20} MiB"
        if reason is None:
            self.names.append(name)
        else:
            self.refused[name] = reason
        return name

    def read(self, name: str, count: int | None = None) -> bytes:
        """The member, or its first `count` bytes; raises `UnreadablePicture`."""
        shard, member = self._places[name]
        path, stamp = self._paths[shard], self._stamps[shard]
        wanted = member.size if count is None else min(count, member.size)
        try:
            # Opened anew each time: it costs microseconds, and no number of shards uses up the system's handles.
            with path.open("rb", buffering=0) as file:
                if stamp is not None and os.fstat(file.fileno()).st_size != stamp[0]:
                    raise UnreadablePicture(name, f"{path.name} has changed since it was opened; start again")
                data = read_at(file, member.offset, wanted)
        except OSError as error:
            raise UnreadablePicture(name, f"cannot be read ({error.strerror or error})") from error
        if len(data) != wanted:
            raise UnreadablePicture(name, f"{path.name} ends before it")
        return data

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """What tells whether the shard, and so its member, has changed."""
        shard, member = self._places[name]
        stamp = self._stamps[shard]
        return None if stamp is None else (*stamp, member.offset, member.size)

    def size(self, name: str) -> int:
        """Bytes of one picture."""
        return self._places[name][1].size

    def identity(self, name: str) -> str:
        """Name, size and time of a member, as its header has them."""
        member = self._places[name][1]
        return f"{name}\0{member.size}\0{member.time}"


def list_shards(
    paths: Sequence[Path],
    *,
    labeled: bool | None,
    where: str,
    workers: int | None = None,
    cache: Cache | None = None,
) -> tuple[ShardStore, Listing]:
    """Where every picture is, with classes and captions.

    Raises:
        ValueError: a damaged shard, a name twice, text that is no label or caption, or no pictures.
    """
    store = ShardStore(paths)
    with ThreadPoolExecutor(thread_count(workers)) as pool:
        groups = list(pool.map(lambda path: _indexed(path, cache), paths))
    entries: list[Entry] = []
    rows: dict[int, Row] = {}
    alone: list[str] = []
    others = 0
    for shard, (samples, left_out) in enumerate(groups):
        others += left_out
        for sample in samples:
            shown = f"{store.shown[shard]}/{sample.name}"
            if sample.picture is None:
                alone.append(shown)
                continue
            rows[len(entries)] = _row(sample, shown)
            name = store.add(shard, sample.picture)
            entries.append(Entry(name, name))
    if not entries:
        raise ValueError(
            f"{where}: no pictures; members such as 0001.jpg or 0001.png with 0001.cls, 0001.txt or 0001.json are read"
        )
    notes = [f"{len(alone)} samples have no picture and are left out: {some(alone, 5)}"] if alone else []
    notes += [f"{others} members of other kinds are left out"] if others else []
    return store, label_rows(entries, rows, notes, labeled=labeled)


def _indexed(path: Path, cache: Cache | None) -> tuple[list[_Sample], int]:
    """Samples of one shard, from its headers or from what the cache remembers of them."""
    stamp = file_stamp(path)
    known = load_index(cache, path, stamp)
    if known is not None:
        try:
            return [_Sample(n, None if m is None else Member(*m), dict(t)) for n, m, t in known[0]], int(known[1])
        except (TypeError, ValueError, IndexError):
            pass
    samples, others = _samples(path)
    if len(samples) >= WORTH_INDEXING:
        content = [[s.name, None if s.picture is None else list(astuple(s.picture)), s.texts] for s in samples]
        save_index(cache, path, stamp, [content, others])
    return samples, others


def _samples(path: Path) -> tuple[list[_Sample], int]:
    """Samples of one shard in order, and how many members belong to none."""
    samples: dict[str, _Sample] = {}
    others = 0
    with path.open("rb", buffering=0) as texts:
        for member in members(path):
            folder, _, file = member.name.rpartition("/")
            stem, _, kind = file.partition(".")
            if not stem or file.startswith("."):
                continue
            name = f"{folder}/{stem}" if folder else stem
            kind = kind.lower()
            known = kind in (LABEL, CAPTION, RECORD)
            if not known and f".{kind.rpartition('.')[2]}" not in SUFFIXES | FOREIGN_SUFFIXES:
                others += 1
                continue
            sample = samples.setdefault(name, _Sample(name))
            if kind in sample.texts or (sample.picture is not None and sample.picture.name == member.name):
                raise ValueError(f"{path.name} holds {member.name!r} twice; make it again with every name once")
            if known:
                sample.texts[kind] = _text(texts, member, path.name)
            elif sample.picture is not None:
                raise ValueError(
                    f"{path.name} holds two pictures for one sample: {sample.picture.name} and {member.name}; one is "
                    "needed"
                )
            else:
                sample.picture = member
    return list(samples.values()), others


def _text(file: BinaryIO, member: Member, shown: str) -> str:
    if member.refused is not None or member.size > MOST_TEXT:
        raise ValueError(f"{shown}: {member.name} {member.refused or f'is larger than {MOST_TEXT // 2**20} MiB'}")
    try:
        return read_at(file, member.offset, member.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: {member.name} is not UTF-8 text (byte {error.start})") from None


def _row(sample: _Sample, shown: str) -> Row:
    texts = sample.texts
    row = Row(0, shown, None, None)
    if RECORD in texts:
        try:
            values = json.loads(texts[RECORD])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{shown}.{RECORD} is not JSON ({error})") from None
        if not isinstance(values, dict):
            raise ValueError(f'{shown}.{RECORD} is not a JSON object such as {{"label": 3}}')
        row = json_row(values, f"{shown}.{RECORD}")
    name = texts.get(LABEL, "").strip() or row.label
    if CAPTION not in texts:
        return Row(0, shown, name, row.class_name, row.texts, row.empty)
    found = file_captions(texts[CAPTION].encode(), f"{shown}.{CAPTION}")
    return Row(0, shown, name, row.class_name, tuple(found.texts) or row.texts, found.empty)
