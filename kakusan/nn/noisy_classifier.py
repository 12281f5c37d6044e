"""A network that tells the class of a noisy sample, for classifier guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn.blocks import Block, Downsample, ResidualBlocks, conv
from kakusan.nn.embeddings import Embedding
from kakusan.nn.layout import laid
from kakusan.nn.norms import GroupNorm, full_precision
from kakusan.nn.patch import to_patches
from kakusan.nn.shapes import check_arguments, pad
from kakusan.specs import register

if TYPE_CHECKING:
    from kakusan.levels import Level

_REACH = 20.0
"""Largest log-SNR, up or down, that the network is told: that of every schedule's own ends."""
_NOISE_SCALE = 0.25


@register
class NoisyConvNet(nn.Module):
    """log p(class | x_t) of noisy signals, pictures and volumes (Dhariwal & Nichol 2021, arXiv 2105.05233, section 4).

    The way down of a U-Net, the mean over all places, one linear layer. As a denoiser it sees c_in x_t and the log-SNR
    and nothing else of the process, so it serves every schedule. At the start of training all classes are equally
    likely.

    Args:
        channels: of x.
        classes: K, how many.
        rank: number of spatial dimensions, 1, 2 or 3.
        sigma_data: root mean square of the data, for c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2).
        width: channels at the highest resolution.
        multipliers: channels of each level over the width; each level halves every side.
        depth: blocks in each level.
        patch: side of the patches that the network sees as one place; 2 makes a picture four times as cheap.
        dropout: inside the blocks, while training.

    Raises:
        ValueError: a network that cannot be built, or fewer than two classes.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        rank: int = 2,
        sigma_data: float = 0.5,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4),
        depth: int = 1,
        patch: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_arguments(channels, None, rank, width, multipliers, depth, (), dropout)
        if classes < 2:
            raise ValueError(f"a classifier tells at least two classes apart, got {classes}")
        if sigma_data <= 0.0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        if patch < 1:
            raise ValueError(f"the side of a patch is at least 1, got {patch}")
        self.channels, self.classes, self.rank, self.sigma_data = channels, classes, rank, sigma_data
        self.patch, self.factor = patch, patch * 2 ** (len(multipliers) - 1)
        current = width * multipliers[0]
        self.stem = conv(rank, channels * patch**rank, current)
        levels = []
        for multiplier in multipliers:
            stage = nn.ModuleList()
            for _ in range(depth):
                stage.append(ResidualBlocks().build(rank, current, width * multiplier, dropout=dropout))
                current = width * multiplier
            levels.append(stage)
        self.levels = nn.ModuleList(levels)
        self.downsample = Downsample(rank)
        self.norm = GroupNorm(current)
        self.head = nn.Linear(current, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.embedding = Embedding(width=4 * width, feature_width=max(4, width // 2 * 2))
        self._modulation_widths = [m.modulation_width for m in self.modules() if isinstance(m, Block)]
        self.modulation = nn.Linear(4 * width, sum(self._modulation_widths))
        nn.init.zeros_(self.modulation.bias)

    @classmethod
    def for_data(
        cls, channels: int, size: Sequence[int], classes: int, *, sigma_data: float, width: int = 32, depth: int = 1
    ) -> NoisyConvNet:
        """A network for data of `size` = (*spatial): patches where no side is below 16, lowest resolution about 4."""
        if not size or min(size) < 1:
            raise ValueError(f"size must hold 1 to 3 positive numbers, got {tuple(size)}")
        patch = 2 if min(size) >= 16 else 1
        count = min(5, max(1, 1 + round(math.log2(min(size) / patch / 4))))
        return cls(
            channels=channels,
            classes=classes,
            rank=len(size),
            sigma_data=sigma_data,
            width=width,
            multipliers=(1, 2, 4, 4, 4)[:count],
            depth=depth,
            patch=patch,
        )

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Scores (B, K) of c_in x_t (B, C, *spatial) at c_noise (B,) or (1,)."""
        if x.dim() != self.rank + 2 or x.shape[1] != self.channels or min(x.shape[2:]) < 1:
            raise ValueError(
                f"this classifier takes (B, {self.channels}, *spatial) with {self.rank} spatial dimensions, "
                f"got {tuple(x.shape)}"
            )
        with full_precision(c_noise):
            modulation = self.modulation(self.embedding(c_noise, None)).split(self._modulation_widths, dim=1)
        each = iter(modulation)
        h = laid(self.stem(to_patches(pad(x, self.factor), self.patch)), None)
        for level, stage in enumerate(self.levels):
            h = self.downsample(h) if level else h
            for block in cast(nn.ModuleList, stage):
                h = block(h, next(each))
        pooled = F.silu(self.norm(h)).flatten(2).mean(2)
        with full_precision(pooled):
            scores: Tensor = self.head(pooled.float())
        return scores

    def log_probabilities(self, x_t: Tensor, level: Level) -> Tensor:
        """log p(class | x_t), (B, K) in x_t's dtype, of x_t (B, C, *spatial); differentiable in it."""
        alpha, sigma, log_snr = (
            torch.as_tensor(value, dtype=torch.float64).reshape(-1)
            for value in (level.alpha, level.sigma, level.log_snr)
        )
        c_in = 1.0 / (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()
        seen = x_t * c_in.to(x_t).view(-1, *[1] * (x_t.dim() - 1))
        c_noise = (_NOISE_SCALE * log_snr.clamp(-_REACH, _REACH)).to(device=x_t.device, dtype=torch.float32)
        return self(seen.to(self.head.weight.dtype), c_noise).log_softmax(1).to(x_t.dtype)
