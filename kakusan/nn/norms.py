"""Normalisation layers, with float32 statistics whatever autocast does.

`AdaptiveGroupNorm` is where the noise level and the condition enter a backbone.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn.layout import as_tokens, channels_lie_last, over

MAX_GROUPS = 32
MIN_CHANNELS_PER_GROUP = 4
# From here on torch's kernel for channels last goes through memory in its order (ATen, group_norm_kernel.cpp).
NATIVE_PLACES = 1024
# Sums of bfloat16 are made in parts: of so many places at least, and so many at most.
LEAST_ROWS, MOST_PARTS = 16, 16


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast leaves float32 alone, on the device of `x`."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def group_count(channels: int) -> int:
    """Number of groups for group norm: at most 32, at least 4 channels in each, dividing `channels`."""
    limit = max(1, min(MAX_GROUPS, channels // MIN_CHANNELS_PER_GROUP))
    return next(groups for groups in range(limit, 0, -1) if channels % groups == 0)


class GroupNorm(nn.Module):
    """Group norm (Wu & He 2018, arXiv 1803.08494) with a learned scale and shift per channel.

    `forward`: (B, C, *spatial) -> same shape and dtype.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = group_count(channels)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return _per_sample_group_norm(x, self.groups, self.weight, self.bias, self.eps)


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are given per sample (Dhariwal & Nichol 2021, arXiv 2105.05233, section 3).

    `forward(x, modulation)`: x (B, C, *spatial), modulation (B or 1, 2 C) holding scale then shift ->
    `(1 + scale) * normalised(x) + shift`, same shape and dtype as x. There is no other learned part: a fixed scale and
    shift would only repeat the bias of the layer that makes `modulation`.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.groups = group_count(channels)
        self.eps = eps

    @property
    def modulation_width(self) -> int:
        """Numbers wanted per sample."""
        return 2 * self.channels

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation.float().chunk(2, dim=1)
        return _per_sample_group_norm(x, self.groups, 1.0 + scale, shift, self.eps)


def _per_sample_group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm with `weight` and `bias` of shape (C,), (1, C) or (B, C).

    The batch is folded into the channels, so the native kernel takes one weight for each (sample, channel): the
    modulation then costs no pass over memory of its own, forward or backward. On the CPU that kernel reads and writes
    bfloat16 with sums and parameters in float32: as exact as a float32 copy that is rounded, in a third of the time.
    """
    batch, channels = x.shape[:2]
    if x.device.type == "cpu" and channels_lie_last(x):
        with full_precision(x):
            wide = torch.promote_types(x.dtype, torch.float32)
            weight, bias = (y.view(-1, channels).to(wide) for y in (weight, bias))
            if torch.compiler.is_compiling():
                last: Tensor = _TracedGroupNorm.apply(x, weight, bias, groups, eps)
            else:
                last = _LastGroupNorm.apply(x, weight, bias, groups, eps)[0]
        return last
    weight = weight.expand(batch, channels).reshape(-1)
    bias = bias.expand(batch, channels).reshape(-1)
    folded = x.reshape(1, batch * channels, -1)
    if not (x.device.type == "cpu" and x.dtype == torch.bfloat16 and weight.dtype == torch.float32):
        folded = folded.float()
    with full_precision(x):
        folded = F.group_norm(folded, batch * groups, weight, bias, eps)
    return folded.view(x.shape).to(x.dtype)


class _LastGroupNorm(torch.autograd.Function):
    """Group norm of a map (B, C, *spatial) whose channels lie last, with weight and bias (B or 1, C).

    torch's own kernel takes one weight for all samples, and its backward pass takes twelve times as long as with
    channels first. Here every pass over memory is a sum over places, or a product with one number for each sample and
    channel; both are fast along neighbouring channels.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        places = x.shape[2:].numel()
        if x.dtype == torch.bfloat16 and places >= NATIVE_PLACES:
            plain = torch.ones_like(weight[0]), torch.zeros_like(bias[0])
            own = (weight[0], bias[0]) if len(weight) == 1 else plain
            out, mean, inverse = torch.native_group_norm(x, *own, len(x), x.shape[1], places, groups, eps)
            if len(weight) > 1:
                out = torch.addcmul(over(bias.to(x.dtype), x), out, over(weight.to(x.dtype), x))
            mean, inverse = (y.repeat_interleave(x.shape[1] // groups, dim=1) for y in (mean, inverse))
            return out, mean, inverse
        return _normalised(x, weight, bias, groups, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight, _, ctx.groups, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])
        ctx.save_for_forward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():
            # A derivative of this derivative is wanted, and the moments are functions of x.
            mean, inverse = _moments(x, weight.dtype, ctx.groups, ctx.eps)
        return *_derivatives(gradient, x, weight, mean, inverse, ctx.groups), None, None

    @staticmethod
    def jvp(
        ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None, *_: None
    ) -> tuple[Tensor, None, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        unit = (x.to(weight.dtype) - over(mean, x)) * over(inverse, x)
        change = torch.zeros_like(unit)
        if x_tangent is not None:
            tangent = x_tangent.to(weight.dtype)
            sums = _sums(tangent, weight.dtype), _sums(tangent * unit, weight.dtype)
            level, along = (over(_group_means(y, ctx.groups) / x.shape[2:].numel(), x) for y in sums)
            change = change + (tangent - level - unit * along) * over(inverse * weight, x)
        if weight_tangent is not None:
            change = change + unit * over(weight_tangent, x)
        if bias_tangent is not None:
            change = change + over(bias_tangent, x)
        return change.to(x.dtype), None, None


class _TracedGroupNorm(torch.autograd.Function):
    """`_LastGroupNorm` for compilers, which do not look into it, and fuse what is done in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        out, mean, inverse = _normalised(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.groups = groups
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        wide = weight.dtype
        change, scale, shift = _derivatives(gradient.to(wide), x.to(wide), weight, mean, inverse, ctx.groups)
        return change.to(x.dtype), scale, shift, None, None


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, inverse = _moments(x, weight.dtype, groups, eps)
    if x.dtype != torch.bfloat16:
        centred = x.to(weight.dtype) - over(mean, x)
        return torch.addcmul(over(bias, x), centred, over(inverse * weight, x)), mean, inverse
    # Of eight bits nothing is lost without taking the mean away first, and that would be a pass more.
    scale = inverse * weight
    out = torch.addcmul(over(bias - mean * scale, x), x.to(weight.dtype), over(scale, x))
    return out.to(x.dtype), mean, inverse


def _derivatives(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    places = x.shape[2:].numel()
    # Of channels far from zero, bfloat16 products with x itself would hold little but their mean. What rounding of the
    # mean leaves is known, and goes into the sums.
    middle = mean.to(x.dtype)
    rest = middle.to(mean.dtype) - mean
    centred = x - over(middle, x)
    shift = _sums(gradient, weight.dtype)
    scale = (_sums(gradient * centred, weight.dtype) + rest * shift) * inverse
    # gradient * weight / std, less what of it is constant over the group and what is along the normalised x.
    along = -_group_means(scale * weight, groups) / places * inverse.square()
    level = along * rest - _group_means(shift * weight, groups) / places * inverse
    level, along, slope = (over(y.to(x.dtype), x) for y in (level, along, inverse * weight))
    change = torch.addcmul(torch.addcmul(level, centred, along), gradient, slope)
    return change, scale.sum_to_size(weight.shape), shift.sum_to_size(weight.shape)


def _moments(x: Tensor, dtype: torch.dtype, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation of its group for every sample and channel, (B, C) each, of `dtype`."""
    places, wide = x.shape[2:].numel(), x.to(dtype)
    mean = _group_means(_sums(wide, dtype), groups) / places
    if x.dtype == torch.bfloat16:
        # What the difference of two float32 numbers loses, its eight bits never held.
        square = _group_means(_sums(wide * wide, dtype), groups) / places
        variance = (square - mean.square()).clamp(min=0.0)
    else:
        variance = _group_means(_sums((wide - over(mean, x)).square(), dtype), groups) / places
    return mean, (variance + eps).rsqrt()


def _sums(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums over the places of a map whose channels lie last, (B, C)."""
    tokens = as_tokens(x)
    if x.dtype == dtype:
        return tokens.sum(dim=1)
    # torch adds up bfloat16 in float32 and rounds the result, several times as fast as it adds into float32. The
    # rounding of many parts evens out.
    rows = max(LEAST_ROWS, -(-tokens.shape[1] // MOST_PARTS))
    if tokens.shape[1] % rows:
        return tokens.sum(dim=1, dtype=dtype)
    return tokens.unflatten(1, (-1, rows)).sum(dim=2).sum(dim=1, dtype=dtype)


def _group_means(x: Tensor, groups: int) -> Tensor:
    """(B, C), each replaced by the mean over its group.

    As a product, whose result compilers must write down: what they fuse of a mean spread over its group, they compute
    one number after the other, for every place.
    """
    group = torch.arange(x.shape[1], device=x.device) // (x.shape[1] // groups)
    return x @ ((group == group[:, None]).to(x.dtype) * (groups / x.shape[1]))
