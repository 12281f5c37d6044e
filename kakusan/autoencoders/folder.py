"""The folder of an autoencoder: `model.json` with every fact and safetensors, as other models have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan import model_folder
from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.kl import KlAutoencoder
from kakusan.autoencoders.vq import VqAutoencoder
from kakusan.data.spec import DataSpec
from kakusan.model_folder import FACTS, FORMAT
from kakusan.run_folder import LATEST, RunFolder
from kakusan.specs import to_spec
from kakusan.stored_part import read_part

PART = "autoencoder"
CLASSES: tuple[type[Autoencoder], ...] = (KlAutoencoder, VqAutoencoder)
"""What a folder may hold; imported so that they are known to whoever reads one."""


@dataclass(frozen=True)
class StoredAutoencoder:
    """An autoencoder from a folder.

    Args:
        autoencoder: in eval mode, without gradients.
        data: what its pictures are.
        training: its record, plain values.
        model_hash: its identity.
        weights: the name of the weights that were loaded.
        path: the folder.
    """

    autoencoder: Autoencoder
    data: DataSpec
    training: Mapping[str, Any]
    model_hash: str
    weights: str
    path: Path

    def check_fits(self, data: DataSpec) -> None:
        """Refuse data that this autoencoder was not trained for. Their size may differ.

        Raises:
            ValueError: another number of channels or dimensions, or another range of stored values.
        """
        mine, theirs = self.data, data
        if mine.channels != theirs.channels or len(mine.size) != len(theirs.size):
            raise ValueError(
                f"this autoencoder was trained on pictures of {mine.channels} channels and {len(mine.size)} "
                f"dimensions, these data have {theirs.channels} and {len(theirs.size)}; train one on them with: "
                "kakusan train-autoencoder --data DATA"
            )
        if (mine.low / (2**mine.bits - 1), mine.high / (2**mine.bits - 1)) != (
            theirs.low / (2**theirs.bits - 1),
            theirs.high / (2**theirs.bits - 1),
        ):
            raise ValueError(
                f"this autoencoder was trained on values {mine.low:g} to {mine.high:g} of {mine.bits} bits, these data "
                f"have {theirs.low:g} to {theirs.high:g} of {theirs.bits}"
            )


def save(
    folder: Path,
    autoencoder: Autoencoder,
    data: DataSpec,
    training: Mapping[str, Any],
    ema: Mapping[str, Mapping[str, Tensor]] | None = None,
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
    texts: Mapping[str, str] | None = None,
) -> str:
    """Write an autoencoder into the existing, empty `folder`; returns its hash.

    Args:
        data: what its pictures are.
        training: what it was trained on and how, plain values.
        ema: tensors of each profile by name, the default first; the mean and the deviation of the latents under these
            weights belong to them (`latent_mean`, `latent_std`).
        extra: further safetensors files, by file name.
        texts: further text files, by file name.

    Raises:
        ValueError: a value that is not finite. Such a state is never saved.
        OSError: the files cannot be written.
    """
    from kakusan import __version__

    averages = {} if ema is None else ema
    description = {
        "format": FORMAT,
        "kakusan": __version__,
        PART: to_spec(autoencoder),
        "data": to_spec(data),
        "training": to_spec(training),
        "ema": list(averages),
    }
    return model_folder.write_described(folder, autoencoder, description, averages, extra, texts)


def find(path: str | Path) -> Path:
    """The folder with `model.json` that a path means: that folder, or the newest checkpoint of a training run.

    Raises:
        ValueError: nothing there.
        CorruptModel: a run that has lost its checkpoints.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(
            f"there is no autoencoder at {folder}; train one with: kakusan train-autoencoder --data DATA --out {folder}"
        )
    if not (folder / FACTS).is_file() and (folder / LATEST).is_file():
        newest = RunFolder(folder).latest()
        if newest is not None:
            return newest
    return folder


def read(path: str | Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> StoredAutoencoder:
    """An autoencoder that `save` wrote, with what its folder says.

    Args:
        path: its folder, or that of its training.
        weights: an EMA profile, or "raw"; the default profile when None.
        device: where it is wanted.

    Raises:
        CorruptModel: no autoencoder there, a damaged one, or another kind of model.
        ValueError: no such folder or weights.
    """
    folder = find(path)
    found = read_part(folder, PART, Autoencoder, weights=weights, device=device)  # type: ignore[type-abstract]
    autoencoder, identity = found.network, found.model_hash
    # Other weights are another autoencoder: what was cached with the ones is no good with the others.
    default = found.profiles[0] if found.profiles else model_folder.RAW
    autoencoder.identity = identity if found.weights == default else f"{identity}:{found.weights}"
    return StoredAutoencoder(autoencoder, found.data, found.training, identity, found.weights, folder)


def load(path: str | Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> Autoencoder:
    """The autoencoder of a folder, ready to be used; arguments and errors as `read`."""
    return read(path, weights=weights, device=device).autoencoder
