"""Encoder and decoder: small, convolutional, and the same at every place of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn.attention import SoftmaxAttention
from kakusan.nn.blocks import Downsample, Upsample, conv
from kakusan.nn.norms import full_precision
from kakusan.specs import register


@register
@dataclass(frozen=True)
class NetworkSize:
    """How large the two networks are.

    Args:
        width: channels at the finest grid; the one dial.
        multipliers: channels of each grid over the width, finest first; the last is repeated for coarser grids.
        depth: blocks on each grid of the encoder.
        decoder_depth: blocks on each grid of the decoder, which has the harder task.
        patch: the finest grid has one place for so many pixels a side; a power of 2. Where the factor is smaller, that.
        attention: whether the middle of both looks at the whole picture. It then no longer is the same at every place,
            and large pictures cost more than their share.

    Raises:
        ValueError: numbers out of range.
    """

    width: int = 96
    multipliers: Sequence[int] = (1, 2)
    depth: int = 1
    decoder_depth: int = 2
    patch: int = 4
    attention: bool = False

    def __post_init__(self) -> None:
        if not self.multipliers or min(self.width, self.depth, self.decoder_depth, *self.multipliers) < 1:
            raise ValueError(f"width, multipliers and depths are at least 1, got {self}")

    def patch_for(self, factor: int) -> int:
        """Pixels a side of one place of the finest grid."""
        return min(self.patch, factor)

    def widths(self, factor: int) -> list[int]:
        """Channels of each grid, finest first.

        Raises:
            ValueError: a factor or patch that is no power of 2.
        """
        patch = self.patch_for(factor)
        powers = [math.log2(n) if n > 0 else -1.0 for n in (factor, patch)]
        if powers[0] < 1 or powers[1] < 0 or any(p != int(p) for p in powers):
            raise ValueError(
                f"the factor is a power of 2 from 2 on and the patch one from 1 on, got {factor}, {self.patch}"
            )
        grids = 1 + int(powers[0] - powers[1])
        chosen = [self.width * m for m in self.multipliers]
        return (chosen + [chosen[-1]] * grids)[:grids]


class PlaceNorm(nn.Module):
    """Every place brought to the root mean square 1 over its channels, then scaled by a learned number each.

    A group norm takes its statistics over the whole picture: one bright spot dims all else, a latent then depends on
    the far side of the picture, and a picture cut in two is coded otherwise than whole. This norm sees one place.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            wide = x.float()
            scale = (wide.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
            out = wide * scale * self.weight.view(1, -1, *[1] * (x.dim() - 2))
        return out.to(x.dtype)


class ResidualBlock(nn.Module):
    """Norm, convolution, SiLU, convolution, added to what came in; the identity at first."""

    def __init__(self, rank: int, channels: int) -> None:
        super().__init__()
        self.norm = PlaceNorm(channels)
        self.conv1 = conv(rank, channels, channels)
        self.conv2 = conv(rank, channels, channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.silu(self.conv1(self.norm(x))))
        return out


class Encoder(nn.Module):
    """Pictures (B, channels, *size) -> (B, coded, *(size / factor)); the factor divides the size."""

    def __init__(self, channels: int, coded: int, *, factor: int, rank: int, size: NetworkSize) -> None:
        super().__init__()
        widths = size.widths(factor)
        self.patch = size.patch_for(factor)
        layers: list[nn.Module] = [conv(rank, channels * self.patch**rank, widths[0])]
        for grid, width in enumerate(widths):
            if grid:
                layers += [Downsample(rank), conv(rank, widths[grid - 1], width, 1)]
            layers += [ResidualBlock(rank, width) for _ in range(size.depth)]
        layers += [SoftmaxAttention().build(widths[-1])] if size.attention else []
        self.body = nn.Sequential(*layers)
        self.norm = PlaceNorm(widths[-1])
        self.head = conv(rank, widths[-1], coded)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.body(fold(x, self.patch))))
        return out


class Decoder(nn.Module):
    """Latents (B, latent channels, *size) -> pictures (B, channels, *(size * factor))."""

    def __init__(self, latent: int, channels: int, *, factor: int, rank: int, size: NetworkSize) -> None:
        super().__init__()
        widths = size.widths(factor)[::-1]
        self.patch = size.patch_for(factor)
        layers: list[nn.Module] = [conv(rank, latent, widths[0])]
        layers += [SoftmaxAttention().build(widths[0])] if size.attention else []
        for grid, width in enumerate(widths):
            if grid:
                # A convolution of one place does not mind where it stands: it is cheaper before the grid grows.
                layers += [conv(rank, widths[grid - 1], width, 1), Upsample()]
            layers += [ResidualBlock(rank, width) for _ in range(size.decoder_depth)]
        self.body = nn.Sequential(*layers)
        self.norm = PlaceNorm(widths[-1])
        self.head = conv(rank, widths[-1], channels * self.patch**rank)

    @property
    def last(self) -> nn.Parameter:
        """The last layer's weights, at which the parts of a loss are balanced."""
        weight = self.head.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, z: Tensor) -> Tensor:
        return unfold(self.head(F.silu(self.norm(self.body(z)))), self.patch)


def fold(x: Tensor, patch: int) -> Tensor:
    """(B, C, *size) -> (B, C patch^rank, *(size / patch)): each square of pixels becomes the channels of one place."""
    if patch == 1:
        return x
    rank = x.dim() - 2
    cut = [n for side in x.shape[2:] for n in (side // patch, patch)]
    places, inside = [2 + 2 * i for i in range(rank)], [3 + 2 * i for i in range(rank)]
    return x.reshape(*x.shape[:2], *cut).permute(0, 1, *inside, *places).flatten(1, 1 + rank)


def unfold(x: Tensor, patch: int) -> Tensor:
    """The inverse of `fold`."""
    if patch == 1:
        return x
    rank = x.dim() - 2
    size = x.shape[2:]
    x = x.reshape(x.shape[0], -1, *[patch] * rank, *size)
    order = [n for i in range(rank) for n in (2 + rank + i, 2 + i)]
    return x.permute(0, 1, *order).reshape(x.shape[0], x.shape[1], *(side * patch for side in size))
