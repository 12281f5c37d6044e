"""Gradient checkpointing: activations inside a part are forgotten and computed again for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run(module: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """`module(*inputs)`, with activations recomputed in the backward pass where that is asked for and there is one.

    Random draws (dropout) are the same both times, so gradients are those of the plain call (Chen et al. 2016, arXiv
    1604.06174).
    """
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)
