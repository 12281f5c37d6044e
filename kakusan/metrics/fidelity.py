"""How near a restored picture is to the one it was made from: PSNR and SSIM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW = 11
_WINDOW_STD = 1.5
_DEEPEST = 100.0


def psnr(x: Tensor, truth: Tensor, *, span: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio of each picture in decibels, (B,); 100 where the two are the same.

    Args:
        x: (B, C, *spatial).
        truth: (B, C, *spatial), or (1, C, *spatial) for all.
        span: from black to white, 2 in model units.

    Raises:
        ValueError: other shapes.
    """
    _check(x, truth)
    error = (x.to(torch.float64) - truth.to(torch.float64)).square().flatten(1).mean(1)
    return 10.0 * (span**2 / error.clamp_min(span**2 * 10.0 ** (-_DEEPEST / 10.0))).log10()


def ssim(x: Tensor, truth: Tensor, *, span: float = 2.0) -> Tensor:
    """Structural similarity of each picture, (B,), 1 where the two are the same (Wang et al. 2004, eq. 13).

    A Gaussian window of 11 pixels and standard deviation 1.5, smaller where the picture is, whole windows only; the
    mean over places and channels.

    Args:
        x: (B, C, H, W).
        truth: (B, C, H, W), or (1, C, H, W) for all.
        span: from black to white, 2 in model units.

    Raises:
        ValueError: other shapes.
    """
    _check(x, truth)
    a, b = x.to(torch.float64), truth.to(torch.float64).expand_as(x)
    side = min(_WINDOW, *(n if n % 2 else n - 1 for n in x.shape[2:]))
    offsets = torch.arange(side, dtype=torch.float64, device=x.device) - side // 2
    window = (-0.5 * (offsets / _WINDOW_STD) ** 2).exp()
    window = window / window.sum()

    def local(values: Tensor) -> Tensor:
        flat = values.flatten(0, 1).unsqueeze(1)
        return F.conv2d(F.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    both = local(a * b) - mean_a * mean_b
    low, high = (0.01 * span) ** 2, (0.03 * span) ** 2
    found = (2.0 * mean_a * mean_b + low) * (2.0 * both + high)
    found = found / ((mean_a**2 + mean_b**2 + low) * (var_a + var_b + high))
    return found.view(len(x), -1).mean(1)


def _check(x: Tensor, truth: Tensor) -> None:
    if x.shape[1:] != truth.shape[1:] or len(truth) not in (1, len(x)):
        raise ValueError(f"pictures of shape {tuple(x.shape)} cannot be compared with {tuple(truth.shape)}")
