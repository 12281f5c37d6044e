"""At which noise levels to train: densities of t, each drawn through its quantile function."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.noise import Stream, uniform
from kakusan.schedules import NoiseSchedule, remembered
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


@register
@dataclass(frozen=True)
class UniformLogSnr(TimeSampler):
    """All log-SNRs alike: the same noise levels whatever the path."""

    def quantile(self, schedule: NoiseSchedule, u: Tensor) -> Tensor:
        high, low = self._ends(schedule)
        return schedule.time(high + (low - high) * u).clamp(schedule.t_min, schedule.t_max)

    def density(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        high, low = self._ends(schedule)
        return -schedule.log_snr_prime(t) / (high - low)

    @staticmethod
    def _ends(schedule: NoiseSchedule) -> tuple[float, float]:
        ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
        high, low = schedule.log_snr(ends).tolist()
        return high, low


@register
@dataclass(frozen=True)
class Discrete(TimeSampler):
    """The times i / steps, i = 1 ... steps, all alike: training on a chain of so many steps (Ho et al. 2020).

    Those at which a network is not evaluated are left out. The density is that of the even spread over [0, 1].
    """

    steps: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a chain has at least one step, got {self.steps}")

    def quantile(self, schedule: NoiseSchedule, u: Tensor) -> Tensor:
        first, last = self._range(schedule)
        index = first + (u * (last - first + 1)).floor().clamp(max=last - first)
        return index / self.steps

    def density(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        first, last = self._range(schedule)
        return torch.full_like(t, self.steps / (last - first + 1))

    def _range(self, schedule: NoiseSchedule) -> tuple[int, int]:
        first = max(1, math.ceil(schedule.t_min * self.steps - 1e-9))
        last = math.floor(schedule.t_max * self.steps + 1e-9)
        if first > last:
            raise ValueError(f"no step of a chain of {self.steps} lies where {type(schedule).__name__} is evaluated")
        return first, last


class _Normal(TimeSampler):
    """A normal variable, mapped to time and cut at the schedule's ends."""

    mean: float
    std: float

    @abstractmethod
    def _variable(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """The normal variable."""

    @abstractmethod
    def _slope(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """|Its derivative by t|."""

    @abstractmethod
    def _time(self, schedule: NoiseSchedule, z: Tensor) -> Tensor:
        """t of the variable."""

    def quantile(self, schedule: NoiseSchedule, u: Tensor) -> Tensor:
        low, high, falling = _cut(schedule, self)
        part = 1.0 - u if falling else u
        z = self.mean + self.std * torch.special.ndtri(low + (high - low) * part)
        return self._time(schedule, z).clamp(schedule.t_min, schedule.t_max)

    def density(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        low, high, _ = _cut(schedule, self)
        z, slope = self._variable(schedule, t), self._slope(schedule, t)
        normal = (-0.5 * ((z - self.mean) / self.std) ** 2).exp() / (self.std * math.sqrt(2.0 * math.pi))
        return normal * slope / (high - low)


# Asked for twice in every training step, and the same each time while the schedule is.
@remembered(256)
def _cut(schedule: NoiseSchedule, sampler: _Normal) -> tuple[float, float, bool]:
    """Where the schedule's ends cut the normal distribution: (lower, upper) probability, whether t falls with it."""
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    values = sampler._variable(schedule, ends)
    low, high = torch.special.ndtr((values - sampler.mean) / sampler.std).tolist()
    return min(low, high), max(low, high), low > high


@register
@dataclass(frozen=True)
class LogitNormal(_Normal):
    """logit(t) is normal (Esser et al. 2024, arXiv 2403.03206, eq. 19)."""

    mean: float = 0.0
    std: float = 1.0

    def _variable(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return torch.logit(t)

    def _slope(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return 1.0 / (t * (1.0 - t))

    def _time(self, schedule: NoiseSchedule, z: Tensor) -> Tensor:
        return torch.sigmoid(z)


@register
@dataclass(frozen=True)
class LogNormalSigma(_Normal):
    """log(sigma / alpha) is normal (Karras et al. 2022, table 1), on any schedule."""

    mean: float = -1.2
    std: float = 1.2

    def _variable(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return -0.5 * schedule.log_snr(t)

    def _slope(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return (-0.5 * schedule.log_snr_prime(t)).abs()

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


@register
@dataclass(frozen=True)
class Antithetic(TimeSampler):
    """Times in even steps within each group of consecutive samples, with one random shift for each group.

    Kingma et al. 2021, appendix I.1: there the group is the batch; here it is given, so that a sample's time depends
    on its number alone.
    """

    inner: TimeSampler = field(default_factory=Uniform)
    group: int = 64

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ValueError(f"a group has at least one sample, got {self.group}")

    def quantile(self, schedule: NoiseSchedule, u: Tensor) -> Tensor:
        return self.inner.quantile(schedule, u)

    def density(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        return self.inner.density(schedule, t)

    def draw(self, schedule: NoiseSchedule, seed: int, numbers: Tensor) -> Tensor:
        shift = uniform(torch.full_like(numbers, seed), Stream.STRATUM, numbers // self.group)
        point = (shift + (numbers % self.group).to(torch.float64) / self.group) % 1.0
        return self.inner.quantile(schedule, point.clamp(1e-12, 1.0 - 1e-12))
