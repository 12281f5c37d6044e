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


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) to `path` through `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
