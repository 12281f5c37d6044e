"""How two outputs are mixed: plain extrapolation and its repairs.

A rule sees the raw outputs F. For the output's linear meaning, mixing F is mixing x0 or eps; rules that are written for
x0 or for the velocity read it so (`Reading`) and write it back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from kakusan.denoiser import Coefficients
from kakusan.levels import Level, Scalar
from kakusan.schedules import NoiseSchedule, expand
from kakusan.specs import register


@dataclass(frozen=True, slots=True)
class Reading:
    """What an output means at one level."""

    x_t: Tensor
    level: Level
    coefficients: Coefficients
    schedule: NoiseSchedule

    def x0(self, output: Tensor) -> Tensor:
        """The clean sample that F says, (B, C, *spatial)."""
        c = self.coefficients
        return self.x_t * _like(c.x0_x, output) + output * _like(c.x0_f, output)

    def from_x0(self, x0: Tensor) -> Tensor:
        """The F that says this clean sample."""
        c = self.coefficients
        return (x0 - self.x_t * _like(c.x0_x, x0)) / _like(c.x0_f, x0)

    def velocity(self, output: Tensor) -> Tensor:
        """alpha' x0 + sigma' eps of F."""
        x_factor, f_factor = self._velocity_factors(output)
        return self.x_t * x_factor + output * f_factor

    def from_velocity(self, velocity: Tensor) -> Tensor:
        """The F that says this velocity."""
        x_factor, f_factor = self._velocity_factors(velocity)
        return (velocity - self.x_t * x_factor) / f_factor

    def _velocity_factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(self.level.t, dtype=torch.float64).detach().to("cpu").reshape(-1)
        wide = self.x_t.to(torch.float64)
        a, b = (expand(rate(t), wide) for rate in (self.schedule.alpha_prime, self.schedule.sigma_prime))
        c = self.coefficients
        # A number stays one: as a tensor it would have 32 bits.
        x_factor = a * _like(c.x0_x, a) + b * _like(c.eps_x, a)
        f_factor = a * _like(c.x0_f, a) + b * _like(c.eps_f, a)
        return x_factor.to(like), f_factor.to(like)


class Rule(ABC):
    """A frozen dataclass that mixes a stronger and a weaker output."""

    neutral_at_one: bool = True
    """Whether scale 1 gives the stronger output."""

    @abstractmethod
    def mix(
        self, strong: Tensor, weak: Tensor, scale: float | Tensor, reading: Reading, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The mixed output (B, C, *spatial) and what the next evaluation should remember, with leading B."""

    def on(self, levels: Sequence[Level]) -> Rule:
        """The rule for sampling on these levels; most do not depend on them."""
        return self


@register
@dataclass(frozen=True)
class Linear(Rule):
    """weak + scale (strong - weak): classifier-free guidance as published (Ho & Salimans 2022, arXiv 2207.12598)."""

    def mix(
        self, strong: Tensor, weak: Tensor, scale: float | Tensor, reading: Reading, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return _towards(weak, strong, scale), None


@register
@dataclass(frozen=True)
class Projected(Rule):
    """Adaptive projected guidance (APG; Sadat et al. 2024, arXiv 2410.02416, algorithm 1), which is written for x0.

    The difference of the two is carried on with a (negative) momentum, limited in size, and its part along the stronger
    x0, which only raises saturation, is weighed down. With parallel = 1, momentum = 0 and no limit it is `Linear`.

    Args:
        parallel: weight of that part (eta of the paper).
        momentum: beta of the paper; its best values are negative.
        limit: largest root mean square of the difference per element (the paper's r is the norm, r = limit * sqrt(n)
            for n elements); None for no limit.
    """

    parallel: float = 0.0
    momentum: float = -0.5
    limit: float | None = None

    def __post_init__(self) -> None:
        if not -1.0 < self.momentum < 1.0:
            raise ValueError(f"momentum must lie between -1 and 1, got {self.momentum}")
        if self.limit is not None and self.limit <= 0.0:
            raise ValueError(f"the limit of the difference must be positive, got {self.limit}")

    def mix(
        self, strong: Tensor, weak: Tensor, scale: float | Tensor, reading: Reading, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        over = tuple(range(1, strong.dim()))
        x0 = reading.x0(strong)
        difference = (strong - weak) * _like(reading.coefficients.x0_f, strong)
        if memory is not None and self.momentum != 0.0:
            difference = difference + self.momentum * memory
        kept = difference
        if self.limit is not None:
            size = difference.square().mean(over, keepdim=True).sqrt()
            difference = difference * (self.limit / size.clamp_min(1e-12)).clamp_max(1.0)
        share = (difference * x0).sum(over, keepdim=True) / x0.square().sum(over, keepdim=True).clamp_min(1e-12)
        along = share * x0
        update = difference + (self.parallel - 1.0) * along
        return reading.from_x0(x0 + (scale - 1.0) * update), kept


@register
@dataclass(frozen=True)
class ZeroStar(Rule):
    """CFG-Zero* (Fan et al. 2025, arXiv 2503.18886), which is written for the velocity.

    The weaker velocity is first scaled to fit the stronger one best, and in the first steps, where a network's
    velocity is worse than none, there is none. On a straight path no velocity is standing still.

    Args:
        still_above: t above which the velocity is zero; 1 never. The paper keeps still for about 4% of the steps.
    """

    still_above: float = 0.96

    @property
    def neutral_at_one(self) -> bool:  # type: ignore[override]
        return self.still_above >= 1.0

    def mix(
        self, strong: Tensor, weak: Tensor, scale: float | Tensor, reading: Reading, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        over = tuple(range(1, strong.dim()))
        wanted, free = reading.velocity(strong), reading.velocity(weak)
        fit = (wanted * free).sum(over, keepdim=True) / free.square().sum(over, keepdim=True).clamp_min(1e-12)
        mixed = _towards(fit * free, wanted, scale)
        t = torch.as_tensor(reading.level.t).to(mixed)
        return reading.from_velocity(torch.where(t > self.still_above, torch.zeros_like(mixed), mixed)), None


@register
@dataclass(frozen=True)
class PlusPlus(Rule):
    """CFG++ (Chung et al. 2024, arXiv 2406.08070, algorithm 2): a guided x0, noised again with the weaker model's eps.

    A DDIM step from u_t to u_s (u = sigma / alpha) does so exactly when it follows plain guidance of scale
    lambda / (1 - u_s / u_t), which is what this rule does. The scale, lambda, is meant for [0, 1]. Sampler: DDIM with
    eta 0, one evaluation at each time of the grid.

    Args:
        gains: (log-SNR of a level, factor on the scale there), filled by `on`.
    """

    gains: tuple[tuple[float, float], ...] = ()
    neutral_at_one = False

    def on(self, levels: Sequence[Level]) -> PlusPlus:
        found = []
        for here, there in pairwise(levels):
            if isinstance(here.t, Tensor) or isinstance(there.t, Tensor):
                raise ValueError("CFG++ needs samples that share one grid of times")
            # At alpha = 0 the ratio is 0: nothing of x_t is kept.
            ratio = math.exp(0.5 * (_number(here.log_snr) - _number(there.log_snr)))
            if ratio >= 1.0:
                raise ValueError("CFG++ needs a grid that falls; invert without it")
            found.append((_number(here.log_snr), 1.0 / (1.0 - ratio)))
        return replace(self, gains=tuple(found))

    def mix(
        self, strong: Tensor, weak: Tensor, scale: float | Tensor, reading: Reading, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        here = reading.level.log_snr
        gain = None if isinstance(here, Tensor) else next((g for at, g in self.gains if at == here), None)
        if gain is None:
            raise ValueError(
                "CFG++ knows the steps of one grid only and was asked elsewhere: use the sampler ddim, and tell the "
                "rule its levels with PlusPlus().on(levels)"
            )
        return _towards(weak, strong, scale * gain), None


RULES: dict[str, Rule] = {
    "linear": Linear(),
    "apg": Projected(),
    "zero-star": ZeroStar(),
    "plus-plus": PlusPlus(),
}


def _towards(weak: Tensor, strong: Tensor, scale: float | Tensor) -> Tensor:
    if isinstance(scale, Tensor):
        return weak + scale * (strong - weak)
    return torch.lerp(weak, strong, scale)


def _like(value: Scalar, tensor: Tensor) -> Scalar:
    return value.to(tensor) if isinstance(value, Tensor) else value


def _number(value: Scalar) -> float:
    return float(value)
