"""A twin of a network whose self-attention is switched off in some layers; all weights are shared."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def without_attention(network: M, layers: Sequence[int] | None = None) -> M:
    """`network` with the attention matrix of some self-attention layers replaced by the identity, in which every
    position sees itself only (Ahn et al. 2024, arXiv 2403.17377).

    Args:
        network: left as it is.
        layers: their numbers, counted from the input; all by default.

    Raises:
        ValueError: no self-attention, or no such layer.
    """
    found = [module for module in network.modules() if isinstance(getattr(module, "identity", None), bool)]
    if not found:
        raise ValueError(
            "this network has no self-attention to switch off; train one with attention, or guide otherwise"
        )
    wanted = range(len(found)) if layers is None else layers
    for number in wanted:
        if not 0 <= number < len(found):
            raise ValueError(f"there is no self-attention layer {number}: the network has 0 to {len(found) - 1}")
    return _twin(network, {id(found[number]) for number in wanted})


def _twin(module: M, chosen: Collection[int]) -> M:
    other = copy.copy(module)
    other._modules = {name: None if child is None else _twin(child, chosen) for name, child in module._modules.items()}
    if id(module) in chosen:
        other.identity = True  # type: ignore[assignment]
    return other
