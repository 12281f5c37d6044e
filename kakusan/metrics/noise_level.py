"""The standard deviation of the noise in a picture, found from the picture alone or from what a model knows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level
from kakusan.noise import Stream, normal
from kakusan.samplers.base import level_at_log_snr

_PATCH = 5
# A difference below this is taken for nothing: a fiftieth of the step between two stored values of 8 bits.
_LEAST = 1e-4


def noise_of_patches(x: Tensor) -> float:
    """The noise of one picture by the spread of its small squares (Chen, Zhu and Heng 2015, ICCV, "An efficient
    statistical method for image noise level estimation", algorithm 1).

    Squares of a picture without noise vary in a few directions; noise varies in all alike. The largest variances are
    left out until the mean of the others is their median.

    Args:
        x: (1, C, H, W).

    Raises:
        ValueError: not one picture, or one of fewer squares than one square has values.
    """
    if x.dim() != 4 or len(x) != 1:
        raise ValueError(f"the noise is estimated of one picture (1, C, H, W), got {tuple(x.shape)}")
    squares = F.unfold(x.to(torch.float64), min(_PATCH, *x.shape[2:]))[0]
    if squares.shape[1] <= squares.shape[0]:
        raise ValueError(
            f"a picture of {x.shape[3]} x {x.shape[2]} pixels is too small to find its noise in; give the noise"
        )
    variances = torch.linalg.eigvalsh(squares.cov()).clamp_min(0.0)
    for count in range(len(variances), 0, -1):
        mean = variances[:count].mean()
        if float(mean) <= float(variances[:count].median()) or count == 1:
            return max(_LEAST, math.sqrt(float(mean)))
    return _LEAST


@torch.no_grad()
def likeliest_noise(
    denoiser: BaseDenoiser, y: Tensor, cond: Condition | None = None, *, probes: int = 4, seed: int = 0
) -> float:
    """The noise level at which a trained model finds y = x0 + std * noise the likeliest.

    Where the likelihood of y is highest over std, the heat equation says |y - D(y)|^2 = std^2 (n - div D(y)), with the
    denoiser D at this level, n elements and the divergence of D (of which Stein's risk estimate is another form). The
    divergence is taken by finite differences along random directions, and std by halving an interval of its logarithm.

    Args:
        denoiser: D, of a schedule whose alpha may be anything.
        y: (B, C, *spatial), pictures with the same noise, in model units.
        cond: for all of them.
        probes: random directions for each picture.
        seed: of the directions.
    """
    wide = y.repeat_interleave(probes, 0)
    along = normal(range(seed, seed + len(wide)), Stream.PROBE, shape=y.shape[1:], device=y.device, dtype=y.dtype)
    # Of one length, so that the divergence of a map that treats all directions alike is exact.
    along = along * (y[0].numel() ** 0.5 / along.flatten(1).norm(dim=1)).view(-1, *[1] * (y.dim() - 1))
    if cond is not None:
        cond = cond.expand(len(wide))

    def excess(std: float) -> float:
        level = level_at_log_snr(denoiser.schedule, -2.0 * math.log(std), wide)
        here = _denoised(denoiser, wide, level, cond)
        nudge = 0.05 * std
        divergence = (along * (_denoised(denoiser, wide + nudge * along, level, cond) - here)).sum() / nudge
        return float((wide - here).square().sum()) / std**2 - (wide.numel() - float(divergence))

    low, high = math.log(2e-3), math.log(2.0)
    for _ in range(14):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(math.exp(middle)) > 0.0 else (low, middle)
    return math.exp(0.5 * (low + high))


def _denoised(denoiser: BaseDenoiser, y: Tensor, level: Level, cond: Condition | None) -> Tensor:
    return denoiser(y * level.alpha, level, cond).x0
