"""Methods that draw x0 anew at every level and noise it again, so that early mistakes can be undone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, blend
from kakusan.noise import StepNoise
from kakusan.operators import Mask, Measurement
from kakusan.posteriors.base import Posterior, spread
from kakusan.samplers import DDIM, DDPM, Sampler
from kakusan.samplers.base import State, at_data, level_at_log_snr
from kakusan.specs import register
from kakusan.transitions import transition_variance

# Karras et al. 2022 space the noise of their steps by this power.
_RHO = 7.0
_LEAST_NOISE = 0.002


@dataclass(frozen=True)
class _DecoupledSampler(Sampler):
    measurement: Measurement
    inner_steps: int
    widening: float
    stochastic = True

    def step(
        self,
        denoiser: BaseDenoiser,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        cond: Condition | None,
        state: State,
        noise: StepNoise,
    ) -> tuple[Tensor, State]:
        x, following = x_t, state
        for here, there in pairwise(self._way(denoiser, level_t, x_t)):
            x, following = DDIM().step(denoiser, x, here, there, cond, following, noise)
        x0 = self._drawn(denoiser, x, level_t, noise(0))
        x_s = x0 if at_data(level_s) else blend(x0, level_s.alpha, noise(1), level_s.sigma)
        return x_s, State(state.num_steps, following.prediction, index=state.index + 1)

    def _way(self, denoiser: BaseDenoiser, level_t: Level, like: Tensor) -> list[Level]:
        """From level_t to data in a few steps of the probability flow."""
        assert not isinstance(level_t.log_snr, Tensor)
        most = math.exp(-0.5 * level_t.log_snr)
        ends = [value ** (1.0 / _RHO) for value in (most, min(_LEAST_NOISE, 0.5 * most))]
        levels = [level_t]
        for k in range(1, self.inner_steps):
            u = (ends[0] + k / self.inner_steps * (ends[1] - ends[0])) ** _RHO
            levels.append(level_at_log_snr(denoiser.schedule, -2.0 * math.log(u), like))
        return [*levels, Level.of(denoiser.schedule, 0.0)]

    def _drawn(self, denoiser: BaseDenoiser, x0: Tensor, level_t: Level, noise: Tensor) -> Tensor:
        """From the Gaussian around x0, given the measurement: exactly, where the paper runs Langevin dynamics."""
        operator, std = self.measurement.operator, self.measurement.noise_std
        variance = torch.as_tensor(spread(denoiser, level_t)).to(x0) * self.widening**2
        s = operator.singular(x0)
        mean = self.measurement.towards(x0, std**2 / variance)
        left = torch.where(s > 0.0, variance * std**2 / (s * s * variance + std**2).clamp_min(1e-30), variance)
        return mean + operator.filtered(noise, left.sqrt())

    def network_calls(self, levels: Sequence[Level]) -> int | None:
        return self.inner_steps * (len(levels) - 1)


@register
@dataclass(frozen=True)
class DAPS(Posterior):
    """Decoupled annealing posterior sampling (Zhang et al. 2024, arXiv 2407.01521, algorithm 1) for linear operators: a
    few steps of the probability flow to an x0, a draw around it given the measurement, and noise again.

    Args:
        inner_steps: of the flow at each level (the paper takes 5; with 100 calls in all, more levels serve better).
        widening: factor on the standard deviation assumed around x0. With 1 the Gaussian is as wide as that of Gaussian
            data, which is too wide for pictures.
    """

    inner_steps: int = 2
    widening: float = 0.5

    def __post_init__(self) -> None:
        if self.inner_steps < 1:
            raise ValueError(f"inner_steps must be at least 1, got {self.inner_steps}")

    def sampler(self, measurement: Measurement) -> Sampler:
        return _DecoupledSampler(measurement, self.inner_steps, self.widening)


@dataclass(frozen=True)
class _RepaintingSampler(Sampler):
    measurement: Measurement
    repeats: int
    stochastic = True

    def step(
        self,
        denoiser: BaseDenoiser,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        cond: Condition | None,
        state: State,
        noise: StepNoise,
    ) -> tuple[Tensor, State]:
        operator = self.measurement.operator
        assert isinstance(operator, Mask)
        x, following = x_t, state
        # The last repeat goes down; each before it goes down and up again.
        for repeat in range(self.repeats):
            x_s, following = DDPM().step(denoiser, x, level_t, level_s, cond, state, _Shifted(noise, 3 * repeat))
            known = blend(self.measurement.rows(x), level_s.alpha, noise(3 * repeat + 1), level_s.sigma)
            x_s = operator.composite(x_s, known)
            if at_data(level_s) or repeat == self.repeats - 1:
                break
            kept = level_t.alpha / level_s.alpha
            again = torch.as_tensor(transition_variance(level_t, level_s)).clamp_min(0.0).sqrt()
            x = blend(x_s, kept, noise(3 * repeat + 2), again if isinstance(level_t.t, Tensor) else float(again))
        return x_s, following

    def network_calls(self, levels: Sequence[Level]) -> int | None:
        # At the last step, which reaches data, there is nothing to go back up from.
        return self.repeats * (len(levels) - 2) + 1


class _Shifted(StepNoise):
    """The draws of a step from another number on."""

    def __init__(self, noise: StepNoise, first: int) -> None:
        self._inner, self._first = noise, first

    def __call__(self, draw: int = 0) -> Tensor:
        return self._inner(self._first + draw)


@register
@dataclass(frozen=True)
class RePaint(Posterior):
    """RePaint (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1) for masks, with jumps of one step: known pixels are
    noised to the level and put in place, and every step is taken several times so that both parts come to agree.

    Args:
        repeats: how often each step is taken (the paper's resampling).
    """

    repeats: int = 5

    def __post_init__(self) -> None:
        if not 1 <= self.repeats <= 5:
            raise ValueError(f"repeats is 1 to 5 (a step has 16 draws of noise), got {self.repeats}")

    def sampler(self, measurement: Measurement) -> Sampler:
        if not isinstance(measurement.operator, Mask):
            raise ValueError(
                f"RePaint fills in masks and cannot undo a {type(measurement.operator).__name__}; use another posterior"
            )
        return _RepaintingSampler(measurement, self.repeats)
