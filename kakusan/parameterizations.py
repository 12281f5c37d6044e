"""What the output of a network means: one row (a, b) for each prediction type, F = a x0 + b eps.

With det = alpha b - sigma a, x0 = (b x_t - sigma F) / det and eps = (alpha F - a x_t) / det. A pair of schedule and row
with det = 0 where the network is evaluated carries no information there and is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.schedules import NoiseSchedule
from kakusan.specs import register


class Parameterization(ABC):
    """A linear prediction type."""

    @abstractmethod
    def row(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) at t, of the shape of t: the output means a x0 + b eps."""

    def determinant(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """alpha b - sigma a at t."""
        a, b = self.row(schedule, t)
        return schedule.alpha(t) * b - schedule.sigma(t) * a

    def check(self, schedule: NoiseSchedule) -> None:
        """Refuse a schedule on which the output says nothing at an end that is evaluated.

        Raises:
            ValueError: with the reason.
        """
        ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
        found = self.determinant(schedule, ends).tolist()
        for t, value in zip(ends.tolist(), found, strict=True):
            if not (value != 0.0 and abs(value) < float("inf")):
                raise ValueError(self.refusal(schedule, t))

    def refusal(self, schedule: NoiseSchedule, t: float) -> str:
        """Why the network is not evaluated at t, and what to do."""
        name, where = type(self).__name__, f"t = {t:.6g} of {type(schedule).__name__}"
        at = torch.tensor(t, dtype=torch.float64)
        if float(schedule.alpha(at)) == 0.0:
            return (
                f"{name} prediction is undefined at {where}: no signal is left there (alpha = 0), so x0 cannot be "
                "recovered from the output; use V, Velocity, X0 or Edm prediction, or a schedule that keeps some signal"
            )
        if float(schedule.sigma(at)) == 0.0:
            return (
                f"{name} prediction is undefined at {where}: there is no noise (sigma = 0), so there is nothing to "
                f"predict; evaluate from t_min = {schedule.t_min:.3g} up"
            )
        return f"{name} prediction is undefined at {where}: alpha b - sigma a is zero or not finite there"


@register
@dataclass(frozen=True)
class X0(Parameterization):
    """The clean sample: (1, 0)."""

    def row(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)


@register
@dataclass(frozen=True)
class Eps(Parameterization):
    """The noise: (0, 1) (Ho et al. 2020)."""

    def row(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


@register
@dataclass(frozen=True)
class V(Parameterization):
    """v = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv 2202.00512); not the velocity."""

    def row(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return -schedule.sigma(t), schedule.alpha(t)


@register
@dataclass(frozen=True)
class Velocity(Parameterization):
    """d x_t / dt along the path: (alpha', sigma') (flow matching, Lipman et al. 2023, arXiv 2210.02747)."""

    def row(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return schedule.alpha_prime(t), schedule.sigma_prime(t)


@register
@dataclass(frozen=True)
class Score(Parameterization):
    """grad log p_t: (0, -1 / sigma) (Song et al. 2021)."""

    def row(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -1.0 / schedule.sigma(t)


@register
@dataclass(frozen=True)
class Edm(Parameterization):
    """x0 = c_skip x_t + c_out F with unit-variance target (Karras et al. 2022, table 1), on any schedule."""

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma_data <= 0.0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")

    def row(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        # (1 - c_skip alpha) / c_out and -c_skip sigma / c_out with c_skip = alpha d^2 / n, c_out = sigma d / sqrt(n),
        # n = alpha^2 d^2 + sigma^2: both quotients simplify.
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        norm = (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()
        return sigma / (norm * self.sigma_data), -alpha * self.sigma_data / norm
