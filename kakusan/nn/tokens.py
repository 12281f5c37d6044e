"""Attention between tokens (B, L, width): to themselves, and to the token sets of a condition.

Which arithmetic is done is chosen by the same objects as for feature maps (`kakusan.nn.attention`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import TokenSet
from kakusan.nn.attention import CPU_PLAIN_LIMIT, Attention, SoftmaxProducts, TokenProducts, units
from kakusan.nn.layout import as_map, as_tokens, channels_lie_last
from kakusan.nn.norms import GroupNorm
from kakusan.nn.rotary import EPS, as_halves, rotate, turned_halves, turned_units
from kakusan.specs import register


class ConditionTokens(Protocol):
    """How a network uses `Condition.tokens`: which sets, how wide, and by which way they enter."""

    joins: ClassVar[bool]

    @property
    def widths(self) -> Mapping[str, int]:
        """Features of a token of each set, by name."""
        ...


@register
@dataclass(frozen=True)
class CrossTokens:
    """Every block attends to the token sets beside its own tokens (Chen et al. 2023, PixArt, arXiv 2310.00426).

    Args:
        widths: features of a token of each set, by name.
    """

    widths: Mapping[str, int]
    joins: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_widths(self.widths)


@register
@dataclass(frozen=True)
class ContextTokens:
    """The token sets join the sequence (Peebles & Xie 2022, "in-context", arXiv 2212.09748).

    Args:
        widths: features of a token of each set, by name.
    """

    widths: Mapping[str, int]
    joins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_widths(self.widths)


def _check_widths(widths: Mapping[str, int]) -> None:
    if not widths or min(widths.values()) < 1:
        raise ValueError(f"name at least one token set and its width, at least 1; got {dict(widths)}")
    if "type" in widths or any("." in name for name in widths):
        raise ValueError(f"a token set cannot be called 'type', nor hold a dot; got {sorted(widths)}")


def matrix(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without bias, with outputs about as large as inputs (Glorot & Bengio 2010)."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


class TokenSets(nn.Module):
    """Named token sets, each projected by a matrix of its own, one after the other.

    `forward(tokens, batch)` -> (B, L, width) and a mask (B, L), None where every token is real.

    Args:
        widths: features of a token of each set, by name.
        width: of what comes out.
        projection: what is built of (inputs, outputs).
    """

    def __init__(
        self, widths: Mapping[str, int], width: int, *, projection: Callable[[int, int], nn.Module] = nn.Linear
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleDict({name: projection(inputs, width) for name, inputs in widths.items()})

    def forward(self, tokens: Mapping[str, TokenSet], batch: int) -> tuple[Tensor, Tensor | None]:
        found, masks = [], []
        for name, projection in self.projections.items():
            part = tokens[name]
            found.append(projection(part.values).expand(batch, -1, -1))
            real = part.values.new_ones(part.values.shape[:2], dtype=torch.bool) if part.mask is None else part.mask
            masks.append(real.expand(batch, -1))
        masked = any(tokens[name].mask is not None for name in self.projections)
        return torch.cat(found, dim=1), torch.cat(masks, dim=1) if masked else None


Watch = Callable[[Tensor], None]
"""Told the weights (B, heads, L, M) float32 of an attention as it runs (`kakusan.nn.attended`)."""


class _Scaled(nn.Module):
    """Queries and keys brought to root mean square 1, with one learned temperature per head in place of 1 / sqrt(d)."""

    watch: Watch | None = None

    def __init__(self, width: int, products: TokenProducts) -> None:
        super().__init__()
        self.heads, self.products = products.heads, products
        self.head_width = width // products.heads
        self.log_scale = nn.Parameter(torch.zeros(products.heads, 1)) if products.scaled else None

    def normalised(self, x: Tensor) -> Tensor:
        """(B, L, heads, d) -> the same."""
        return F.rms_norm(x, (self.head_width,), eps=EPS)

    def lengths(self) -> Tensor | None:
        """Of queries and keys (2 heads, 1), where features are the vectors themselves: the temperature, and 1."""
        if self.log_scale is None:
            return None
        temperature = self.log_scale.exp() / math.sqrt(self.head_width)
        return torch.cat([temperature, torch.ones_like(temperature)])

    def warmed(self, q: Tensor) -> Tensor:
        """Queries (B, L, heads, d) with their temperature."""
        if self.log_scale is None:
            return q
        return q * (self.log_scale.exp() / math.sqrt(self.head_width)).to(q.dtype)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, heads, d) each, queries with their temperature -> (B, L, width)."""
        if self.watch is not None:
            self.watch(self.products.weights(q, k, mask))
        return self.products.mix(q, k, v, mask).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head attention between the tokens of a sequence, with QK norm and rotary positions.

    `forward(x, rotation, mask, first)`: x (B, L, width); rotation as `rotate` takes it, or None; mask (B, L), True
    where a token may be attended to, or None; first (B, L, heads, d), the values of the first block, where
    `value_residual` -> (B, L, width) and this block's own values. With `identity` every token sees itself only
    (`kakusan.nn.perturbed`).
    """

    identity: bool = False

    def __init__(self, width: int, attention: Attention, *, value_residual: bool = False) -> None:
        super().__init__()
        self.core = _Scaled(width, attention.products(width))
        self.qkv = matrix(width, 3 * width)
        self.out = matrix(width, width)
        # Zhou et al. 2024, arXiv 2410.17897: values are a learned mixture of this block's and the first block's.
        self.share = nn.Parameter(torch.tensor(0.5)) if value_residual else None

    def forward(
        self, x: Tensor, rotation: Tensor | None, mask: Tensor | None, first: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        core = self.core
        lengths = None if rotation is None else core.lengths()
        turned = None
        if rotation is not None and lengths is not None and torch.compiler.is_compiling():
            *turned, own = turned_halves(F.linear(x, as_halves(self.qkv.weight, core.heads)), lengths, rotation)
        else:
            qkv = self.qkv(x).unflatten(-1, (3 * core.heads, core.head_width))
            both, own = qkv.split((2 * core.heads, core.heads), dim=2)
        v = own if self.share is None or first is None else torch.lerp(own, first, self.share.to(own.dtype))
        if self.identity:
            return self.out(v.flatten(2)), own
        if turned is not None:
            q, k = turned
        elif rotation is not None and lengths is not None:
            q, k = turned_units(both, lengths, rotation).chunk(2, dim=2)
        else:
            q, k = both.chunk(2, dim=2)
            q = core.warmed(core.products.features(core.normalised(q)))
            k = core.products.key_features(core.normalised(k), mask)
            if rotation is not None:
                q, k = rotate(q, rotation), rotate(k, rotation)
        return self.out(core.mix(q, k, v, mask)), own


class CrossAttention(nn.Module):
    """Multi-head attention from tokens to the tokens of a condition; starts at zero.

    `forward(x, context, mask)`: x (B, L, width), context (B, M, width), mask (B, M) or None -> (B, L, width). Where no
    token of a sample is real, its result is zero.
    """

    def __init__(self, width: int, attention: Attention) -> None:
        super().__init__()
        self.core = _Scaled(width, attention.products(width))
        self.q = matrix(width, width)
        self.kv = matrix(width, 2 * width)
        self.out = matrix(width, width)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        core = self.core
        q = self.q(x).unflatten(-1, (core.heads, core.head_width))
        # A key and a value of zero more: a query can attend to nothing, and a sample without tokens has something.
        kv = F.pad(self.kv(context), (0, 0, 0, 1)).unflatten(-1, (2, core.heads, core.head_width))
        k, v = kv.unbind(2)
        mask = None if mask is None else F.pad(mask, (0, 1), value=True)
        q, k = core.products.features(core.normalised(q)), core.products.key_features(core.normalised(k), mask)
        out: Tensor = self.out(core.mix(core.warmed(q), k, v, mask))
        return out


class KeysAndValues(nn.Module):
    """Keys and values of token sets for many layers, by one product.

    `forward(tokens, batch)` -> for each layer (B, M + 1, 2 channels), keys then values, and a mask (B, M + 1), None
    where every token is real. The last key and value are zero: a place can attend to nothing, and a sample without
    tokens has something.

    Args:
        widths: features of a token of each set, by name.
        width: features of a token after its projection.
        channels: of each layer, in the order they run.
    """

    def __init__(self, widths: Mapping[str, int], width: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.sets = TokenSets(widths, width)
        self.channels = tuple(channels)
        self.product = nn.Linear(width, 2 * sum(channels), bias=False)
        with torch.no_grad():
            # As large as the matrix of each layer by itself.
            for rows, count in zip(self._split(self.product.weight, dim=0), channels, strict=True):
                nn.init.xavier_uniform_(rows[:count])
                nn.init.xavier_uniform_(rows[count:])

    def forward(self, tokens: Mapping[str, TokenSet], batch: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
        context, mask = self.sets(tokens, batch)
        mask = None if mask is None else F.pad(mask, (0, 1), value=True)
        return self._split(F.pad(self.product(context), (0, 0, 0, 1)), dim=2), mask

    def first(self, count: int) -> KeysAndValues:
        """A copy that serves the first layers only."""
        width = self.product.in_features
        widths = {name: layer.in_features for name, layer in self.sets.projections.items()}
        other = KeysAndValues(widths, width, self.channels[:count])  # type: ignore[arg-type]
        other.sets.load_state_dict(self.sets.state_dict())
        with torch.no_grad():
            other.product.weight.copy_(self.product.weight[: other.product.out_features])
        return other.to(self.product.weight)

    def _split(self, x: Tensor, dim: int) -> tuple[Tensor, ...]:
        return x.split([2 * count for count in self.channels], dim=dim)


class MapCrossAttention(nn.Module):
    """Multi-head softmax attention from the places of a map to the tokens of a condition; starts as the identity.

    `forward(x, keys_values, mask)`: x (B, C, *spatial), keys_values (B, M, 2 C), mask (B, M) or None, as
    `KeysAndValues` makes them -> the shape of x, residual included. Queries and keys are normalised, with one learned
    temperature per head.
    """

    watch: Watch | None = None

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, channels // heads
        self.norm = GroupNorm(channels)
        self.q = matrix(channels, channels)
        self.out = matrix(channels, channels)
        nn.init.zeros_(self.out.weight)
        self.log_scale = nn.Parameter(torch.zeros(heads, 1))

    def forward(self, x: Tensor, keys_values: Tensor, mask: Tensor | None) -> Tensor:
        if channels_lie_last(x) and self.watch is None:
            return x + as_map(self._of_tokens(as_tokens(self.norm(x)), keys_values, mask), x)
        q = _left(self.q.weight, self.norm(x).flatten(2)).unflatten(1, (self.heads, self.head_width))
        k, v = keys_values.unflatten(2, (2, self.heads, self.head_width)).unbind(2)
        temperature = self.log_scale.exp() / math.sqrt(self.head_width)
        k = F.rms_norm(k, (self.head_width,), eps=1e-6) * temperature.to(k.dtype)
        # Queries are divided by their size after the product, where there are fewer numbers than features.
        size = (q.float().square().mean(dim=2, keepdim=True) + 1e-6).rsqrt()
        if x.device.type == "cpu" and k.shape[1] <= CPU_PLAIN_LIMIT:
            weights = self._weights(q, k, size, mask)
            if self.watch is not None:
                self.watch(weights.mT)
            return x + self._plain(weights.to(v.dtype), v).view(x.shape)
        if self.watch is not None:
            self.watch(self._weights(q, k, size, mask).mT)
        return x + self._fused(q * size.to(q.dtype), k, v, mask).view(x.shape)

    def _of_tokens(self, x: Tensor, keys_values: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, C) -> the same shape, without the residual."""
        both = (self.heads, self.head_width)
        k, v = keys_values.unflatten(2, (2, *both)).unbind(2)
        eps = 1e-6 * self.head_width
        q = units(self.q(x).unflatten(2, both), self.log_scale.exp(), eps=eps)
        k = units(k, torch.full_like(self.log_scale, math.sqrt(self.head_width)), eps=eps)
        return self.out(SoftmaxProducts(self.heads).mix(q, k, v, mask).flatten(2))

    def _weights(self, q: Tensor, k: Tensor, size: Tensor, mask: Tensor | None) -> Tensor:
        """(B, heads, M, L) float32, of q (B, heads, d, L)."""
        logits = (k.transpose(1, 2) @ q.to(k.dtype)).float()
        if mask is None:
            return (logits * size).softmax(dim=2)
        closed = size.new_zeros(mask.shape).masked_fill(~mask, float("-inf"))
        return torch.addcmul(closed[:, None, :, None], logits, size).softmax(dim=2)

    def _plain(self, weights: Tensor, v: Tensor) -> Tensor:
        """(B, C, L), of weights (B, heads, M, L) and v (B, M, heads, d)."""
        channels, tokens, places = v.shape[2] * v.shape[3], v.shape[1], weights.shape[3]
        if tokens * (channels + places * (self.heads - 1)) > places * channels:
            return _left(self.out.weight, (v.permute(0, 2, 3, 1) @ weights).flatten(1, 2))
        # The last matrix is applied to the few tokens in place of the many places: the same sum in another order.
        last = self.out.weight.view(channels, self.heads, self.head_width)
        values = torch.einsum("bmhd,chd->bhmc", v, last.to(v.dtype)).flatten(1, 2)
        return values.mT @ weights.flatten(1, 2)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        # The fused kernels want features side by side.
        q = q.mT.contiguous()
        k, v = (y.transpose(1, 2).to(q.dtype) for y in (k, v))
        mask = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(q, k, v, mask, scale=1.0)
        return _left(self.out.weight, mixed.mT.flatten(1, 2))


def _left(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix times each x (B, C, L). Where gradients are wanted, `matrix @ x` would copy x to turn it."""
    return torch.bmm(matrix.expand(len(x), *matrix.shape), x)
