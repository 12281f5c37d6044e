"""Blocks of convolutional backbones for 1, 2 and 3 spatial dimensions, and the objects that choose them.

Every block maps (B, C, *spatial) to (B, out_channels, *spatial), is told the noise level and condition through its
`modulation` (B or 1, modulation_width), and starts as the identity (or a projection of it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn import winograd
from kakusan.nn.layout import channels_lie_last, laid
from kakusan.nn.norms import AdaptiveGroupNorm, GroupNorm
from kakusan.specs import register

_CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that preserves size and trains by the fast algorithm where that pays (`winograd.pays`)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None and winograd.pays(x, self.weight):
            return winograd.convolution(x, self.weight, self.bias)
        return super().forward(x)


class Conv1x1(nn.Conv2d):
    """A matrix applied at every place: as one product where channels lie last, in half the time of a convolution."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if channels_lie_last(x):
            return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
        return super().forward(x)


def conv(
    rank: int, channels: int, out_channels: int, kernel: int = 3, *, groups: int = 1, zero: bool = False
) -> nn.Module:
    """A size-preserving convolution over `rank` spatial dimensions; `zero` starts it at zero."""
    if (rank, kernel, groups) == (2, 3, 1):
        layer: nn.Module = Conv3x3(channels, out_channels)
    elif (rank, kernel, groups) == (2, 1, 1):
        layer = Conv1x1(channels, out_channels)
    else:
        layer = _CONVOLUTIONS[rank](channels, out_channels, kernel, padding=kernel // 2, groups=groups)
    if zero:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return layer


class Block(nn.Module):
    """Base of the blocks: states how many numbers of modulation it takes."""

    modulation_width: int

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        raise NotImplementedError


class Blocks(Protocol):
    """A choice of block: builds one for given channels."""

    def build(self, rank: int, channels: int, out_channels: int, *, dropout: float) -> Block:
        """The block from `channels` to `out_channels` over `rank` spatial dimensions."""
        ...


@register
@dataclass(frozen=True)
class ResidualBlocks:
    """Norm, SiLU, convolution, twice; the second norm is modulated (Dhariwal & Nichol 2021, arXiv 2105.05233)."""

    def build(self, rank: int, channels: int, out_channels: int, *, dropout: float = 0.0) -> Block:
        return _ResidualBlock(rank, channels, out_channels, dropout)


@register
@dataclass(frozen=True)
class ConvNeXtBlocks:
    """Depthwise convolution, modulated norm, pointwise expansion (Liu et al. 2022, arXiv 2201.03545).

    Args:
        kernel: width of the depthwise convolution; odd.
        expansion: hidden channels over output channels.
    """

    kernel: int = 7
    expansion: int = 4

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"ConvNeXtBlocks needs an odd kernel, got {self.kernel}")
        if self.expansion < 1:
            raise ValueError(f"ConvNeXtBlocks needs an expansion of at least 1, got {self.expansion}")

    def build(self, rank: int, channels: int, out_channels: int, *, dropout: float = 0.0) -> Block:
        return _ConvNeXtBlock(rank, channels, out_channels, dropout, self.kernel, self.expansion)


class _ResidualBlock(Block):
    def __init__(self, rank: int, channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(channels)
        self.conv1 = conv(rank, channels, out_channels)
        self.norm2 = AdaptiveGroupNorm(out_channels)
        self.dropout = dropout
        self.conv2 = conv(rank, out_channels, out_channels, zero=True)
        self.shortcut = nn.Identity() if channels == out_channels else conv(rank, channels, out_channels, 1)
        self.modulation_width = self.norm2.modulation_width

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.norm2(h, modulation))
        h = F.dropout(h, self.dropout, self.training)
        out: Tensor = self.shortcut(x) + self.conv2(h)
        return out


class _ConvNeXtBlock(Block):
    def __init__(
        self, rank: int, channels: int, out_channels: int, dropout: float, kernel: int, expansion: int
    ) -> None:
        super().__init__()
        self.depthwise = conv(rank, channels, channels, kernel, groups=channels)
        self.norm = AdaptiveGroupNorm(channels)
        self.expand = conv(rank, channels, expansion * out_channels, 1)
        self.dropout = dropout
        self.project = conv(rank, expansion * out_channels, out_channels, 1, zero=True)
        self.shortcut = nn.Identity() if channels == out_channels else conv(rank, channels, out_channels, 1)
        self.modulation_width = self.norm.modulation_width

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        h = F.gelu(self.expand(self.norm(self.depthwise(x), modulation)))
        h = F.dropout(h, self.dropout, self.training)
        out: Tensor = self.shortcut(x) + self.project(h)
        return out


class Downsample(nn.Module):
    """Mean over cells of 2 in every spatial dimension: (B, C, *spatial) -> (B, C, *(spatial // 2))."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[rank]

    def forward(self, x: Tensor) -> Tensor:
        return laid(self.pool(x, 2), channels_lie_last(x))


class Upsample(nn.Module):
    """Each cell repeated twice in every spatial dimension: (B, C, *spatial) -> (B, C, *(2 * spatial))."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            # What torch 2.13 compiles of the next line for bfloat16 on a CPU loses the gradient (it becomes zero).
            last = channels_lie_last(x)
            x = x.movedim(1, -1) if last else x
            for axis in range(1 if last else 2, x.dim() - last):
                x = x.unsqueeze(axis + 1).expand(*x.shape[: axis + 1], 2, *x.shape[axis + 1 :]).flatten(axis, axis + 1)
            return x.movedim(-1, 1) if last else x
        return laid(F.interpolate(x, scale_factor=2.0, mode="nearest"), channels_lie_last(x))
