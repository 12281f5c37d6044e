"""Telling what lies at a path: pictures, or files that hold many of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kakusan.data.reading import SUFFIXES


@dataclass(frozen=True)
class PartKind:
    """Files that hold many pictures each, and the function that opens them.

    Args:
        name: for people.
        suffix: of their names.
        module: home of the function.
        function: its name.
    """

    name: str
    suffix: str
    module: str
    function: str


KINDS = (
    PartKind("tar shards", ".tar", "kakusan.data.shards", "open_shards"),
    PartKind("parquet files", ".parquet", "kakusan.data.parquet", "open_parquet"),
)
MOST_FILES = 100_000


def find_parts(path: Path) -> tuple[PartKind, list[Path]] | None:
    """The shards or parquet files that `path` stands for, in the order of their names; None when it is something else.

    A file, a pattern (`train-*.tar`), or a folder that holds such files, at any depth, and no pictures.

    Raises:
        ValueError: both kinds, a pattern that fits nothing, or too many files.
    """
    for kind in KINDS:
        if path.suffix.lower() == kind.suffix and ("*" in path.name or "?" in path.name) and not path.exists():
            found = sorted(path.parent.glob(path.name))
            if not found:
                raise ValueError(f"no file fits the pattern {path}; give a folder, or another pattern")
            return kind, found
        if path.suffix.lower() == kind.suffix and path.is_file():
            return kind, [path]
    if not path.is_dir():
        return None
    files = _files(path)
    groups = {kind: sorted(f for f in files if f.suffix.lower() == kind.suffix) for kind in KINDS}
    present = [kind for kind in KINDS if groups[kind]]
    if len(present) > 1:
        raise ValueError(
            f"{path} holds {' and '.join(kind.name for kind in present)}; give a pattern such as {path / '*.tar'}"
        )
    return (present[0], groups[present[0]]) if present else None


def _files(folder: Path) -> list[Path]:
    """Shards and parquet files below a folder; none at all when there is a picture among them."""
    suffixes = {kind.suffix for kind in KINDS}
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                return []
            if suffix in suffixes:
                found.append(Path(here) / name)
                if len(found) > MOST_FILES:
                    raise ValueError(f"{folder} holds more than {MOST_FILES} shards; give a pattern that fits fewer")
    return found


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder that all files lie in; a single file stands for itself, for other data may lie beside it."""
    return paths[0] if len(paths) == 1 else Path(os.path.commonpath([p.resolve().parent for p in paths]))


def part_names(paths: Sequence[Path]) -> list[str]:
    """What to call the files: their names, or where two have the same one their paths below the common folder.

    Raises:
        ValueError: one file twice.
    """
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    whole = [path.resolve() for path in paths]
    if len(set(whole)) < len(whole):
        raise ValueError(f"{next(p for p in whole if whole.count(p) > 1)} is given twice")
    common = common_folder(paths).resolve()
    return [path.relative_to(common).as_posix() for path in whole]
