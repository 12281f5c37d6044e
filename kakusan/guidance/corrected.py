"""Guidance that samples what it says: Feynman-Kac correctors.

Following a guided score does not sample the tilted density p(x)^(1 - w) p(x | c)^w: noising does not commute with
tilting. Weighted particles repair it. Where q_t, the product of densities p_i,t to powers a_i that add up to 1, is
followed by the reverse SDE of its score, a particle's log-weight grows by

    1/2 (|sum a_i eps_i|^2 - sum a_i |eps_i|^2)

for each unit of log-SNR; for guidance, a = (w, 1 - w), that is w (w - 1) / 2 |eps_c - eps|^2 (Skreta et al. 2025,
arXiv 2503.02819, the propositions on products and on classifier-free guidance, in these variables).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.guidance.base import GuidedDenoiser, Wrapped
from kakusan.guidance.rules import Linear, Reading
from kakusan.levels import Level, add_scaled, blend, root
from kakusan.noise import StepNoise
from kakusan.samplers.base import Sampler, State, at_data
from kakusan.samplers.particles import resampled
from kakusan.specs import register
from kakusan.transitions import posterior_mean_factors, posterior_variance


@register
@dataclass(frozen=True)
class FeynmanKac(Sampler):
    """Ancestral steps of a guided denoiser with resampling; all samples of a batch are `groups` populations.

    For plain classifier-free guidance, mixtures of conditions among it, and autoguidance. A step costs what guidance
    costs. Samples of one population depend on each other.

    The weights spread with the number of dimensions: on pictures a few particles soon carry everything, and the law
    of large numbers asks for more of them than anyone has.

    Args:
        groups: independent populations, in order, of equal size.
        threshold: particles are resampled where their effective number is below this share of them.
    """

    groups: int = 1
    threshold: float = 0.5
    stochastic = True

    def __post_init__(self) -> None:
        if self.groups < 1 or not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"groups is at least 1 and threshold in [0, 1], got {self.groups} and {self.threshold}")

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
        if not isinstance(denoiser, GuidedDenoiser) or not isinstance(denoiser.guidance.rule, Linear):
            raise ValueError("Feynman-Kac correction needs a denoiser under plain guidance, as ClassifierFree gives it")
        if isinstance(denoiser.inner, Wrapped):
            raise ValueError("Feynman-Kac correction knows one guidance; use it without further guides")
        scale = denoiser.guidance.scale
        if isinstance(scale, Tensor) or not denoiser.guidance.plain or denoiser.guidance.interval != (0.0, 1.0):
            raise ValueError("Feynman-Kac correction needs one scale, at all times and without rescale")
        if len(x_t) % self.groups:
            raise ValueError(f"{len(x_t)} samples cannot be shared out among {self.groups} groups")
        reading = Reading(x_t, level_t, denoiser.coefficients(level_t, x_t), denoiser.schedule)
        *parts, (_, free) = denoiser.contrast.parts(denoiser.inner, x_t, level_t, cond)
        weak = reading.x0(denoiser.parted(free)[0])
        # From the weaker x0, whose own power is what is left of 1.
        offsets = [(scale * weight, reading.x0(denoiser.parted(output)[0]) - weak) for weight, output in parts]
        guided = weak.clone()
        for power, offset in offsets:
            add_scaled(guided, offset, power)
        # In eps by way of x0: eps = (x_t - alpha x0) / sigma.
        ratio = torch.as_tensor(level_t.alpha / level_t.sigma, dtype=torch.float64).reshape(-1)
        spread = _squared(guided - weak) - sum(power * _squared(offset) for power, offset in offsets)
        ends = state.index == state.num_steps - 1
        before = state.history[0][0] if state.history else level_t
        grown = 0.5 * spread * (ratio**2 * _passed(before, level_t, level_s, ends)).to(x_t.device)
        if state.history:
            grown = grown + state.history[0][1]
        # The last step adds no noise, which would tell copies apart, so all but its own weight is settled before it.
        threshold = 1.1 if state.index >= state.num_steps - 2 else self.threshold
        rows, weights = resampled(grown.view(self.groups, -1), noise.uniform(self.groups), threshold)
        kept, gain = posterior_mean_factors(level_t, level_s)
        x_s = blend(x_t[rows], kept, guided[rows], gain)
        add_scaled(x_s, noise(), root(posterior_variance(level_t, level_s)))
        return x_s, State(state.num_steps, index=state.index + 1, history=((level_t, weights.flatten()),))


def _passed(before: Level, here: Level, there: Level, ends: bool) -> Tensor:
    """The log-SNR that an evaluation stands for, (1,) or (B,): half of the step to it and of the step from it.

    Nothing grows on the way to data, where all densities are narrow, nor at alpha = 0, where they are the same.
    """
    arrived, left, ahead = (torch.as_tensor(v.log_snr, dtype=torch.float64).reshape(-1) for v in (before, here, there))
    onward = torch.zeros_like(left) if at_data(there) else (ahead - left) * (1.0 if ends else 0.5)
    passed = 0.5 * (left - arrived) + onward
    return torch.where(passed.isfinite(), passed, torch.zeros_like(passed))


def _squared(x: Tensor) -> Tensor:
    """|x|^2 of each sample, (B,) fp64."""
    return x.to(torch.float64).square().flatten(1).sum(1)
