"""The U-Net (Ronneberger et al. 2015; for diffusion Ho et al. 2020, arXiv 2006.11239), for any spatial rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.nn.attention import Attention, SoftmaxAttention
from kakusan.nn.blocks import Block, Blocks, Downsample, ResidualBlocks, Upsample, conv
from kakusan.nn.checkpointing import run
from kakusan.nn.embeddings import Embedding
from kakusan.nn.layout import laid
from kakusan.nn.norms import GroupNorm, full_precision
from kakusan.nn.shapes import check_arguments, check_input, crop, levels_for, pad, with_spatial
from kakusan.nn.tokens import ConditionTokens, KeysAndValues, MapCrossAttention
from kakusan.specs import register


@register
class UNet(nn.Module):
    """U-Net backbone on signals, pictures and volumes.

    `forward(x, c_noise, cond)`: x (B, channels, *spatial) with `rank` spatial dimensions of any size of at least 1,
    c_noise (B,) or (1,), cond a `Condition` or None -> (B, out_channels, *spatial). At the start of training the output
    is exactly zero.

    Sizes that `2 ** (levels - 1)` does not divide are padded at their end by repeating the edge; the result is cropped.
    A `Condition.vector` is added to the noise-level embedding; a `Condition.spatial` is concatenated to the input;
    places attend to the `Condition.tokens`, which at the start of training changes nothing. A condition that is
    missing, unexpected or of another width is an error: none is ever ignored.

    Setting `checkpointing` trades time for memory: what blocks computed is computed again in the backward pass.
    `channels_last` says how maps lie in memory (`kakusan.nn.layout`); None lets the machine and number format decide.

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
        tokens: `CrossTokens({"text": 512})`; None for a model without token sets.
        token_levels: levels whose blocks are followed by attention to the tokens, always by softmax, with as many heads
            as `attention` would take; the middle has it too. None takes those with self-attention.
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
        tokens: ConditionTokens | None = None,
        token_levels: Sequence[int] | None = None,
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
        self.token_widths = token_widths_of(tokens, token_levels, levels)
        self.checkpointing = False
        self.channels_last: bool | None = None
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

        # After all others, so that with and without tokens they start with the same numbers.
        self.context: KeysAndValues | None = None
        if self.token_widths:
            chosen = attention_levels if token_levels is None else token_levels
            readers = []
            for _, level, found in self.layers():
                if found is self.middle[0] or (level in chosen and found is not self.middle[1]):
                    found.cross = MapCrossAttention(widths[level], attention.products(widths[level]).heads)
                    readers.append(widths[level])
            self.context = KeysAndValues(self.token_widths, max(widths), readers)

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
    ) -> UNet:
        """A U-Net with sensible levels for signals or pictures of `size` = (*spatial).

        The lowest resolution is about 8, channels double once, and attention runs where no side exceeds 16, to tokens
        also where self-attention was left out. `arguments` are passed on and override what is derived.
        """
        found = with_token_levels(size, levels_for(size, arguments))
        return cls(channels=channels, width=width, condition_width=condition_width, **found)

    def forward(
        self, x: Tensor, c_noise: Tensor, cond: Condition | None = None, *, beside: Sequence[Tensor] = ()
    ) -> Tensor:
        """`beside`: what is added to each skip, in order, and to the middle; nothing when empty."""
        check_input(self, x, c_noise, cond)
        vector, augment = (None, None) if cond is None else (cond.vector, cond.augment)
        x = with_spatial(x, cond)
        spatial = x.shape[2:]
        h = laid(self.stem(pad(x, self.factor)), self.channels_last)
        modulation = iter(self._modulate(c_noise, vector, augment))
        told = Told(self.context, cond, len(x))
        skips = []
        for level, stage in enumerate(self.down):
            h = self.downsample(h) if level else h
            for layer in cast(nn.ModuleList, stage):
                h = run(layer, h, next(modulation), *told.of(layer), checkpointing=self.checkpointing)
                skips.append(h)
        for layer in self.middle:
            h = run(layer, h, next(modulation), *told.of(layer), checkpointing=self.checkpointing)
        if beside:
            *skips, h = [mine + added for mine, added in zip([*skips, h], beside, strict=True)]
        for level, stage in enumerate(self.up):
            h = self.upsample(h) if level else h
            for layer in cast(nn.ModuleList, stage):
                h = torch.cat([h, skips.pop()], dim=1)
                h = run(layer, h, next(modulation), *told.of(layer), checkpointing=self.checkpointing)
        return crop(self.head(F.silu(self.norm(h))), spatial).contiguous()

    def _modulate(self, c_noise: Tensor, vector: Tensor | None, augment: Tensor | None) -> tuple[Tensor, ...]:
        with full_precision(c_noise):
            modulation: Tensor = self.modulation(self.embedding(c_noise, vector, augment))
        return modulation.split(self._modulation_widths, dim=1)


class Told:
    """What each layer of one pass reads of the tokens, handed out in the order they run."""

    def __init__(self, context: nn.Module | None, cond: Condition | None, batch: int) -> None:
        self._parts: Iterator[Tensor] = iter(())
        self._mask: Tensor | None = None
        if context is not None:
            parts, self._mask = context({} if cond is None else cond.tokens, batch)
            self._parts = iter(parts)

    def of(self, layer: nn.Module) -> tuple[Tensor | None, Tensor | None]:
        """Keys and values and their mask, None for a layer without attention to tokens."""
        return (None, None) if cast(_Layer, layer).cross is None else (next(self._parts), self._mask)


class _Layer(nn.Module):
    """A block, the self-attention after it, and then the attention to tokens, where there is one."""

    def __init__(self, block: Block, attention: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.attention = attention
        self.cross: MapCrossAttention | None = None

    def forward(
        self, x: Tensor, modulation: Tensor, keys_values: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        out: Tensor = self.attention(self.block(x, modulation))
        return out if self.cross is None else self.cross(out, keys_values, mask)


def layers_of(down: nn.ModuleList, middle: nn.ModuleList, up: nn.ModuleList) -> Iterator[tuple[str, int, nn.Module]]:
    """The layers of a U-Net of stages: name, level and layer of each, in the order they run."""
    lowest = len(down) - 1
    stages = [(f"down {level}", level, stage) for level, stage in enumerate(down)]
    stages.append(("middle", lowest, middle))
    stages += [(f"up {lowest - index}", lowest - index, stage) for index, stage in enumerate(up)]
    for name, level, stage in stages:
        for number, layer in enumerate(cast(nn.ModuleList, stage)):
            yield f"{name}.{number}", level, layer


def with_token_levels(size: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a U-Net with the levels where tokens are read, where there are tokens and nothing else was said."""
    found = dict(arguments)
    if found.get("tokens") is not None and "token_levels" not in found:
        found["token_levels"] = levels_for(size, {"multipliers": found["multipliers"]})["attention_levels"]
    return found


def token_widths_of(tokens: ConditionTokens | None, levels: Sequence[int] | None, count: int) -> dict[str, int]:
    """Features of a token of each set, after refusing what a U-Net cannot do."""
    if tokens is None:
        if levels is not None:
            raise ValueError(f"token_levels {tuple(levels)} were given without tokens; name the token sets too")
        return {}
    if tokens.joins:
        raise ValueError("a U-Net has no sequence that tokens could join; give CrossTokens in place of ContextTokens")
    unknown = [level for level in levels or () if not 0 <= level < count]
    if unknown:
        raise ValueError(f"token_levels {unknown} do not exist: the levels are 0 to {count - 1}")
    return dict(tokens.widths)
