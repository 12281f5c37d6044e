"""The U-Net (Ronneberger et al. 2015; for diffusion Ho et al. 2020, arXiv 2006.11239), for any spatial rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.nn.attention import Attention, SoftmaxAttention
from kakusan.nn.blocks import Block, Blocks, Downsample, ResidualBlocks, Upsample, conv
from kakusan.nn.checkpointing import run
from kakusan.nn.embeddings import Embedding
from kakusan.nn.norms import GroupNorm, full_precision
from kakusan.nn.shapes import check_arguments, check_input, crop, levels_for, pad, with_spatial
from kakusan.specs import register


@register
class UNet(nn.Module):
    """U-Net backbone on signals, pictures and volumes.

    `forward(x, c_noise, cond)`: x (B, channels, *spatial) with `rank` spatial dimensions of any size of at least 1,
    c_noise (B,) or (1,), cond a `Condition` or None -> (B, out_channels, *spatial). At the start of training the output
    is exactly zero.

    Sizes that `2 ** (levels - 1)` does not divide are padded at their end by repeating the edge; the result is cropped.
    A `Condition.vector` is added to the noise-level embedding; a `Condition.spatial` is concatenated to the input. A
    condition that is missing, unexpected or of another width is an error: none is ever ignored.

    Setting `checkpointing` trades time for memory: what blocks computed is computed again in the backward pass.

    Args:
        channels: channels of x.
        out_channels: channels of the output; None means `channels`.
        rank: number of spatial dimensions, 1, 2 or 3.
        width: channels at the highest resolution; one dial for the size of the network.
        multipliers: channels of each level over `width`, from the highest resolution to the lowest; each level halves
            every spatial dimension (mean of 2 down, repetition up; the convolutions beside them do the filtering).
        depth: blocks per level, on the way down and again on the way up.
        blocks: the kind of block (`ResidualBlocks()`, `ConvNeXtBlocks()`).
        attention: the kind of self-attention (`SoftmaxAttention(heads=...)`, `LinearAttention(heads=...)`).
        attention_levels: levels with self-attention after each block, 0 is the highest resolution.
        middle_attention: self-attention between the two blocks at the lowest resolution.
        condition_width: width of `Condition.vector`; 0 for a model without one.
        spatial_channels: channels of `Condition.spatial`; 0 for a model without one.
        augment_width: width of `Condition.augment`, which may always be left out; 0 for a model without one.
        dropout: probability of zeroing an activation inside a block while training.
    """

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int | None = None,
        rank: int = 2,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        depth: int = 2,
        blocks: Blocks = ResidualBlocks(),  # noqa: B008 (frozen)
        attention: Attention = SoftmaxAttention(),  # noqa: B008 (frozen)
        attention_levels: Sequence[int] = (),
        middle_attention: bool = True,
        condition_width: int = 0,
        spatial_channels: int = 0,
        augment_width: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        check_arguments(channels, out_channels, rank, width, multipliers, depth, attention_levels, dropout)
        self.channels = channels
        self.out_channels = channels if out_channels is None else out_channels
        self.rank = rank
        self.condition_width = condition_width
        self.spatial_channels = spatial_channels
        self.augment_width = augment_width
        self.checkpointing = False
        self.factor = 2 ** (levels - 1)
        widths = [width * m for m in multipliers]

        def layer(inputs: int, level: int, attend: bool) -> _Layer:
            block = blocks.build(rank, inputs, widths[level], dropout=dropout)
            return _Layer(block, attention.build(widths[level]) if attend else nn.Identity())

        self.stem = conv(rank, channels + spatial_channels, widths[0])
        current = widths[0]
        down, skips = [], []
        for level in range(levels):
            stage = []
            for _ in range(depth):
                stage.append(layer(current, level, level in attention_levels))
                current = widths[level]
                skips.append(current)
            down.append(stage)
        # What a branch beside the encoder adds to: every skip, and the middle (`kakusan.nn.control`).
        self.skip_widths = (*skips, current)
        middle = [layer(current, levels - 1, middle_attention), layer(current, levels - 1, False)]
        up = []
        for level in reversed(range(levels)):
            stage = []
            for _ in range(depth):
                stage.append(layer(current + skips.pop(), level, level in attention_levels))
                current = widths[level]
            up.append(stage)
        self.down = nn.ModuleList(map(nn.ModuleList, down))
        self.middle = nn.ModuleList(middle)
        self.up = nn.ModuleList(map(nn.ModuleList, up))
        self.downsample = Downsample(rank)
        self.upsample = Upsample()
        self.norm = GroupNorm(current)
        self.head = conv(rank, current, self.out_channels, zero=True)

        embedding_width = 4 * width
        feature_width = max(4, width // 2 * 2)
        self.embedding = Embedding(
            width=embedding_width,
            feature_width=feature_width,
            condition_width=condition_width,
            augment_width=augment_width,
        )
        # One matrix makes the modulation of all blocks, in the order they run: one product in place of many small ones.
        self._modulation_widths = [m.modulation_width for m in self.modules() if isinstance(m, Block)]
        self.modulation = nn.Linear(embedding_width, sum(self._modulation_widths))
        nn.init.zeros_(self.modulation.bias)

    @classmethod
    def for_data(
        cls,
        channels: int,
        size: Sequence[int],
        *,
        width: int = 64,
        condition_width: int = 0,
        **arguments: Any,
    ) -> UNet:
        """A U-Net with sensible levels for signals or pictures of `size` = (*spatial).

        The lowest resolution is about 8, channels double once, and attention runs where no side exceeds 16. `arguments`
        are passed on and override what is derived.
        """
        return cls(channels=channels, width=width, condition_width=condition_width, **levels_for(size, arguments))

    def forward(
        self, x: Tensor, c_noise: Tensor, cond: Condition | None = None, *, beside: Sequence[Tensor] = ()
    ) -> Tensor:
        """`beside`: what is added to each skip, in order, and to the middle; nothing when empty."""
        check_input(self, x, c_noise, cond)
        vector, augment = (None, None) if cond is None else (cond.vector, cond.augment)
        x = with_spatial(x, cond)
        spatial = x.shape[2:]
        h = self.stem(pad(x, self.factor))
        modulation = iter(self._modulate(c_noise, vector, augment))
        skips = []
        for level, stage in enumerate(self.down):
            h = self.downsample(h) if level else h
            for layer in cast(nn.ModuleList, stage):
                h = run(layer, h, next(modulation), checkpointing=self.checkpointing)
                skips.append(h)
        for layer in self.middle:
            h = run(layer, h, next(modulation), checkpointing=self.checkpointing)
        if beside:
            *skips, h = [mine + added for mine, added in zip([*skips, h], beside, strict=True)]
        for level, stage in enumerate(self.up):
            h = self.upsample(h) if level else h
            for layer in cast(nn.ModuleList, stage):
                h = torch.cat([h, skips.pop()], dim=1)
                h = run(layer, h, next(modulation), checkpointing=self.checkpointing)
        return crop(self.head(F.silu(self.norm(h))), spatial)

    def _modulate(self, c_noise: Tensor, vector: Tensor | None, augment: Tensor | None) -> tuple[Tensor, ...]:
        with full_precision(c_noise):
            modulation: Tensor = self.modulation(self.embedding(c_noise, vector, augment))
        return modulation.split(self._modulation_widths, dim=1)


class _Layer(nn.Module):
    """A block and the attention after it."""

    def __init__(self, block: Block, attention: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        out: Tensor = self.attention(self.block(x, modulation))
        return out
