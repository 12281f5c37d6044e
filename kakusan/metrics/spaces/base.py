"""What a feature space is, and how pictures are brought into it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kakusan.metrics.sets import PictureSet


@runtime_checkable
class Space(Protocol):
    """Pictures -> vectors, by a network or by arithmetic."""

    @property
    def name(self) -> str:
        """What it is called in records and on the command line."""
        ...

    @property
    def hash(self) -> str:
        """Identity of everything the features depend on: weights, code version, sizes."""
        ...

    @property
    def resizer(self) -> str:
        """How pictures come to the size the network wants; "none" when they stay as they are."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, D) of pictures (B, C, *size) in [-1, 1]. Each row depends on its own picture only."""
        ...


@torch.no_grad()
def features(space: Space, pictures: PictureSet, *, batch: int = 256) -> Tensor:
    """Features (N, D) of a set, float64.

    Raises:
        ValueError: features that are not finite.
    """
    found = [space(pictures.x(slice(start, start + batch))).double() for start in range(0, len(pictures), batch)]
    together = torch.cat(found)
    if not bool(together.isfinite().all()):
        raise ValueError(f"the feature space {space.name!r} gives values that are not finite")
    return together


def hash_of_network(module: nn.Module, *facts: object) -> str:
    """Identity of a network by its weights and buffers, and of whatever else its features depend on."""
    found = hashlib.sha256(repr(facts).encode())
    tensors: Mapping[str, Tensor] = module.state_dict()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(repr((name, tuple(value.shape), str(value.dtype))).encode())
        found.update(value.view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()[:16]


class NetworkSpace:
    """A space made of a trained network and one of its functions.

    Args:
        name: of the space.
        network: in eval mode; its weights make the hash.
        function: pictures (B, C, H, W) -> features (B, D); the network itself when not given.
        version: of the code around the weights, raised when the features change.
    """

    resizer = "none"

    def __init__(
        self, name: str, network: nn.Module, function: Callable[[Tensor], Tensor] | None = None, *, version: int = 1
    ) -> None:
        self.name, self.network = name, network
        self.function = network if function is None else function
        self.hash = hash_of_network(network, name, version)

    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, D)."""
        found: Tensor = self.function(x)
        return found
