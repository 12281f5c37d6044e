"""Normalisation layers, with float32 statistics whatever autocast does.

`AdaptiveGroupNorm` is where the noise level and the condition enter a backbone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_GROUPS = 32
MIN_CHANNELS_PER_GROUP = 4


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast leaves float32 alone, on the device of `x`."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def group_count(channels: int) -> int:
    """Number of groups for group norm: at most 32, at least 4 channels in each, dividing `channels`."""
    limit = max(1, min(MAX_GROUPS, channels // MIN_CHANNELS_PER_GROUP))
    return next(groups for groups in range(limit, 0, -1) if channels % groups == 0)


class GroupNorm(nn.Module):
    """Group norm (Wu & He 2018, arXiv 1803.08494) with a learned scale and shift per channel.

    `forward`: (B, C, *spatial) -> same shape and dtype.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = group_count(channels)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return _per_sample_group_norm(x, self.groups, self.weight, self.bias, self.eps)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are given per sample (Dhariwal & Nichol 2021, arXiv 2105.05233, section 3).

    `forward(x, modulation)`: x (B, C, *spatial), modulation (B or 1, 2 C) holding scale then shift ->
    `(1 + scale) * normalised(x) + shift`, same shape and dtype as x. There is no other learned part: a fixed scale and
    shift would only repeat the bias of the layer that makes `modulation`.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.groups = group_count(channels)
        self.eps = eps

    @property
    def modulation_width(self) -> int:
        """Numbers wanted per sample."""
        return 2 * self.channels

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation.float().chunk(2, dim=1)
        return _per_sample_group_norm(x, self.groups, 1.0 + scale, shift, self.eps)


def _per_sample_group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm with `weight` and `bias` of shape (C,), (1, C) or (B, C).

    The batch is folded into the channels, so the native kernel takes one weight for each (sample, channel): the
    modulation then costs no pass over memory of its own, forward or backward. On the CPU that kernel reads and writes
    bfloat16 with sums and parameters in float32: as exact as a float32 copy that is rounded, in a third of the time.
    """
    batch, channels = x.shape[:2]
    weight = weight.expand(batch, channels).reshape(-1)
    bias = bias.expand(batch, channels).reshape(-1)
    folded = x.reshape(1, batch * channels, -1)
    if not (x.device.type == "cpu" and x.dtype == torch.bfloat16 and weight.dtype == torch.float32):
        folded = folded.float()
    with full_precision(x):
        folded = F.group_norm(folded, batch * groups, weight, bias, eps)
    return folded.view(x.shape).to(x.dtype)
