"""Captions from elsewhere: a file that names the pictures, or templates for the names of classes."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from torch import Tensor

from kakusan.data.captions import MOST, Caption, Found, caption_columns, class_captions, row_captions
from kakusan.data.metadata import some
from kakusan.data.source import Pictures, Subset, blocks_of, decoder_of, first_of_each
from kakusan.data.tables import MOST_UNPACKED, table_rows
from kakusan.specs import suggestion

_FILES = ("file_name", "file", "image", "image_file", "filename")


@dataclass(frozen=True, kw_only=True)
class CaptionChoice:
    """Which captions a data set gets besides its own; the fields are arguments of `kakusan.data.source.open_data`.

    Args:
        captions: a file of rows that name pictures: `.jsonl` or `.csv`, either also `.gz`, or `.parquet`. It takes
            the place of the captions that the pictures have.
        captions_where: `column=value`, or `column=value,value`: only such rows are taken.
        captions_column: the column of captions; `caption`, `captions`, `caption_ja` and so on when not given.
        captioned_only: leave out pictures without captions.
        templates: ways to make captions from the name of a class, for pictures without any.

    Raises:
        ValueError: a choice among the rows of a file that is not given.
    """

    captions: str | Path | None = None
    captions_where: str | None = None
    captions_column: str | None = None
    captioned_only: bool = False
    templates: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.captions is None and (self.captions_where is not None or self.captions_column is not None):
            raise ValueError("captions_where and captions_column choose from a captions file; give one: captions=FILE")

    def apply(self, pictures: Pictures) -> Pictures:
        """The pictures with these captions.

        Raises:
            ValueError: a file that does not fit, templates without classes, or no picture left.
        """
        if self.captions is not None:
            rows = read_captions(Path(self.captions), where=self.captions_where, column=self.captions_column)
            pictures = with_captions(pictures, rows, called=Path(self.captions).name)
        if self.templates is not None:
            pictures = with_templates(pictures, self.templates)
        if self.captioned_only:
            pictures = only_captioned(pictures)
        return pictures


class Captioned:
    """A data set with other captions; the pictures stay where they are.

    Args:
        pictures: the data set.
        texts: all captions of each picture.
        notes: what was decided.

    Raises:
        ValueError: another number of pictures.
    """

    def __init__(self, pictures: Pictures, texts: Sequence[Sequence[str]], *, notes: Sequence[str] = ()) -> None:
        if len(texts) != len(pictures):
            raise ValueError(f"{len(pictures)} pictures but captions for {len(texts)}")
        self._whole = pictures
        self.spec, self.labels = pictures.spec, pictures.labels
        self.texts = tuple(tuple(several) for several in texts) if any(texts) else None
        self.captions = first_of_each(self.texts)
        content = hashlib.sha256(pictures.fingerprint.encode() + repr(self.texts).encode()).hexdigest()
        self.fingerprint = pictures.fingerprint if self.texts == pictures.texts else content
        self.notes: tuple[str, ...] = (*pictures.notes, *notes)
        self.blocks = blocks_of(pictures)
        self.decoder = decoder_of(pictures)

    def __len__(self) -> int:
        return len(self._whole)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Stored pictures (n, C, H, W), uint8 or uint16."""
        return self._whole.read(indices)

    def name(self, index: int) -> str:
        """Name of one picture."""
        return self._whole.name(index)

    def digest(self, index: int) -> str:
        """Hash of one picture's content."""
        return self._whole.digest(index)


def with_templates(pictures: Pictures, templates: Sequence[str]) -> Pictures:
    """Pictures without captions get those that the name of their class makes.

    Raises:
        ValueError: no classes, or a template without `{class}`.
    """
    labels, classes = pictures.labels, pictures.spec.classes
    if labels is None or not classes:
        raise ValueError("templates make captions from the names of classes, and these pictures have no classes")
    made = [class_captions(name, templates) for name in classes]
    own: Sequence[Sequence[str]] = pictures.texts or ((),) * len(pictures)
    texts = [several or made[label] for several, label in zip(own, labels.tolist(), strict=True)]
    count = sum(not several for several in own)
    return Captioned(pictures, texts, notes=[f"{count} pictures get captions from their class"])


def only_captioned(pictures: Pictures) -> Pictures:
    """The pictures that have a caption.

    Raises:
        ValueError: none has.
    """
    texts = pictures.texts or ()
    chosen = [index for index, several in enumerate(texts) if several]
    if not chosen:
        raise ValueError("no picture has a caption, so none is left")
    count = len(pictures) - len(chosen)
    return Subset(pictures, chosen, notes=[f"{count} pictures without captions are left out"] if count else [])


def read_captions(path: Path, *, where: str | None = None, column: str | None = None) -> dict[str, tuple[Caption, ...]]:
    """Captions by the name of the picture, from a file with a row for each picture or for each caption.

    Args:
        path: `.jsonl`, `.csv`, either also `.gz`, or `.parquet`; the picture is named by `file_name` or `file`.
        where: `column=value` or `column=value,value`; other rows are skipped.
        column: where the captions are; found when not given.

    Raises:
        ValueError: no such file or column, no row left, or a row that makes no sense (it is named by its line).
    """
    name = path.name
    lines = table_rows(_content(path), name.removesuffix(".gz"))
    key, wanted = _condition(where)
    found: dict[str, list[Caption]] = {}
    rows = skipped = 0
    for line, values in lines:
        place = f"{name} line {line}"
        rows += 1
        if key is not None:
            if key not in values:
                raise ValueError(f"{place} has no column {key!r}{suggestion(key, list(map(str, values)))}")
            if str(values[key]) not in wanted:
                skipped += 1
                continue
        file = next((values[c] for c in _FILES if values.get(c)), None)
        if not isinstance(file, str):
            raise ValueError(f"{place} names no picture by 'file_name' or 'file'; it has {some(map(str, values))}")
        said = _captions(values, column, place)
        several = found.setdefault(PurePosixPath(file).as_posix(), [])
        several += said.texts
        if len(several) > MOST:
            raise ValueError(f"{place}: more than {MOST} captions for {file}; is it something else?")
    if column is not None and not any(found.values()):
        raise ValueError(f"{name} has no captions in a column {column!r}")
    if not found:
        why = f"none of its {rows} rows has {where}" if skipped else "it has no rows"
        raise ValueError(f"{name}: {why}")
    return {file: tuple(several) for file, several in found.items()}


def with_captions(pictures: Pictures, rows: Mapping[str, Sequence[str]], *, called: str = "the captions") -> Pictures:
    """The pictures with captions by name; those that are not named have none.

    A name is the picture's path below its source, with folders before it on either side or without its suffix if that
    leaves no doubt.

    Raises:
        ValueError: no name fits, or two rows fit one picture.
    """
    names = [pictures.name(index) for index in range(len(pictures))]
    places = _places(names, list(rows), called)
    texts: list[Sequence[str]] = [()] * len(names)
    for row, index in places.items():
        if texts[index]:
            raise ValueError(f"{called} has two rows for {names[index]}; the other one is {row}")
        texts[index] = rows[row]
    silent = sum(not several for several in texts)
    unused = len(rows) - len(places)
    notes = [f"{called}: {sum(map(len, texts))} captions for {len(names) - silent} of {len(names)} pictures"]
    notes += [f"{called}: {unused} rows fit no picture"] if unused else []
    return Captioned(pictures, texts, notes=notes)


def _places(names: Sequence[str], rows: Sequence[str], called: str) -> dict[str, int]:
    """Row -> the picture it names, by the most telling rule under which at least one fits."""
    for rule in (lambda n: n, _stem, lambda n: n.rpartition("/")[2], lambda n: _stem(n.rpartition("/")[2])):
        known: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            known.setdefault(rule(name), []).append(index)
        fits = {row: known[rule(row)] for row in rows if rule(row) in known}
        if not fits:
            continue
        doubtful = [row for row, found in fits.items() if len(found) > 1]
        if doubtful:
            raise ValueError(
                f"{called} names {doubtful[0]!r}, and {len(fits[doubtful[0]])} pictures are called so: "
                f"{some([names[i] for i in fits[doubtful[0]]], 3)}; name them by their paths"
            )
        return {row: found[0] for row, found in fits.items()}
    raise ValueError(
        f"{called} names none of the {len(names)} pictures: it has {some(map(repr, rows), 3)}, the pictures are called "
        f"{some(map(repr, names), 3)}"
    )


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name


def _condition(where: str | None) -> tuple[str | None, tuple[str, ...]]:
    if where is None:
        return None, ()
    key, equals, values = where.partition("=")
    if not (key and equals and values):
        raise ValueError(f"captions_where is column=value, such as pairing=exact, got {where!r}")
    return key, tuple(values.split(","))


def _captions(values: Mapping[str, object], column: str | None, place: str) -> Found:
    if column is None:
        if not caption_columns(values):
            raise ValueError(f"{place} has no column 'caption', 'captions' or 'text'; it has {some(map(str, values))}")
        return row_captions(values, place)
    found = Found()
    # A row may well lack a column that only some rows have, so that is no error; that none has it is, see the reader.
    found.add(values.get(column), f"{place}: {column!r}")
    return found


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"the captions file {path} does not exist")
    plain = path.name.removesuffix(".gz")
    if not plain.endswith((".jsonl", ".csv", ".parquet")):
        raise ValueError(f"{path.name} is no captions file; .jsonl, .csv (either also with .gz) and .parquet are read")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} cannot be read ({error}); get it again") from error
    if len(data) > MOST_UNPACKED:
        raise ValueError(f"{path.name} holds more than {MOST_UNPACKED // 2**20} MiB; is it a captions file?")
    return data
