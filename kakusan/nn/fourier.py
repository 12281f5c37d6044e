"""Fourier features of the input: fine detail made loud enough for a network to see (Kingma et al. 2021, appendix C)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.specs import register


@register
class FourierFeatures(nn.Module):
    """Gives a backbone sin and cos of its input beside the input itself.

    The likelihood of data on a grid of levels depends on digits of x_t far below its size; waves whose period is one or
    two steps between levels carry exactly those.

    `forward(x, c_noise, cond)`: x (B, C, *spatial) -> what the backbone makes of C (1 + 2 len(frequencies)) channels.

    Args:
        backbone: takes x.channels * (1 + 2 len(frequencies)) channels and returns as many as x has.
        frequencies: of the waves, in radians for one unit of the (scaled) input.
    """

    def __init__(self, *, backbone: nn.Module, frequencies: Sequence[float]) -> None:
        super().__init__()
        if not frequencies or min(frequencies) <= 0.0:
            raise ValueError(f"frequencies are one or more positive numbers, got {tuple(frequencies)}")
        self.backbone = backbone
        self.condition_width = getattr(backbone, "condition_width", 0)
        self.spatial_channels = getattr(backbone, "spatial_channels", 0)
        self.frequencies = tuple(float(f) for f in frequencies)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        # fp32: waves of high frequency have no digits left in half precision.
        wide = x.float()
        waves = [wave(f * wide).to(x.dtype) for f in self.frequencies for wave in (torch.sin, torch.cos)]
        out: Tensor = self.backbone(torch.cat([x, *waves], dim=1), c_noise, cond)
        return out


def level_frequencies(levels: int, sigma_data: float, periods: Sequence[float] = (1.0, 2.0)) -> tuple[float, ...]:
    """Frequencies whose periods are so many steps between neighbouring levels of data on [-1, 1].

    Networks see x_t divided by about `sigma_data` where there is little noise. VDM's 2^7 pi and 2^8 pi for 8-bit data
    are periods of two steps and one.
    """
    step = 2.0 / (levels - 1) / sigma_data
    return tuple(2.0 * math.pi / (period * step) for period in periods)
