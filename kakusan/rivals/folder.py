"""A rival's folder: `model.json` with every fact, `weights.safetensors`, `ema.safetensors`, as other models have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kakusan import model_folder
from kakusan.model_folder import FACTS, FORMAT, CorruptModel
from kakusan.rivals import RIVALS
from kakusan.rivals.base import Rival
from kakusan.specs import from_spec, to_spec

PART = "rival"


def describe(rival: Rival, training: Mapping[str, Any], profiles: tuple[str, ...]) -> dict[str, Any]:
    """The content of `model.json`, without the files' hashes. The data spec is an argument of the rival."""
    from kakusan import __version__

    return {
        "format": FORMAT,
        "kakusan": __version__,
        "kind": rival.kind,
        PART: to_spec(rival),
        "training": to_spec(training),
        "ema": list(profiles),
    }


def write(folder: Path, rival: Rival, training: Mapping[str, Any], ema: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Write a rival into an existing folder; returns its hash.

    Args:
        training: how it was trained, plain values.
        ema: tensors of each profile, by name, the default first.

    Raises:
        ValueError: a value that is not finite. Such a state is never saved.
        OSError: the files cannot be written (the disk is full).
    """
    return model_folder.write_described(folder, rival, describe(rival, training, tuple(ema)), ema)


def read(path: str | Path, *, weights: str | None = None) -> tuple[Rival, dict[str, Any], str]:
    """(the rival, the content of its `model.json`, the name of the weights that were loaded).

    Args:
        weights: an EMA profile, or "raw"; the default profile when None.

    Raises:
        CorruptModel: no rival there, a damaged one, or another kind of model.
        ValueError: no such weights.
        ImportError: a package that this kind needs is not installed.
    """
    folder = Path(path)
    if (folder / "checkpoints").is_dir() and not (folder / FACTS).is_file():
        raise CorruptModel(f"{folder} is a run of a diffusion model, not a rival: load it with kakusan.load")
    description = model_folder.read_description(folder, PART)
    kind = str(description.get("kind"))
    if kind not in RIVALS:
        raise CorruptModel(f"{folder / FACTS} names the kind {kind!r}; this version of kakusan has {', '.join(RIVALS)}")
    wanted = RIVALS[kind]
    try:
        rival = from_spec(description[PART], wanted)
    except ValueError as error:
        raise CorruptModel(f"{folder / FACTS}: {error}") from None
    except Exception as error:
        # Whatever a changed file makes a constructor do, it is the file that is wrong.
        raise CorruptModel(f"{folder / FACTS} is incomplete or damaged: {error!r}") from None
    chosen = model_folder.fill(rival, folder, description, weights)
    return rival.eval(), description, chosen
