"""RMSNorm with a scale and a shift given per sample: the way noise level and condition enter a transformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """x (B, L, width), scale and shift (B or 1, 1, width) -> `rms_norm(x) * (1 + scale) + shift`, of x's shape."""
    return torch.addcmul(shift, F.rms_norm(x, (x.shape[-1],), eps=eps), 1.0 + scale)
