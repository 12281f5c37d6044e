"""Posterior samplers against posteriors known in closed form."""

import itertools
import math

import pytest
import torch

from kakusan import grids
from kakusan.levels import Level, tabulate
from kakusan.noise import StepNoise
from kakusan.operators import CompressedSensing, Downsample, GaussianBlur, Identity, Mask, Matrix, Measurement
from kakusan.oracles import GaussianMixture
from kakusan.posteriors import DAPS, DDNM, DDRM, DPS, MMPS, POSTERIORS, SMC, DiffPIR, PiGDM, RePaint
from kakusan.posteriors.base import spread
from kakusan.samplers import Heun
from kakusan.samplers.base import State
from kakusan.schedules import Cosine, Karras, Rectified

SHAPE = (2, 4)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(schedule, mean=0.0, std=0.8):
    return GaussianMixture(torch.full((1, *SHAPE), mean), std, schedule=schedule)


def correlated(schedule):
    """A Gaussian with another variance in every element."""
    return GaussianMixture(random(1, *SHAPE) * 0.3, random(1, *SHAPE, seed=1).abs() + 0.2, schedule=schedule)


MATRIX = random(3, 8, seed=3)
SCHEDULES = [Cosine(), Rectified(), Karras()]


def conditional_mean(prior, x_t, level, measurement):
    """E[x0 | x_t, y] of a Gaussian prior by plain linear algebra."""
    mean, variance = prior.means[0].flatten(), prior.variance[0].flatten()
    eye = torch.eye(len(mean), dtype=torch.float64)
    matrix = measurement.operator(eye.view(-1, *SHAPE)).flatten(1).T
    precision = torch.diag(1.0 / variance) + (level.alpha / level.sigma) ** 2 * eye
    precision = precision + matrix.T @ matrix / measurement.noise_std**2
    right = mean / variance + level.alpha / level.sigma**2 * x_t.flatten(1)
    right = right + measurement.rows(x_t).flatten(1) @ matrix / measurement.noise_std**2
    return torch.linalg.solve(precision, right.T).T.view(x_t.shape)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_moment_matching_is_exact_for_gaussian_data(schedule, t):
    prior = correlated(schedule)
    measurement = Measurement(Matrix(SHAPE, MATRIX), random(2, 3, seed=4), 0.3)
    level = Level.of(schedule, t)
    x_t = random(4, *SHAPE, seed=5) * (level.alpha + level.sigma)
    found = MMPS(iterations=8).guide(prior, measurement)(x_t, level).x0
    torch.testing.assert_close(found, conditional_mean(prior, x_t, level, measurement), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_pseudoinverse_guidance_is_exact_where_every_direction_varies_alike(schedule):
    prior = gaussian(schedule)
    measurement = Measurement(Matrix(SHAPE, MATRIX), random(1, 3, seed=4), 0.3)
    for t in (0.05, 0.4, 0.9):
        level = Level.of(schedule, t)
        x_t = random(4, *SHAPE, seed=5) * (level.alpha + level.sigma)
        found = PiGDM().guide(prior, measurement)(x_t, level).x0
        torch.testing.assert_close(found, conditional_mean(prior, x_t, level, measurement), rtol=1e-6, atol=1e-6)


def moments(prior, measurement):
    """Mean and covariance of x0 given y, of a Gaussian prior."""
    mean, variance = prior.means[0].flatten(), prior.variance[0].flatten()
    eye = torch.eye(len(mean), dtype=torch.float64)
    matrix = measurement.operator(eye.view(-1, *SHAPE)).flatten(1).T
    covariance = torch.linalg.inv(torch.diag(1.0 / variance) + matrix.T @ matrix / measurement.noise_std**2)
    y = measurement.y[0].flatten()
    return covariance @ (mean / variance + matrix.T @ y / measurement.noise_std**2), covariance


# DDIM with eta = 1 has the variance of its step a little too small: of first order in the length of a step.
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [(PiGDM(), 0.2), (MMPS(8), 0.2), (PiGDM(Heun()), 0.12), (SMC(), 0.12)],
    ids=["pigdm", "mmps", "pigdm-ode", "smc"],
)
def test_samples_of_a_gaussian_posterior_have_its_moments(method, tolerance):
    prior = gaussian(Cosine())
    measurement = Measurement(Matrix(SHAPE, MATRIX / 3.0), random(1, 3, seed=4), 0.3)
    count = 2000
    x = method.sample(prior, measurement, grids.log_snr(Cosine(), 80), count, seeds=3, dtype=torch.float64).flatten(1)
    mean, covariance = moments(prior, measurement)
    std = covariance.diagonal().sqrt()
    assert float(((x.mean(0) - mean) / std * math.sqrt(count)).abs().max()) < 5.0
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0.0, atol=tolerance * float(std.max()) ** 2)


def test_where_the_local_gaussians_are_the_truth_no_step_changes_a_weight():
    prior = gaussian(Cosine())
    measurement = Measurement(Matrix(SHAPE, MATRIX / 3.0), random(2, 3, seed=4), 0.3)
    sampler, state = SMC(threshold=0.0).sampler(measurement), State(6)
    levels = tabulate(Cosine(), grids.log_snr(Cosine(), 6))
    x = random(32, *SHAPE, seed=8) * 1.1

    def shares(x, carried, level):
        promise = measurement.log_likelihood(prior(x, level).x0, spread(prior, level))
        return (carried + promise).view(2, 16).log_softmax(1)

    before = shares(x, torch.zeros(32), levels[0])
    assert float(before.std()) > 0.01
    for index, (level_t, level_s) in enumerate(itertools.pairwise(levels[:-1])):
        x, state = sampler.step(prior, x, level_t, level_s, None, state, StepNoise(torch.arange(32), index, x))
        after = shares(x, state.history[0][1], level_s)
        torch.testing.assert_close(after, before, rtol=0.0, atol=1e-6)


CASES = {
    "mask": lambda: Mask(torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()),
    "half": lambda: Downsample(SHAPE, 2),
    "blur": lambda: GaussianBlur(SHAPE, 0.6),
    "sensing": lambda: CompressedSensing(SHAPE, 0.5),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "method", [DDNM(), DDRM(), DiffPIR(), DAPS(inner_steps=2), RePaint(2)], ids=lambda m: type(m).__name__
)
def test_without_noise_the_samples_fit_the_measurement(case, method):
    operator = CASES[case]()
    prior = GaussianMixture(random(3, *SHAPE), 0.3, schedule=Cosine())
    measurement = Measurement(operator, operator(prior.means[:1]), 0.0)
    if isinstance(method, RePaint) and case != "mask":
        with pytest.raises(ValueError, match="RePaint fills in masks"):
            method.sampler(measurement)
        return
    grid = grids.log_snr(Cosine(), 12)
    x = method.sample(prior, measurement, grid, 4, seeds=1, dtype=torch.float64)
    torch.testing.assert_close(operator(x), measurement.rows(x), rtol=0.0, atol=1e-6)
    assert torch.allclose(x[0], x[1], atol=1e-3) == (operator.rank == 8)


@pytest.mark.parametrize("name", [name for name in POSTERIORS if name != "smc"])
def test_law_4_a_picture_alone_is_the_picture_in_a_batch(name):
    prior = GaussianMixture(random(3, *SHAPE), 0.3, schedule=Cosine())
    operator = CASES["mask"]()
    measurement = Measurement(operator, operator(prior.means[:1]), 0.1)
    grid, method = grids.log_snr(Cosine(), 8), POSTERIORS[name]
    together = method.sample(prior, measurement, grid, 4, seeds=[5, 6, 7, 8], dtype=torch.float64)
    alone = method.sample(prior, measurement, grid, 1, seeds=[7], dtype=torch.float64)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(POSTERIORS))
def test_the_cost_that_is_said_is_the_cost(name):
    prior = GaussianMixture(random(3, *SHAPE), 0.3, schedule=Cosine())
    calls = []
    plain = prior.output
    prior.output = lambda x, level, cond: calls.append(len(x)) or plain(x, level, cond)
    operator = CASES["mask"]()
    measurement = Measurement(operator, operator(prior.means[:1]), 0.1)
    grid, method = grids.log_snr(Cosine(), 6), POSTERIORS[name]
    method.sample(prior, measurement, grid, 2, dtype=torch.float64)
    said = method.network_calls(tabulate(prior.schedule, grid), measurement)
    backward = {"dps": 6, "pigdm": 6, "mmps": 24}.get(name, 0)
    assert said == sum(calls) / 2 + backward


@pytest.mark.parametrize("name", list(POSTERIORS))
def test_groups_are_restored_each_to_its_own_measurement(name):
    prior = GaussianMixture(torch.tensor([[[-1.0] * 4] * 2, [[1.0] * 4] * 2]), 0.1, schedule=Cosine())
    operator = CASES["mask"]()
    measurement = Measurement(operator, operator(prior.means), 0.1)
    method = DPS(scale=6.0) if name == "dps" else POSTERIORS[name]
    x = method.sample(prior, measurement, grids.log_snr(Cosine(), 30), 32, seeds=2, dtype=torch.float64)
    assert (x[:16].flatten(1).mean(1) < 0.0).double().mean() > 0.8
    assert (x[16:].flatten(1).mean(1) > 0.0).double().mean() > 0.8


def test_denoising_asks_for_a_noise_level():
    with pytest.raises(ValueError, match="noise_std above 0"):
        SMC().sampler(Measurement(Identity(SHAPE), torch.zeros(1, *SHAPE), 0.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDNM(eta=1.5),
        lambda: DDRM(eta=-0.1),
        lambda: DiffPIR(fresh=2.0),
        lambda: DiffPIR(strength=0.0),
        lambda: MMPS(iterations=0),
        lambda: DAPS(inner_steps=0),
        lambda: RePaint(repeats=0),
        lambda: SMC(threshold=2.0),
        lambda: SMC(oversampling=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError):
        make()
