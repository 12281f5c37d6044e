"""Parquet files with a column of encoded pictures, such as data sets on the Hugging Face hub; read where they lie.

Pictures lie together in row groups, which are read whole. So the order of training is mixed within a window of row
groups (`kakusan.data.order.Blocks`), of which only a few are in memory.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kakusan.data.captions import Found, caption_columns
from kakusan.data.fit import Fit
from kakusan.data.kinds import common_folder, part_names
from kakusan.data.metadata import Entry, Listing, Row, label_rows, select, some
from kakusan.data.opening import MEMORY_LIMIT, Opening
from kakusan.data.order import Blocks
from kakusan.data.reading import MAX_BYTES, MAX_PIXELS, UnreadablePicture
from kakusan.data.source import Pictures
from kakusan.data.store import MAX_RATIO, file_stamp
from kakusan.data.streaming import STREAM_ABOVE, Parts, open_parts_of
from kakusan.extras import need
from kakusan.specs import suggestion

IMAGES = ("image", "img", "picture", "jpg", "png")
LABELS = ("label", "labels", "class_name", "class", "fine_label")
WINDOW_BYTES = 256 * 2**20
"""Bytes of row groups that are mixed with each other, as they are stored."""
MOST_GROUP_BYTES = 4 * 2**30
_TRAIN = re.compile(r"train([-_.]|$)", re.IGNORECASE)
_OTHER_SPLIT = re.compile(r"(test|val|valid|validation)([-_.]|$)", re.IGNORECASE)


def open_parquet(
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
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
) -> Pictures:
    """Pictures of parquet files: a column of bytes, or of {bytes, path} as Hugging Face writes it.

    Args:
        files: the files; where some are called train and others test or validation, only the former are taken.
        size: this and what follows up to `cache` are as in `kakusan.data.folder.open_folder`.
        stream_above: sets of more bytes are streamed: only some pictures are looked at, and none is kept.
        image_column: name of the column of pictures; found when not given.
        label_column: name of the column of labels, whole numbers or texts; found when not given.
        caption_column: name of the column of captions, texts or lists of texts; when not given, all such columns called
            caption, captions, caption_ja, caption_2 and so on, else text.

    Raises:
        ValueError: no such columns, a damaged file, labels that do not fit, or unreadable pictures.
        ImportError: pyarrow is not installed.
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
        raise ValueError("no parquet files were given")
    paths, notes = _training_files([Path(f) for f in files])
    where = f"the parquet files {some([p.name for p in paths], 3)}"
    store = ParquetStore(paths, image_column)
    store.notes += notes
    listing = _listing(store, label_column, caption_column, labeled=labeled, where=where)
    found = select(listing, classes=classes, limit_per_class=limit_per_class)
    blocks = store.blocks() if len(found.entries) == len(listing.entries) else None
    selection = [part_names(paths), store.image, None if classes is None else list(classes), limit_per_class]
    return open_parts_of(
        Parts(store, found, blocks),
        opening,
        source=common_folder(paths),
        where=where,
        selection=selection,
        stream_above=stream_above,
    )


def _training_files(paths: list[Path]) -> tuple[list[Path], list[str]]:
    training = [p for p in paths if _TRAIN.match(p.name)]
    others = [p for p in paths if _OTHER_SPLIT.match(p.name)]
    if not training or len(training) + len(others) < len(paths) or not others:
        return paths, []
    return training, [f"{len(others)} files of other splits are left out: {some([p.name for p in others], 3)}"]


@dataclass(frozen=True)
class _Group:
    """One row group: its file, its number there, its rows and the bytes of its pictures."""

    file: int
    number: int
    rows: int
    bytes: int


class ParquetStore:
    """Pictures by "file#row"; the row groups used last are kept.

    Raises:
        ValueError: no column of pictures, or a row group that is too large.
    """

    def __init__(self, paths: Sequence[Path], image_column: str | None) -> None:
        self._arrow = need("pyarrow", extra="parquet", what="reading parquet files")
        self._parquet = need("pyarrow.parquet", extra="parquet", what="reading parquet files")
        self.names: list[str] = []
        self.refused: dict[str, str] = {}
        self.notes: list[str] = []
        self._paths, self._shown = paths, part_names(paths)
        self._stamps = [file_stamp(path) for path in paths]
        self._metadata = [self._open(i).metadata for i in range(len(paths))]
        self.schema = self._open(0).schema_arrow
        self.image, self._leaf = self._image_column(image_column)
        self.groups: list[_Group] = []
        for file, metadata in enumerate(self._metadata):
            if not self._open(file).schema_arrow.equals(self.schema):
                raise ValueError(f"{self._shown[file]} has other columns than {self._shown[0]}; open them one by one")
            for number in range(metadata.num_row_groups):
                if metadata.row_group(number).num_rows:
                    self.groups.append(self._group(file, number))
        self._starts = np.cumsum([0, *(g.rows for g in self.groups)])
        self._numbers: dict[str, int] = {}
        for group, start in zip(self.groups, self._starts, strict=False):
            before = sum(self._metadata[group.file].row_group(i).num_rows for i in range(group.number))
            for row in range(group.rows):
                self._numbers[f"{self._shown[group.file]}#{before + row}"] = int(start) + row
        self.names = list(self._numbers)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def window(self) -> int:
        """Row groups that are mixed with each other."""
        largest = max((g.bytes for g in self.groups), default=1)
        return max(2, WINDOW_BYTES // max(1, largest))

    def blocks(self) -> Blocks | None:
        """The row groups."""
        return Blocks(tuple(g.rows for g in self.groups), self.window) if self.groups else None

    def column(self, name: str) -> list[Any]:
        """All values of a small column."""
        found: list[Any] = []
        for file in range(len(self._paths)):
            found += self._guarded(file, lambda f: f.read(columns=[name]).column(0).to_pylist())
        return found

    def read(self, name: str, count: int | None = None) -> bytes:
        """One encoded picture, or its first `count` bytes; raises `UnreadablePicture`."""
        number = self._numbers[name]
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        try:
            value = self._pictures(place)[number - int(self._starts[place])].as_py()
        except ValueError as error:
            raise UnreadablePicture(name, str(error)) from error
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise UnreadablePicture(name, "has no bytes; a path or address alone is not followed")
        if len(value) > MAX_BYTES:
            raise UnreadablePicture(name, f"the picture is larger than {MAX_BYTES // 2**20} MiB")
        return value if count is None else value[:count]

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """What tells whether the file, and so its row, has changed."""
        number = self._numbers[name]
        stamp = self._stamps[self._file(number)]
        return None if stamp is None else (*stamp, number)

    def size(self, name: str) -> int:
        """Bytes of one picture, as the mean of its row group."""
        group = self.groups[int(np.searchsorted(self._starts, self._numbers[name], side="right")) - 1]
        return -(-group.bytes // group.rows)

    def identity(self, name: str) -> str:
        """File and row, and what the file says of the row's group."""
        group = self.groups[int(np.searchsorted(self._starts, self._numbers[name], side="right")) - 1]
        return f"{name}\0{group.rows}\0{group.bytes}"

    def _file(self, number: int) -> int:
        return self.groups[int(np.searchsorted(self._starts, number, side="right")) - 1].file

    def _open(self, file: int) -> Any:
        try:
            return self._parquet.ParquetFile(self._paths[file], pre_buffer=False)
        except (self._arrow.ArrowException, OSError) as error:
            raise ValueError(
                f"{self._shown[file]} is not a readable parquet file ({str(error).splitlines()[0]}); get it again"
            ) from error

    def _guarded(self, file: int, work: Any) -> Any:
        if file_stamp(self._paths[file]) != self._stamps[file]:
            raise ValueError(f"{self._shown[file]} has changed since it was opened; start again")
        try:
            return work(self._open(file))
        except (self._arrow.ArrowException, OSError) as error:
            raise ValueError(f"{self._shown[file]} is damaged ({str(error).splitlines()[0]}); get it again") from error

    def _pictures(self, place: int) -> Any:
        # Under the lock, so that a row group is read once however many threads want it.
        with self._lock:
            if place not in self._kept:
                group = self.groups[place]
                table = self._guarded(group.file, lambda f: f.read_row_group(group.number, columns=[self._leaf]))
                self._kept[place] = table.column(0).combine_chunks()
                while len(self._kept) > self.window + 1:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(place)
            return self._kept[place]

    def _image_column(self, asked: str | None) -> tuple[str, str]:
        """(column, leaf to read) of the pictures."""
        types = self._arrow.types

        def leaf(name: str) -> str | None:
            kind = self.schema.field(name).type
            if types.is_binary(kind) or types.is_large_binary(kind):
                return name
            if types.is_struct(kind):
                inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
                data = inner.get("bytes")
                if data is not None and (types.is_binary(data) or types.is_large_binary(data)):
                    return f"{name}.bytes"
            return None

        names = self.schema.names
        if asked is not None:
            check_column(asked, names)
            found = leaf(asked)
            if found is None:
                raise ValueError(f"the column {asked!r} holds {self.schema.field(asked).type}, not encoded pictures")
            return asked, found
        leaves = {name: found for name in names if (found := leaf(name)) is not None}
        chosen = next((name for name in IMAGES if name in leaves), None)
        if chosen is None and len(leaves) == 1:
            chosen = next(iter(leaves))
        if chosen is None:
            wrong = f"; several hold bytes ({', '.join(leaves)}): say which, image_column=..." if leaves else ""
            raise ValueError(
                f"{self._shown[0]} has no column of pictures (bytes, or a struct with bytes) called "
                f"{' or '.join(IMAGES)}{wrong}; it has {some([f'{f.name}: {f.type}' for f in self.schema])}"
            )
        return chosen, leaves[chosen]

    def _group(self, file: int, number: int) -> _Group:
        metadata = self._metadata[file].row_group(number)
        columns = [metadata.column(i) for i in range(metadata.num_columns)]
        column = next(c for c in columns if c.path_in_schema == self._leaf)
        size, packed = column.total_uncompressed_size, column.total_compressed_size
        where = f"row group {number} of {self._shown[file]}"
        if size > MOST_GROUP_BYTES:
            raise ValueError(
                f"{where} holds {size / 2**30:.1f} GiB, and row groups are read whole; write the file again with row "
                "groups of about 100 MiB"
            )
        if size > 2**20 and size > MAX_RATIO * max(1, packed):
            raise ValueError(f"{where} unpacks to more than {MAX_RATIO} times its size, as a bomb does")
        return _Group(file, number, metadata.num_rows, max(1, size))


def check_column(name: str, names: Sequence[str]) -> None:
    """Raise `ValueError` when there is no such column."""
    if name not in names:
        raise ValueError(f"there is no column {name!r}{suggestion(name, list(names))}; there are {', '.join(names)}")


def _listing(
    store: ParquetStore, label_column: str | None, caption_column: str | None, *, labeled: bool | None, where: str
) -> Listing:
    count = len(store.names)
    if count == 0:
        raise ValueError(f"{where}: no rows")
    label = _column(store, label_column, LABELS) if labeled is not False else None
    labels = [None] * count if label is None else store.column(label)
    spoken = _caption_columns(store, caption_column)
    captions = [store.column(name) for name, _ in spoken]
    names = [] if label is None else _class_names(store.schema, label)
    rows: dict[int, Row] = {}
    for i, (shown, number) in enumerate(zip(store.names, labels, strict=True)):
        if names and number is not None and not -1 <= number < len(names):
            raise ValueError(f"{shown} has label {number}, but there are {len(names)} classes")
        # Hugging Face writes -1 where a label is withheld.
        missing = number is None or number == "" or (names and number == -1)
        name = names[number] if names and not missing else None
        said = Found()
        for (column, language), texts in zip(spoken, captions, strict=True):
            said.add(texts[i], f"{shown}: {column!r}", language)
        rows[i] = Row(0, shown, None if missing else str(number), name, tuple(said.texts), said.empty)
    return label_rows([Entry(n, n) for n in store.names], rows, [], labeled=labeled)


def _column(store: ParquetStore, asked: str | None, usual: Sequence[str]) -> str | None:
    """A column of texts or whole numbers: the one asked for, or the first of the usual names that has such values."""
    types = store._arrow.types

    def fits(name: str) -> bool:
        kind = store.schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        text = types.is_string(kind) or types.is_large_string(kind)
        return bool(text or types.is_integer(kind))

    if asked is None:
        return next((name for name in usual if name in store.schema.names and fits(name)), None)
    check_column(asked, store.schema.names)
    if not fits(asked):
        raise ValueError(f"the column {asked!r} holds {store.schema.field(asked).type}, not texts or whole numbers")
    return asked


def _caption_columns(store: ParquetStore, asked: str | None) -> list[tuple[str, str | None]]:
    """(column, language) of the captions: texts, or lists of texts."""
    types = store._arrow.types

    def fits(name: str) -> bool:
        kind = store.schema.field(name).type
        if types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
            kind = kind.value_type
        return bool(types.is_string(kind) or types.is_large_string(kind))

    if asked is None:
        return caption_columns([name for name in store.schema.names if fits(name)])
    check_column(asked, store.schema.names)
    if not fits(asked):
        raise ValueError(f"the column {asked!r} holds {store.schema.field(asked).type}, not texts or lists of texts")
    return [(asked, None)]


def _class_names(schema: Any, column: str) -> list[str]:
    """Names of the classes, where the file was written by Hugging Face datasets and says them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    plain = isinstance(names, list) and all(isinstance(n, str) for n in names) and len(set(names)) == len(names)
    return names if plain else []
