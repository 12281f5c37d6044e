"""The bound of a chain of T steps, term by term: L_0 + L_1 + ... + L_T (Ho et al. 2020, arXiv 2006.11239, eq. 5).

L_T is the prior's divergence, L_0 the decoder's -log p(x | x_1), and L_i the divergence of two Gaussians that predict
x_s from x_t, t = t_{i+1}, s = t_i: the true q(x_s | x_t, x) and the model's, whose mean has the prediction in place of
x. With the posterior's own variance L_i = 1/2 (SNR(s) - SNR(t)) |x - x_hat|^2 (Kingma et al. 2021, arXiv 2107.00630,
eq. 13), a rectangle under which the continuous bound's integral lies: the more steps, the tighter, at first order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan import grids
from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser, Prediction
from kakusan.levels import Level, blend
from kakusan.likelihood.bound import BoundTerms, check_bound, prior_divergence, signed_noise
from kakusan.likelihood.control import Control
from kakusan.likelihood.decoders import Decoder
from kakusan.noise import Stream, uniform
from kakusan.schedules import NoiseSchedule
from kakusan.specs import register
from kakusan.transitions import posterior_variance


class ReverseVariance(ABC):
    """The variance of the model's p(x_s | x_t)."""

    drawn: bool = False
    """Whether it depends on x_t."""

    @abstractmethod
    def log_ratio(self, log_snr_t: Tensor, log_snr_s: Tensor, sigma_ratio: Tensor, prediction: Prediction) -> Tensor:
        """log of the variance over the posterior's, () or (B, C, *spatial)."""

    def last(self, log_sigma: float, prediction: Prediction, later: Level | None = None) -> float | Tensor:
        """log variance of p(x | x_1), where the posterior has none; `later` is the level of x_2."""
        return 2.0 * log_sigma


@register
@dataclass(frozen=True)
class Posterior(ReverseVariance):
    """That of q(x_s | x_t, x) ("small" in Ho et al. 2020, section 3.2): best for data without any spread."""

    def log_ratio(self, log_snr_t: Tensor, log_snr_s: Tensor, sigma_ratio: Tensor, prediction: Prediction) -> Tensor:
        return torch.zeros_like(log_snr_t)


@register
@dataclass(frozen=True)
class Beta(ReverseVariance):
    """That of q(x_t | x_s) ("large" in Ho et al. 2020, section 3.2): best for data of unit variance."""

    def log_ratio(self, log_snr_t: Tensor, log_snr_s: Tensor, sigma_ratio: Tensor, prediction: Prediction) -> Tensor:
        return -2.0 * sigma_ratio.log()


@register
@dataclass(frozen=True)
class Learned(ReverseVariance):
    """The model's own (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15)."""

    drawn = True

    def log_ratio(self, log_snr_t: Tensor, log_snr_s: Tensor, sigma_ratio: Tensor, prediction: Prediction) -> Tensor:
        schedule = prediction.denoiser.schedule
        level_s = Level.of(schedule, schedule.time(log_snr_s.reshape(-1)), prediction.x0)
        learned = _stated(prediction.step_log_variance(level_s))
        posterior = 2.0 * torch.as_tensor(level_s.sigma).log().cpu() + (-torch.expm1(log_snr_t - log_snr_s)).log()
        return learned.to(torch.float64) - posterior.to(learned.device)

    def last(self, log_sigma: float, prediction: Prediction, later: Level | None = None) -> Tensor:
        # The posterior's variance of the step before stands in, as in training (`Hybrid`) and the paper's code.
        lowest = None if later is None else posterior_variance(later, prediction.level)
        return _stated(prediction.step_log_variance(Level(0.0, 1.0, 0.0, math.inf), lowest))


def _stated(learned: Tensor | None) -> Tensor:
    if learned is None:
        raise ValueError("this model has no learned variance; use the variance Posterior or Beta")
    return learned


@dataclass(frozen=True)
class _Chain:
    """Levels t_1 < ... < t_T (rising) of the chain, in fp64."""

    times: Tensor
    log_snr: Tensor
    sigma: Tensor
    alpha: Tensor

    @classmethod
    def of(cls, schedule: NoiseSchedule, steps: int | Tensor) -> _Chain:
        grid = _even(schedule, steps) if isinstance(steps, int) else _checked(schedule, steps)
        times = grid.flip(0)
        return cls(times, schedule.log_snr(times), schedule.sigma(times), schedule.alpha(times))


def _even(schedule: NoiseSchedule, steps: int) -> Tensor:
    """t = i / T, i = T ... 1, those at which a network is not evaluated left out."""
    if steps < 1:
        raise ValueError(f"the chain has at least one step, got {steps}")
    grid = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    inside = grid[(grid >= schedule.t_min) & (grid < schedule.t_max)]
    ends = [torch.tensor([schedule.t_max], dtype=torch.float64), inside]
    if len(inside) < len(grid) - 1 or (steps == 1 and not len(inside)):
        first = grid[(grid < schedule.t_min)]
        ends += [torch.tensor([schedule.t_min], dtype=torch.float64)] if len(first) else []
    return torch.cat(ends)


def _checked(schedule: NoiseSchedule, grid: Tensor) -> Tensor:
    found = grids.explicit(grid) if len(grid) > 1 else grid.to(torch.float64)
    if len(found) > 1 and float(found[0]) < float(found[-1]):
        raise ValueError("the levels of a chain are given falling, from noise to data")
    if float(found[-1]) == 0.0:
        found = found[:-1]
    if len(found) < 1 or not (schedule.t_min - 1e-12 <= float(found[-1]) and float(found[0]) <= schedule.t_max + 1e-12):
        raise ValueError(
            f"the levels of a chain lie between t_min = {schedule.t_min:.4g} and t_max = {schedule.t_max:.4g}, where "
            "the network is evaluated; a last 0 is left out"
        )
    return found


@dataclass(frozen=True)
class _Terms:
    """What every term needs."""

    denoiser: BaseDenoiser
    x0: Tensor
    cond: Condition | None
    decoder: Decoder
    variance: ReverseVariance
    control: Control
    chain: _Chain

    def level(self, index: Tensor) -> Level:
        """The levels t_i of the samples, i from 1; index () or (B,)."""
        wide = index.reshape(-1).expand(len(self.x0)) - 1
        return Level.of(self.denoiser.schedule, self.chain.times[wide], self.x0)

    def reconstruction(self, eps: Tensor) -> Tensor:
        """L_0 (B,)."""
        level = self.level(torch.tensor(1))
        closed = self.decoder.expected(self.x0, level)
        if closed is not None:
            return -closed
        z = blend(self.x0, level.alpha, eps, level.sigma)
        if type(self.decoder).from_mean is not Decoder.from_mean:
            prediction = self.denoiser(z, level, self.cond)
            later = self.level(torch.tensor(2)) if len(self.chain.times) > 1 else None
            log_variance = self.variance.last(float(self.chain.sigma[0].log()), prediction, later)
            found = self.decoder.from_mean(self.x0, prediction.x0, log_variance)
            assert found is not None
            return -found.to(torch.float64)
        return -self.decoder.log_prob(self.x0, z, level).to(torch.float64)

    def step(self, index: Tensor, eps: Tensor) -> Tensor:
        """L_i (B,), i (B,) from 1 to T - 1: the divergence at x_s, s = t_i, seen from t = t_{i+1}."""
        level = self.level(index + 1)
        prediction = self.denoiser(blend(self.x0, level.alpha, eps, level.sigma), level, self.cond)
        square = (eps - prediction.eps).to(torch.float64).square()
        column = (-1, *[1] * (self.x0.dim() - 1))
        chain = self.chain
        log_snr_t, log_snr_s = chain.log_snr[index].view(column), chain.log_snr[index - 1].view(column)
        # |mean difference|^2 / posterior variance = (SNR(s) - SNR(t)) |x - x_hat|^2 = expm1(step) |eps - eps_hat|^2.
        gain = torch.expm1(log_snr_s - log_snr_t)
        ratio = (chain.sigma[index - 1] / chain.sigma[index]).view(column)
        where = self.x0.device
        log_ratio = self.variance.log_ratio(log_snr_t, log_snr_s, ratio, prediction).to(where)
        gain = gain.to(where)
        kl = 0.5 * (log_ratio + (-log_ratio).exp() - 1.0 + gain * (-log_ratio).exp() * square)
        # A factor that depends on x_t would tie the control variate's weight to the noise it must average over.
        factor = gain if self.variance.drawn else gain * (-log_ratio).exp()
        c = self.control.weight(log_snr_t, self.denoiser.sigma_data).to(where)
        return (kl - 0.5 * c * factor * (eps.to(torch.float64).square() - 1.0)).flatten(1).sum(1)


def _terms(
    denoiser: BaseDenoiser,
    x0: Tensor,
    cond: Condition | None,
    decoder: Decoder,
    steps: int | Tensor,
    variance: ReverseVariance | None,
    control: Control | None,
) -> _Terms:
    chain = _Chain.of(denoiser.schedule, steps)
    cond = None if cond is None else cond.expand(len(x0))
    return _Terms(denoiser, x0, cond, decoder, variance or Posterior(), control or Control(), chain)


@torch.no_grad()
def step_table(
    denoiser: BaseDenoiser,
    x0: Tensor,
    cond: Condition | None = None,
    *,
    decoder: Decoder,
    seeds: Sequence[int] | Tensor,
    steps: int | Tensor = 1000,
    variance: ReverseVariance | None = None,
    draws: int = 1,
    control: Control | None = None,
) -> Tensor:
    """Every term L_0 ... L_T of the bound of each sample, (B, T + 1) nats fp64.

    Args:
        x0: data (B, C, *spatial) in model units.
        decoder: of L_0.
        seeds: (B,), one for each sample.
        steps: T levels at t = i / T, those outside [t_min, t_max] moved to its ends; or falling times of the levels.
        variance: of the reverse steps; `Posterior()` when None.
        draws: noises for each term and sample.
        control: the control variate.

    Raises:
        ValueError: as `variational_bound`; a grid that does not fall or leaves [t_min, t_max].
    """
    numbers = check_bound(denoiser, x0, decoder, seeds, draws)
    terms = _terms(denoiser, x0, cond, decoder, steps, variance, control)
    count = len(terms.chain.times)
    table = torch.zeros(len(x0), count + 1, dtype=torch.float64, device=x0.device)
    for draw in range(draws):
        for i in range(count):
            eps = signed_noise(numbers, draw, x0, part=i)
            index = torch.full((len(x0),), i)
            table[:, i] += (terms.step(index, eps) if i else terms.reconstruction(eps)) / draws
    table[:, count] = prior_divergence(denoiser, x0, float(terms.chain.times[-1]))
    return table


@torch.no_grad()
def step_bound(
    denoiser: BaseDenoiser,
    x0: Tensor,
    cond: Condition | None = None,
    *,
    decoder: Decoder,
    seeds: Sequence[int] | Tensor,
    steps: int | Tensor = 1000,
    variance: ReverseVariance | None = None,
    draws: int = 2,
    control: Control | None = None,
) -> BoundTerms:
    """Unbiased estimate of the sums (L_T, L_0, L_1 + ... + L_{T-1}) from `draws` random terms for each sample.

    Arguments as in `step_table`. Draws come in pairs of one term with noises eps and -eps.
    """
    numbers = check_bound(denoiser, x0, decoder, seeds, draws)
    terms = _terms(denoiser, x0, cond, decoder, steps, variance, control)
    count = len(terms.chain.times) - 1
    shift, pairs = uniform(numbers, Stream.BOUND_TIME), (draws + 1) // 2
    reconstruction = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    diffusion = torch.zeros_like(reconstruction)
    for draw in range(draws):
        eps = signed_noise(numbers, draw, x0)
        reconstruction += terms.reconstruction(eps) / draws
        if count:
            place = (shift + draw // 2 / pairs) % 1.0
            index = (place * count).long().clamp(max=count - 1) + 1
            share = count / pairs / (1 if draw == draws - 1 and draws % 2 else 2)
            diffusion += share * terms.step(index, eps)
    return BoundTerms(prior_divergence(denoiser, x0, float(terms.chain.times[-1])), reconstruction, diffusion)
