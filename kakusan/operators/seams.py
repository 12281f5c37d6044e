"""Values that are known in some places, continued smoothly into the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ENOUGH = 1e-5
_MOST = 500


def continued(values: Tensor, known: Tensor, *, width: float = math.inf) -> Tensor:
    """The values where they are known; elsewhere the solution of `laplace(c) = c / width^2` that meets them.

    With a finite width the values die away into the unknown part, to about a third over so many pixels; without one
    they are as smooth as they can be (the membrane of Perez et al. 2003, "Poisson image editing"). Nothing flows over
    the border of the picture.

    Args:
        values: (B, C, *spatial).
        known: bool, broadcasts against one sample (C or 1, *spatial).
        width: in pixels, above 0.

    Raises:
        ValueError: a width that is not above 0, or no known place.
    """
    if not width > 0.0:
        raise ValueError(f"the width of a seam is above 0 pixels, got {width}")
    if not bool(known.any()):
        raise ValueError("nothing is known, so there is nothing to continue")
    free = (~known).to(values).expand(values.shape[1:])
    fixed = torch.where(known, values, torch.zeros_like(values))
    around = _neighbours(torch.ones_like(free).unsqueeze(0))
    diagonal = around + (0.0 if math.isinf(width) else width**-2)
    over = tuple(range(1, values.dim()))

    def apply(c: Tensor) -> Tensor:
        return (diagonal * c - _neighbours(c)) * free

    # Conjugate gradients: the equations of the unknown places are symmetric and positive.
    c = torch.zeros_like(values)
    rest = _neighbours(fixed) * free
    direction, size = rest, rest.square().sum(over, keepdim=True)
    enough = _ENOUGH**2 * size.clamp_min(1e-30)
    for _ in range(_MOST):
        going = size > enough
        if not bool(going.any()):
            break
        image = apply(direction)
        step = torch.where(going, size / (direction * image).sum(over, keepdim=True).clamp_min(1e-30), 0.0)
        c, rest = c + step * direction, rest - step * image
        following = rest.square().sum(over, keepdim=True)
        direction, size = rest + following / size.clamp_min(1e-30) * direction, following
    return torch.where(known, values, c)


def _neighbours(x: Tensor) -> Tensor:
    """(B, C, *spatial): the sum of the neighbours of each place along all axes."""
    total = torch.zeros_like(x)
    for dim in range(2, x.dim()):
        count = x.shape[dim]
        if count > 1:
            total.narrow(dim, 1, count - 1).add_(x.narrow(dim, 0, count - 1))
            total.narrow(dim, 0, count - 1).add_(x.narrow(dim, 1, count - 1))
    return total
