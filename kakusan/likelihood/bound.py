"""The variational bound in continuous time: prior + reconstruction + diffusion (Kingma et al. 2021, arXiv 2107.00630).

-log p(x) <= KL(q(z_max | x) || p(z_max)) - E log p(x | z_min) - 1/2 int SNR'(t) E |x - x_hat|^2 dt    (eq. 11, 15)

SNR |x - x_hat|^2 = |eps - eps_hat|^2, so the last term is 1/2 int E |eps - eps_hat|^2 d log-SNR: the interior of the
schedule does not matter, only its ends do. With the exact denoiser the bound of every single sample is -log p(x), up to
what the ends leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, blend
from kakusan.likelihood.control import Control
from kakusan.likelihood.decoders import Decoder
from kakusan.noise import Stream, as_seeds, normal, uniform
from kakusan.schedules import MAX_LOG_SNR, NoiseSchedule
from kakusan.time_samplers import TimeSampler


@dataclass(frozen=True)
class BoundTerms:
    """The terms of the bound on -log p(x), in nats, (B,) fp64 each."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor

    @property
    def total(self) -> Tensor:
        """The bound (B,)."""
        return self.prior + self.reconstruction + self.diffusion

    def named(self) -> dict[str, Tensor]:
        """The terms by name."""
        return {"prior": self.prior, "reconstruction": self.reconstruction, "diffusion": self.diffusion}


def noise_end(schedule: NoiseSchedule) -> float:
    """The time at which the latent counts as prior: t_max, or where log-SNR is -20 on schedules that go on to no signal
    at all. What lies beyond changes a bound by less than 1e-8 |x|^2 nats.
    """
    last = torch.tensor(schedule.t_max, dtype=torch.float64)
    if float(schedule.log_snr(last).detach()) >= -MAX_LOG_SNR:
        return schedule.t_max
    return min(schedule.t_max, float(schedule.time(torch.tensor(-MAX_LOG_SNR, dtype=torch.float64))))


def log_snr_ends(schedule: NoiseSchedule) -> tuple[float, float]:
    """log-SNR at the data end (t_min) and at the noise end."""
    high, low = schedule.log_snr(torch.tensor([schedule.t_min, noise_end(schedule)], dtype=torch.float64)).tolist()
    return high, low


def prior_divergence(denoiser: BaseDenoiser, x0: Tensor, t: float | None = None) -> Tensor:
    """KL(q(z | x0) || N(0, (alpha^2 sigma_data^2 + sigma^2) I)) in nats, (B,), at t or at the noise end."""
    last = noise_end(denoiser.schedule) if t is None else t
    level = Level.of(denoiser.schedule, torch.tensor([last], dtype=torch.float64), x0[:1])
    alpha, sigma = (torch.as_tensor(v, dtype=torch.float64).reshape(()) for v in (level.alpha, level.sigma))
    signal = (alpha / sigma) ** 2
    excess = signal * denoiser.sigma_data**2
    square = x0.to(torch.float64).flatten(1).square()
    # v = sigma^2 (1 + excess); log1p keeps what is left of it when the end is nearly pure noise.
    each = 0.5 * (torch.log1p(excess) - excess / (1.0 + excess) + signal * square / (1.0 + excess))
    return each.sum(1)


@torch.no_grad()
def variational_bound(
    denoiser: BaseDenoiser,
    x0: Tensor,
    cond: Condition | None = None,
    *,
    decoder: Decoder,
    seeds: Sequence[int] | Tensor,
    times: TimeSampler | None = None,
    draws: int = 2,
    control: Control | None = None,
) -> BoundTerms:
    """Unbiased estimate of the bound of each sample, from `draws` evaluations of the network.

    Draws come in pairs that share a time and have noises eps and -eps; the times of a sample are evenly spaced under
    the time sampler's quantiles with one random shift.

    Args:
        x0: data (B, C, *spatial) in model units.
        cond: for B samples, or for one and shared.
        decoder: log p(x | z) where it takes over, at t_min or later (`Decoder.start_log_snr`).
        seeds: (B,), one for each sample: the estimate of a sample depends on its own seed only.
        times: density of the times; even in log-SNR when None.
        draws: times and noises for each sample.
        control: the control variate.

    Raises:
        ValueError: data that the decoder does not describe; a model of coupled noise; fewer than one draw.
    """
    numbers = check_bound(denoiser, x0, decoder, seeds, draws)
    control = control or Control()
    schedule, dims = denoiser.schedule, x0[0].numel()
    high, low = log_snr_ends(schedule)
    high = decoder.start_log_snr(high)
    if not low < high:
        raise ValueError(f"the decoder takes over at log-SNR {high:.4g}, but the path only goes down to {low:.4g}")
    if cond is not None:
        cond = cond.expand(len(x0))
    start = schedule.time(torch.full((len(x0),), high, dtype=torch.float64)).clamp_min(schedule.t_min)
    first = Level.of(schedule, start, x0)
    closed = decoder.expected(x0, first)
    shift, data = uniform(numbers, Stream.BOUND_TIME), _square(x0)
    count = (draws + 1) // 2
    diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    reconstruction = torch.zeros_like(diffusion) if closed is None else -closed
    for draw in range(draws):
        eps = signed_noise(numbers, draw, x0)
        t, weight = _times(schedule, times, (shift + draw // 2 / count) % 1.0, high, low)
        level = Level.of(schedule, t, x0)
        error = eps - denoiser(blend(x0, level.alpha, eps, level.sigma), level, cond).eps
        log_snr = schedule.log_snr(t)
        of_eps, of_data = (c(log_snr, denoiser.sigma_data).to(x0.device) for c in (control.weight, control.data_weight))
        spread = _square(error) - of_eps * _square(eps) - of_data * data
        # Pairs share the even spacing of the times; a last one without its partner counts as a pair.
        share = 1.0 / count / (1 if draw == draws - 1 and draws % 2 else 2)
        diffusion += share * weight.to(x0.device) * spread
        if closed is None:
            z = blend(x0, first.alpha, eps, first.sigma)
            reconstruction -= decoder.log_prob(x0, z, first).to(torch.float64) / draws
    known = control.integrals(high, low, denoiser.sigma_data)
    diffusion += 0.5 * (known[0] * dims + known[1] * data)
    return BoundTerms(prior_divergence(denoiser, x0), reconstruction, diffusion)


def _times(
    schedule: NoiseSchedule, times: TimeSampler | None, u: Tensor, high: float, low: float
) -> tuple[Tensor, Tensor]:
    """(t (B,), 1/2 |d log-SNR / dt| / p(t) (B,)), 0 beyond the ends."""
    if times is None:
        return schedule.time(high + (low - high) * u), torch.full_like(u, 0.5 * (high - low))
    t = times.quantile(schedule, u)
    weight = -0.5 * schedule.log_snr_prime(t) / times.density(schedule, t)
    first, last = schedule.time(torch.tensor([high, low], dtype=torch.float64)).tolist()
    inside = (t >= first * (1.0 - 1e-12)) & (t <= last * (1.0 + 1e-12))
    return t.clamp(first, last), torch.where(inside, weight, 0.0)


def _square(x: Tensor) -> Tensor:
    return x.to(torch.float64).flatten(1).square().sum(1)


def signed_noise(numbers: Tensor, draw: int, like: Tensor, part: int = 0) -> Tensor:
    """The noise of a draw of some part of the bound: draws 2 k and 2 k + 1 are each other's negative."""
    eps = normal(
        numbers,
        Stream.BOUND_NOISE,
        (part << 32) + draw // 2,
        shape=like.shape[1:],
        dtype=like.dtype,
        device=like.device,
    )
    return -eps if draw % 2 else eps


def check_bound(
    denoiser: BaseDenoiser, x0: Tensor, decoder: Decoder, seeds: Sequence[int] | Tensor, draws: int
) -> Tensor:
    """Refuse what has no bound; the seeds as (B,) int64."""
    numbers = as_seeds(seeds)
    if len(numbers) != len(x0):
        raise ValueError(f"{len(numbers)} seeds were given for {len(x0)} samples")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if not x0.is_floating_point():
        raise ValueError(f"x0 is data in model units (DataSpec.to_model), got integers of {x0.dtype}")
    if not denoiser.independent_noise:
        raise ValueError(
            "this model was trained on coupled pairs of noise and data, for which the variational bound does not hold; "
            "use the probability-flow likelihood"
        )
    decoder.check(x0)
    return numbers
