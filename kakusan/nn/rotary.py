"""Positions on grids of any rank: rotations of pairs of features (rotary), and fixed sines and cosines.

Rotary positions (Su et al. 2021, arXiv 2104.09864) turn the i-th pair of features of queries and keys by an angle
proportional to the position, so their products depend on differences of positions only. On a grid each axis owns a
share of the pairs (axial, as in Heo et al. 2024, arXiv 2403.13298, whose base of 100 suits grids of tens of patches).
A pair is two neighbouring features: it is then one complex number, and a rotation one product.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

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
    return _rotations(tuple(grid), pairs, device)


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
    return _sines(tuple(grid), width, device)


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
