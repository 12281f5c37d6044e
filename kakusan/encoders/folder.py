"""The folder of a CLIP trained here: `model.json` with every fact and safetensors, as other models have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan import model_folder
from kakusan.data.spec import DataSpec
from kakusan.encoders.clip import Clip
from kakusan.encoders.text import TextTower
from kakusan.run_folder import LATEST
from kakusan.specs import to_spec
from kakusan.stored_part import read_part

PART = "clip"


@dataclass(frozen=True)
class StoredClip:
    """A CLIP from a folder.

    Args:
        clip: the towers.
        data: what its pictures are.
        training: its record.
        model_hash: its identity.
    """

    clip: Clip
    data: DataSpec
    training: Mapping[str, Any]
    model_hash: str

    @property
    def text(self) -> TextTower:
        """The text tower."""
        found = self.clip.text
        assert isinstance(found, TextTower)
        return found

    def embed_stored(self, stored: Tensor) -> Tensor:
        """Directions (N, D) of stored pictures (N, C, H, W), uint8 or uint16 as the data spec says."""
        self.data.check(stored)
        return self.clip.embed_images(self.data.to_model(stored))


def save(
    folder: Path,
    clip: Clip,
    data: DataSpec,
    training: Mapping[str, Any],
    averages: Mapping[str, Mapping[str, Tensor]] | None = None,
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
    texts: Mapping[str, str] | None = None,
) -> str:
    """Write a CLIP into the existing, empty `folder`: `model.json` and safetensors; returns its hash.

    Args:
        data: what its pictures are, with the names of the classes.
        training: what it was trained on and how, plain values.
        averages: by profile, of a training that goes on; the first is what will be loaded.
        extra: further files of tensors.
        texts: further files of text.

    Raises:
        ValueError: weights that are not finite.
    """
    from kakusan import __version__

    description = {
        "format": model_folder.FORMAT,
        "kakusan": __version__,
        PART: to_spec(clip),
        "data": to_spec(data),
        "training": to_spec(training),
        "ema": list(averages or {}),
    }
    return model_folder.write_described(folder, clip, description, averages or {}, extra, texts)


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> StoredClip:
    """A CLIP that `save` wrote, ready for use; its weights do not train.

    Raises:
        ValueError: no CLIP there, or a damaged one.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"there is no CLIP at {path}; train one with: kakusan train-clip --data FOLDER --out {path}")
    if (path / LATEST).is_file() and not (path / model_folder.FACTS).is_file():
        raise ValueError(
            f"the training of the CLIP in {path} is not finished; the same kakusan train-clip goes on with it"
        )
    found = read_part(path, PART, Clip, device=device)
    return StoredClip(found.network, found.data, found.training, found.model_hash)
