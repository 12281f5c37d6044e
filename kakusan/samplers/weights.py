"""Weights of multistep methods: exact integrals of the polynomial through past evaluations, for any spacing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kakusan.levels import Scalar

Array = NDArray[np.float64]
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def as_array(value: Scalar) -> Array:
    """A float as shape (1,), a tensor of levels as (B,)."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", torch.float64).reshape(-1).numpy()
    return np.array([value], dtype=np.float64)


def from_array(value: Array, like: Scalar) -> Scalar:
    """Back to a float, or to a tensor shaped like the level it came from."""
    if isinstance(like, Tensor):
        return torch.from_numpy(np.broadcast_to(value, (like.numel(),)).copy()).view(like.shape).to(like.device)
    return float(value[0])


def solve(nodes: Sequence[Array], moments: Sequence[Array]) -> list[Array]:
    """w_j with sum_j w_j nodes_j^k = moments_k for k below the number of nodes; each entry (1,) or (B,)."""
    points = np.stack(np.broadcast_arrays(*nodes), -1)
    right = np.stack(np.broadcast_arrays(*moments), -1)
    matrix = points[..., None, :] ** np.arange(len(nodes))[:, None]
    return list(np.moveaxis(np.linalg.solve(matrix, right[..., None])[..., 0], -1, 0))


def exponential_moments(h: Array, count: int, rate: float) -> list[Array]:
    """rate * h * integral over [0, 1] of exp(-rate h (1 - x)) x^k dx for k = 0 ... count - 1."""
    step = rate * h
    small = np.abs(step) < 1.0
    x = 0.5 * (_POINTS + 1.0)
    found = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        kernel = step[:, None] * np.exp(-step[:, None] * (1.0 - x)) * 0.5 * _WEIGHTS
        # Integration by parts, which loses its digits when the step is small: there the quadrature is exact.
        closed = -np.expm1(-step)
        for k in range(count):
            if k:
                closed = 1.0 - k * closed / step
            found.append(np.where(small, (kernel * x**k).sum(-1), closed))
    return found


def polynomial_moments(count: int) -> list[Array]:
    """Integral over [0, 1] of x^k."""
    return [np.array([1.0 / (k + 1)]) for k in range(count)]
