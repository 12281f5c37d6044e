"""`metrics.jsonl`: one line for every step and every measurement; a CSV beside it; TensorBoard when it is installed."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kakusan.files import write_text

COLUMNS = ("step", "samples", "loss", "gradient_norm", "rate", "images_per_second")


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records up to the first damaged line: the last one may have been cut short by a kill."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(record, dict) or "step" not in record or "kind" not in record:
            break
        records.append(record)
    return records


class MetricsLog:
    """Appends records to `metrics.jsonl` and steps to `metrics.csv`.

    Opened at step N it first drops what a killed run wrote after its last checkpoint, so that the curve of a resumed
    run is the curve of an uninterrupted one.
    """

    def __init__(self, path: Path, *, step: int, tensorboard: bool = True) -> None:
        self.path = path
        kept = [record for record in read_records(path) if record["step"] <= step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        table = path.with_suffix(".csv")
        rows = [record for record in kept if record["kind"] == "step"]
        write_text(table, ",".join(COLUMNS) + "\n" + "".join(self._row(row) for row in rows))
        self._table = open(table, "a", encoding="utf-8", newline="")  # noqa: SIM115
        self._board = _board(path.parent / "tensorboard", step) if tensorboard else None

    @staticmethod
    def _row(record: Mapping[str, Any]) -> str:
        return ",".join(str(record.get(name, "")) for name in COLUMNS) + "\n"

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a record; visible to readers at once."""
        record = {"kind": kind, "step": step, **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if kind == "step":
            self._table.write(self._row(record))
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Bring everything written so far to disk (before a checkpoint names its step)."""
        for file in (self._file, self._table):
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._table.close()
        if self._board is not None:
            self._board.close()


class NoLog(MetricsLog):
    """The log of a process that writes none, because another does."""

    def __init__(self) -> None:
        pass

    def write(self, kind: str, step: int, **values: Any) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
