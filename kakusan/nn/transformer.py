"""A stack of transformer blocks over tokens (B, L, width): what a DiT, a ViT or a text tower is made of.

With modulation a block is adaLN-zero (Peebles & Xie 2022, arXiv 2212.09748); without it is the usual pre-norm block
with learned scales. Norms are RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467), the MLP is SwiGLU (Shazeer 2020, arXiv
2002.05202).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import TokenSet
from kakusan.nn import layout, modulation
from kakusan.nn.attention import Attention, SoftmaxAttention
from kakusan.nn.checkpointing import run
from kakusan.nn.tokens import CrossAttention, SelfAttention, TokenSets, matrix
from kakusan.specs import register

EPS = 1e-6
# Shift, scale and gate, of attention and of the MLP.
MODULATIONS = 6
# Products run fastest on widths that fill whole vectors.
GRANULE = 8


@register
@dataclass(frozen=True)
class Route:
    """Tokens that skip blocks while training (TREAD: Krause et al. 2025, arXiv 2501.04765).

    Args:
        start: first block that they skip.
        end: first block that sees them again.
        share: fraction of the tokens of a sample, chosen anew at each pass from torch's generator.
    """

    start: int
    end: int
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.start < self.end:
            raise ValueError(f"a route goes from block 1 or later to a later one, got {self.start} to {self.end}")
        if not 0.0 <= self.share < 1.0:
            raise ValueError(f"the share of tokens that skip blocks is in [0, 1), got {self.share}")

    @classmethod
    def through(cls, depth: int, share: float) -> Route:
        """The usual route through `depth` blocks: all but the first two and the last two, as far as there are so many.

        Raises:
            ValueError: fewer than three blocks.
        """
        if depth < 3:
            raise ValueError(f"routing needs at least 3 blocks to skip some, got {depth}")
        edge = min(2, (depth - 1) // 2)
        return cls(edge, depth - edge, share)


def hidden_width(width: int, ratio: float) -> int:
    """Hidden width of a SwiGLU MLP, whose three matrices then do the arithmetic of two that are `ratio * width` wide,
    to the nearest multiple of 8.
    """
    return max(GRANULE, round(2.0 * ratio * width / 3.0 / GRANULE) * GRANULE)


class SwiGlu(nn.Module):
    """(silu(x A) * (x B)) C: (..., width) -> (..., width)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.enter = matrix(width, 2 * hidden)
        self.leave = matrix(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        enter, leave = self.enter.weight, self.leave.weight
        if spare := layout.spare_columns(leave.shape[1], x):
            # Zeros beside the hidden features: silu(0) * 0 is 0, and meets zeros.
            enter = F.pad(enter.unflatten(0, (2, -1)), (0, 0, 0, spare)).flatten(0, 1)
            leave = F.pad(leave, (0, spare))
        both = F.linear(x, enter)
        if torch.compiler.is_compiling():
            gated: Tensor = _TracedGate.apply(both)
        else:
            gate, value = both.chunk(2, dim=-1)
            gated = F.silu(gate) * value
        return F.linear(gated, leave)


class _TracedGate(torch.autograd.Function):
    """silu(a) * b of a and b side by side. What a compiler derives by itself takes every exponential twice."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, value = both.chunk(2, dim=-1)
        return F.silu(gate) * value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        wide = torch.promote_types(both.dtype, torch.float32)
        (gate, value), gradient = (part.to(wide) for part in both.chunk(2, dim=-1)), gradient.to(wide)
        chance = gate.sigmoid()
        swish = gate * chance
        changes = gradient * value * (chance + swish * (1.0 - chance)), gradient * swish
        return torch.cat([change.to(both.dtype) for change in changes], dim=-1)


class TransformerBlock(nn.Module):
    """Self-attention, attention to a context where there is one, MLP.

    `forward(x, modulations, rotation, mask, first, context, context_mask)`: x (B, L, width), modulations
    (B or 1, 6, width) or None, the others as `SelfAttention` and `CrossAttention` take them -> x and the values of its
    self-attention.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        attention: Attention,
        modulated: bool,
        value_residual: bool,
        cross: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = None if modulated else nn.RMSNorm(width, eps=EPS)
        self.norm2 = None if modulated else nn.RMSNorm(width, eps=EPS)
        self.attention = SelfAttention(width, attention, value_residual=value_residual)
        self.cross_norm = nn.RMSNorm(width, eps=EPS) if cross else None
        self.cross = CrossAttention(width, attention) if cross else None
        self.mlp = SwiGlu(width, hidden)

    def forward(
        self,
        x: Tensor,
        modulations: Tensor | None,
        rotation: Tensor | None,
        mask: Tensor | None,
        first: Tensor | None,
        context: Tensor | None,
        context_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        parts = (None,) * MODULATIONS if modulations is None else modulations.unsqueeze(2).unbind(1)
        change, values = self.attention(self._norm(x, self.norm1, *parts[:2]), rotation, mask, first)
        x = self._add(x, change, parts[2])
        if self.cross is not None and self.cross_norm is not None:
            x = self._add(x, self.cross(self.cross_norm(x), context, context_mask), None)
        x = self._add(x, self.mlp(self._norm(x, self.norm2, *parts[3:5])), parts[5])
        return x, values

    @staticmethod
    def _norm(x: Tensor, norm: nn.Module | None, shift: Tensor | None, scale: Tensor | None) -> Tensor:
        if norm is not None:
            out: Tensor = norm(x)
            return out
        assert shift is not None
        assert scale is not None
        return modulation.modulated_norm(x, scale, shift, EPS)

    def _add(self, x: Tensor, change: Tensor, gate: Tensor | None) -> Tensor:
        change = F.dropout(change, self.dropout, self.training)
        return x + change if gate is None else torch.addcmul(x, gate, change.to(x.dtype))


class Transformer(nn.Module):
    """`depth` blocks in a row.

    `forward(x, modulations, rotation=, mask=, tokens=, extra=)`:
        x (B, L, width);
        modulations (B or 1, depth, 6, width), or None in a stack built without modulation;
        rotation (L, pairs, 2), as `rotary.rotations` makes it, or None;
        mask (B, L), True where a token may be attended to, or None;
        tokens: the token sets named in `cross`;
        extra: how many of the last tokens are not places (registers, context), which never skip blocks
        -> (B, L, width).

    Setting `checkpointing` trades time for memory: what blocks computed is computed again in the backward pass.

    Args:
        width: features of a token.
        depth: number of blocks.
        attention: the kind of attention (`SoftmaxAttention(heads=...)`, `LinearAttention(heads=...)`).
        mlp_ratio: hidden width of the MLP over `width`, as of an MLP of two matrices with the same arithmetic.
        modulated: blocks take scales, shifts and gates in place of learning fixed scales.
        value_residual: values of attention are mixed with those of the first block.
        cross: token sets that every block attends to, with their widths.
        dropout: probability of zeroing a change of a token while training.
        route: tokens that skip blocks while training.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        attention: Attention = SoftmaxAttention(),  # noqa: B008 (frozen)
        mlp_ratio: float = 4.0,
        modulated: bool = False,
        value_residual: bool = False,
        cross: Mapping[str, int] | None = None,
        dropout: float = 0.0,
        route: Route | None = None,
    ) -> None:
        super().__init__()
        if width < 2 or depth < 1 or mlp_ratio <= 0.0:
            raise ValueError(f"expected width >= 2, depth >= 1, mlp_ratio > 0; got {width}, {depth}, {mlp_ratio}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
        if route is not None and route.end > depth:
            raise ValueError(f"the route ends at block {route.end}, but there are only {depth}")
        self.width, self.depth, self.modulated = width, depth, modulated
        self.route = route
        self.checkpointing = False
        self.pairs = width // attention.products(width).heads // 2
        self.context = TokenSets(cross, width) if cross else None
        self.blocks = nn.ModuleList(
            TransformerBlock(
                width,
                hidden=hidden_width(width, mlp_ratio),
                attention=attention,
                modulated=modulated,
                value_residual=value_residual and index > 0,
                cross=bool(cross),
                dropout=dropout,
            )
            for index in range(depth)
        )

    def forward(
        self,
        x: Tensor,
        modulations: Tensor | None = None,
        *,
        rotation: Tensor | None = None,
        mask: Tensor | None = None,
        tokens: Mapping[str, TokenSet] | None = None,
        extra: int = 0,
    ) -> Tensor:
        if (modulations is not None) != self.modulated:
            raise ValueError(f"this transformer was built with modulated={self.modulated}; the call does not fit")
        context, context_mask = (None, None) if self.context is None else self.context(tokens or {}, len(x))
        route = self.route if self.training and self.route is not None and self.route.share > 0.0 else None
        first: Tensor | None = None
        kept: Tensor | None = None
        before = (x, rotation, mask, first)
        for index, block in enumerate(self.blocks):
            if route is not None and index == route.start:
                kept, before = _staying(x, extra, route.share), (x, rotation, mask, first)
                x = _pick(x, kept)
                first = None if first is None else _pick(first, kept)
                rotation = None if rotation is None else rotation[kept]
                mask = None if mask is None else _pick(mask, kept)
            if route is not None and kept is not None and index == route.end:
                x, kept = _back(before[0], kept, x), None
                rotation, mask, first = before[1:]
            part = None if modulations is None else modulations[:, index]
            inputs = (x, part, rotation, mask, first, context, context_mask)
            x, values = run(block, *inputs, checkpointing=self.checkpointing)
            first = values if index == 0 else first
        return x if kept is None else _back(before[0], kept, x)


def _staying(x: Tensor, extra: int, share: float) -> Tensor:
    """Indices (B, kept) of the tokens that go through the blocks: a random part of the places, and all extra ones."""
    batch, length = x.shape[:2]
    places = length - extra
    count = max(1, places - round(share * places))
    chosen = torch.rand(batch, places, device=x.device).argsort(dim=1)[:, :count]
    others = torch.arange(places, length, device=x.device).expand(batch, extra)
    return torch.cat([chosen, others], dim=1)


def _wide(index: Tensor, x: Tensor) -> Tensor:
    return index.view(*index.shape, *[1] * (x.dim() - 2)).expand(*index.shape, *x.shape[2:])


def _pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, _wide(index, x))


def _back(whole: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """`whole` with the tokens at `index` replaced by `x`."""
    return whole.scatter(1, _wide(index, whole), x.to(whole.dtype))
