"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, arXiv 2312.02696), for any spatial rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.nn.attention import heads_for
from kakusan.nn.blocks import Downsample, Upsample
from kakusan.nn.checkpointing import run
from kakusan.nn.magnitude import (
    RESIDUAL_BALANCE,
    CosineAttention,
    MPConv,
    MPFourier,
    MPLinear,
    mp_cat,
    mp_silu,
    mp_sum,
    pixel_norm,
    settle,
)
from kakusan.nn.magnitude_tokens import MPCrossAttention, MPKeysAndValues
from kakusan.nn.norms import full_precision
from kakusan.nn.shapes import check_arguments, check_input, crop, levels_for, pad, with_spatial
from kakusan.nn.tokens import ConditionTokens
from kakusan.nn.unet import Told, layers_of, token_widths_of, with_token_levels
from kakusan.specs import register


@register
class MagnitudePreservingUNet(nn.Module):
    """U-Net backbone whose activations, weights and updates keep their magnitude by construction.

    `forward(x, c_noise, cond)`: x (B, channels, *spatial) with `rank` spatial dimensions of any size of at least 1,
    c_noise (B,) or (1,), cond a `Condition` or None -> (B, out_channels, *spatial). x and `Condition.spatial` should
    have variance about 1 (a `Denoiser` sees to x), `Condition.vector` norm about 1 (`ClassLabels` sees to it). Of the
    tokens of `Condition.tokens` only directions count. At the start of training the output is exactly zero.

    There are no biases and no group norms; a channel of ones beside the input stands in for biases. Weights count by
    direction alone (`kakusan.nn.magnitude`), so weight decay means nothing here, and the rate should fall in training
    (`rate_decay = "inverse-sqrt"`): nothing else slows the weights down. Sizes that `2 ** (levels - 1)` does not divide
    are padded at their end by repeating the edge; the result is cropped. No condition is ever ignored.

    Setting `checkpointing` trades time for memory: what blocks computed is computed again in the backward pass.

    Differences from the paper: blocks and skips are laid out as in `kakusan.nn.UNet` (one skip for each block), so that
    the two compare at equal depth; Fourier frequencies are spread evenly rather than drawn; no clamp of activations,
    which only half precision needs.

    Args:
        channels: channels of x.
        out_channels: channels of the output; None means `channels`.
        rank: number of spatial dimensions, 1, 2 or 3.
        width: channels at the highest resolution; one dial for the size of the network.
        multipliers: channels of each level over `width`, from the highest resolution to the lowest.
        depth: blocks per level, on the way down and again on the way up.
        attention_levels: levels with self-attention after each block, 0 is the highest resolution.
        middle_attention: self-attention between the two blocks at the lowest resolution.
        head_width: channels per head of the attention.
        condition_width: width of `Condition.vector`; 0 for a model without one.
        spatial_channels: channels of `Condition.spatial`; 0 for a model without one.
        augment_width: width of `Condition.augment`, which may always be left out; 0 for a model without one.
        dropout: probability of zeroing an activation inside a block while training.
        tokens: `CrossTokens({"text": 512})`; None for a model without token sets.
        token_levels: levels whose blocks are followed by attention to the tokens; the middle has it too. None takes
            those with self-attention.
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
        attention_levels: Sequence[int] = (),
        middle_attention: bool = True,
        head_width: int = 64,
        condition_width: int = 0,
        spatial_channels: int = 0,
        augment_width: int = 0,
        dropout: float = 0.0,
        tokens: ConditionTokens | None = None,
        token_levels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_arguments(channels, out_channels, rank, width, multipliers, depth, attention_levels, dropout)
        levels = len(multipliers)
        self.checkpointing = False
        self.channels = channels
        self.out_channels = channels if out_channels is None else out_channels
        self.rank = rank
        self.condition_width = condition_width
        self.spatial_channels = spatial_channels
        self.augment_width = augment_width
        self.token_widths = token_widths_of(tokens, token_levels, levels)
        self.factor = 2 ** (levels - 1)
        widths = [width * m for m in multipliers]
        told = max(widths)

        def layer(inputs: int, level: int, attend: bool, *, encoder: bool) -> _Layer:
            outputs = widths[level]
            heads = heads_for(outputs, None, head_width) if attend else 0
            return _Layer(rank, inputs, outputs, told, heads=heads, encoder=encoder, dropout=dropout)

        self.stem = MPConv(rank, channels + spatial_channels + 1, widths[0])
        current = widths[0]
        down, skips = [], []
        for level in range(levels):
            stage = []
            for _ in range(depth):
                stage.append(layer(current, level, level in attention_levels, encoder=True))
                current = widths[level]
                skips.append(current)
            down.append(stage)
        middle = [layer(current, levels - 1, attend, encoder=False) for attend in (middle_attention, False)]
        up = []
        for level in reversed(range(levels)):
            stage = []
            for _ in range(depth):
                stage.append(layer(current + skips.pop(), level, level in attention_levels, encoder=False))
                current = widths[level]
            up.append(stage)
        self.down = nn.ModuleList(map(nn.ModuleList, down))
        self.middle = nn.ModuleList(middle)
        self.up = nn.ModuleList(map(nn.ModuleList, up))
        self.downsample = Downsample(rank)
        self.upsample = Upsample()
        self.head = MPConv(rank, current, self.out_channels)
        self.gain = nn.Parameter(torch.zeros(()))

        self.features = MPFourier(width)
        self.noise = MPLinear(width, told)
        self.condition = MPLinear(condition_width, told) if condition_width else None
        self.augment = MPLinear(augment_width, told) if augment_width else None
        self.augment_gain = nn.Parameter(torch.zeros(())) if augment_width else None

        # After all others, so that with and without tokens they start with the same numbers.
        self.context: MPKeysAndValues | None = None
        if self.token_widths:
            chosen = attention_levels if token_levels is None else token_levels
            readers = []
            for _, level, found in self.layers():
                if found is self.middle[0] or (level in chosen and found is not self.middle[1]):
                    found.cross = MPCrossAttention(widths[level], heads_for(widths[level], None, head_width))
                    readers.append(widths[level])
            self.context = MPKeysAndValues(self.token_widths, told, readers)

    def layers(self) -> Iterator[tuple[str, int, _Layer]]:
        """Every block with the attention after it: its name, its level, and itself, in the order they run."""
        for name, level, layer in layers_of(self.down, self.middle, self.up):
            yield name, level, cast(_Layer, layer)

    @classmethod
    def for_data(
        cls,
        channels: int,
        size: Sequence[int],
        *,
        width: int = 64,
        condition_width: int = 0,
        **arguments: Any,
    ) -> MagnitudePreservingUNet:
        """A network with sensible levels for signals or pictures of `size` = (*spatial), as `UNet.for_data`."""
        return cls(
            channels=channels,
            width=width,
            condition_width=condition_width,
            **with_token_levels(size, levels_for(size, arguments)),
        )

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        check_input(self, x, c_noise, cond)
        if self.training and torch.is_grad_enabled():
            settle(self)
        x = with_spatial(x, cond)
        spatial = x.shape[2:]
        x = pad(x, self.factor)
        told, read = self._embed(c_noise, cond), Told(self.context, cond, len(x))
        h = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = []
        for level, stage in enumerate(self.down):
            h = self.downsample(h) if level else h
            for layer in cast(nn.ModuleList, stage):
                h = run(layer, h, told, *read.of(layer), checkpointing=self.checkpointing)
                skips.append(h)
        for layer in self.middle:
            h = run(layer, h, told, *read.of(layer), checkpointing=self.checkpointing)
        for level, stage in enumerate(self.up):
            h = self.upsample(h) if level else h
            for layer in cast(nn.ModuleList, stage):
                h = run(layer, mp_cat(h, skips.pop()), told, *read.of(layer), checkpointing=self.checkpointing)
        return crop(self.head(h) * self.gain, spatial)

    def _embed(self, c_noise: Tensor, cond: Condition | None) -> Tensor:
        """What every block is told, (B or 1, width) float32 of variance 1."""
        with full_precision(c_noise):
            told: Tensor = self.noise(self.features(c_noise))
            if self.condition is not None and cond is not None and cond.vector is not None:
                # From norm 1 to variance 1.
                vector = cond.vector.to(told.dtype) * self.condition_width**0.5
                told = mp_sum(told, self.condition(vector))
            if self.augment is not None and cond is not None and cond.augment is not None:
                told = told + self.augment(cond.augment.to(told.dtype)) * self.augment_gain
            return mp_silu(told)


class _Layer(nn.Module):
    """A residual block and the attention after it, to tokens too: (B, inputs, *spatial) -> (B, outputs, *spatial).

    On the way down the input is brought to the block's width first and pixel-normalised, which keeps the main path from
    growing; on the way up it carries the skip, and its width changes beside the branch.
    """

    def __init__(
        self, rank: int, inputs: int, outputs: int, told: int, *, heads: int, encoder: bool, dropout: float
    ) -> None:
        super().__init__()
        self.encoder, self.dropout = encoder, dropout
        self.shortcut = nn.Identity() if inputs == outputs else MPConv(rank, inputs, outputs, 1)
        self.conv1 = MPConv(rank, outputs if encoder else inputs, outputs)
        self.conv2 = MPConv(rank, outputs, outputs)
        self.modulation = MPLinear(told, outputs)
        self.gain = nn.Parameter(torch.zeros(()))
        self.attention = CosineAttention(outputs, heads) if heads else nn.Identity()
        self.cross: MPCrossAttention | None = None

    def forward(self, x: Tensor, told: Tensor, keys_values: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if self.encoder:
            x = pixel_norm(self.shortcut(x))
        with full_precision(told):
            scale = 1.0 + self.modulation(told) * self.gain
        h = self.conv1(mp_silu(x))
        h = mp_silu(h * scale.to(h.dtype).view(*scale.shape, *[1] * (h.dim() - 2)))
        h = self.conv2(F.dropout(h, self.dropout, self.training))
        shortcut = x if self.encoder else self.shortcut(x)
        out: Tensor = self.attention(mp_sum(shortcut, h, RESIDUAL_BALANCE))
        return out if self.cross is None else self.cross(out, keys_values, mask)
