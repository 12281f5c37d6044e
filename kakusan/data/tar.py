"""The table of contents of a tar file, found by reading its headers only. Nothing is extracted.

POSIX ustar and pax (IEEE Std 1003.1-2017, pax, "ustar Interchange Format") and the long names of GNU tar. Everything a
header claims is checked against the file; links, devices and sparse files are refused, never followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kakusan.data.store import check_relative

BLOCK = 512
MOST_MEMBERS = 20_000_000
_LONGEST_NAME = 64 * 1024
_FILES = b"0\x007"
_FOLDER = b"5"
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")
_REASONS = {
    b"1": "is a hard link inside an archive",
    b"2": "is a link inside an archive",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a pipe",
    b"S": "is a sparse file, which is not read; make the archive without --sparse",
}


@dataclass(frozen=True)
class Member:
    """One file of an archive: where its bytes are, and why it is refused if it is."""

    name: str
    offset: int
    size: int
    time: int
    refused: str | None = None


class BadTar(ValueError):
    """A file that is not a whole tar file; the message says where it breaks."""


def members(path: Path) -> Iterator[Member]:
    """The files of an archive in order, folders left out.

    Raises:
        BadTar: cut off, damaged, compressed, or no tar file at all.
        ValueError: a name that leaves the archive.
        OSError: it cannot be opened.
    """
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        yield from _walk(file, size, path.name)


def _walk(file: BinaryIO, size: int, shown: str) -> Iterator[Member]:
    place = count = 0
    long_name: str | None = None
    extended: dict[str, str] = {}
    while True:
        header = read_at(file, place, BLOCK)
        if header == bytes(BLOCK):
            return
        if len(header) < BLOCK and not header.startswith(_COMPRESSED):
            raise BadTar(f"{shown} is cut off after {count} members: it has no end mark; copy or make it again")
        name, length, time, kind = _header(header, place, shown)
        body = place + BLOCK
        after = body + -(-length // BLOCK) * BLOCK
        if body + length > size:
            raise BadTar(
                f"{shown} is cut off: member {name!r} needs {length} bytes at {body}, and the file ends at {size}; "
                "copy or make it again"
            )
        place = after
        if kind in b"LKxg" and kind:
            if length > _LONGEST_NAME:
                raise BadTar(f"{shown} has a header of {length} bytes for {name!r}, more than {_LONGEST_NAME}")
            data = read_at(file, body, length)
            if kind == b"L":
                long_name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif kind == b"x":
                extended = _pax(data, shown)
            elif kind == b"g" and {"path", "size"} & set(_pax(data, shown)):
                raise BadTar(f"{shown} gives all its members one name or size; make it again")
            continue
        name = extended.get("path", long_name if long_name is not None else name)
        sparse = any(key.startswith("GNU.sparse.") for key in extended)
        if "size" in extended:
            # Where the length was too large for the header itself, the next header comes after the true length.
            length = _number(extended["size"], shown)
            place = body + -(-length // BLOCK) * BLOCK
            if body + length > size:
                raise BadTar(f"{shown} is cut off in member {name!r}; copy or make it again")
        long_name, extended = None, {}
        while name.startswith("./"):
            name = name[2:]
        if kind == _FOLDER or not name or name.endswith("/"):
            continue
        count += 1
        if count > MOST_MEMBERS:
            raise BadTar(f"{shown} holds more than {MOST_MEMBERS} members")
        _check_name(name, shown)
        reason = _REASONS[b"S"] if sparse else None
        if kind not in _FILES or not kind:
            reason = _REASONS.get(kind, f"has the unknown type {kind!r}")
        yield Member(name, body, length, time, reason)


def _check_name(name: str, shown: str) -> None:
    check_relative(name, f"the archive {shown}")
    if "\udc80" <= max(name) <= "\udcff":
        raise BadTar(f"{shown} has a name that is not UTF-8: {name.encode('utf-8', 'replace')!r}")


def read_at(file: BinaryIO, place: int, count: int) -> bytes:
    """Up to `count` bytes of a file at a place; fewer only where the file ends."""
    file.seek(place)
    parts = []
    while count > 0 and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _header(header: bytes, place: int, shown: str) -> tuple[str, int, int, bytes]:
    """(name, size, time, type) of one header block."""
    found = _octal(header[148:156])
    # The sum counts the eight bytes that hold it as spaces; old writers summed signed bytes.
    rest = header[:148] + b" " * 8 + header[156:]
    if found is None or found not in (sum(rest), sum(b - 256 if b > 127 else b for b in rest)):
        if place == 0:
            packed = (
                header[:2] == b"\x1f\x8b" or header[:3] == b"BZh" or header[:4] in (b"\xfd7zX", b"\x28\xb5\x2f\xfd")
            )
            hint = "it is compressed, so its members cannot be reached one by one; decompress it once" if packed else ""
            raise BadTar(f"{shown} is not a tar file{': ' + hint if hint else ''}")
        raise BadTar(f"{shown} is damaged at byte {place}: no header of a member is there; copy or make it again")
    length, time = _size(header[124:136]), _size(header[136:148])
    if length is None or length < 0:
        raise BadTar(f"{shown} is damaged at byte {place}: a member has no size; copy or make it again")
    name = _text(header[:100])
    # GNU archives ("ustar  ") keep times where ustar has the first part of a long name.
    if header[257:263] == b"ustar\0" and header[345]:
        name = f"{_text(header[345:500])}/{name}"
    return name, length, time or 0, header[156:157]


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _octal(field: bytes) -> int | None:
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if all(48 <= d <= 55 for d in digits) else None


def _size(field: bytes) -> int | None:
    """A number in octal, or in base 256 where it is too large for that (GNU)."""
    if field[0] in (0o200, 0o377):
        value = int.from_bytes(field[1:], "big")
        return value - (256 ** (len(field) - 1) if field[0] == 0o377 else 0)
    return _octal(field)


def _number(text: str, shown: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadTar(f"{shown} gives a member the size {text[:40]!r}")
    return int(text)


def _pax(data: bytes, shown: str) -> dict[str, str]:
    """Records "length key=value\\n" of an extended header."""
    found: dict[str, str] = {}
    place = 0
    while place < len(data):
        space = data.find(b" ", place, place + 20)
        digits = data[place:space] if space > 0 else b""
        if not digits.isdigit():
            raise BadTar(f"{shown} has a damaged extended header")
        end = place + int(digits)
        record = data[space + 1 : end]
        if end > len(data) or end <= space or not record.endswith(b"\n") or b"=" not in record:
            raise BadTar(f"{shown} has a damaged extended header")
        key, _, value = record[:-1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        place = end
    return found
