"""Positions on grids of any rank: rotations of pairs of features (rotary), and fixed sines and cosines.

Rotary positions (Su et al. 2021, arXiv 2104.09864) turn the i-th pair of features of queries and keys by an angle
proportional to the position, so their products depend on differences of positions only. On a grid each axis owns a
share of the pairs (axial, as in Heo et al. 2024, arXiv 2403.13298, whose base of 100 suits grids of tens of patches).
A pair is two neighbouring features: it is then one complex number, and a rotation one product.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6
BASE = 100.0
SINE_BASE = 10000.0


def rotations(grid: Sequence[int], pairs: int, device: torch.device) -> Tensor:
    """Cosines and sines of the angles at every place of a grid.

    Args:
        grid: places along each axis.
        pairs: pairs of features in a head, shared out between the axes as evenly as possible.
        device: where the table shall be.

    Returns:
        (places, pairs, 2) float32, places in row-major order; cosine, then sine.

    Raises:
        ValueError: fewer pairs than axes.
    """
    check_pairs(pairs, len(grid))
    return _kept(_rotations)(tuple(grid), pairs, device)


def _kept(table: Any) -> Any:
    """A cached function; compilers, which look through caches and warn of it, get what it wraps."""
    return table.__wrapped__ if torch.compiler.is_compiling() else table


def check_pairs(pairs: int, rank: int) -> None:
    """Raise unless every axis has a pair of features of each head."""
    if pairs < rank:
        raise ValueError(f"{rank} axes need heads at least {2 * rank} wide, got {2 * pairs}")


@functools.lru_cache(maxsize=32)
def _rotations(grid: tuple[int, ...], pairs: int, device: torch.device) -> Tensor:
    # A table first wanted while sampling may later be saved for a backward pass.
    with torch.inference_mode(False):
        parts = []
        for axis, side in enumerate(grid):
            share = pairs // len(grid) + (axis < pairs % len(grid))
            frequencies = BASE ** -(torch.arange(share, dtype=torch.float64, device="cpu") / share)
            angles = _along(axis, grid, torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * frequencies)
            parts.append(angles)
        whole = torch.cat(parts, dim=1)
        return torch.stack([whole.cos(), whole.sin()], dim=-1).float().to(device)


def sines(grid: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Fixed features of every place of a grid (Vaswani et al. 2017, arXiv 1706.03762), a share of them for each axis.

    Returns:
        (places, width) float32; features that no axis owns are zero.
    """
    return _kept(_sines)(tuple(grid), width, device)


@functools.lru_cache(maxsize=32)
def _sines(grid: tuple[int, ...], width: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        share = width // (2 * len(grid))
        frequencies = SINE_BASE ** -(torch.arange(share, dtype=torch.float64, device="cpu") / max(1, share))
        parts = []
        for axis, side in enumerate(grid):
            angles = torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * frequencies
            parts += [_along(axis, grid, part) for part in (angles.sin(), angles.cos())]
        whole = torch.cat(parts, dim=1)
        return torch.nn.functional.pad(whole, (0, width - whole.shape[1])).float().to(device)


def _along(axis: int, grid: tuple[int, ...], values: Tensor) -> Tensor:
    """Values (side, n) of the places along one axis -> (all places, n)."""
    shape = [1] * len(grid) + [values.shape[1]]
    shape[axis] = values.shape[0]
    return values.view(shape).expand(*grid, values.shape[1]).reshape(-1, values.shape[1])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn every pair of features.

    Args:
        x: (B, L, heads, 2 pairs).
        rotation: (L, pairs, 2), or (B, L, pairs, 2) where samples hold different places.

    Returns:
        the shape and dtype of x.
    """
    pairs = x.unflatten(-1, (-1, 2))
    turn = rotation.unsqueeze(-3)
    if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
        # A third of the time of the products written out.
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turn)).flatten(-2)
    first, second = pairs.unbind(-1)
    cos, sin = turn.to(x.dtype).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


def turned_units(x: Tensor, length: Tensor, rotation: Tensor) -> Tensor:
    """Vectors brought to root mean square 1, times `length`, every pair of their features turned.

    Args:
        x: (B, L, heads, 2 pairs).
        length: (heads, 1).
        rotation: (L, pairs, 2), or (B, L, pairs, 2) where samples hold different places.

    Returns:
        the shape and dtype of x.
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        turn = torch.view_as_complex(rotation.to(torch.promote_types(x.dtype, torch.float32))).unsqueeze(-2)
        out: Tensor = _TurnedUnits.apply(x, length, turn)[0]
        return out
    return rotate(F.rms_norm(x, x.shape[-1:], eps=EPS) * length.to(x.dtype), rotation)


def turned_halves(qkv: Tensor, lengths: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys as `turned_units` makes them, and values, of one product whose features lie apart by halves.

    For compilers, which make vectors of halves but not of pairs: one pass over memory each way.

    Args:
        qkv: (B, L, 3 * heads * 2 pairs), its features in the order of `as_halves`.
        lengths: (2 * heads, 1), of queries and of keys; not zero.
        rotation: as for `turned_units`.

    Returns:
        (B, L, heads, 2 pairs) each; queries and keys with the first features of all pairs before all second ones.
    """
    cos, sin = (part.contiguous().unsqueeze(-2) for part in rotation.unbind(-1))
    q, k, v = _TurnedHalves.apply(qkv, lengths, cos, sin)
    return q, k, v


def as_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows (3 * heads * 2 pairs, n) of the matrix that makes queries, keys and values, in another order.

    First the first features of all queries, then their second ones, likewise for keys, then the values. Products of
    queries and keys are the same in either order.
    """
    width = len(weight) // 3
    parts = weight[: 2 * width].view(2, heads, width // heads // 2, 2, -1).permute(0, 3, 1, 2, 4)
    return torch.cat([parts.reshape(2 * width, -1), weight[2 * width :]])


class _TurnedHalves(torch.autograd.Function):
    """`turned_halves`. What a compiler derives by itself reads and writes everything several times.

    Each half is rounded by itself, and the gradient put together once: compilers would write all parts in float32, and
    once more for each time they are put together.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, lengths: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *halves, v = _halves(qkv, len(lengths) // 2)
        made, pairs = [], halves[0].shape[-1]
        together = qkv[..., : -v.shape[-2:].numel()].unflatten(-1, (2, 2, -1, pairs)).to(cos.dtype)
        scales = (together.square().sum(dim=(-3, -1)) / (2 * pairs) + EPS).rsqrt().unsqueeze(-1).unbind(2)
        for pair, length, scale in zip((halves[:2], halves[2:]), lengths.chunk(2), scales, strict=True):
            first, second = (part.to(cos.dtype) * (scale * length) for part in pair)
            turned = (first * cos - second * sin, first * sin + second * cos)
            # Heads before positions in memory, as their products want them.
            made.append(torch.cat([half.to(qkv.dtype).transpose(1, 2) for half in turned], dim=-1).transpose(1, 2))
        ctx.save_for_backward(qkv, lengths, cos, sin, *scales, *made)
        return made[0], made[1], v.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        qkv, lengths, cos, sin, *saved = ctx.saved_tensors
        *halves, _ = _halves(qkv, len(lengths) // 2)
        changes, summed = [], []
        whole = zip(gradients[:2], (halves[:2], halves[2:]), lengths.chunk(2), saved[:2], saved[2:], strict=True)
        for gradient, pair, length, scale, made in whole:
            # Turning keeps products as they are, so what was made serves for what it was made of.
            dot = (gradient.to(cos.dtype) * made).sum(dim=-1, keepdim=True)
            along = scale.square() * dot / (2 * cos.shape[-1])
            first, second = gradient.to(cos.dtype).chunk(2, dim=-1)
            back = (first * cos + second * sin, second * cos - first * sin)
            for b, p in zip(back, pair, strict=True):
                changes.append((b * (scale * length) - p.to(cos.dtype) * along).to(qkv.dtype).flatten(2))
            summed.append(dot.flatten(0, -3).sum(0).to(lengths.dtype) / length)
        return torch.cat([*changes, gradients[2].flatten(2)], dim=-1), torch.cat(summed), None, None


def _halves(qkv: Tensor, heads: int) -> list[Tensor]:
    """First and second features of queries, of keys (B, L, heads, pairs), and values (B, L, heads, 2 pairs)."""
    half = qkv.shape[-1] // 6
    return [part.unflatten(-1, (heads, -1)) for part in qkv.split((half, half, half, half, 2 * half), dim=-1)]


class _TurnedUnits(torch.autograd.Function):
    """`turned_units` with few passes over memory: a pair is a complex number, and everything else is a factor of it.

    Written out, bfloat16 tokens took four times as long (a third of the whole step of a DiT).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, length: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.to(turn.real.dtype)
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = (size.square() / x.shape[-1] + EPS).rsqrt()
        return _real(_complex(wide * (scale * length)) * turn).to(x.dtype), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])
        ctx.save_for_forward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        x, length, turn, scale = ctx.saved_tensors
        wide = x.to(turn.real.dtype)
        if torch.is_grad_enabled():
            # A derivative of this derivative is wanted, and the scale is a function of x.
            scale = (wide.square().mean(dim=-1, keepdim=True) + EPS).rsqrt()
        back = _real(_complex(gradient.to(wide.dtype)) * turn.conj())
        dot = (back * wide).sum(dim=-1, keepdim=True)
        along = scale.pow(3) * dot * length / x.shape[-1]
        change = torch.addcmul(back * (scale * length), wide, along, value=-1.0)
        return change.to(x.dtype), (scale * dot).flatten(0, -3).sum(0).to(length.dtype), None

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, length_tangent: Tensor | None, _: None) -> tuple[Tensor, None]:
        x, length, turn, scale = ctx.saved_tensors
        wide = x.to(turn.real.dtype)
        change = torch.zeros_like(wide)
        if x_tangent is not None:
            tangent = x_tangent.to(wide.dtype)
            dot = (tangent * wide).sum(dim=-1, keepdim=True)
            change = change + length * (scale * tangent - scale.pow(3) * dot / x.shape[-1] * wide)
        if length_tangent is not None:
            change = change + length_tangent * scale * wide
        return _real(_complex(change) * turn).to(x.dtype), None


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x).flatten(-2)
