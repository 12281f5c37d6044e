"""Exact answers that likelihoods are measured against; shared by the tests and by benchmarks/likelihood_oracle.py.

Of the exact denoiser the bound of every single sample is -log p(x), up to what the ends of the path leave: noise on the
paths between x and the prior says nothing that p(x) does not. So bound and truth are compared sample by sample, and the
spread of the samples drops out. Of one Gaussian even the estimate has no spread: pairs of noises and the control
variate leave exactly its expectation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kakusan.likelihood import Density, ReverseVariance, step_table, variational_bound
from kakusan.likelihood.bound import log_snr_ends
from kakusan.noise import Stream, normal, uniform
from kakusan.oracles import GaussianMixture
from kakusan.schedules import NoiseSchedule

RATE_STEPS = (64, 128, 256, 512)


def trefoil(schedule: NoiseSchedule, std: float = 0.6) -> GaussianMixture:
    """Three equal Gaussians around the origin of the plane."""
    angle = 2.0 * math.pi * torch.arange(3, dtype=torch.float64) / 3.0
    return GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1), std, schedule=schedule)


def draws_of(mixture: GaussianMixture, count: int, seed: int = 0) -> Tensor:
    """Exact samples (count, *shape), fp64."""
    seeds = torch.arange(seed, seed + count)
    noise = normal(seeds, Stream.RESERVED_FOR_TESTS, shape=mixture.shape, dtype=torch.float64)
    return mixture.draw(uniform(seeds, Stream.RESERVED_FOR_TESTS, 1).contiguous(), noise)


def lone(schedule: NoiseSchedule, std: float = 0.5) -> GaussianMixture:
    """One centred Gaussian on the line."""
    return GaussianMixture(torch.zeros(1, 1), std, schedule=schedule)


def typical(gaussian: GaussianMixture) -> Tensor:
    """A sample (1, 1) whose square is the variance: the bound, quadratic in it, has its expectation there."""
    return gaussian.variance.sqrt().clone()


def excess(gaussian: GaussianMixture, grid: Tensor | int, variance: ReverseVariance) -> float:
    """The T-step bound less the continuous one, in nats, exact; both for the data of one Gaussian."""
    x, decoder = typical(gaussian), Density()
    whole = variational_bound(gaussian, x, decoder=decoder, seeds=[0], draws=2).total
    table = step_table(gaussian, x, decoder=decoder, seeds=[0], steps=grid, variance=variance, draws=2)
    return float(table.sum() - whole)


def even_log_snr(schedule: NoiseSchedule, steps: int) -> Tensor:
    """`steps` falling times, even in log-SNR from the noise end to the data end."""
    high, low = log_snr_ends(schedule)
    return schedule.time(torch.linspace(low, high, steps, dtype=torch.float64)).clamp(schedule.t_min, schedule.t_max)


def posterior_coefficient(schedule: NoiseSchedule, std: float, share: Tensor | float, log_snr: Tensor) -> float:
    """lim T * excess for T levels even in log-SNR: range / 4 * integral of (a - g)^2.

    A step of h in log-SNR replaces the integral of g(log-SNR), the Gaussian's mean |eps - eps_hat|^2, by a rectangle
    and the true reverse variance by another: together h^2 (a - g)^2 / 4, with a = 0 for the posterior's variance and
    a = -d log sigma^2 / d log-SNR for beta.
    """
    g = torch.sigmoid(log_snr + 2.0 * math.log(std))
    width = float(log_snr[-1] - log_snr[0])
    return 0.25 * width * float(torch.trapezoid((share - g) ** 2, log_snr))


def slope(steps: tuple[int, ...], errors: list[float]) -> float:
    """Least-squares slope of -log(error) against log(steps)."""
    x = torch.tensor(steps, dtype=torch.float64).log()
    y = -torch.tensor(errors, dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())
