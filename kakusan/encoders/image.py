"""Image towers: pictures to vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn.attention import SoftmaxAttention
from kakusan.nn.blocks import Downsample, conv
from kakusan.nn.layout import laid
from kakusan.nn.norms import GroupNorm
from kakusan.nn.patch import to_patches
from kakusan.nn.rotary import rotations, sines
from kakusan.nn.shapes import pad
from kakusan.nn.transformer import EPS, Transformer
from kakusan.specs import register

REGIONS = 4
"""A side, of a tower that is made for a size."""


class ImageTower(nn.Module):
    """Maker of picture features; base class.

    `forward(x)`: (B, channels, H, W) in model units (about -1 to 1), of any size -> (B, vector_width).

    Attributes:
        channels: of a picture.
        vector_width: features of a picture.
    """

    channels: int
    vector_width: int

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Raise `ValueError` unless x is (B, channels, H, W)."""
        if x.dim() != 4 or x.shape[1] != self.channels or min(x.shape[2:]) < 1:
            raise ValueError(f"this image tower takes pictures (B, {self.channels}, H, W), got {tuple(x.shape)}")


class _Residual(nn.Module):
    """Pre-activation residual block (He et al. 2016, arXiv 1603.05027); the identity at the start."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(channels), GroupNorm(out_channels)
        self.enter, self.leave = conv(2, channels, out_channels), conv(2, out_channels, out_channels, zero=True)
        self.skip = conv(2, channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.leave(F.silu(self.norm2(self.enter(F.silu(self.norm1(x))))))
        return cast(Tensor, self.skip(x)) + change


@register
class ConvolutionalTower(ImageTower):
    """Residual convolutions at falling resolution, then the means of a few regions, through a matrix.

    A single mean cannot say where something is, and little about shape; the regions keep that apart.

    Args:
        channels: of a picture.
        vector_width: features of a picture.
        width: channels at the highest resolution.
        multipliers: of `width`, one for each resolution.
        depth: blocks at each resolution.
        patch: side of the patches that the first convolution sees as channels.
        regions: a side; 1 is one mean over all places.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(
        self,
        *,
        channels: int,
        vector_width: int = 128,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        depth: int = 1,
        patch: int = 2,
        regions: int = 1,
    ) -> None:
        super().__init__()
        if min(channels, vector_width, width, depth, patch, regions, len(multipliers), *multipliers) < 1:
            raise ValueError("channels, widths, multipliers, depth, patch and regions of an image tower are at least 1")
        self.channels, self.vector_width = channels, vector_width
        self.patch, self.factor = patch, patch * 2 ** (len(multipliers) - 1)
        current = width * multipliers[0]
        self.stem = conv(2, channels * patch**2, current)
        levels = []
        for multiplier in multipliers:
            stage = nn.Sequential()
            for _ in range(depth):
                stage.append(_Residual(current, width * multiplier))
                current = width * multiplier
            levels.append(stage)
        self.levels = nn.ModuleList(levels)
        self.downsample = Downsample(2)
        self.norm = GroupNorm(current)
        self.regions = regions
        self.head = nn.Linear(current * regions**2, vector_width, bias=False)

    @classmethod
    def for_size(cls, channels: int, size: Sequence[int], *, width: int, depth: int, vector_width: int) -> ImageTower:
        """The tower for pictures of `size` (H, W): patches of 2 from 16 pixels a side, lowest resolution about 4, and
        every place of it a region.
        """
        patch = 2 if min(size) >= 16 else 1
        count = min(5, max(1, 1 + round(math.log2(min(size) / patch / 4))))
        multipliers = (1, 2, 4, 4, 4)[:count]
        return cls(
            channels=channels,
            vector_width=vector_width,
            width=width,
            multipliers=multipliers,
            depth=depth,
            patch=patch,
            regions=REGIONS,
        )

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        h = laid(self.stem(to_patches(pad(x, self.factor), self.patch)), None)
        for level, stage in enumerate(self.levels):
            h = stage(self.downsample(h) if level else h)
        seen = F.adaptive_avg_pool2d(F.silu(self.norm(h)), self.regions)
        out: Tensor = self.head(seen.flatten(1))
        return out


@register
class VisionTransformer(ImageTower):
    """Patches as tokens (Dosovitskiy et al. 2020, arXiv 2010.11929) with axial rotary and fixed positions; the mean of
    the tokens through a matrix.

    Args:
        channels: of a picture.
        vector_width: features of a picture.
        width: features of a token.
        depth: number of blocks.
        heads: of attention.
        patch: side of a patch.
        dropout: probability of zeroing a change of a token while training.

    Raises:
        ValueError: sizes that do not fit.
    """

    def __init__(
        self,
        *,
        channels: int,
        vector_width: int = 128,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        patch: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(channels, vector_width, patch) < 1:
            raise ValueError(f"channels, features and patch are at least 1; got {channels}, {vector_width}, {patch}")
        self.channels, self.vector_width, self.patch = channels, vector_width, patch
        self.stem = nn.Linear(channels * patch**2, width)
        self.blocks = Transformer(width=width, depth=depth, attention=SoftmaxAttention(heads=heads), dropout=dropout)
        self.norm = nn.RMSNorm(width, eps=EPS)
        self.head = nn.Linear(width, vector_width, bias=False)

    @classmethod
    def for_size(cls, channels: int, size: Sequence[int], *, width: int, depth: int, vector_width: int) -> ImageTower:
        """The tower for pictures of `size` (H, W), of about 8 patches a side; `width` and `depth` in the units of
        `ConvolutionalTower`.
        """
        patch = max(1, 2 ** round(math.log2(max(1.0, min(size) / 8))))
        wide = 4 * width
        return cls(
            channels=channels,
            vector_width=vector_width,
            width=wide,
            depth=3 * depth,
            heads=max(1, wide // 32),
            patch=patch,
        )

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        patches = to_patches(pad(x, self.patch), self.patch)
        rotation = rotations(tuple(patches.shape[2:]), self.blocks.pairs, x.device)
        tokens = self.stem(patches.flatten(2).transpose(1, 2))
        # Rotations know differences of places only, and left and right are none.
        tokens = tokens + sines(tuple(patches.shape[2:]), tokens.shape[-1], x.device)
        tokens = self.blocks(tokens, rotation=rotation)
        out: Tensor = self.head(self.norm(tokens).mean(1))
        return out


TOWERS: dict[str, Callable[..., ImageTower]] = {"conv": ConvolutionalTower.for_size, "vit": VisionTransformer.for_size}
"""Image towers by the names that people choose: `(channels, size, *, width, depth, vector_width)` -> tower."""


@torch.no_grad()
def parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())
