"""Model folders that hold one network of another kind than a diffusion model: a classifier, an autoencoder, a CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from kakusan.data.spec import DataSpec
from kakusan.model_folder import FACTS, CorruptModel, fill, model_hash, read_description
from kakusan.specs import from_spec

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class StoredPart(Generic[N]):
    """A network from a model folder that holds another kind of model than a diffusion model.

    Args:
        network: on its device, in eval mode, without gradients.
        data: what its pictures are.
        training: its record, plain values.
        weights: the name of the weights that were loaded.
        profiles: the averages that there are, the default first.
        model_hash: its identity.
    """

    network: N
    data: DataSpec
    training: Mapping[str, Any]
    weights: str
    profiles: tuple[str, ...]
    model_hash: str


def read_part(
    folder: Path, part: str, expected: type[N], *, weights: str | None = None, device: torch.device | str = "cpu"
) -> StoredPart[N]:
    """Load the network that the entry `part` of a `model.json` describes, one of `LOADERS`.

    Args:
        expected: the class of the network.
        weights: an EMA profile, or "raw"; the default profile when None.
        device: where it is wanted.

    Raises:
        CorruptModel: as `read_description` and `fill`.
        ValueError: no such weights.
    """
    description = read_description(folder, part)
    try:
        network = from_spec(description[part], expected)
        data = from_spec(description["data"], DataSpec)
        training = dict(description["training"])
    except Exception as error:
        # Whatever a changed file makes a constructor do, it is the file that is wrong.
        raise CorruptModel(f"{folder / FACTS} is incomplete or damaged: {error!r}") from None
    chosen = fill(network, folder, description, weights)
    network.to(device).eval().requires_grad_(False)
    return StoredPart(network, data, training, chosen, tuple(description.get("ema", ())), model_hash(folder))
