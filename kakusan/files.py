"""Files that are whole or absent: written beside their place under another name, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path of the same suffix in the same folder; it becomes `path` if the block succeeds.

    Missing folders are made. If the block raises, the temporary file is removed and `path` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name may hold 255 bytes, and the target's own may use all of them.
    temporary = path.with_name(f".{secrets.token_hex(8)}.part{path.suffix[:16]}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def unfinished(folder: Path) -> list[Path]:
    """What writers killed in `folder` left there."""
    return list(folder.glob(".*.part*"))


def sync_folder(path: Path) -> None:
    """Make the renames inside a folder survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
