"""Noise schedules: Gaussian paths x_t = alpha(t) x0 + sigma(t) eps, t in [0, 1], t = 0 is data.

Every function of t takes a tensor of shape () or (B,) and returns that shape. Ends: alpha(0) = 1 and sigma(0) = 0 for
every schedule. `t_min` and `t_max` bound the times at which a network is evaluated (|log-SNR| <= 20 unless told
otherwise); the last update of a sampler reaches t = 0 without an evaluation there.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kakusan.specs import register

MAX_LOG_SNR = 20.0
_F = TypeVar("_F", bound=Callable[..., object])


class NoiseSchedule(ABC):
    """alpha(t), sigma(t), their log-SNR, its inverse and their derivatives."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """Inverse of `log_snr`; +inf gives 0."""

    def log_snr(self, t: Tensor) -> Tensor:
        """2 log(alpha / sigma), falling in t; +inf at t = 0."""
        return 2.0 * (self.alpha(t).log() - self.sigma(t).log())

    def alpha_prime(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        return _derivative(self.alpha, t)

    def sigma_prime(self, t: Tensor) -> Tensor:
        """d sigma / dt; infinite at t = 0 for variance preserving schedules."""
        return _derivative(self.sigma, t)

    def log_snr_prime(self, t: Tensor) -> Tensor:
        """d log-SNR / dt, negative."""
        return 2.0 * (self.alpha_prime(t) / self.alpha(t) - self.sigma_prime(t) / self.sigma(t))

    @property
    def learnable(self) -> bool:
        """Whether the schedule has parameters, so that its values may not be kept between calls."""
        return isinstance(self, torch.nn.Module)

    @property
    def t_min(self) -> float:
        """Smallest time at which a network is evaluated."""
        return self._bound(MAX_LOG_SNR)

    @property
    def t_max(self) -> float:
        """Largest time at which a network is evaluated."""
        one = torch.ones((), dtype=torch.float64)
        return 1.0 if float(self.log_snr(one).detach()) >= -MAX_LOG_SNR else self._bound(-MAX_LOG_SNR)

    def _bound(self, log_snr: float) -> float:
        return min(max(float(self.time(torch.tensor(log_snr, dtype=torch.float64)).detach()), 0.0), 1.0)


def remembered(size: int) -> Callable[[_F], _F]:
    """Decorator: the last `size` values of a function of a schedule and plain values are kept.

    Only where no argument can change: a learned schedule, one that is not a frozen dataclass, or one that holds a list
    is asked anew each time.
    """

    def decorate(function: _F) -> _F:
        kept = lru_cache(maxsize=size)(function)

        @wraps(function)
        def ask(*given: object) -> object:
            if all(_fixed(value) for value in given):
                # A frozen dataclass that holds a list has no hash.
                with suppress(TypeError):
                    return kept(*given)
            return function(*given)

        return ask  # type: ignore[return-value]

    return decorate


def _fixed(value: object) -> bool:
    parameters = getattr(value, "__dataclass_params__", None)
    if parameters is None:
        return isinstance(value, float | tuple)
    return bool(parameters.frozen) and not isinstance(value, torch.nn.Module)


def check_monotone(schedule: NoiseSchedule) -> None:
    """Refuse a path on which the noise does not grow all the way: its log-SNR has no inverse.

    Raises:
        ValueError: with the place where it does not fall.
    """
    t = torch.linspace(schedule.t_min, schedule.t_max, 129, dtype=torch.float64)
    log_snr = schedule.log_snr(t).detach()
    bad = ~(log_snr.diff() < 0.0)
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise ValueError(
            f"the log-SNR of {type(schedule).__name__} must fall from t = 0 to 1, but goes from "
            f"{float(log_snr[at]):.4g} to {float(log_snr[at + 1]):.4g} "
            f"between t = {float(t[at]):.4g} and {float(t[at + 1]):.4g}"
        )


def _derivative(function: object, t: Tensor) -> Tensor:
    """d function / dt by automatic differentiation; each output depends on its own t only."""
    keep = t.requires_grad and torch.is_grad_enabled()
    with torch.enable_grad():
        t = t if t.requires_grad else t.detach().requires_grad_(True)
        value = function(t)  # type: ignore[operator]
        if not value.requires_grad:
            return torch.zeros_like(t)
        (gradient,) = torch.autograd.grad(value.sum(), t, create_graph=keep)
    return gradient


def expand(value: Tensor, x: Tensor) -> Tensor:
    """() or (B,) -> broadcastable against x (B, C, *spatial), in x's dtype and device: the one place that does it.

    Raises:
        ValueError: another shape, or another batch.
    """
    if (value.dim() == 1 and len(value) not in (1, len(x))) or value.dim() > 1:
        raise ValueError(f"t has shape {tuple(value.shape)}; expected () or ({len(x)},) for x of {tuple(x.shape)}")
    value = value.to(device=x.device, dtype=x.dtype)
    return value.view(-1, *[1] * (x.dim() - 1)) if value.dim() else value


class _Beta(NoiseSchedule):
    """Schedules of a linear rate beta(t) = beta_min + t (beta_max - beta_min) (Song et al. 2021, arXiv 2011.13456)."""

    beta_min: float
    beta_max: float

    def __post_init__(self) -> None:
        if not 0.0 < self.beta_min <= self.beta_max:
            raise ValueError(f"expected 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def integral(self, t: Tensor) -> Tensor:
        """Integral of beta from 0 to t."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2.0 * integral / (self.beta_min + (self.beta_min**2 + 2.0 * slope * integral).sqrt())

    def beta(self, t: Tensor) -> Tensor:
        """The rate at t."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def alpha(self, t: Tensor) -> Tensor:
        return (-0.5 * self.integral(t)).exp()

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t) * self.alpha(t)


@register
@dataclass(frozen=True)
class VariancePreserving(_Beta):
    """VP-SDE (Song et al. 2021, eq. 33): alpha^2 = exp(-integral of beta), sigma^2 = 1 - alpha^2."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(t))).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.integral(t)).log()

    def time(self, log_snr: Tensor) -> Tensor:
        return self._time_of_integral(softplus(-log_snr, threshold=50.0))

    def sigma_prime(self, t: Tensor) -> Tensor:
        return 0.5 * self.beta(t) * self.alpha(t) ** 2 / self.sigma(t)


@register
@dataclass(frozen=True)
class SubVariancePreserving(_Beta):
    """sub-VP SDE (Song et al. 2021, eq. 29): alpha^2 = exp(-integral of beta), sigma = 1 - alpha^2."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def time(self, log_snr: Tensor) -> Tensor:
        # sigma = 1 - alpha^2 and alpha / sigma = r: alpha solves alpha^2 + alpha / r = 1. With 1 / r = 2 sinh(h) it is
        # exp(-h), which keeps its digits at both ends.
        half = 0.5 * (-0.5 * log_snr).exp()
        return self._time_of_integral(2.0 * torch.asinh(half))

    def sigma_prime(self, t: Tensor) -> Tensor:
        return self.beta(t) * self.alpha(t) ** 2


@register
@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Nichol & Dhariwal 2021, arXiv 2102.09672, without its offset)."""

    def alpha(self, t: Tensor) -> Tensor:
        # sin of the complement: cos loses its digits near t = 1.
        return (0.5 * math.pi * (1.0 - t)).sin()

    def sigma(self, t: Tensor) -> Tensor:
        return (0.5 * math.pi * t).sin()

    def log_snr(self, t: Tensor) -> Tensor:
        return 2.0 * (self.alpha(t).log() - self.sigma(t).log())

    def time(self, log_snr: Tensor) -> Tensor:
        return (2.0 / math.pi) * (-0.5 * log_snr).exp().atan()

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * self.sigma(t)

    def sigma_prime(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * self.alpha(t)


@register
@dataclass(frozen=True)
class Sigmoid(NoiseSchedule):
    """alpha^2 is a stretch of a sigmoid (Jabri et al. 2023, arXiv 2212.11972, algorithm 1); variance preserving."""

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (self.start < self.end and self.tau > 0.0):
            raise ValueError(f"expected start < end and tau > 0, got {self.start}, {self.end}, {self.tau}")

    def _part(self, low: Tensor, high: Tensor) -> Tensor:
        """sigmoid(high) - sigmoid(low) without cancellation, over the whole range's."""
        # sigmoid(b) - sigmoid(a) = sinh((b - a) / 2) / (2 cosh(a / 2) cosh(b / 2)); the 2 cancels in the quotient.
        norm = math.sinh(0.5 * (self.end - self.start) / self.tau) / (
            math.cosh(0.5 * self.start / self.tau) * math.cosh(0.5 * self.end / self.tau)
        )
        return (0.5 * (high - low)).sinh() / ((0.5 * low).cosh() * (0.5 * high).cosh()) / norm

    def _at(self, t: Tensor) -> Tensor:
        return (self.start + t * (self.end - self.start)) / self.tau

    def alpha(self, t: Tensor) -> Tensor:
        at = self._at(t)
        return self._part(at, torch.full_like(at, self.end / self.tau)).clamp_min(0.0).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        at = self._at(t)
        return self._part(torch.full_like(at, self.start / self.tau), at).clamp_min(0.0).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        low = 1.0 / (1.0 + math.exp(-self.start / self.tau))
        high = 1.0 / (1.0 + math.exp(-self.end / self.tau))
        # sigma^2 = sigmoid(-log_snr): the value of the inner sigmoid, then its logit.
        noise, signal = torch.sigmoid(-log_snr), torch.sigmoid(log_snr)
        value = low * signal + high * noise
        rest = (1.0 - low) * signal + (1.0 - high) * noise
        return (self.tau * (value.log() - rest.log()) - self.start) / (self.end - self.start)


@register
@dataclass(frozen=True)
class VarianceExploding(NoiseSchedule):
    """VE-SDE (Song et al. 2021, eq. 30): sigma^2 = sigma_min^2 ((sigma_max / sigma_min)^(2 t) - 1), alpha = 1.

    This is the exact kernel of the SDE from t = 0, where sigma is zero; the paper's own code drops the "- 1".
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def _rate(self) -> float:
        return 2.0 * math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(self._rate * t).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.log1p((-log_snr).exp() / self.sigma_min**2) / self._rate

    def alpha_prime(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_prime(self, t: Tensor) -> Tensor:
        return 0.5 * self._rate * self.sigma_min**2 * (self._rate * t).exp() / self.sigma(t)


@register
@dataclass(frozen=True)
class Karras(NoiseSchedule):
    """EDM (Karras et al. 2022, arXiv 2206.00364): alpha = 1, sigma = sigma_max t^rho, evaluated from sigma_min up.

    The paper's spacing of steps, with its sigma_min offset, is `grids.karras`.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0.0 < self.sigma_min < self.sigma_max and self.rho > 0.0):
            raise ValueError(f"expected 0 < sigma_min < sigma_max and rho > 0, got {self}")

    @property
    def t_min(self) -> float:
        return (self.sigma_min / self.sigma_max) ** (1.0 / self.rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t**self.rho

    def time(self, log_snr: Tensor) -> Tensor:
        return ((-0.5 * log_snr).exp() / self.sigma_max) ** (1.0 / self.rho)

    def alpha_prime(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_prime(self, t: Tensor) -> Tensor:
        return self.rho * self.sigma_max * t ** (self.rho - 1.0)


@register
@dataclass(frozen=True)
class Rectified(NoiseSchedule):
    """The straight path of rectified flow and flow matching: alpha = 1 - t, sigma = t (arXiv 2209.03003,
    2210.02747).
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)

    def alpha_prime(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_prime(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)
