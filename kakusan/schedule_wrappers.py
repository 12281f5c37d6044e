"""Schedules made from other schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.schedules import NoiseSchedule
from kakusan.specs import register


@register
@dataclass(frozen=True)
class Shifted(NoiseSchedule):
    """The same path run later or earlier: log-SNR(t) is the inner one's minus 2 log(shift).

    `shift` > 1 spends more time at high noise, as larger pictures need: shift = side / 64 for pictures whose inner
    schedule was chosen at 64 (Hoogeboom et al. 2023, arXiv 2301.11093, eq. 4). On `Rectified` it is the time shift of
    Esser et al. 2024 (arXiv 2403.03206, eq. 23).
    """

    inner: NoiseSchedule
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.shift <= 0.0:
            raise ValueError(f"shift must be positive, got {self.shift}")

    @property
    def learnable(self) -> bool:
        return self.inner.learnable

    def _inner_time(self, t: Tensor) -> Tensor:
        return self.inner.time(self.inner.log_snr(t) - 2.0 * math.log(self.shift))

    def alpha(self, t: Tensor) -> Tensor:
        return self.inner.alpha(self._inner_time(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.inner.sigma(self._inner_time(t))

    def log_snr(self, t: Tensor) -> Tensor:
        return self.inner.log_snr(t) - 2.0 * math.log(self.shift)

    def time(self, log_snr: Tensor) -> Tensor:
        return self.inner.time(log_snr + 2.0 * math.log(self.shift))


@register
@dataclass(frozen=True)
class ZeroTerminalSnr(NoiseSchedule):
    """A variance preserving schedule stretched so that no signal is left at t = 1 (Lin et al. 2023, arXiv 2305.08891).

    alpha is shifted and scaled to reach 0 at t = 1, sigma^2 = 1 - alpha^2 (algorithm 1 there).

    Raises:
        ValueError: the inner schedule is not variance preserving.
    """

    inner: NoiseSchedule

    def __post_init__(self) -> None:
        t = torch.tensor([0.3, 1.0], dtype=torch.float64)
        if not torch.allclose(self.inner.alpha(t) ** 2 + self.inner.sigma(t) ** 2, torch.ones_like(t)):
            raise ValueError(
                f"ZeroTerminalSnr needs a variance preserving schedule; {type(self.inner).__name__} is not"
            )

    @property
    def learnable(self) -> bool:
        return self.inner.learnable

    @property
    def t_max(self) -> float:
        """1: to be evaluated where no signal is left is what this schedule is for."""
        return 1.0

    @property
    def _last(self) -> float:
        return float(self.inner.alpha(torch.ones((), dtype=torch.float64)))

    def alpha(self, t: Tensor) -> Tensor:
        return (self.inner.alpha(t) - self._last).clamp_min(0.0) / (1.0 - self._last)

    def sigma(self, t: Tensor) -> Tensor:
        # 1 - alpha^2 = (1 - alpha)(1 + alpha), and the inner 1 - alpha is sigma^2 / (1 + alpha): no cancellation.
        missing = self.inner.sigma(t) ** 2 / (1.0 + self.inner.alpha(t)) / (1.0 - self._last)
        return (missing * (1.0 + self.alpha(t))).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        # alpha = sigmoid(log_snr)^(1/2); 1 - alpha from sigma^2 likewise, then the inner log-SNR.
        alpha = torch.sigmoid(log_snr).sqrt()
        missing = torch.sigmoid(-log_snr) / (1.0 + alpha) * (1.0 - self._last)
        inner_alpha = alpha * (1.0 - self._last) + self._last
        return self.inner.time(2.0 * inner_alpha.log() - (missing * (1.0 + inner_alpha)).log())
