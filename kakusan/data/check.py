"""Looking at a folder of pictures before training on it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.data.captions import CaptionFacts
from kakusan.data.fit import CenterCrop, resize
from kakusan.data.metadata import Entry, list_pictures, some
from kakusan.data.modes import make_plan, to_mode
from kakusan.data.reading import MAX_PIXELS, Header, Picture, UnreadablePicture, read_header, read_picture
from kakusan.data.store import Store, open_store

NEAR = 2
"""Two pictures look alike when their 64-bit difference hashes differ in at most this many bits."""
_MAX_COMPARISONS = 50_000_000
FEW_PER_CLASS = 10
FEW = 100


@dataclass(frozen=True)
class Range:
    """Values of one channel over all pictures of one kind, in stored units."""

    least: int
    most: int
    mean: float


@dataclass(frozen=True)
class Report:
    """What is in a folder or zip file of pictures. Every field is plain data (`to_json`).

    `sizes` counts (height, width), most frequent first; `ranges` has one `Range` per channel for every kind such as
    "RGB 8-bit"; `captions` counts the pictures that have some and `texts` tells of all captions;
    `duplicates` are groups of equal files, `look_alike` pairs with nearly the same difference hash.
    """

    source: str
    pictures: int
    unreadable: dict[str, str]
    sizes: tuple[tuple[int, int, int], ...]
    short_side: tuple[int, float, int]
    modes: dict[str, int]
    formats: dict[str, int]
    classes: dict[str, int]
    captions: int
    texts: CaptionFacts
    ranges: dict[str, tuple[Range, ...]]
    constant: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    look_alike: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for `json.dump`."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """The report for people."""
        lines = [f"{self.source}", f"  pictures    {self.pictures} readable, {len(self.unreadable)} unreadable"]
        if self.pictures:
            least, median, most = self.short_side
            lines += [
                f"  formats     {_counts(self.formats)}",
                f"  modes       {_counts(self.modes)}",
                f"  sizes       {some((f'{h}x{w}: {n}' for h, w, n in self.sizes), 6)}",
                f"  short side  {least} to {most}, median {median:g}",
            ]
        for kind, channels in self.ranges.items():
            values = ", ".join(f"{c.least} to {c.most} (mean {c.mean:.1f})" for c in channels[:6])
            lines.append(f"  values      {kind}: {values}{', ...' if len(channels) > 6 else ''}")
        if self.classes:
            ordered = sorted(self.classes.items(), key=lambda item: item[1])
            lines.append(
                f"  classes     {len(ordered)}, from {ordered[0][1]} ({ordered[0][0]}) to {ordered[-1][1]} "
                f"({ordered[-1][0]}) pictures"
            )
            if len(ordered) <= 20:
                lines += [f"              {count:6d}  {name}" for name, count in self.classes.items()]
        lines += [f"  {'captions' if not i else '':10s}  {line}" for i, line in enumerate(self.texts.lines())]
        lines += _block("unreadable", [f"{name}: {reason}" for name, reason in self.unreadable.items()])
        lines += _block("duplicates", [" = ".join(group) for group in self.duplicates])
        lines += _block("look alike", [" ~ ".join(pair) for pair in self.look_alike])
        lines += _block("one colour", list(self.constant))
        lines += _block("notes", list(self.notes))
        lines += _block("advice", list(self.advice), limit=50)
        return "\n".join(lines)


@dataclass(frozen=True)
class _Look:
    entry: Entry
    header: Header
    digest: str
    hash: int
    least: np.ndarray
    most: np.ndarray
    total: np.ndarray

    @property
    def constant(self) -> bool:
        return bool((self.least == self.most).all())


def check_folder(
    source: str | Path,
    *,
    labeled: bool | None = None,
    metadata: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> Report:
    """Read every picture of a folder or zip file once and report on all of them. Nothing is changed.

    Args:
        source: folder or zip file.
        labeled: as in `kakusan.data.folder.open_folder`.
        metadata: a metadata file kept elsewhere.
        max_pixels: larger pictures are reported as unreadable.
        workers: decoding threads.

    Raises:
        ValueError: no pictures at all, or metadata that does not fit them.
    """
    path = Path(source)
    store = open_store(path)
    listing = list_pictures(
        store, labeled=labeled, metadata=None if metadata is None else Path(metadata), where=repr(str(source))
    )

    def look(entry: Entry) -> _Look | UnreadablePicture:
        try:
            return _look(store, entry, max_pixels)
        except UnreadablePicture as error:
            return error

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(look, listing.entries))
    looks = [r for r in results if isinstance(r, _Look)]
    bad = {r.path: r.reason for r in results if isinstance(r, UnreadablePicture)}
    shorts = [min(k.header.height, k.header.width) for k in looks] or [0]
    counted = Counter(k.entry.label for k in looks)
    groups = _duplicates(looks)
    alike, complete = _look_alike(looks)
    notes = list(store.notes) + list(listing.notes)
    if not complete:
        notes.append("there are too many similar pictures to compare all; only part was compared for look-alikes")
    report = Report(
        source=str(source),
        pictures=len(looks),
        unreadable=bad,
        sizes=tuple((h, w, n) for (h, w), n in Counter((k.header.height, k.header.width) for k in looks).most_common()),
        short_side=(min(shorts), float(np.median(shorts)), max(shorts)),
        modes=dict(Counter(_kind(k) for k in looks).most_common()),
        formats=dict(Counter(k.header.format for k in looks).most_common()),
        classes={c: counted[c] for c in listing.classes},
        captions=sum(e.caption is not None for e in listing.entries),
        texts=CaptionFacts.of(
            [e.texts for e in listing.entries], [e.shown for e in listing.entries], empty=listing.empty
        ),
        ranges=_ranges(looks),
        constant=tuple(k.entry.shown for k in looks if k.constant),
        duplicates=groups,
        look_alike=alike,
        notes=tuple(notes),
        advice=(),
    )
    return dataclasses.replace(report, advice=tuple(_advice(report, looks)))


def _look(store: Store, entry: Entry, max_pixels: int) -> _Look:
    if entry.name in store.refused:
        raise UnreadablePicture(entry.shown, store.refused[entry.name])
    try:
        data = store.read(entry.name)
        header = read_header(data, entry.shown, max_pixels=max_pixels)
        picture = read_picture(data, entry.shown, max_pixels=max_pixels)
    except UnreadablePicture as error:
        raise UnreadablePicture(entry.shown, error.reason) from error
    planes = np.ascontiguousarray(picture.values.transpose(2, 0, 1)).reshape(picture.values.shape[2], -1)
    return _Look(
        entry=entry,
        header=header,
        digest=hashlib.sha256(data).hexdigest(),
        hash=difference_hash(picture),
        least=planes.min(axis=1).astype(np.int64),
        most=planes.max(axis=1).astype(np.int64),
        total=planes.sum(axis=1, dtype=np.int64),
    )


def difference_hash(picture: Picture) -> int:
    """64 bits that tell, on an 8 x 8 grid, where a picture gets brighter to the right, at any scale."""
    values = picture.values
    gray = values[:, :, :1] if picture.mode == "" else to_mode(values, picture.mode, "L")
    small = resize(gray, (8, 9))[:, :, 0]
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _kind(look: _Look) -> str:
    header = look.header
    return f"{header.mode or f'{header.channels}-channel array'} {header.bits}-bit"


def _ranges(looks: Sequence[_Look]) -> dict[str, tuple[Range, ...]]:
    kinds: dict[str, list[_Look]] = {}
    for look in looks:
        kinds.setdefault(_kind(look), []).append(look)
    found = {}
    for kind, members in kinds.items():
        pixels = sum(k.header.height * k.header.width for k in members)
        least = np.min([k.least for k in members], axis=0)
        most = np.max([k.most for k in members], axis=0)
        mean = np.sum([k.total for k in members], axis=0) / pixels
        found[kind] = tuple(Range(int(a), int(b), float(m)) for a, b, m in zip(least, most, mean, strict=True))
    return found


def _duplicates(looks: Sequence[_Look]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for look in looks:
        groups.setdefault(look.digest, []).append(look.entry.shown)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _look_alike(looks: Sequence[_Look]) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Pairs of different files with nearly equal hashes, and whether all were compared."""
    first = {k.digest: k for k in reversed(looks) if not k.constant}
    unique = list(first.values())[::-1]
    hashes = np.array([k.hash for k in unique], np.uint64)
    left = _MAX_COMPARISONS
    pairs: set[tuple[int, int]] = set()
    # Hashes that differ in at most two bits agree in one of three parts, so only equal parts need to be compared.
    for shift, bits in ((0, 22), (22, 21), (43, 21)):
        part = (hashes >> np.uint64(shift)) & np.uint64(2**bits - 1)
        order = np.argsort(part, kind="stable")
        changes = np.flatnonzero(np.diff(part[order])) + 1
        for bucket in np.split(order, changes):
            for i, one in enumerate(bucket[:-1]):
                rest = bucket[i + 1 :]
                left -= len(rest)
                if left < 0:
                    return _named(unique, pairs), False
                near = rest[_bit_count(hashes[rest] ^ hashes[one]) <= NEAR]
                pairs |= {(min(int(one), int(j)), max(int(one), int(j))) for j in near}
    return _named(unique, pairs), True


def _bit_count(values: np.ndarray) -> np.ndarray:
    """Bits that are set in each uint64 (`numpy.bitwise_count` needs numpy 2)."""
    counts: np.ndarray = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)
    return counts


def _named(looks: Sequence[_Look], pairs: Iterable[tuple[int, int]]) -> tuple[tuple[str, str], ...]:
    return tuple((looks[i].entry.shown, looks[j].entry.shown) for i, j in sorted(pairs))


def _advice(report: Report, looks: Sequence[_Look]) -> list[str]:
    lines = []
    if report.unreadable:
        lines.append("repair or remove the unreadable pictures, or train with --skip-unreadable")
    if not looks:
        return lines
    if report.pictures < FEW:
        lines.append(
            f"{report.pictures} pictures are few: a model trained on them alone will repeat them; start from a trained "
            "model (--init-from) or add pictures"
        )
    small = [f"{c} ({n})" for c, n in report.classes.items() if n < FEW_PER_CLASS]
    if small:
        lines.append(f"{len(small)} classes have fewer than {FEW_PER_CLASS} pictures: {some(small)}")
    counts = [n for n in report.classes.values() if n]
    if counts and max(counts) > 10 * min(counts):
        lines.append(f"the largest class has {max(counts) / min(counts):.0f} times the pictures of the smallest")
    if not report.classes:
        lines.append("no classes, so the model will be unconditional; sub-folders or a metadata file make classes")
    try:
        _, said = make_plan(
            [k.header for k in looks],
            [k.entry.shown for k in looks],
            size=None,
            fit=CenterCrop(),
            channels=None,
        )
        lines += [f"training as it is: {line}" for line in said]
    except ValueError as error:
        lines.append(f"training will stop: {error}")
    copies = sum(len(group) - 1 for group in report.duplicates)
    if copies:
        lines.append(f"{copies} pictures are exact copies of others; they weigh double and hide memorisation")
    if report.constant:
        lines.append(f"{len(report.constant)} pictures have one colour only; they are probably broken")
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _block(title: str, lines: Sequence[str], *, limit: int = 10) -> list[str]:
    if not lines:
        return []
    more = [f"    ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [f"  {title} ({len(lines)})", *(f"    {line}" for line in lines[:limit]), *more]
