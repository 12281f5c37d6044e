"""Schedules given as tables of betas, as discrete diffusion models are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kakusan.schedules import NoiseSchedule
from kakusan.specs import register


def _scale(steps: int, end: float) -> float:
    """What the betas of a table of 1000 steps are multiplied by to spread their noise over `steps`."""
    if steps < 1 or end * 1000.0 / steps >= 1.0:
        raise ValueError(
            f"the noise of 1000 steps up to beta = {end} does not fit into {steps}: the last beta would reach 1. Use "
            f"at least {math.floor(end * 1000.0) + 1} steps, Tabulated.squared_cosine, or a coarse grid on a long table"
        )
    return 1000.0 / steps


@register
@dataclass(frozen=True)
class Tabulated(NoiseSchedule):
    """A discrete variance preserving table beta_1 ... beta_T (Ho et al. 2020, arXiv 2006.11239), made continuous.

    Step i of T stands at t = i / T. Between steps -log alpha^2 is linear, that is, the rate is constant: at the steps
    the cumulative products are those of the table exactly.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(0.0 < b < 1.0 for b in self.betas):
            raise ValueError("betas must be a non-empty table of numbers strictly between 0 and 1")

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> Tabulated:
        """From any table of betas."""
        return cls(tuple(float(b) for b in betas))

    @classmethod
    def linear(cls, steps: int = 1000, *, start: float = 1e-4, end: float = 0.02) -> Tabulated:
        """Ho et al. 2020, section 4. For another number of steps the total noise is kept by scaling the ends."""
        scale = _scale(steps, end)
        return cls.from_betas(torch.linspace(start * scale, end * scale, steps, dtype=torch.float64))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, *, start: float = 0.00085, end: float = 0.012) -> Tabulated:
        """Latent diffusion's table: linear in the root of beta (Rombach et al. 2022, arXiv 2112.10752)."""
        scale = _scale(steps, end)
        roots = torch.linspace((start * scale) ** 0.5, (end * scale) ** 0.5, steps, dtype=torch.float64)
        return cls.from_betas(roots**2)

    @classmethod
    def squared_cosine(cls, steps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999) -> Tabulated:
        """Nichol & Dhariwal 2021, eq. 17, each beta at most `max_beta`."""
        angle = (torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64) + offset) / (1.0 + offset)
        product = (0.5 * math.pi * angle).cos() ** 2
        return cls.from_betas((1.0 - product[1:] / product[:-1]).clamp(max=max_beta))

    @cached_property
    def _table(self) -> Tensor:
        """-log alpha^2 at t = 0, 1 / T, ..., 1."""
        rates = -torch.log1p(-torch.tensor(self.betas, dtype=torch.float64))
        return torch.cat([torch.zeros(1, dtype=torch.float64), rates.cumsum(0)])

    def _segment(self, index: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self._table.to(device=t.device, dtype=t.dtype)
        index = index.clamp(0, len(self.betas) - 1)
        return table[index], (table[index + 1] - table[index]) * len(self.betas)

    def integral(self, t: Tensor) -> Tensor:
        """-log alpha^2(t); beyond the table the last rate goes on."""
        index = (t.detach() * len(self.betas)).floor().long().clamp(0, len(self.betas) - 1)
        base, rate = self._segment(index, t)
        return base + rate * (t - index.to(t.dtype) / len(self.betas))

    def alpha(self, t: Tensor) -> Tensor:
        return (-0.5 * self.integral(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.integral(t)).log()

    def time(self, log_snr: Tensor) -> Tensor:
        target = softplus(-log_snr, threshold=50.0)
        table = self._table.to(device=target.device, dtype=target.dtype)
        index = torch.searchsorted(table, target.detach().contiguous(), right=True) - 1
        index = index.clamp(0, len(self.betas) - 1)
        base, rate = self._segment(index, target)
        return index.to(target.dtype) / len(self.betas) + (target - base) / rate
