"""At which noise levels to train: densities of t, each drawn through its quantile function."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.noise import Stream, uniform
from kakusan.schedules import NoiseSchedule
from kakusan.specs import register

_GOLDEN = 0.6180339887498949


class TimeSampler(ABC):
    """A density on [t_min, t_max]."""

    @abstractmethod
    def quantile(self, schedule: NoiseSchedule, u: Tensor) -> Tensor:
        """t (B,) for u (B,) in (0, 1)."""

    @abstractmethod
    def density(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """p(t) (B,), which integrates to 1 over [t_min, t_max]."""

    def draw(self, schedule: NoiseSchedule, seed: int, numbers: Tensor) -> Tensor:
        """Times (B,) fp64 for the samples with these numbers (B,) in the order of training."""
        return self.quantile(schedule, uniform(torch.full_like(numbers, seed), Stream.TIME, numbers))


@register
@dataclass(frozen=True)
class Uniform(TimeSampler):
    """All times alike."""

    def quantile(self, schedule: NoiseSchedule, u: Tensor) -> Tensor:
        low, high = schedule.t_min, schedule.t_max
        return low + (high - low) * u

    def density(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return torch.full_like(t, 1.0 / (schedule.t_max - schedule.t_min))


class _Normal(TimeSampler):
    """A normal variable, mapped to time and cut at the schedule's ends."""

    mean: float
    std: float

    @abstractmethod
    def _variable(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(the normal variable, |its derivative by t|)."""

    @abstractmethod
    def _time(self, schedule: NoiseSchedule, z: Tensor) -> Tensor:
        """t of the variable."""

    def _cut(self, schedule: NoiseSchedule) -> tuple[float, float, bool]:
        ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
        values = self._variable(schedule, ends)[0]
        low, high = torch.special.ndtr((values - self.mean) / self.std).tolist()
        return min(low, high), max(low, high), low > high

    def quantile(self, schedule: NoiseSchedule, u: Tensor) -> Tensor:
        low, high, falling = self._cut(schedule)
        part = 1.0 - u if falling else u
        z = self.mean + self.std * torch.special.ndtri(low + (high - low) * part)
        return self._time(schedule, z).clamp(schedule.t_min, schedule.t_max)

    def density(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        low, high, _ = self._cut(schedule)
        z, slope = self._variable(schedule, t)
        normal = (-0.5 * ((z - self.mean) / self.std) ** 2).exp() / (self.std * math.sqrt(2.0 * math.pi))
        return normal * slope / (high - low)


@register
@dataclass(frozen=True)
class LogitNormal(_Normal):
    """logit(t) is normal (Esser et al. 2024, arXiv 2403.03206, eq. 19)."""

    mean: float = 0.0
    std: float = 1.0

    def _variable(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.logit(t), 1.0 / (t * (1.0 - t))

    def _time(self, schedule: NoiseSchedule, z: Tensor) -> Tensor:
        return torch.sigmoid(z)


@register
@dataclass(frozen=True)
class LogNormalSigma(_Normal):
    """log(sigma / alpha) is normal (Karras et al. 2022, table 1), on any schedule."""

    mean: float = -1.2
    std: float = 1.2

    def _variable(self, schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * schedule.log_snr(t), (-0.5 * schedule.log_snr_prime(t)).abs()

    def _time(self, schedule: NoiseSchedule, z: Tensor) -> Tensor:
        return schedule.time(-2.0 * z)


@register
@dataclass(frozen=True)
class Stratified(TimeSampler):
    """Low-discrepancy times with the density of `inner`: any run of consecutive samples covers it evenly.

    Sample n takes the n-th point of a golden-ratio sequence with a random shift, so its time depends on its own number
    only, not on the batch it stands in (Kingma et al. 2021, appendix I.1, stratify within a batch instead).
    """

    inner: TimeSampler = field(default_factory=Uniform)

    def quantile(self, schedule: NoiseSchedule, u: Tensor) -> Tensor:
        return self.inner.quantile(schedule, u)

    def density(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return self.inner.density(schedule, t)

    def draw(self, schedule: NoiseSchedule, seed: int, numbers: Tensor) -> Tensor:
        shift = float(uniform([seed], Stream.STRATUM)[0])
        # Integers of 2^53 keep the fraction exact to fp64 however long the run.
        step = int(_GOLDEN * 2**53)
        point = ((numbers * step) & (2**53 - 1)).to(torch.float64) / 2**53
        return self.inner.quantile(schedule, ((point + shift) % 1.0).clamp(1e-12, 1.0 - 1e-12))
