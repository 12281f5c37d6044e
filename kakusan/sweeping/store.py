"""The folder of a sweep: what was asked for, a file for each picture, and what is made of them at the end.

A picture's file carries the record that decides it, with its hash. A file is whole or absent, and counts when it can be
read and its hash is the one wanted; so a sweep that was stopped goes on where it was, and loses at most one batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kakusan.files import unfinished, write_text
from kakusan.run_folder import RunFolder
from kakusan.sweeping.cells import Cell
from kakusan.sweeping.setups import digest

if TYPE_CHECKING:
    from PIL.Image import Image

SETTINGS, CELLS, LOCK = "settings.json", "cells", ".lock"


@dataclass(frozen=True)
class Drawn:
    """A picture that is there.

    Args:
        picture: its pixels.
        cost: what its batch took, shared out.
        finite: whether the samples were numbers at all.
    """

    picture: Image
    cost: Mapping[str, float]
    finite: bool = True


class SweepFolder:
    """A folder that holds one sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, told: Mapping[str, Any]) -> IO[str]:
        """Make the folder one of this sweep, or see that it is; returns the lock, which holds while it is open.

        Args:
            told: everything that decides the sweep, as JSON values.

        Raises:
            ValueError: it is a file, holds something else, or a sweep of other settings, or another process is drawing
                there.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; --out names a folder")
        path = self.path / SETTINGS
        if not path.is_file():
            mine = {path, self.path / LOCK, self.path / CELLS, *unfinished(self.path)}
            if self.path.is_dir() and set(self.path.iterdir()) - mine:
                raise ValueError(f"{self.path} is not empty and holds no sweep; choose another folder for --out")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = RunFolder(self.path).lock(LOCK, "drawing a sweep in {}; wait for it, stop it, or choose another --out")
        try:
            if path.is_file():
                self._compare(path, json.loads(json.dumps(told)))
            else:
                write_text(path, json.dumps(told, indent=1) + "\n")
            (self.path / CELLS).mkdir(exist_ok=True)
            for folder in (self.path, self.path / CELLS):
                for leftover in unfinished(folder):
                    leftover.unlink(missing_ok=True)
        except BaseException:
            lock.close()
            raise
        return lock

    def _compare(self, path: Path, told: Mapping[str, Any]) -> None:
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            old, told = _flat(old), _flat(told)
            different = [name for name in {**told, **old} if old.get(name) != told.get(name)]
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); choose another folder for --out") from None
        if different:
            shown = "; ".join(f"{name} was {_short(old.get(name))}, now {_short(told.get(name))}" for name in different)
            raise ValueError(
                f"{self.path} holds a sweep with other settings ({shown}); give those again to go on, or choose "
                "another folder for --out"
            )

    def drawn(self, cell: Cell) -> Drawn | None:
        """The picture of a cell, when it is there and is what the cell asks for."""
        from kakusan.report.png import read_pixels, read_record

        path = self.path / CELLS / cell.file
        if not path.is_file():
            return None
        try:
            record = read_record(path)
            if record.get("cell") != cell.digest:
                return None
            cost = {str(name): float(value) for name, value in record["cost"].items()}
            return Drawn(read_pixels(path), cost, bool(record.get("finite", True)))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep(self, cell: Cell, picture: Image, cost: Mapping[str, float], record: Mapping[str, Any]) -> None:
        """Write the picture of a cell, whole or not at all."""
        from kakusan.report.png import png_bytes

        content = png_bytes(picture, {**record, "cell": cell.digest, "cost": dict(cost)})
        path = self.path / CELLS / cell.file
        # Not forced onto the disk one by one, which costs more than drawing small pictures: after a power cut a file
        # may be empty, and is then drawn again.
        temporary = path.with_name(f".{path.stem}.part.png")
        temporary.write_bytes(content)
        os.replace(temporary, path)


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """With the axes beside the other settings, so that the one that differs is named."""
    return {**{f"axis {name}": values for name, values in told["axes"].items()}, **told, "axes": list(told["axes"])}


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 8:
        first, last = (
            ", ".join(json.dumps(each, ensure_ascii=False) for each in part) for part in (value[:3], value[-1:])
        )
        return f"[{first}, ... {last}] ({len(value)} values)"
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:100]}... ({digest(value)[:8]})"
