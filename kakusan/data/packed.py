"""One file of decoded pictures, mapped into memory: written once, whole or not at all, and checked when it is read.

Layout: the pictures one after the other, a CRC-32 of each, the facts as JSON, then a tail of 20 bytes (length and
CRC-32 of the JSON, a mark). The mark comes last, so a file that was cut short has none.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kakusan.data.description import Description
from kakusan.files import sync_folder, whole_file

FORMAT = 1
"""Version of the layout; a file of another version is made again."""
SUFFIX = ".pack"
CHECK_AT_OPENING = 256 * 2**20
"""Files up to so many bytes are checked whole when they are opened, larger ones picture by picture at first reading."""
_TAIL = struct.Struct("<QI8s")
_MARK = b"KAKUPACK"
_MOST_FACTS = 2**30


class CorruptPack(ValueError):
    """A packed file that is damaged, cut off, or not the one expected."""


@dataclass(frozen=True)
class PackFacts:
    """What a packed file says of itself.

    Args:
        key: hash of everything that decides its content.
        place: hash of the source and how it is opened; a file of the same place and another key is out of date.
        source: where the pictures came from, for people.
        count: N.
        shape: (C, H, W).
        dtype: uint8 or uint16.
        high: largest value of the range.
        mean: per channel, in [-1, 1] units.
        std: per channel.
        unreadable: number -> (name, reason) of pictures that could not be decoded; their rows are zero.
        notes: what was found out while decoding.
        format: version of the layout.
    """

    key: str
    place: str
    source: str
    count: int
    shape: tuple[int, ...]
    dtype: str
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unreadable: Mapping[int, tuple[str, str]]
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    @property
    def row_bytes(self) -> int:
        """Bytes of one picture."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @classmethod
    def read(cls, path: Path) -> PackFacts:
        """The facts of a file, without touching its pictures.

        Raises:
            CorruptPack: no such facts, of another version, or a size that does not fit them.
            OSError: it cannot be opened.
        """
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < _TAIL.size:
                raise CorruptPack("it is cut off")
            file.seek(size - _TAIL.size)
            length, check, mark = _TAIL.unpack(file.read(_TAIL.size))
            if mark != _MARK:
                raise CorruptPack("it is cut off or no packed file")
            if length > min(_MOST_FACTS, size - _TAIL.size):
                raise CorruptPack("its facts are damaged")
            file.seek(size - _TAIL.size - length)
            text = file.read(length)
        if zlib.crc32(text) != check:
            raise CorruptPack("its facts are damaged")
        facts = cls._of(text)
        if size != facts.count * (facts.row_bytes + 4) + length + _TAIL.size:
            raise CorruptPack("it has not the size that its facts say")
        return facts

    @classmethod
    def _of(cls, text: bytes) -> PackFacts:
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise CorruptPack(f"it has format {values['format']}, and this version writes {FORMAT}")
            values |= {name: tuple(values[name]) for name in ("shape", "mean", "std", "notes")}
            values["unreadable"] = {int(i): (str(n), str(r)) for i, (n, r) in values["unreadable"].items()}
            facts = cls(**values)
            if facts.dtype not in ("uint8", "uint16") or facts.count < 0 or min(facts.shape) < 1:
                raise CorruptPack("its facts make no sense")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CorruptPack):
                raise
            raise CorruptPack(f"its facts are not readable ({error})") from None
        return facts


class PackWriter:
    """Fills a packed file row by row, from any number of threads.

    Rows are written, not stored through a map: on a full disk a write is an error that can be told, whereas storing
    into a map ends the process.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._count, self._shape, self._dtype = count, shape, dtype
        self._row_bytes = int(np.prod(shape)) * dtype.itemsize
        self._checks = np.full(count, zlib.crc32(bytes(self._row_bytes)), np.uint32)
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        os.ftruncate(self._file, count * self._row_bytes)

    def put(self, index: int, pixels: np.ndarray) -> None:
        """Write one picture (C, H, W)."""
        row = np.ascontiguousarray(pixels, self._dtype)
        assert row.shape == self._shape
        self._checks[index] = zlib.crc32(row.data)
        self._write(row.data.cast("B"), index * self._row_bytes)

    def view(self) -> np.ndarray:
        """The pictures written so far (N, C, H, W), read-only."""
        return _mapped(self._file, self._count, self._shape, self._dtype)

    def finish(self, facts: PackFacts) -> None:
        """Write the rest and close."""
        text = json.dumps(asdict(facts), ensure_ascii=False).encode()
        rest = self._checks.astype("<u4").tobytes() + text + _TAIL.pack(len(text), zlib.crc32(text), _MARK)
        self._write(memoryview(rest), self._count * self._row_bytes)
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            done += self._write_at(data[done:], offset + done)

    def _write_at(self, data: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._file, data, offset)
        with self._lock:
            os.lseek(self._file, offset, os.SEEK_SET)
            return os.write(self._file, data)


class Pack:
    """A packed file, open. `stored` is (N, C, H, W), read-only memory of the file; nothing is read before it is used.

    Raises:
        CorruptPack: damaged, or not the file with this key.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.facts = facts = PackFacts.read(path)
        if facts.key != key:
            raise CorruptPack("it holds other pictures than its name says")
        dtype = np.dtype(facts.dtype)
        with path.open("rb") as file:
            self.stored = _mapped(file.fileno(), facts.count, facts.shape, dtype)
            file.seek(facts.count * facts.row_bytes)
            self._checks = np.frombuffer(file.read(4 * facts.count), "<u4")
        if len(self._checks) != facts.count:
            raise CorruptPack("it is cut off")
        self._checked = np.zeros(facts.count, bool)
        if facts.count * facts.row_bytes <= CHECK_AT_OPENING:
            damaged = self.damaged(np.arange(facts.count))
            if len(damaged):
                raise CorruptPack(f"{len(damaged)} of its pictures are damaged")

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.path.stat().st_size

    def damaged(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` whose content is not what was written. Each row is looked at once."""
        new = rows[~self._checked[rows]]
        if not len(new):
            return new
        wrong = [int(row) for row in new if zlib.crc32(self.stored[row].data) != self._checks[row]]
        self._checked[new] = True
        self._checked[wrong] = False
        return np.unique(np.array(wrong, np.int64))


def write_pack(
    path: Path,
    count: int,
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    fill: Callable[[PackWriter], PackFacts],
) -> None:
    """Write a packed file, whole or not at all; `fill` puts the rows and says the facts.

    Raises:
        OSError: no room, no permission.
    """
    with whole_file(path) as temporary:
        writer = PackWriter(temporary, count, shape, dtype)
        try:
            writer.finish(fill(writer))
        finally:
            writer.close()
    sync_folder(path.parent)


def _mapped(file: int, count: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.ndarray:
    size = count * int(np.prod(shape)) * dtype.itemsize
    if size == 0:
        return np.empty((count, *shape), dtype)
    mapped = mmap.mmap(file, size, access=mmap.ACCESS_READ)
    found: np.ndarray = np.frombuffer(mapped, dtype).reshape(count, *shape)
    return found


class PackedPictures:
    """Pictures of a packed file; a batch is copied from it, nothing else.

    Args:
        about: everything but the pixels.
        pack: the file.
        rows: (N,) which of its rows.
        decode: number of a picture -> (C, H, W) from its source, for a row that is damaged.
        digests: N hashes of content.
        warn: where a damaged row is told.
    """

    def __init__(
        self,
        about: Description,
        pack: Pack,
        rows: np.ndarray,
        decode: Callable[[int], np.ndarray],
        digests: Sequence[str],
        warn: Callable[[str], Any],
    ) -> None:
        self.spec = about.spec
        self.labels = about.labels
        self.captions = about.captions
        self.texts = about.texts
        self.fingerprint = about.fingerprint
        self.notes = about.notes
        self._pack, self._rows, self._decode, self._warn = pack, rows, decode, warn
        self._names, self._digests = about.names, digests

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Stored pictures (n, C, H, W), uint8 or uint16."""
        chosen = np.asarray(indices, np.int64)
        rows = self._rows[chosen]
        damaged = self._pack.damaged(rows)
        found = self._pack.stored[rows]
        if len(damaged):
            for place in np.flatnonzero(np.isin(rows, damaged)):
                found[place] = self._decode(int(chosen[place]))
            # Nobody will open it again, so the next opening makes a new one.
            self._pack.path.unlink(missing_ok=True)
            self._warn(
                f"the packed file {self._pack.path} is damaged: {len(damaged)} pictures were decoded again from their "
                "source. It is removed and will be made again at the next start"
            )
        return torch.from_numpy(found)

    def name(self, index: int) -> str:
        """Path of one picture below the source."""
        return self._names[index]

    def digest(self, index: int) -> str:
        """Hash of one file."""
        return self._digests[index]
