"""Heun's method with churn: the EDM sampler (Karras et al. 2022, algorithm 2) on any schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, blend, scaled
from kakusan.noise import StepNoise
from kakusan.samplers.base import Sampler, State, at_data, level_at_log_snr
from kakusan.specs import register


@register
@dataclass(frozen=True)
class Heun(Sampler):
    """Second order, two evaluations a step (one for the step that reaches data).

    Args:
        churn: EDM's S_churn, the noise put back and removed again, a budget for the whole grid. 0 is deterministic.
        churn_min: no churn where sigma / alpha is below this.
        churn_max: nor above this.
        inflation: EDM's S_noise, the standard deviation of the noise put back.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = float("inf")
    inflation: float = 1.0

    def __post_init__(self) -> None:
        if self.churn < 0.0:
            raise ValueError(f"churn must not be negative, got {self.churn}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.churn > 0.0

    def network_calls(self, levels: Sequence[Level]) -> int:
        return 2 * (len(levels) - 1) - int(at_data(levels[-1]))

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
        if self.churn > 0.0:
            x_t, level_t = self._churned(denoiser, x_t, level_t, state, noise)
        first = denoiser(x_t, level_t, cond)
        # y = x / alpha and u = sigma / alpha: dy / du = eps.
        u, u_s = level_t.sigma / level_t.alpha, level_s.sigma / level_s.alpha
        following = State(state.num_steps, first, index=state.index + 1)
        if at_data(level_s):
            return scaled(first.x0, level_s.alpha), following
        kept, step = level_s.alpha / level_t.alpha, level_s.alpha * (u_s - u)
        second = denoiser(blend(x_t, kept, first.eps, step), level_s, cond)
        return blend(x_t, kept, first.eps + second.eps, 0.5 * step), following

    def _churned(
        self, denoiser: BaseDenoiser, x_t: Tensor, level_t: Level, state: State, noise: StepNoise
    ) -> tuple[Tensor, Level]:
        u = torch.as_tensor(level_t.sigma / level_t.alpha, dtype=torch.float64)
        gamma = min(self.churn / state.num_steps, 2.0**0.5 - 1.0)
        gain = torch.where((u >= self.churn_min) & (u <= self.churn_max), 1.0 + gamma, 1.0)
        # No further than the noisiest level the network knows.
        highest = torch.tensor(denoiser.schedule.t_max, dtype=torch.float64)
        top = (-0.5 * denoiser.schedule.log_snr(highest)).exp()
        raised = torch.minimum(u * gain, torch.maximum(u, top))
        if not bool((raised > u).any()):
            return x_t, level_t
        level = level_at_log_snr(denoiser.schedule, -2.0 * raised.log(), x_t)
        added = (raised**2 - u**2).clamp_min(0.0).sqrt() * self.inflation
        fresh = level.alpha * (added if added.dim() else float(added))
        return blend(x_t, level.alpha / level_t.alpha, noise(), fresh), level
