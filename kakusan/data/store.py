"""Where pictures come from: a folder or a zip file, listed and read by name with limits. Nothing is ever extracted."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kakusan.data.reading import MAX_BYTES, UnreadablePicture

MAX_RATIO = 200
"""A zip member that grows more than this many times is taken for a bomb."""
MAX_FILES = 5_000_000


class Store(Protocol):
    """Files by relative name, with `/` between folders.

    `names` are the readable ones in natural order, `refused` maps others to the reason.
    """

    names: list[str]
    refused: dict[str, str]
    notes: list[str]

    def read(self, name: str, count: int | None = None) -> bytes:
        """The file, or its first `count` bytes; raises `UnreadablePicture`."""
        ...

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """(size, time of content, time of any change, ...) as the system says: equal while a file is unchanged."""
        ...


def file_stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Size, both times in nanoseconds and the number of a file; None when it cannot be asked."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def open_store(path: Path) -> Store:
    """The store at `path`.

    Raises:
        ValueError: neither a folder nor a zip file, or an archive with names that leave it.
    """
    if path.is_dir():
        return FolderStore(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return ZipStore(path)
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder it is in, or a zip file of pictures")
    raise ValueError(f"{path} does not exist; give a folder or a zip file of pictures")


def natural_key(name: str) -> tuple[object, ...]:
    """Sort key under which `class2` comes before `class10`."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return (*((len(p.lstrip("0")), p.lstrip("0")) if i % 2 else p for i, p in enumerate(parts)), name)


def _hidden(parts: Sequence[str]) -> bool:
    return any(p.startswith(".") or p == "__MACOSX" for p in parts)


class FolderStore:
    """Regular files below a folder. Links are followed only where they stay inside it."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self.refused: dict[str, str] = {}
        self.notes: list[str] = []
        names = []
        closed: list[str] = []
        for folder, folders, files in os.walk(self._root, onerror=lambda e: closed.append(str(e.filename))):
            here = Path(folder)
            folders[:] = [f for f in folders if not _hidden([f])]
            links = [f for f in folders if (here / f).is_symlink()]
            if links:
                self.notes.append(f"links to folders are not followed: {', '.join(sorted(links)[:5])}")
            for file in files:
                path = here / file
                name = path.relative_to(self._root).as_posix()
                if _hidden([file]):
                    continue
                reason = self._reason(path)
                if reason is None:
                    names.append(name)
                else:
                    self.refused[name] = reason
        if closed:
            raise ValueError(f"no permission to look into {', '.join(closed[:5])}; change it, or give another folder")
        self.names = sorted(names, key=natural_key)

    def _reason(self, path: Path) -> str | None:
        try:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = path.resolve(strict=True)
                if not target.is_relative_to(self._root):
                    return "is a link that leaves the folder; copy the picture instead"
                mode = target.stat().st_mode
        except (OSError, RuntimeError) as error:
            return f"cannot be opened ({error.__class__.__name__})"
        if not stat.S_ISREG(mode):
            return "is not a regular file"
        return None

    def read(self, name: str, count: int | None = None) -> bytes:
        """The file, or its first `count` bytes; raises `UnreadablePicture`."""
        path = self._root / name
        try:
            # Again at the moment of reading: a file may have become a link since it was listed.
            reason = self._reason(path)
            if reason is not None:
                raise UnreadablePicture(name, reason)
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1 if count is None else count)
        except OSError as error:
            raise UnreadablePicture(name, f"cannot be read ({error.strerror or error})") from error
        if len(data) > MAX_BYTES:
            raise UnreadablePicture(name, f"the file is larger than {MAX_BYTES // 2**20} MiB")
        return data

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """What tells whether the file has changed."""
        return file_stamp(self._root / name)


class ZipStore:
    """Members of a zip file, read by name in memory."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ValueError(f"{path} is not a readable zip file ({error}); make it again") from error
        self._stamp = file_stamp(path)
        self.refused: dict[str, str] = {}
        self.notes: list[str] = []
        self._members: dict[str, zipfile.ZipInfo] = {}
        infos = self._zip.infolist()
        if len(infos) > MAX_FILES:
            raise ValueError(f"{path} holds {len(infos)} members, more than {MAX_FILES}")
        for info in infos:
            name = info.filename
            # `orig_filename` still holds what `zipfile` cuts off or rewrites.
            check_relative(info.orig_filename, f"the archive {path.name}")
            if info.is_dir() or _hidden(name.split("/")):
                continue
            if name in self._members or name in self.refused:
                raise ValueError(f"{path} holds {name!r} twice; make the archive again with every name once")
            reason = self._reason(info)
            if reason is None:
                self._members[name] = info
            else:
                self.refused[name] = reason
        self.names = sorted(self._members, key=natural_key)

    @staticmethod
    def _reason(info: zipfile.ZipInfo) -> str | None:
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            return "is a link or special file inside an archive"
        if info.flag_bits & 1:
            return "is encrypted; unpack the archive with its password first"
        if info.file_size > MAX_BYTES:
            return f"unpacks to more than {MAX_BYTES // 2**20} MiB"
        if info.file_size > 2**20 and info.file_size > MAX_RATIO * max(1, info.compress_size):
            return (
                f"unpacks to more than {MAX_RATIO} times its size, as a bomb does; unpack it yourself if you trust it"
            )
        return None

    def read(self, name: str, count: int | None = None) -> bytes:
        """The member, or its first `count` bytes; raises `UnreadablePicture`."""
        info = self._members[name]
        try:
            with self._zip.open(info) as file:
                data = file.read(min(MAX_BYTES, info.file_size) + 1 if count is None else count)
        except Exception as error:  # damaged members raise from zipfile, zlib and struct alike
            raise UnreadablePicture(name, f"damaged inside the archive ({error})") from error
        if len(data) > info.file_size:
            raise UnreadablePicture(name, "unpacks to more than the archive says")
        return data

    def stamp(self, name: str) -> tuple[int, ...] | None:
        """What tells whether the archive, and so its member, has changed."""
        info = self._members.get(name)
        return None if info is None or self._stamp is None else (*self._stamp, info.header_offset, info.CRC)


def check_relative(name: str, where: str) -> None:
    """Raise `ValueError` when a name from outside could leave its folder."""
    parts = name.split("/")
    drive = re.match(r"^[A-Za-z]:", name) is not None
    if not name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or drive:
        raise ValueError(
            f"{where} names {name!r}, which is not a plain path below its folder; nothing was read. "
            "Use relative names with '/' and without '..'"
        )
