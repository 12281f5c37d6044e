"""Which files are pictures, what class and caption each has: from sub-folders or a metadata file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from kakusan.data.captions import MOST, Caption, file_captions, row_captions, sidecar_names
from kakusan.data.reading import FOREIGN_SUFFIXES, SUFFIXES, UnreadablePicture, sniff
from kakusan.data.store import Store, check_relative, natural_key
from kakusan.data.tables import table_rows
from kakusan.specs import suggestion

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_COLUMNS = {
    "file": ("file_name", "file"),
    "label": ("label",),
    "class": ("class_name", "class"),
}
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}(\.0+)?")


@dataclass(frozen=True)
class Entry:
    """One picture: `name` in its store, `shown` to people, class and captions if known."""

    name: str
    shown: str
    label: str | None = None
    texts: tuple[Caption, ...] = ()

    @property
    def caption(self) -> str | None:
        """The first caption."""
        return self.texts[0] if self.texts else None


@dataclass(frozen=True)
class Listing:
    """All pictures of a source in natural order of their names, and the classes in label order.

    `empty` captions said nothing and were left out.
    """

    entries: tuple[Entry, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    empty: int = 0


@dataclass(frozen=True)
class Row:
    """What metadata say of one picture; `line` is 0 where they come in no table."""

    line: int
    file: str
    label: str | None
    class_name: str | None
    texts: tuple[Caption, ...] = ()
    empty: int = 0


def some(names: Iterable[str], limit: int = 10) -> str:
    """Up to `limit` names, then how many more."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def list_pictures(
    store: Store, *, labeled: bool | None = None, metadata: Path | None = None, where: str = "the folder"
) -> Listing:
    """Find the pictures of a store with their classes and captions.

    Args:
        store: folder or zip file.
        labeled: True: classes are required, from metadata or the first sub-folder; False: classes are ignored; None:
            classes are taken from metadata, or from sub-folders when every picture lies exactly one level down in two
            or more of them.
        metadata: a metadata file kept elsewhere.
        where: what to call the source in messages.

    Raises:
        ValueError: no pictures, or metadata that does not fit them.
    """
    names, others = _candidates(store)
    if not names:
        found = f"; it holds {len(others)} other files ({some(others, 5)})" if others else ""
        archive = next((n for n in others if n.lower().endswith(".zip")), None)
        hint = f". Open the archive {archive} itself?" if archive else ""
        raise ValueError(
            f"{where} holds no pictures{found}. PNG, JPEG, WEBP, BMP, TIFF, GIF, PPM and NPY are read{hint}"
        )
    tables = [n for n in others if n.rpartition("/")[2] in METADATA]
    asides = _sidecars(names, others)
    used = {*tables, *asides.values()}
    others = [n for n in others if n not in used]
    notes = [f"{len(others)} other files are left out: {some(others, 5)}"] if others else []
    prefix = _prefix(names)
    entries = [Entry(n, n[len(prefix) :]) for n in names]
    table = _table(store, tables, names, metadata)
    classes: tuple[str, ...] = ()
    empty = 0
    if table is not None:
        rows, base = table
        entries, classes, said = _with_rows(entries, rows, (base, prefix, ""), ignore_labels=labeled is False)
        notes += said
        empty = sum(row.empty for row in rows)
    entries, blank = _with_sidecars(store, entries, asides)
    notes += caption_notes(entries, empty + blank)
    if not classes and labeled is not False:
        entries, classes, said = _with_folders(entries, required=labeled is True)
        notes += said
    return Listing(tuple(sorted(entries, key=lambda e: natural_key(e.shown))), classes, tuple(notes), empty + blank)


def select(listing: Listing, *, classes: Sequence[str] | None = None, limit_per_class: int | None = None) -> Listing:
    """Only some classes (names or patterns such as `*rose*`) and at most so many pictures of each (the first by name).

    Raises:
        ValueError: a pattern that fits no class.
    """
    from fnmatch import fnmatchcase

    entries, kept, notes = listing.entries, listing.classes, list(listing.notes)
    if classes is not None:
        if not listing.classes:
            raise ValueError("classes were asked for, but these pictures have no classes")
        for pattern in classes:
            if not any(fnmatchcase(c, pattern) for c in listing.classes):
                raise ValueError(
                    f"no class {pattern!r}{suggestion(pattern, list(listing.classes))}; there are "
                    f"{len(listing.classes)}: {some(listing.classes)}"
                )
        kept = tuple(c for c in kept if any(fnmatchcase(c, p) for p in classes))
        entries = tuple(e for e in entries if e.label in kept)
        notes.append(f"{len(kept)} of {len(listing.classes)} classes taken")
    if limit_per_class is not None:
        if limit_per_class < 1:
            raise ValueError(f"limit_per_class is at least 1, got {limit_per_class}")
        seen: Counter[str | None] = Counter()
        limited = []
        for entry in entries:
            seen[entry.label] += 1
            if seen[entry.label] <= limit_per_class:
                limited.append(entry)
        if len(limited) < len(entries):
            notes.append(f"{len(limited)} of {len(entries)} pictures taken, the first {limit_per_class} of each class")
        entries = tuple(limited)
    return replace(listing, entries=entries, classes=kept, notes=tuple(notes))


def _candidates(store: Store) -> tuple[list[str], list[str]]:
    """Names that promise a picture or hold one, and the rest."""
    names, others = [], []
    for name in [*store.names, *store.refused]:
        suffix = PurePosixPath(name).suffix.lower()
        if (
            suffix in SUFFIXES
            or suffix in FOREIGN_SUFFIXES
            or (suffix == "" and name not in store.refused and _looks_like_picture(store, name))
        ):
            names.append(name)
        else:
            others.append(name)
    return names, others


def _looks_like_picture(store: Store, name: str) -> bool:
    try:
        return sniff(store.read(name, 16)) is not None
    except UnreadablePicture:
        return False


def _prefix(names: Sequence[str]) -> str:
    """Folders that hold everything and say nothing: all shared ones, though one level always stays."""
    folders = [n.split("/")[:-1] for n in names]
    levels = min(len(f) for f in folders) - 1
    shared = 0
    while shared < levels and all(f[shared] == folders[0][shared] for f in folders):
        shared += 1
    return "".join(f"{part}/" for part in folders[0][:shared])


def _with_folders(entries: list[Entry], *, required: bool) -> tuple[list[Entry], tuple[str, ...], list[str]]:
    depths = [e.shown.count("/") for e in entries]
    tops = sorted({e.shown.partition("/")[0] for e in entries if "/" in e.shown}, key=natural_key)
    if required:
        loose = [e.shown for e in entries if "/" not in e.shown]
        if loose:
            raise ValueError(
                f"{len(loose)} pictures have no label: {some(loose)}. Put each into a sub-folder named after its "
                f"class, or list it in {METADATA[0]} with a label"
            )
    elif set(depths) != {1} or len(tops) < 2:
        notes = []
        if len(tops) == 1 and set(depths) == {1}:
            notes = [f"the only sub-folder, {tops[0]!r}, is not taken for a class"]
        elif tops:
            notes = ["pictures lie at several depths, so sub-folders are no classes (labeled=True makes them)"]
        return entries, (), notes
    return [replace(e, label=e.shown.partition("/")[0]) for e in entries], tuple(tops), []


def _table(store: Store, tables: list[str], names: list[str], metadata: Path | None) -> tuple[list[Row], str] | None:
    """Rows of the metadata file and the folder its names start from."""
    if metadata is not None:
        if not metadata.is_file():
            raise ValueError(f"the metadata file {metadata} does not exist")
        return _rows(metadata.read_bytes(), metadata.name), ""
    if len(tables) > 1:
        raise ValueError(f"several metadata files: {some(tables)}; keep one, or open the folder of one of them")
    if not tables:
        return None
    table = tables[0]
    base = table[: table.rfind("/") + 1]
    if not all(n.startswith(base) for n in names):
        raise ValueError(f"{table} describes only part of the pictures; open its folder, or move it to the top")
    return _rows(store.read(table), table[len(base) :]), base


def _rows(data: bytes, name: str) -> list[Row]:
    rows = []
    for line, values in table_rows(data, name):
        picked = {field: next((k for k in known if k in values), None) for field, known in _COLUMNS.items()}
        if picked["file"] is None:
            raise ValueError(f"{name} line {line} has no column 'file_name' or 'file'; it has {some(map(str, values))}")
        cells = {
            field: None if column is None else _text(values[column], column, name, line)
            for field, column in picked.items()
        }
        if not cells["file"]:
            raise ValueError(f"{name} line {line} names no file")
        check_relative(cells["file"], f"{name} line {line}")
        said = row_captions(values, f"{name} line {line}")
        rows.append(Row(line, cells["file"], cells["label"], cells["class"], tuple(said.texts), said.empty))
    if not rows:
        raise ValueError(f"{name} has no rows; remove it, or list the pictures in it")
    return rows


def _text(value: object, column: str, name: str, line: int) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        place = f"{name} line {line}" if line else name
        raise ValueError(f"{place}: {column!r} must be text or a whole number, found {value!r}")
    return str(value)


def _with_rows(
    entries: list[Entry], rows: list[Row], starts: tuple[str, ...], *, ignore_labels: bool
) -> tuple[list[Entry], tuple[str, ...], list[str]]:
    known = {e.name: i for i, e in enumerate(entries)}
    found: dict[int, Row] = {}
    missing = []
    for row in rows:
        file = PurePosixPath(row.file).as_posix()
        index = next((known[start + file] for start in starts if start + file in known), None)
        if index is None:
            missing.append(f"{row.file} (line {row.line})")
        elif index in found:
            found[index] = _joined(found[index], row)
        else:
            found[index] = row
    if missing:
        raise ValueError(
            f"the metadata names {len(missing)} files that are not there or are no pictures: {some(missing)}. "
            "Remove the rows, or add the files"
        )
    labels, classes, notes = ({}, (), []) if ignore_labels else classes_of(found)
    unlabeled = [e.shown for i, e in enumerate(entries) if i not in labels] if classes else []
    if unlabeled:
        raise ValueError(
            f"{len(unlabeled)} pictures have no label: {some(unlabeled)}. Give them one in the metadata, move them "
            "away, or pass labeled=False to train without labels"
        )
    described = []
    for i, entry in enumerate(entries):
        described.append(replace(entry, label=labels.get(i), texts=found[i].texts if i in found else ()))
    return described, classes, notes


def _joined(first: Row, row: Row) -> Row:
    """Two rows of one picture, each with captions of it."""
    lines = f"lines {first.line} and {row.line}"
    if not row.texts:
        raise ValueError(f"the metadata names {row.file} twice ({lines}); keep one row")
    if (first.label, first.class_name) != (row.label, row.class_name):
        raise ValueError(f"the metadata names {row.file} twice ({lines}) with different labels; keep one of them")
    texts = (*first.texts, *row.texts)
    if len(texts) > MOST:
        raise ValueError(f"the metadata have more than {MOST} captions for {row.file}; is it something else?")
    return replace(first, texts=texts)


def _sidecars(names: Sequence[str], others: Iterable[str]) -> dict[str, str]:
    """Picture -> the text file beside it."""
    texts = {n for n in others if n.lower().endswith(".txt")}
    return {name: beside for name in names for beside in sidecar_names(name) if beside in texts}


def _with_sidecars(store: Store, entries: list[Entry], asides: Mapping[str, str]) -> tuple[list[Entry], int]:
    """Pictures without captions of their own get those of the text files; and how many of these were empty."""
    described, empty = [], 0
    for entry in entries:
        beside = asides.get(entry.name)
        if entry.texts or beside is None:
            described.append(entry)
            continue
        if beside in store.refused:
            raise ValueError(f"{beside} {store.refused[beside]}")
        try:
            found = file_captions(store.read(beside), beside)
        except UnreadablePicture as error:
            raise ValueError(str(error)) from error
        empty += found.empty
        described.append(replace(entry, texts=tuple(found.texts)))
    return described, empty


def caption_notes(entries: Sequence[Entry], empty: int = 0) -> list[str]:
    """What to tell about the captions of pictures; nothing where none has any."""
    silent = sum(not e.texts for e in entries)
    notes = [f"{silent} of {len(entries)} pictures have no caption"] if 0 < silent < len(entries) else []
    return [*notes, f"{empty} captions are empty and left out"] if empty else notes


def json_row(values: Mapping[str, object], where: str) -> Row:
    """What a JSON object beside a picture says of it.

    Raises:
        ValueError: a value that is neither text nor a whole number.
    """
    cells: dict[str, str | None] = {}
    for field in ("label", "class"):
        column = next((name for name in _COLUMNS[field] if name in values), None)
        cells[field] = None if column is None else _text(values[column], column, where, 0)
    found = row_captions(values, where)
    return Row(0, where, cells["label"], cells["class"], tuple(found.texts), found.empty)


def classes_of(found: Mapping[int, Row]) -> tuple[dict[int, str], tuple[str, ...], list[str]]:
    """Class of every labelled picture, all classes in label order, and notes.

    Raises:
        ValueError: a label below 0, or numbers and names that contradict each other.
    """
    numbered = all(r.label is None or _WHOLE.fullmatch(r.label) for r in found.values())
    names: dict[int, str] = {}
    labels: dict[int, str] = {}
    for index, row in found.items():
        if not numbered or row.label is None:
            label = row.class_name or row.label
            if label is not None:
                labels[index] = label
            continue
        number = int(float(row.label))
        if number < 0:
            raise ValueError(f"label {number} of {row.file} (line {row.line}) is out of range: labels start at 0")
        name = row.class_name or names.get(number, str(number))
        if names.setdefault(number, name) != name:
            raise ValueError(f"label {number} is called both {names[number]!r} and {name!r} (line {row.line})")
        labels[index] = name
    if len(set(names.values())) < len(names):
        raise ValueError("two label numbers share one class name; give every number its own name")
    notes = []
    if names and sorted(names) != list(range(len(names))):
        notes = [f"label numbers run to {max(names)} with gaps; the {len(names)} classes are counted from 0"]
    order = [names[n] for n in sorted(names)]
    rest = sorted(set(labels.values()) - set(order), key=natural_key)
    return labels, (*order, *rest), notes


def label_rows(entries: Sequence[Entry], rows: Mapping[int, Row], notes: list[str], *, labeled: bool | None) -> Listing:
    """The listing of pictures in the order they have, each with its row of metadata.

    Raises:
        ValueError: some have a label and some have none, or labels contradict each other.
    """
    labels, classes, said = ({}, (), []) if labeled is False else classes_of(rows)
    without = [e.shown for i, e in enumerate(entries) if i not in labels] if classes or labeled else []
    if without:
        raise ValueError(
            f"{len(without)} pictures have no label: {some(without)}. Give them one, or pass labeled=False to train "
            "without labels"
        )
    described = tuple(Entry(e.name, e.shown, labels.get(i), rows[i].texts) for i, e in enumerate(entries))
    empty = sum(row.empty for row in rows.values())
    return Listing(described, classes, (*notes, *said, *caption_notes(described, empty)), empty)
