"""One evaluation a step: DDPM and DDIM.

In the variables (x / alpha, sigma / alpha) DDIM without noise is Euler's method on the probability flow, and on the
rectified path it is the Euler step of flow matching: one implementation for the three.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, Scalar, add_scaled, blend, root
from kakusan.noise import StepNoise
from kakusan.samplers.base import Sampler, State
from kakusan.specs import register
from kakusan.transitions import posterior_mean_factors, transition_variance


@register
@dataclass(frozen=True)
class DDIM(Sampler):
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12) on any schedule. `eta` 0 is deterministic, 1 is DDPM."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.eta < 0.0:
            raise ValueError(f"eta must not be negative, got {self.eta}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0.0

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
        prediction = denoiser(x_t, level_t, cond)
        if self.eta == 0.0:
            kept = level_s.sigma / level_t.sigma
            x_s = prediction.towards_x0(kept, level_s.alpha - kept * level_t.alpha)
        else:
            fresh = self.eta * root(transition_variance(level_t, level_s)) * level_s.sigma / level_t.sigma
            if not isinstance(fresh, Tensor):
                # More noise than the level holds cannot be added; eta above 1 is capped there.
                fresh = min(fresh, float(level_s.sigma))
            kept = root(level_s.sigma**2 - fresh**2) / level_t.sigma
            x_s = prediction.towards_x0(kept, level_s.alpha - kept * level_t.alpha)
            if isinstance(fresh, Tensor) or fresh > 0.0:
                x_s = add_scaled(x_s, noise(), fresh)
        return x_s, State(state.num_steps, prediction, index=state.index + 1)


def Euler() -> DDIM:
    """Euler's method on the probability flow: DDIM at eta = 0."""
    return DDIM(eta=0.0)


@register
@dataclass(frozen=True)
class DDPM(Sampler):
    """Ancestral sampling (Ho et al. 2020, algorithm 2) on any schedule and any subset of its times.

    A model that learned its variance is sampled with it (Nichol & Dhariwal 2021).

    Args:
        large_variance: beta_t in place of the posterior variance (section 3.2; for noise of unit variance as data).
        clip: clamp the predicted x0 to [-clip, clip] at every step, as the paper's code does with 1.
    """

    large_variance: bool = False
    clip: float | None = None
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
        prediction = denoiser(x_t, level_t, cond)
        kept, gain = posterior_mean_factors(level_t, level_s)
        if self.clip is None:
            x_s = prediction.towards_x0(kept, gain)
        else:
            x_s = blend(x_t, kept, prediction.x0.clamp(-self.clip, self.clip), gain)
        following = State(state.num_steps, prediction, index=state.index + 1)
        learned = None if self.large_variance else prediction.step_log_variance(level_s)
        if learned is not None:
            return x_s + (0.5 * learned).exp() * noise() * _above_zero(level_s.sigma, x_t), following
        variance = transition_variance(level_t, level_s)
        # The last step returns the mean: there is no noise in data.
        posterior = root(variance / level_t.sigma**2) * level_s.sigma
        fresh = root(variance) * (level_s.sigma > 0.0) if self.large_variance else posterior
        if isinstance(fresh, Tensor) or fresh > 0.0:
            x_s = add_scaled(x_s, noise(), fresh)
        return x_s, following


def _above_zero(sigma: Scalar, like: Tensor) -> float | Tensor:
    return (sigma > 0.0).to(like) if isinstance(sigma, Tensor) else float(sigma > 0.0)
