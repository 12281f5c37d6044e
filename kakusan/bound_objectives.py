"""Objectives that hold the variational bound itself: learned variance, and variational diffusion models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import Denoiser, variance_fraction
from kakusan.learned_schedule import LearnedSchedule, Sensitivity
from kakusan.levels import Level, blend
from kakusan.likelihood.decoders import Categorical, Decoder
from kakusan.objectives import Elbo, LossTerms, Objective, Weighting
from kakusan.schedules import expand
from kakusan.specs import register
from kakusan.time_samplers import Antithetic, TimeSampler
from kakusan.transitions import log_variance_between, posterior_mean_factors, posterior_variance


@register
@dataclass(frozen=True)
class Hybrid(Objective):
    """L_simple + weight * L_vlb, for a learned variance (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 16).

    L_vlb is the bound of a chain of `steps` steps in bits/dim; its gradient reaches the variance alone, the mean is
    trained by the plain objective.

    Args:
        bound_weight: lambda of the paper.
        steps: of the chain.
    """

    bound_weight: float = 1e-3
    steps: int = 1000

    def check(self, denoiser: Denoiser) -> None:
        if not denoiser.learned_variance:
            raise ValueError("Hybrid trains a learned variance, which this model does not have; use Objective")
        if denoiser.schedule.learnable:
            raise ValueError("Hybrid needs a fixed schedule; a learned one is trained by Variational")

    def terms(self, denoiser: Denoiser, x0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor) -> LossTerms:
        self.check(denoiser)
        found = self._evaluate(denoiser, x0, cond, t, eps)
        assert found.beside is not None
        bits = self._bound_term(
            denoiser, x0, found.level, found.x_t, found.output.detach(), found.beside, found.terms.t
        )
        # One term stands for all: their sum is `steps` times a random one.
        loss = found.terms.loss + self.bound_weight * self.steps * bits
        return LossTerms(loss, found.terms.x0_error, found.terms.t)

    def _bound_term(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        level_t: Level,
        x_t: Tensor,
        output: Tensor,
        beside: Tensor,
        t: Tensor,
    ) -> Tensor:
        """KL(q(x_s | x_t, x0) || p(x_s | x_t)) in bits/dim (B,); -log p(x0 | x_t) as a density where x_s is data."""
        level_s = Level.of(denoiser.schedule, (t - 1.0 / self.steps).clamp_min(0.0), x0)
        earlier = Level.of(denoiser.schedule, (t + 1.0 / self.steps).clamp_max(1.0), x0)
        c = denoiser.coefficients(level_t, x_t)
        error = (blend(x_t, c.x0_x, output, c.x0_f) - x0).float()
        learned = log_variance_between(
            variance_fraction(beside.float()), level_t, level_s, posterior_variance(earlier, level_t)
        )
        _, gain = posterior_mean_factors(level_t, level_s)
        offset = (torch.as_tensor(gain).to(error) * error).square() * (-learned).exp()
        true = torch.as_tensor(posterior_variance(level_t, level_s)).to(error)
        last = true == 0.0
        log_true = torch.where(last, torch.ones_like(true), true).log()
        kl = 0.5 * (learned - log_true - 1.0 + true * (-learned).exp() + offset)
        density = 0.5 * (learned + math.log(2.0 * math.pi) + offset)
        return torch.where(last, density, kl).flatten(1).mean(1) / math.log(2.0)


@register
@dataclass(frozen=True)
class Variational(Objective):
    """The continuous bound whole: prior + reconstruction + diffusion (Kingma et al. 2021, arXiv 2107.00630, eq. 11).

    With a `LearnedSchedule` its ends are trained to lower the bound, and the curve between them to lower the variance
    of its estimate: the gradient of the squared diffusion term, which comes from the same backward pass because
    d(L^2) = 2 L dL (appendix I.2 there).

    The loss of a sample is in nats/dim.

    Args:
        decoder: log p(x | z) at the first level.
    """

    time_sampler: TimeSampler = field(default_factory=Antithetic)
    weighting: Weighting = field(default_factory=Elbo)
    decoder: Decoder = field(default_factory=Categorical)

    def terms(self, denoiser: Denoiser, x0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor) -> LossTerms:
        self.check(denoiser)
        schedule = denoiser.schedule
        sensitivity = None
        if isinstance(schedule, LearnedSchedule) and torch.is_grad_enabled():
            sensitivity = schedule.sensitivity = Sensitivity()
        try:
            found = self._evaluate(denoiser, x0, cond, t, eps).terms
        finally:
            if isinstance(schedule, LearnedSchedule):
                schedule.sensitivity = None
        if sensitivity is not None:
            sensitivity.value = 2.0 * found.loss.detach()
        loss = found.loss + self._ends(denoiser, x0, eps).to(found.loss)
        return LossTerms(loss, found.x0_error, found.t)

    def _ends(self, denoiser: Denoiser, x0: Tensor, eps: Tensor) -> Tensor:
        """Prior and reconstruction in nats/dim, (B,)."""
        schedule = denoiser.schedule
        ends = torch.tensor([[schedule.t_min], [schedule.t_max]], dtype=torch.float64).expand(2, len(x0))
        first = Level.of(schedule, ends[0], x0)
        z = x0 * torch.as_tensor(first.alpha).to(x0) + eps * torch.as_tensor(first.sigma).to(x0)
        reconstruction = -self.decoder.log_prob(x0, z, first) / x0[0].numel()
        alpha, sigma = schedule.alpha(ends[1]), schedule.sigma(ends[1])
        prior = (alpha * denoiser.sigma_data) ** 2 + sigma**2
        mean = expand(alpha, x0) * x0
        kl = 0.5 * (
            (mean**2).flatten(1).mean(1) / prior.to(x0) + (sigma**2 / prior - 1.0 - (sigma**2 / prior).log()).to(x0)
        )
        return reconstruction.to(kl) + kl
