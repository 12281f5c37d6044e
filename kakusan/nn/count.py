"""How large a backbone is and how much arithmetic it does."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kakusan.conditioning import Condition


def parameters(module: nn.Module) -> int:
    """Number of learned numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def flops(backbone: nn.Module, shape: Sequence[int], *, backward: bool = False) -> int:
    """Floating-point operations of `backbone` for one sample.

    Matrix products and convolutions are counted, two operations for each multiply-add, as
    `torch.utils.flop_counter` does; norms and activations are not. Nothing is computed: shapes are traced on the meta
    device.

    Args:
        backbone: a network taking (x, c_noise, cond); it is not changed.
        shape: (C, *spatial) of one sample.
        backward: count a training step, forward and backward.
    """
    traced = copy.deepcopy(backbone).to("meta")
    x = torch.empty(1, *shape, device="meta", requires_grad=False)
    cond = _condition(backbone, shape)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        out = traced(x, torch.empty(1, device="meta"), cond)
        if backward:
            out.sum().backward()
    return int(counter.get_total_flops())


def _condition(backbone: nn.Module, shape: Sequence[int]) -> Condition | None:
    width = getattr(backbone, "condition_width", 0)
    channels = getattr(backbone, "spatial_channels", 0)
    if not width and not channels:
        return None
    vector = torch.empty(1, width, device="meta") if width else None
    spatial = torch.empty(1, channels, *shape[1:], device="meta") if channels else None
    return Condition(vector=vector, spatial=spatial)
