"""Self-attention over the positions of a feature map of any spatial rank, and the objects that choose it.

Maps stay (B, C, *spatial): queries, keys and values are 1x1 convolutions and the products are taken over channels-first
matrices, so the plain path makes no copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn.layout import MULTIPLIES_TILES, as_map, as_tokens, channels_lie_last
from kakusan.nn.norms import GroupNorm, full_precision
from kakusan.specs import register

# Up to this many positions the CPU is faster with the whole attention matrix in memory than with the fused kernel.
CPU_PLAIN_LIMIT = 1024
UNIT_EPS = 1e-6


class Attention(Protocol):
    """A choice of attention: builds a module (B, C, *spatial) -> same shape, residual included."""

    def build(self, channels: int) -> nn.Module:
        """The module for maps of `channels` channels."""
        ...

    def products(self, width: int) -> TokenProducts:
        """The arithmetic between queries, keys and values of tokens `width` wide."""
        ...


class TokenProducts(Protocol):
    """Arithmetic of attention between tokens."""

    @property
    def heads(self) -> int:
        """Number of heads."""
        ...

    @property
    def scaled(self) -> bool:
        """Whether queries carry a temperature."""
        ...

    def features(self, q: Tensor) -> Tensor:
        """What stands for queries (B, L, heads, d) before positions turn them."""
        ...

    def key_features(self, k: Tensor, mask: Tensor | None) -> Tensor:
        """What stands for keys (B, M, heads, d) before positions turn them; mask (B, M), True for real tokens."""
        ...

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """q (B, L, heads, d), k and v (B, M, heads, d), mask (B, M) or None -> (B, L, heads, d)."""
        ...

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """(B, heads, L, M) float32: what `mix` multiplies each value by. For looking at; it is slow."""
        ...


@register
@dataclass(frozen=True)
class SoftmaxAttention:
    """Multi-head softmax attention (Vaswani et al. 2017, arXiv 1706.03762) with normalised queries and keys.

    Args:
        heads: number of heads; None takes one head for every `head_width` channels.
        head_width: channels per head when `heads` is None. Few wide heads cost the same arithmetic as many narrow ones
            and far less time.
    """

    heads: int | None = None
    head_width: int = 64

    def build(self, channels: int) -> nn.Module:
        return _SoftmaxAttention(channels, heads_for(channels, self.heads, self.head_width))

    def products(self, width: int) -> TokenProducts:
        return SoftmaxProducts(heads_for(width, self.heads, self.head_width))


@register
@dataclass(frozen=True)
class LinearAttention:
    """Multi-head linear attention (Katharopoulos et al. 2020, arXiv 2006.16236; softmax feature maps as in Shen et al.
    2021, arXiv 1812.01243): cost proportional to the number of positions.

    Args:
        heads: number of heads; None takes one head for every `head_width` channels.
        head_width: channels per head when `heads` is None.
    """

    heads: int | None = None
    head_width: int = 32

    def build(self, channels: int) -> nn.Module:
        return _LinearAttention(channels, heads_for(channels, self.heads, self.head_width))

    def products(self, width: int) -> TokenProducts:
        return LinearProducts(heads_for(width, self.heads, self.head_width))


@dataclass(frozen=True)
class SoftmaxProducts:
    """softmax(q k^T) v, for queries that carry their temperature."""

    heads: int
    scaled: bool = True

    def features(self, q: Tensor) -> Tensor:
        return q

    def key_features(self, k: Tensor, mask: Tensor | None) -> Tensor:
        return k

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        mask = None if mask is None else mask[:, None, None]
        if q.device.type == "cpu" and k.shape[2] <= CPU_PLAIN_LIMIT and not _fused_is_faster(q, k, v):
            if mask is None and q.dtype == torch.bfloat16 == v.dtype:
                # What is multiplied both ways would be copied for each product, by compilers in both orders.
                out: Tensor = _PlainAttention.apply(*(y.contiguous() for y in (q, k.to(q.dtype), v)))
                return out.transpose(1, 2)
            logits = (q @ k.transpose(-1, -2)).float()
            logits = logits if mask is None else logits.masked_fill(~mask, float("-inf"))
            return (logits.softmax(dim=-1).to(v.dtype) @ v).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), mask, scale=1.0).transpose(1, 2)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        logits = (q.transpose(1, 2) @ k.permute(0, 2, 3, 1).to(q.dtype)).float()
        logits = logits if mask is None else logits.masked_fill(~mask[:, None, None], float("-inf"))
        return logits.softmax(dim=-1)


@dataclass(frozen=True)
class LinearProducts:
    """q (k^T v): cost proportional to the number of tokens."""

    heads: int
    scaled: bool = False

    def features(self, q: Tensor) -> Tensor:
        return q.float().softmax(dim=-1)

    def key_features(self, k: Tensor, mask: Tensor | None) -> Tensor:
        k = k.float()
        k = k if mask is None else k.masked_fill(~mask[:, :, None, None], float("-inf"))
        return k.softmax(dim=1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (y.transpose(1, 2) for y in (q.to(v.dtype), k.to(v.dtype), v))
        return (q @ (k.transpose(-1, -2) @ v)).transpose(1, 2)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        # Over the tokens of a condition a distribution too: of a key's features, each sums to 1 over the tokens.
        return q.float().transpose(1, 2) @ k.float().permute(0, 2, 3, 1)


def heads_for(channels: int, heads: int | None, head_width: int) -> int:
    """Number of heads: as given, or one for every `head_width` channels, dividing `channels`."""
    if heads is None:
        limit = max(1, round(channels / head_width))
        return next(count for count in range(limit, 0, -1) if channels % count == 0)
    if heads < 1 or channels % heads:
        raise ValueError(f"{channels} channels cannot be split into {heads} heads; choose a divisor of {channels}")
    return heads


class _SelfAttention(nn.Module):
    """Norm, projections and residual shared by both kinds; `mix` does the rest.

    With `identity` every position sees itself only (`kakusan.nn.perturbed`).
    """

    identity: bool = False

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        if channels_lie_last(x):
            tokens = _pointwise(self.qkv, as_tokens(self.norm(x))).unflatten(-1, (3, self.heads, -1))
            tokens = tokens.select(2, 2) if self.identity else self.mix_tokens(tokens)
            return x + as_map(_pointwise(self.out, tokens.flatten(2)), x)
        qkv = self.qkv(self.norm(x).flatten(2))
        q, k, v = qkv.view(batch, 3, self.heads, channels // self.heads, -1).unbind(1)
        mixed = v if self.identity else self.mix(q, k, v)
        out: Tensor = x + self.out(mixed.reshape(batch, channels, -1)).view(x.shape)
        return out

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each (B, heads, d, L)."""
        raise NotImplementedError

    def mix_tokens(self, qkv: Tensor) -> Tensor:
        """The same of tokens (B, L, 3, heads, d) -> (B, L, heads, d)."""
        raise NotImplementedError


def _pointwise(layer: nn.Conv1d, tokens: Tensor) -> Tensor:
    """A convolution with a kernel of 1, on tokens (B, L, C)."""
    return F.linear(tokens, layer.weight.squeeze(-1), layer.bias)


class _SoftmaxAttention(_SelfAttention):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        # One learned temperature per head replaces 1 / sqrt(d), which has no meaning for unit vectors.
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), 0.5 * math.log(channels / heads)))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = _unit(q, self.log_scale.exp())
        k = _unit(k)
        positions = q.shape[-1]
        if q.device.type == "cpu" and positions <= CPU_PLAIN_LIMIT:
            logits = (q.transpose(-1, -2) @ k).float()
            # This order leaves the gradient of the matrix as its softmax wants it, without a copy.
            return (logits.softmax(dim=-1).to(v.dtype) @ v.transpose(-1, -2)).transpose(-1, -2)
        # The fused kernels want features side by side; otherwise torch quietly takes the plain one.
        q, k, v = (y.transpose(-1, -2).contiguous() for y in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(-1, -2)

    def mix_tokens(self, qkv: Tensor) -> Tensor:
        both, v = qkv.split((2, 1), dim=2)
        scale = self.log_scale.exp().view(self.heads, 1)
        q, k = units(both, torch.stack([scale, torch.ones_like(scale)]), eps=UNIT_EPS).unbind(2)
        return SoftmaxProducts(self.heads).mix(q, k, v.squeeze(2), None)


class _LinearAttention(_SelfAttention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Both softmaxes in float32: over features for queries, over positions for keys.
        q = q.float().softmax(dim=-2).to(v.dtype)
        k = k.float().softmax(dim=-1).to(v.dtype)
        return (v @ k.transpose(-1, -2)) @ q

    def mix_tokens(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.unbind(2)
        products = LinearProducts(self.heads)
        return products.mix(products.features(q), products.key_features(k, None), v, None)


class _PlainAttention(torch.autograd.Function):
    """softmax(q k^T) v of bfloat16 (B, heads, L, d), with float32 sums and the weights kept as they are multiplied.

    The derivative by itself keeps them in float32 too, three times the memory, and turns the gradient of the keys.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with full_precision(q):
            weights = _weights(q, k)
            out = weights @ v
        ctx.save_for_backward(q, k, v, weights)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        if torch.is_grad_enabled():
            # A derivative of this derivative is wanted, and the weights are functions of queries and keys.
            weights = _weights(q, k)
        # A private name of torch: the derivative of its softmax, in one pass.
        logits = torch._softmax_backward_data(gradient @ v.mT, weights, -1, weights.dtype)
        return logits @ k, logits.mT @ q, weights.mT @ gradient


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT).softmax(dim=-1)


def _fused_is_faster(*operands: Tensor) -> bool:
    """Whether the fused kernel is faster at any length: on CPUs that multiply tiles of bfloat16, without a gradient.

    There it took half the time of the plain path, and its backward pass twice.
    """
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    return operands[0].dtype == torch.bfloat16 and not recorded and MULTIPLIES_TILES


def _unit(x: Tensor, length: Tensor | float = 1.0) -> Tensor:
    """Vectors of some length along the features (B, heads, d, L), norm in float32."""
    squared = x.float().square().sum(dim=-2, keepdim=True)
    return x * ((squared + UNIT_EPS).rsqrt() * length).to(x.dtype)


def units(x: Tensor, length: Tensor, *, eps: float) -> Tensor:
    """Vectors of some length along the last axis.

    Args:
        x: (..., d).
        length: of a shape that expands to (..., 1).
        eps: added to squares.
    """
    if torch.compiler.is_compiling():
        return x * ((_dot(x.to(length.dtype), x, length.dtype) + eps).rsqrt() * length).to(x.dtype)
    out: Tensor = _Units.apply(x, length, eps)[0]
    return out


class _Units(torch.autograd.Function):
    """`units` with few passes over memory."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, length: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        inverse = (_dot(x, x, length.dtype) + eps).rsqrt()
        return x * (inverse * length).to(x.dtype), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        x, length, ctx.eps = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, length, output[1])
        ctx.save_for_forward(x, length, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        x, length, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():
            # A derivative of this derivative is wanted, and the factor is a function of x.
            inverse = (_dot(x, x, length.dtype) + ctx.eps).rsqrt()
        along = inverse * _dot(gradient, x, length.dtype)
        slope, back = inverse * length, inverse.square() * along * length
        change = torch.addcmul(gradient * slope.to(x.dtype), x, back.to(x.dtype), value=-1.0)
        return change, along.sum_to_size(length.shape), None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, length_tangent: Tensor | None, _: None) -> tuple[Tensor, None]:
        x, length, inverse = ctx.saved_tensors
        wide = x.to(length.dtype)
        change = torch.zeros_like(wide)
        if x_tangent is not None:
            tangent = x_tangent.to(length.dtype)
            dot = (tangent * wide).sum(dim=-1, keepdim=True)
            change = change + length * inverse * (tangent - inverse.square() * dot * wide)
        if length_tangent is not None:
            change = change + length_tangent * inverse * wide
        return change.to(x.dtype), None


def _dot(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., d) each -> (..., 1)."""
    return (a * b).sum(dim=-1, keepdim=True, dtype=dtype)
