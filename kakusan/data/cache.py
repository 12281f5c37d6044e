"""The cache of decoded pictures: pictures are decoded once, and later openings map the result into memory.

Its files lie in one folder, never among the user's data. `NAME.pack` (`kakusan.data.packed`) holds decoded pictures
under the hash of what decides them: the content of the files, the size, the fit, the mode and the version of the
decoder; so what is out of date is never found. `NAME.looks.json` remembers the content hash and the header of every
file under its size and times, so that an unchanged file is not even read. `NAME.index.json` remembers where the members
of a shard lie.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL

from kakusan.data.modes import Plan
from kakusan.data.packed import SUFFIX, CorruptPack, Pack, PackFacts
from kakusan.data.reading import Header
from kakusan.files import unfinished, write_text
from kakusan.specs import to_spec

DECODER = f"1/{PIL.__version__}"
"""Changes when the same file could decode to other pixels."""
WORTH = 2**25
"""Pixels of source pictures above which decoding takes long enough (about half a second) for a file by default."""
LOOKS_SUFFIX = ".looks.json"
INDEX_SUFFIX = ".index.json"
_LOOKS_FORMAT = 1
# A file that was changed twice within the resolution of its times cannot be told from one that was not, so what is that
# fresh is read again next time.
_SETTLED_NS = 2 * 10**9
_ABANDONED_SECONDS = 3600.0


def cache_home() -> Path:
    """The user's folder for caches of kakusan: `KAKUSAN_CACHE`, else below `XDG_CACHE_HOME` or the system's place."""
    own = os.environ.get("KAKUSAN_CACHE")
    if own:
        return Path(own)
    # The standard asks to ignore relative paths here.
    shared = os.environ.get("XDG_CACHE_HOME")
    if shared and Path(shared).is_absolute():
        return Path(shared) / "kakusan"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "kakusan"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "kakusan"


@dataclass(frozen=True)
class Cache:
    """A folder of packed files.

    Args:
        folder: where; made when first needed.
        worth: pixels of source pictures below which nothing is written.
    """

    folder: Path
    worth: int = 0

    def path(self, key: str) -> Path:
        """Where the pictures with this key lie."""
        return self.folder / f"{key[:40]}{SUFFIX}"

    def open(self, key: str) -> tuple[Pack | None, str | None]:
        """(pack, None), (None, None) when there is none, or (None, why the one that is there is no good)."""
        path = self.path(key)
        try:
            return Pack(path, key), None
        except FileNotFoundError:
            return None, None
        except (CorruptPack, OSError) as error:
            return None, f"the packed file {path} is not used ({error}) and is made again"

    def check_room(self, size: int) -> None:
        """Raise `OSError` when a file of so many bytes does not fit, before hours are spent on decoding for it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < size + 2**20:
            raise OSError(errno.ENOSPC, f"it needs {size_text(size)} and {size_text(free)} are free", str(self.folder))

    def tidy(self, facts: PackFacts) -> None:
        """Remove what the pack with these facts replaces, and what writers that were killed left behind."""
        for path, other in packs(self.folder):
            if other is not None and other.place == facts.place and other.key != facts.key:
                with contextlib.suppress(OSError):
                    path.unlink()
        for path in _abandoned(self.folder):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()


def find_cache(setting: str | Path, source: Path) -> tuple[Cache | None, str | None]:
    """The cache that a setting asks for, and what to tell about it: "auto", "off" or a folder.

    Raises:
        ValueError: a folder inside the data, or a file.
    """
    if str(setting) == "off":
        return None, None
    automatic = str(setting) == "auto"
    try:
        folder = cache_home() / "pictures" if automatic else Path(setting)
        inside = folder.resolve().is_relative_to(source.resolve())
    except RuntimeError as error:  # no home folder
        return None, f"nothing is cached ({error}); set KAKUSAN_CACHE to a folder"
    if inside and not automatic:
        raise ValueError(f"the cache {folder} lies inside the data {source}; choose a folder elsewhere, or cache=off")
    if inside:
        return None, f"nothing is cached, because the cache {folder} lies inside the data"
    if folder.is_file():
        raise ValueError(f"the cache {folder} is a file; give a folder, auto or off")
    return Cache(folder, WORTH if automatic else 0), None


def pack_key(plan: Plan, digests: Sequence[str], *, whole: bool) -> str:
    """Hash of everything that decides the content of a packed file; `whole`: statistics are those of all pictures."""
    said = [DECODER, plan.mode, plan.channels, plan.bits, list(plan.size), to_spec(plan.fit), whole]
    found = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for digest in digests:
        found.update(digest.encode())
    return found.hexdigest()


def place_key(source: Path, plan: Plan, selection: object) -> str:
    """Hash of where pictures come from and how they are opened, whatever is in them."""
    said = [str(source.resolve()), plan.mode, plan.channels, plan.bits, list(plan.size), to_spec(plan.fit)]
    return hashlib.sha256(json.dumps([said, selection], sort_keys=True).encode()).hexdigest()


class Looks:
    """Headers and content hashes of files, remembered under what the system says of them (size and times).

    Args:
        path: the file that remembers; one that is damaged or of another version is as good as none.
        max_pixels: of this opening; headers of larger pictures are not remembered.
    """

    def __init__(self, path: Path | None, max_pixels: int) -> None:
        self._path, self._max_pixels = path, max_pixels
        self._began = time.time_ns()
        self._known: dict[str, list[Any]] = {}
        self._seen: dict[str, list[Any]] = {}
        if path is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                values = json.loads(path.read_bytes())
                if values["format"] == [_LOOKS_FORMAT, DECODER] and isinstance(values["files"], dict):
                    self._known = values["files"]

    @staticmethod
    def at(cache: Cache | None, source: Path, max_pixels: int) -> Looks:
        """The memory for one source."""
        name = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:40]
        return Looks(None if cache is None else cache.folder / f"{name}{LOOKS_SUFFIX}", max_pixels)

    def get(self, name: str, stamp: tuple[int, ...] | None) -> tuple[Header, str] | None:
        """(header, content hash) of a file that has not changed, else None."""
        found = self._known.get(name)
        if found is None or stamp is None:
            return None
        try:
            old, digest, values = found
            header = Header(**values)
            if list(stamp) != old or not isinstance(digest, str) or header.height * header.width > self._max_pixels:
                return None
        except (TypeError, ValueError):
            return None
        self._seen[name] = found
        return header, digest

    def put(self, name: str, stamp: tuple[int, ...] | None, look: tuple[Header, str]) -> None:
        """Remember a file, unless it was changed just now."""
        # The times of a stamp are its second and third value.
        if stamp is not None and max(stamp[1:3]) < self._began - _SETTLED_NS:
            self._seen[name] = [list(stamp), look[1], asdict(look[0])]

    def save(self) -> None:
        """Write what is new.

        Raises:
            OSError: no room, no permission.
        """
        if self._path is not None and self._seen != self._known:
            write_text(self._path, json.dumps({"format": [_LOOKS_FORMAT, DECODER], "files": self._seen}))


def packs(folder: Path) -> list[tuple[Path, PackFacts | None]]:
    """Packed files in a folder with their facts; None for the facts of one that is damaged."""
    found: list[tuple[Path, PackFacts | None]] = []
    writing = set(_abandoned(folder))
    for path in sorted(set(folder.glob(f"*{SUFFIX}")) - writing):
        try:
            found.append((path, PackFacts.read(path)))
        except (CorruptPack, OSError):
            found.append((path, None))
    return found


def load_index(cache: Cache | None, source: Path, stamp: tuple[int, ...] | None) -> Any:
    """What was remembered of the content of a file that has not changed since, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if cache is not None and stamp is not None:
            values = json.loads(_index_path(cache, source).read_bytes())
            if values["format"] == _LOOKS_FORMAT and values["stamp"] == list(stamp):
                return values["content"]
    return None


def save_index(cache: Cache | None, source: Path, stamp: tuple[int, ...] | None, content: Any) -> None:
    """Remember the content of a file, unless it was changed just now; where nothing can be written nothing is."""
    if cache is None or stamp is None or max(stamp[1:3]) > time.time_ns() - _SETTLED_NS:
        return
    with contextlib.suppress(OSError):
        values = {"format": _LOOKS_FORMAT, "stamp": list(stamp), "content": content}
        write_text(_index_path(cache, source), json.dumps(values))


def _index_path(cache: Cache, source: Path) -> Path:
    return cache.folder / f"{hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:40]}{INDEX_SUFFIX}"


def _abandoned(folder: Path) -> list[Path]:
    """Files of the cache that are being written, or were when their writer was killed."""
    return [path for path in unfinished(folder) if path.suffix in (SUFFIX, Path(LOOKS_SUFFIX).suffix)]


def clear(folder: Path) -> tuple[int, int]:
    """Remove all files of the cache, those of killed writers too; returns (files, bytes). Other files stay."""
    files = removed = 0
    ours = (path for suffix in (SUFFIX, LOOKS_SUFFIX, INDEX_SUFFIX) for path in folder.glob(f"*{suffix}"))
    for path in {*ours, *_abandoned(folder)}:
        with contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            files, removed = files + 1, removed + size
    return files, removed


def size_text(size: float) -> str:
    """A number of bytes for people."""
    names = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while size >= 1024 and power < len(names) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} {names[power]}" if power == 0 or size >= 100 else f"{size:.1f} {names[power]}"
