"""The diffusion transformer (Peebles & Xie 2022, arXiv 2212.09748) in its present form, for any spatial rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.nn import rotary
from kakusan.nn.attention import Attention, SoftmaxAttention
from kakusan.nn.embeddings import Embedding
from kakusan.nn.modulation import modulated_norm
from kakusan.nn.norms import full_precision
from kakusan.nn.patch import from_patches, to_patches
from kakusan.nn.shapes import check_input, crop, pad, with_spatial
from kakusan.nn.tokens import ConditionTokens, TokenSets
from kakusan.nn.transformer import EPS, MODULATIONS, Route, Transformer
from kakusan.specs import register

FEATURES = 256
MOST_BLOCKS = 12


class PatchEmbedding(nn.Module):
    """(B, channels, *spatial), sides that `patch` divides -> tokens (B, places, width), row by row.

    Args:
        bottleneck: features between two linear maps that take the place of one; 0 for one (Li & He 2025, JiT, arXiv
            2511.13720, section 4.2).
    """

    def __init__(self, *, channels: int, rank: int, patch: int, width: int, bottleneck: int = 0) -> None:
        super().__init__()
        self.patch = patch
        inputs = channels * patch**rank
        self.narrow = nn.Linear(inputs, bottleneck, bias=False) if bottleneck else nn.Identity()
        self.embed = nn.Linear(bottleneck or inputs, width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.embed.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.embed(self.narrow(to_patches(x, self.patch).flatten(2).mT))
        return out


@register
class DiT(nn.Module):
    """Diffusion transformer on signals, pictures and volumes.

    `forward(x, c_noise, cond)`: x (B, channels, *spatial) with `rank` spatial dimensions of any size of at least 1,
    c_noise (B,) or (1,), cond a `Condition` or None -> (B, out_channels, *spatial). At the start of training the output
    is exactly zero.

    Sizes that `patch` does not divide are padded at their end by repeating the edge; the result is cropped. Positions
    are rotations of queries and keys on each axis, beside fixed sines, so other sizes than those of training work. A
    `Condition.vector` is added to the noise-level embedding, a `Condition.spatial` concatenated to the input, and
    `Condition.tokens` enter as `tokens` says. A condition that is missing, unexpected or of another width is an error:
    none is ever ignored.

    Setting `checkpointing` trades time for memory: what blocks computed is computed again in the backward pass.

    Args:
        channels: channels of x.
        out_channels: channels of the output; None means `channels`.
        rank: number of spatial dimensions, 1, 2 or 3.
        patch: side of a patch, which is one token.
        width: features of a token; one dial for the size of the network.
        depth: number of blocks; None takes one for every 32 of the width, 4 to 12.
        attention: the kind of self-attention; heads are 64 wide unless it says otherwise.
        mlp_ratio: hidden width of the MLPs over `width`, as of MLPs of two matrices with the same arithmetic.
        bottleneck: features between patch and token; 0 for none, 128 for large patches (JiT).
        registers: learned tokens beside the patches, a place for what is of the whole (Darcet et al. 2023, arXiv
            2309.16588).
        value_residual: values of attention are mixed with those of the first block (arXiv 2410.17897).
        route: patches that skip blocks while training.
        tokens: `CrossTokens({"text": 512})` or `ContextTokens({"text": 512})`; None for a model without token sets.
        condition_width: width of `Condition.vector`; 0 for a model without one.
        spatial_channels: channels of `Condition.spatial`; 0 for a model without one.
        augment_width: width of `Condition.augment`, which may always be left out; 0 for a model without one.
        dropout: probability of zeroing a change of a token while training.
    """

    def __init__(
        self,
        *,
        channels: int,
        out_channels: int | None = None,
        rank: int = 2,
        patch: int = 2,
        width: int = 256,
        depth: int | None = None,
        attention: Attention = SoftmaxAttention(),  # noqa: B008 (frozen)
        mlp_ratio: float = 4.0,
        bottleneck: int = 0,
        registers: int = 0,
        value_residual: bool = False,
        route: Route | None = None,
        tokens: ConditionTokens | None = None,
        condition_width: int = 0,
        spatial_channels: int = 0,
        augment_width: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.out_channels = channels if out_channels is None else out_channels
        if rank not in (1, 2, 3):
            raise ValueError(f"rank is the number of spatial dimensions, 1, 2 or 3; got {rank}")
        for name, value, least in (
            ("channels", channels, 1),
            ("out_channels", self.out_channels, 1),
            ("patch", patch, 1),
            ("bottleneck", bottleneck, 0),
            ("registers", registers, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.rank, self.patch, self.width = rank, patch, width
        self.condition_width, self.spatial_channels, self.augment_width = (
            condition_width,
            spatial_channels,
            augment_width,
        )
        self.token_widths = {} if tokens is None else dict(tokens.widths)
        joins = tokens is not None and tokens.joins
        self.patches = PatchEmbedding(
            channels=channels + spatial_channels, rank=rank, patch=patch, width=width, bottleneck=bottleneck
        )
        self.registers = nn.Parameter(0.02 * torch.randn(registers, width)) if registers else None
        self.context = TokenSets(self.token_widths, width) if joins else None
        self.transformer = Transformer(
            width=width,
            depth=depth_for(width) if depth is None else depth,
            attention=attention,
            mlp_ratio=mlp_ratio,
            modulated=True,
            value_residual=value_residual,
            cross={} if joins else self.token_widths,
            dropout=dropout,
            route=route,
        )
        rotary.check_pairs(self.transformer.pairs, rank)
        self.embedding = Embedding(
            width=width, feature_width=FEATURES, condition_width=condition_width, augment_width=augment_width
        )
        # One matrix makes the modulation of all blocks and of the last norm. At zero every block is the identity.
        self.modulation = nn.Linear(width, (MODULATIONS * self.transformer.depth + 2) * width)
        self.head = nn.Linear(width, self.out_channels * patch**rank)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def checkpointing(self) -> bool:
        """Whether activations of the blocks are computed again in the backward pass."""
        return self.transformer.checkpointing

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.transformer.checkpointing = value

    @classmethod
    def for_data(cls, channels: int, size: Sequence[int], *, width: int = 256, **arguments: Any) -> DiT:
        """A DiT for signals or pictures of `size` = (*spatial); `arguments` are passed on."""
        if not size or min(size) < 1:
            raise ValueError(f"size must hold 1 to 3 positive numbers, got {tuple(size)}")
        return cls(channels=channels, width=width, **{"rank": len(size), **arguments})

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        check_input(self, x, c_noise, cond)
        cond = Condition() if cond is None else cond
        x = with_spatial(x, cond)
        size = x.shape[2:]
        x = pad(x, self.patch)
        grid = [side // self.patch for side in x.shape[2:]]
        places = math.prod(grid)

        blocks, last = self._modulations(c_noise, cond)
        # The stream of tokens keeps the precision of the weights, also where autocast rounds products.
        tokens = self.patches(x).to(blocks.dtype) + rotary.sines(grid, self.width, x.device)
        tokens, mask = self._join(tokens, cond)
        rotation = rotary.rotations(grid, self.transformer.pairs, x.device)
        extra = tokens.shape[1] - places
        if extra:
            still = rotation.new_tensor([1.0, 0.0]).expand(extra, self.transformer.pairs, 2)
            rotation = torch.cat([rotation, still])
        tokens = self.transformer(tokens, blocks, rotation=rotation, mask=mask, tokens=cond.tokens, extra=extra)
        scale, shift = last.unsqueeze(2).unbind(1)
        out = self.head(modulated_norm(tokens[:, :places], scale, shift, EPS))
        return crop(from_patches(out.mT.unflatten(2, grid), self.patch), size)

    def _modulations(self, c_noise: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """Of the blocks (B or 1, depth, 6, width), and of the last norm (B or 1, 2, width)."""
        with full_precision(c_noise):
            rows: Tensor = self.modulation(self.embedding(c_noise, cond.vector, cond.augment))
        rows = rows.unflatten(1, (-1, self.width))
        count = MODULATIONS * self.transformer.depth
        return rows[:, :count].unflatten(1, (-1, MODULATIONS)), rows[:, count:]

    def _join(self, tokens: Tensor, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """The sequence with registers and context behind the places, and which of it may be attended to."""
        batch, parts = len(tokens), [tokens]
        if self.registers is not None:
            parts.append(self.registers.expand(batch, -1, -1))
        mask: Tensor | None = None
        if self.context is not None:
            context, real = self.context(cond.tokens, batch)
            if real is not None:
                always = real.new_ones(batch, sum(part.shape[1] for part in parts))
                mask = torch.cat([always, real], dim=1)
            parts.append(context.to(tokens.dtype))
        return torch.cat(parts, dim=1) if len(parts) > 1 else tokens, mask


def depth_for(width: int) -> int:
    """Blocks for a width: as in the smaller models of Peebles & Xie, deep before wide."""
    return max(4, min(MOST_BLOCKS, width // 32))
