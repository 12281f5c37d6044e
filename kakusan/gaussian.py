"""The normal distribution, where its tails need care."""

from __future__ import annotations

import torch
from torch import Tensor


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)) for low < high, without loss in the tails; either may be infinite."""
    # In the upper tail both are near 1: mirror the interval into the lower one, where they are small and logarithms
    # keep them.
    mirror = low + high > 0.0
    low, high = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    below, above = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return above + torch.log(-torch.expm1(below - above))
