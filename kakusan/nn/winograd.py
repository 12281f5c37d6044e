"""3x3 convolution by minimal filtering F(4x4, 3x3): a quarter of the multiplications, made of matrix products alone.

Winograd 1980 and Lavin & Gray 2015 (arXiv 1509.09308): a tile of 4x4 outputs is a bilinear form with 6x6 products in
place of 144. Per axis, `y = A ((G w) * (K x))` with `*` elementwise; over both axes and all channels the elementwise
products become 36 matrix products. oneDNN has no such algorithm for AVX2 in float32, and its direct convolution runs
near the peak already, so fewer multiplications are the only way to be faster there. The arithmetic counted for such a
layer everywhere in this project is that of the direct form.

The transforms are matrix products too: a block of tiles along one axis is one small banded matrix, zero padding
included. Taking operands transposed, which costs a matrix product nothing, moves the axes to where the next product
wants them, so pictures go in and come out as (B, C, H, W) and nothing is ever rearranged:

    x (B C H, W) -> (tile_w, j, B C, H) -> V (tile_w, j, i, tile_h, B, C) -> M (..., C_out) -> ... -> y (B C_out H, W)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Interpolation points beside infinity; this set rounds about half as badly as the usual 0, 1, -1, 2, -2
# (Barabasz et al. 2020, arXiv 1803.10986).
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
OUTPUTS = 4
TAPS = 3
PRODUCTS = OUTPUTS + TAPS - 1
# The point 1: its transform back is constant over the tile, so the bias is added to this product alone.
CONSTANT = PRODUCTS * 1 + 1
# Tiles in one block of an axis. A banded matrix over the whole axis would multiply mostly zeros.
TILES = 4
# Maps up to this side are transformed along both axes at once, by one matrix over the whole map. It multiplies more,
# but matrix products with 8 columns run so slowly that this is faster.
WHOLE_SIDE = 8


# Below these the transforms cost more than the products save (measured on AVX2): channels in and out are compared by
# their harmonic mean, work by the positions of the whole batch.
LEAST_CHANNELS = 64
LEAST_SIDE = 8
LEAST_POSITIONS = 2048

_allowed: bool | None = None


def allow(value: bool | None) -> None:
    """Allow or forbid the fast algorithm in this process; None allows it where it is known to be faster."""
    global _allowed
    _allowed = value


def allowed() -> bool:
    """Whether the fast algorithm may be used in this process.

    CPUs with AVX-512 have faster direct convolutions (and bfloat16), so only AVX2 is known to gain.
    """
    return _allowed if _allowed is not None else torch.backends.cpu.get_cpu_capability() == "AVX2"


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether training with `convolution` is faster than with the direct one for these operands.

    Only while gradients are recorded: sampling keeps the direct algorithm, whose rounding is smaller and the same for
    every batch size.
    """
    channels = weight.shape[0] * weight.shape[1] / (weight.shape[0] + weight.shape[1])
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and 2 * channels >= LEAST_CHANNELS
        and min(x.shape[2:]) >= LEAST_SIDE
        and x.shape[0] * x.shape[2] * x.shape[3] >= LEAST_POSITIONS
        and weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and allowed()
    )


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What `F.conv2d(x, weight, bias, padding=1)` computes, to about 1e-5 of the size of the output.

    Derivatives of every order and the `torch.func` transforms work; beyond the plain first derivative they run through
    the direct convolution.

    Args:
        x: (B, C, H, W) float32 or float64.
        weight: (C_out, C, 3, 3).
        bias: (C_out,).

    Returns:
        (B, C_out, H, W).
    """
    out: Tensor = _Convolution.apply(x, weight, bias)
    return out


@dataclass(frozen=True)
class _Block:
    """Some tiles along one axis: which inputs they read, which outputs they make, and the two transforms.

    `inputs` (6 tiles, reads) and `outputs` (makes, 6 tiles).
    """

    tiles: int
    reads: slice
    makes: slice
    inputs: Tensor
    outputs: Tensor


def _polynomial(roots: tuple[float, ...]) -> Tensor:
    """Coefficients of prod (z - root), from the constant term up."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        shifted = torch.cat([coefficients.new_zeros(1), coefficients])
        coefficients = shifted - root * torch.cat([coefficients, coefficients.new_zeros(1)])
    return coefficients


def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Transforms of inputs (6, 6), filters (6, 3) and outputs (4, 6) along one axis, float64."""
    inputs = torch.zeros(PRODUCTS, PRODUCTS, dtype=torch.float64)
    filters = torch.zeros(PRODUCTS, TAPS, dtype=torch.float64)
    outputs = torch.zeros(OUTPUTS, PRODUCTS, dtype=torch.float64)
    for row, point in enumerate(POINTS):
        others = tuple(p for p in POINTS if p != point)
        norm = 1.0
        for other in others:
            norm *= point - other
        inputs[row, :-1] = _polynomial(others)
        filters[row] = torch.tensor([point**k / norm for k in range(TAPS)], dtype=torch.float64)
        outputs[:, row] = torch.tensor([point**k for k in range(OUTPUTS)], dtype=torch.float64)
    inputs[-1] = _polynomial(POINTS)
    filters[-1, -1] = 1.0
    outputs[-1, -1] = 1.0
    return inputs, filters, outputs


@functools.cache
def _filters(dtype: torch.dtype) -> Tensor:
    """Transform of the filter over both axes, (j i, 9); the 9 taps lie row by row, as in a weight."""
    filters = _matrices()[1]
    return torch.einsum("jw,ih->jihw", filters, filters).reshape(PRODUCTS**2, TAPS**2).to(dtype)


@functools.cache
def _whole(height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Both transforms of a whole map: inputs (j i tile_w tile_h, H W) and outputs (H W, j i tile_w tile_h)."""
    inputs, _, outputs = _matrices()
    into, back = [], []
    for side in (height, width):
        tiles = -(-side // OUTPUTS)
        reads = torch.zeros(PRODUCTS, tiles, OUTPUTS * tiles + 2, dtype=torch.float64)
        makes = torch.zeros(OUTPUTS * tiles, PRODUCTS, tiles, dtype=torch.float64)
        for tile in range(tiles):
            reads[:, tile, OUTPUTS * tile : OUTPUTS * tile + PRODUCTS] = inputs
            makes[OUTPUTS * tile : OUTPUTS * (tile + 1), :, tile] = outputs
        into.append(reads[..., 1 : side + 1])
        back.append(makes[:side])
    both_into = torch.einsum("ith,jsw->jisthw", *into).reshape(-1, height * width)
    both_back = torch.einsum("hit,wjs->hwjist", *back).reshape(height * width, -1)
    return both_into.to(dtype).contiguous(), both_back.to(dtype).contiguous()


@functools.cache
def _blocks(side: int, product_first: bool, dtype: torch.dtype) -> tuple[_Block, ...]:
    """The blocks of an axis of `side` positions; rows are ordered (product, tile) or (tile, product)."""
    inputs, _, outputs = _matrices()
    blocks = []
    for first in range(0, side, OUTPUTS * TILES):
        last = min(side, first + OUTPUTS * TILES)
        tiles = -(-(last - first) // OUTPUTS)
        reads = slice(max(0, first - 1), min(side, last + 1))
        into = torch.zeros(tiles, PRODUCTS, reads.stop - reads.start, dtype=torch.float64)
        back = torch.zeros(last - first, tiles, PRODUCTS, dtype=torch.float64)
        for tile in range(tiles):
            for tap in range(PRODUCTS):
                position = first + OUTPUTS * tile - 1 + tap
                if reads.start <= position < reads.stop:
                    into[tile, :, position - reads.start] = inputs[:, tap]
            rows = back[OUTPUTS * tile : OUTPUTS * (tile + 1), tile]
            rows += outputs[: len(rows)]
        if product_first:
            into, back = into.transpose(0, 1), back.transpose(1, 2)
        into = into.reshape(PRODUCTS * tiles, -1).to(dtype).contiguous()
        back = back.reshape(last - first, -1).to(dtype).contiguous()
        blocks.append(_Block(tiles, reads, slice(first, last), into, back))
    return tuple(blocks)


class _Convolution(torch.autograd.Function):
    """The bilinear form and its adjoints."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous()
        filters = _transform(weight).transpose(1, 2)
        batch, _, height, width = x.shape
        if max(height, width) <= WHOLE_SIDE:
            return _forward_whole(x, filters, bias)
        y = x.new_empty(batch, len(weight), height, width)
        for across in _blocks(width, False, x.dtype):
            x_lines = _to_lines(x, across.inputs, across.reads)
            y_lines = y.new_empty(len(x_lines), batch * len(weight), height)
            for down in _blocks(height, True, x.dtype):
                tiles = _to_products(x_lines[..., down.reads], down.inputs, batch)
                products = tiles.new_empty(*tiles.shape[:3], len(weight))
                for tile, product in zip(tiles, products, strict=True):
                    torch.bmm(tile, filters, out=product)
                products[:, CONSTANT] += bias
                _from_products(products, down.outputs, y_lines[..., down.makes], beta=0)
            _from_lines(y_lines, across.outputs, y, across.makes, beta=0)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            # A derivative of this derivative is wanted: the direct form has one.
            ones, mask = [1, 1], [True, True, True]
            return torch.ops.aten.convolution_backward(
                y_grad, x, weight, [len(weight)], ones, ones, ones, False, [0, 0], 1, mask
            )
        return _adjoints(x.contiguous(), weight, y_grad.contiguous())

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, weight_tangent: Tensor | None, bias_tangent: Tensor | None) -> Tensor:
        x, weight = ctx.saved_tensors
        out = x.new_zeros(len(x), len(weight), *x.shape[2:])
        if x_tangent is not None:
            out = out + F.conv2d(x_tangent, weight, padding=1)
        if weight_tangent is not None:
            out = out + F.conv2d(x, weight_tangent, padding=1)
        if bias_tangent is not None:
            out = out + bias_tangent[:, None, None]
        return out

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, int]:
        return torch.vmap(functools.partial(F.conv2d, padding=1), in_dims)(x, weight, bias), 0


def _adjoints(x: Tensor, weight: Tensor, y_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    filters = _transform(weight)
    batch, _, height, width = x.shape
    if max(height, width) <= WHOLE_SIDE:
        return _adjoints_whole(x, filters, y_grad)
    columns, rows = _blocks(width, False, x.dtype), _blocks(height, True, x.dtype)
    # Blocks read overlapping inputs, so their gradients add up; a single block needs no zeros to start from.
    beta_columns, beta_rows = int(len(columns) > 1), int(len(rows) > 1)
    x_grad = torch.zeros_like(x) if beta_columns else torch.empty_like(x)
    filters_grad = torch.zeros_like(filters)
    bias_grad = torch.zeros_like(weight[:, 0, 0, 0])
    for across in columns:
        x_lines = _to_lines(x, across.inputs, across.reads)
        y_lines = _to_lines(y_grad, across.outputs.t(), across.makes)
        lines_grad = torch.zeros_like(x_lines) if beta_rows else torch.empty_like(x_lines)
        for down in rows:
            tiles = _to_products(x_lines[..., down.reads], down.inputs, batch)
            products = _to_products(y_lines[..., down.makes], down.outputs.t(), batch)
            bias_grad += products[:, CONSTANT].sum((0, 1))
            for tile, product in zip(tiles, products, strict=True):
                filters_grad.baddbmm_(product.transpose(1, 2), tile)
                torch.bmm(product, filters, out=tile)
            _from_products(tiles, down.inputs.t(), lines_grad[..., down.reads], beta=beta_rows)
        _from_lines(lines_grad, across.inputs.t(), x_grad, across.reads, beta=beta_columns)
    return x_grad, _transform_adjoint(filters_grad), bias_grad


def _forward_whole(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """As `_Convolution.forward`, for small maps; filters (j i, C, C_out)."""
    batch, channels, height, width = x.shape
    inputs, outputs = _whole(height, width, x.dtype)
    tiles = (inputs @ x.view(-1, height * width).t()).view(PRODUCTS**2, -1, channels)
    products = tiles @ filters
    products[CONSTANT] += bias
    return (products.view(len(inputs), -1).t() @ outputs.t()).view(batch, -1, height, width)


def _adjoints_whole(x: Tensor, filters: Tensor, y_grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_adjoints`, for small maps; filters (j i, C_out, C)."""
    _, channels, height, width = x.shape
    inputs, outputs = _whole(height, width, x.dtype)
    tiles = (inputs @ x.view(-1, height * width).t()).view(PRODUCTS**2, -1, channels)
    products = (outputs.t() @ y_grad.view(-1, height * width).t()).view(PRODUCTS**2, -1, y_grad.shape[1])
    filters_grad = products.transpose(1, 2) @ tiles
    torch.bmm(products, filters, out=tiles)
    x_grad = (tiles.view(len(inputs), -1).t() @ inputs).view(x.shape)
    return x_grad, _transform_adjoint(filters_grad), products[CONSTANT].sum(0)


def _transform(weight: Tensor) -> Tensor:
    """(C_out, C, 3, 3) -> (j i, C_out, C)."""
    taps = weight.reshape(-1, TAPS**2).t()
    return (_filters(weight.dtype) @ taps).view(-1, *weight.shape[:2])


def _transform_adjoint(filters: Tensor) -> Tensor:
    """(j i, C_out, C) -> (C_out, C, 3, 3)."""
    taps = filters.flatten(1).t() @ _filters(filters.dtype)
    return taps.view(*filters.shape[1:], TAPS, TAPS)


def _to_lines(x: Tensor, transform: Tensor, columns: slice) -> Tensor:
    """(B, C, H, W) -> (tile_w j, B C, H)."""
    rows = x.view(-1, x.shape[-1])[:, columns]
    return torch.mm(transform, rows.t()).view(len(transform), -1, x.shape[-2])


def _from_lines(lines: Tensor, transform: Tensor, x: Tensor, columns: slice, *, beta: int) -> None:
    """(tile_w j, B C, H) -> some columns of x (B, C, H, W), onto what is there times `beta`."""
    x.view(-1, x.shape[-1])[:, columns].addmm_(lines.flatten(1).t(), transform.t(), beta=beta)


def _to_products(lines: Tensor, transform: Tensor, batch: int) -> Tensor:
    """(tile_w j, B C, h) -> (tile_w, j i, tile_h B, C)."""
    batched = transform.expand(len(lines), *transform.shape)
    channels = lines.shape[1] // batch
    return torch.bmm(batched, lines.transpose(1, 2)).view(len(lines) // PRODUCTS, PRODUCTS**2, -1, channels)


def _from_products(products: Tensor, transform: Tensor, lines: Tensor, *, beta: int) -> None:
    """(tile_w, j i, tile_h B, C) -> lines (tile_w j, B C, h), onto what is there times `beta`."""
    stacked = products.view(len(lines), transform.shape[1], -1).transpose(1, 2)
    back = transform.t().expand(len(lines), *transform.t().shape)
    if beta:
        lines.baddbmm_(stacked, back)
    else:
        torch.bmm(stacked, back, out=lines)
