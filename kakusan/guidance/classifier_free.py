"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

Scale 1 is the conditional model, 0 the unconditional one, and any other real number extrapolates or interpolates:
F = F_null + scale (F_cond - F_null). Mixing acts on the network's own output; for the output's linear meaning that is
the same as mixing x0 or eps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser, Coefficients
from kakusan.levels import Level
from kakusan.specs import register


@register
@dataclass(frozen=True)
class ClassifierFree:
    """`ClassifierFree(scale=3.0)(denoiser, conditioner.null())` is a guided denoiser.

    Args:
        scale: any real number, or a tensor (B,) with one for each sample.
        rescale: phi of Lin et al. 2023 (arXiv 2305.08891, eq. 15-16): how far the guided output, per sample, is brought
            to the standard deviation of the conditional one. Any real number; 0 leaves it.
        interval: (low, high) in t: guided inside, plain conditional outside (Kynkaanniemi et al. 2024, arXiv
            2404.07724).
    """

    scale: float | Tensor = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.scale, Tensor) and not math.isfinite(self.scale):
            raise ValueError(f"guidance_scale must be a finite number, got {self.scale}")
        if not math.isfinite(self.rescale):
            raise ValueError(f"rescale must be a finite number, got {self.rescale}")
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"the guidance interval is (low, high) with 0 <= low <= high <= 1, got {self.interval}")

    def __call__(self, denoiser: BaseDenoiser, null: Condition) -> GuidedDenoiser:
        """Guide `denoiser`; `null` is what its conditioner gives for "no condition", for one sample or for each."""
        return GuidedDenoiser(denoiser, self, null)

    @property
    def off(self) -> bool:
        """Whether this is the plain conditional model."""
        return not isinstance(self.scale, Tensor) and self.scale == 1.0


class GuidedDenoiser(BaseDenoiser):
    """A denoiser whose output is a mix of two evaluations, made in one batched pass."""

    def __init__(self, inner: BaseDenoiser, guidance: ClassifierFree, null: Condition) -> None:
        super().__init__()
        self.inner, self.guidance, self.null = inner, guidance, null
        self.schedule, self.sigma_data = inner.schedule, inner.sigma_data
        self.independent_noise, self.learned_variance = inner.independent_noise, inner.learned_variance

    def coefficients(self, level: Level, x_t: Tensor) -> Coefficients:
        return self.inner.coefficients(level, x_t)

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        if cond is None:
            raise ValueError(
                "guidance needs a condition to guide towards; pass cond, or use the denoiser without guidance"
            )
        scale = self._scale(level, x_t)
        if not isinstance(scale, Tensor):
            if scale == 1.0:
                return self.inner.output(x_t, level, cond)
            if scale == 0.0 and self.guidance.rescale == 0.0:
                return self.inner.output(x_t, level, self.null.expand(len(x_t)))
        both = cond.expand(len(x_t)).cat(self.null.expand(len(x_t)))
        wanted, free = self.inner.output(torch.cat([x_t, x_t]), _twice(level), both).chunk(2)
        if self.learned_variance:
            # Extrapolating a variance means nothing: the conditional one is kept.
            (wanted, beside), (free, _) = self.split(wanted), self.split(free)
            return torch.cat([self._mixed(wanted, free, scale), beside], dim=1)
        return self._mixed(wanted, free, scale)

    def _mixed(self, wanted: Tensor, free: Tensor, scale: float | Tensor) -> Tensor:
        mixed = torch.lerp(free, wanted, scale) if not isinstance(scale, Tensor) else free + scale * (wanted - free)
        if self.guidance.rescale == 0.0:
            return mixed
        over = tuple(range(1, wanted.dim()))
        ratio = wanted.std(over, keepdim=True) / mixed.std(over, keepdim=True).clamp_min(1e-12)
        factor = 1.0 + self.guidance.rescale * (ratio - 1.0)
        if isinstance(scale, Tensor):
            factor = torch.where(scale == 1.0, torch.ones_like(factor), factor)
        return mixed * factor

    def _scale(self, level: Level, x_t: Tensor) -> float | Tensor:
        low, high = self.guidance.interval
        scale = self.guidance.scale
        if not isinstance(level.t, Tensor) and not isinstance(scale, Tensor):
            return float(scale) if low <= level.t <= high else 1.0
        column = (-1, *[1] * (x_t.dim() - 1))
        t = torch.as_tensor(level.t).to(x_t.device).reshape(column)
        each = torch.as_tensor(scale, device=x_t.device).reshape(column)
        return torch.where((t >= low) & (t <= high), each, 1.0).to(x_t.dtype)


def _twice(level: Level) -> Level:
    if not isinstance(level.t, Tensor):
        return level
    t, alpha, sigma, log_snr = (
        torch.cat([value, value])
        for value in (level.t, level.alpha, level.sigma, level.log_snr)
        if isinstance(value, Tensor)
    )
    return Level(t, alpha, sigma, log_snr)
