"""Folders of other networks than diffusion models, as `kakusan list` and `kakusan inspect` show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kakusan.model_folder import FACTS, LOADERS, CorruptModel, read_description
from kakusan.run_folder import LATEST, RunFolder

CALLED = {
    "rival": "rival",
    "noisy_classifier": "classifier of noisy pictures",
    "autoencoder": "autoencoder",
    "clip": "CLIP",
}
"""Parts of `model.json` and what people call them; diffusion models have runs of their own."""


def folder_of(path: Path) -> Path | None:
    """The folder with `model.json` that `path` means: itself, or the newest checkpoint of a training; None where there
    is nothing such.

    Raises:
        CorruptModel: a training that has lost its checkpoints.
    """
    if (path / FACTS).is_file():
        return path
    return RunFolder(path).latest() if (path / LATEST).is_file() else None


def described(folder: Path) -> tuple[str, dict[str, Any]]:
    """(the part that a `model.json` describes, its content).

    Raises:
        CorruptModel: damaged, or of no known kind.
    """
    try:
        keys = set(json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CorruptModel(f"{folder / FACTS} is damaged: {error}") from None
    part = next((part for part in LOADERS if part in keys), "denoiser")
    return part, read_description(folder, part)


def row(path: Path) -> dict[str, Any] | None:
    """A line of the list for the folder of another network; None for that of a diffusion model's run, or any other."""
    try:
        folder = folder_of(path)
        if folder is None:
            return None
        shown = {"run": str(path), "changed": (folder / FACTS).stat().st_mtime, "picture": None}
        part, facts = described(folder)
        if part not in CALLED:
            return None
        data, training = facts["data"], facts["training"]
        unfinished = part == "clip" and folder != path
        state = "not finished: the same kakusan train-clip goes on" if unfinished else "ok"
        shown |= {"kind": CALLED[part], "state": state, "steps": training.get("steps")}
        return {**shown, "size": [data["channels"], *data["size"]]}
    except (CorruptModel, KeyError, TypeError) as error:
        if RunFolder(path).exists():
            return None
        newest = max((p.stat().st_mtime for p in path.iterdir()), default=0.0)
        return {"run": str(path), "changed": newest, "picture": None, "state": f"damaged: {error}"}
