"""Codes as files: safetensors with the record of how they came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kakusan.files import whole_file
from kakusan.inversion.base import Code

FORMAT = 1


def write_code(code: Code, path: Path, record: Mapping[str, Any]) -> None:
    """Write a code and its record (JSON values), whole or not at all."""
    from safetensors.torch import save_file

    tensors = {"x": code.x, "second": code.second, "maps": code.maps}
    about = {"format": FORMAT, "residual": code.residual, "record": dict(record)}
    with whole_file(path) as temporary:
        save_file(
            {name: value.cpu().contiguous() for name, value in tensors.items() if value is not None},
            temporary,
            metadata={"kakusan": json.dumps(about)},
        )


def read_code(path: Path) -> tuple[Code, dict[str, Any]]:
    """The code and its record.

    Raises:
        ValueError: no such file, another kind of file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"there is no noise at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["kakusan"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if about["format"] != FORMAT:
            raise ValueError(f"{path} has format {about['format']}, this version reads {FORMAT}")
        code = Code(tensors["x"], tensors.get("second"), tensors.get("maps"), float(about["residual"]))
        return code, dict(about["record"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no noise written by kakusan invert: {error}") from None
