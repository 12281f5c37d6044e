"""Law 2: every sampler shows its claimed order of convergence, measured against exact answers."""

from itertools import pairwise

import pytest
import torch
from sampler_laws import (
    QUANTILES,
    STEPS,
    bumpy,
    exact_moments,
    flow_error,
    flow_order,
    lone,
    moment_errors,
    moments,
    quantile,
    slope,
    times,
)

from kakusan import grids
from kakusan.levels import tabulate
from kakusan.oracles import GaussianMixture
from kakusan.samplers import DDIM, DDPM, DEIS, IPNDM, Adaptive, DPMSolverPP, Heun, State, UniPC, sample, sample_iter
from kakusan.schedules import Cosine, Karras, Rectified, VariancePreserving

DETERMINISTIC = {
    1: [DDIM(), DPMSolverPP(1), UniPC(1, corrector=False), IPNDM(1), DEIS(1)],
    2: [Heun(), DPMSolverPP(2), UniPC(1), UniPC(2, corrector=False), IPNDM(2), DEIS(2)],
    3: [DPMSolverPP(3), UniPC(2), UniPC(3, corrector=False), IPNDM(3), DEIS(3)],
    4: [UniPC(3), IPNDM(4), DEIS(4)],
}
CLAIMS = [(order, sampler) for order, samplers in DETERMINISTIC.items() for sampler in samplers]
# What a slope fitted over 64 to 512 steps may be.
ALLOWED = {1: (0.9, 1.1), 2: (1.9, 2.1), 3: (2.7, 3.3), 4: (3.6, 4.4)}
# Schedules and spacings, each between two finite log-SNRs; only one is even in log-SNR.
PATHS = [
    (Cosine(), grids.uniform),
    (Karras(), grids.karras),
    (Rectified(), grids.quadratic),
    (VariancePreserving(), grids.log_snr),
]


def between(schedule, grid):
    start, end = times(schedule, 4.0, 4.0)
    return lambda count: grid(schedule, count, start=start, end=end)


def check(order, sampler, schedule, grid, steps=STEPS):
    low, high = ALLOWED[order]
    measured = flow_order(bumpy(schedule), sampler, between(schedule, grid), steps)
    assert low <= measured <= high, f"{sampler} claims order {order}, measured {measured:.2f}"


@pytest.mark.parametrize("order,sampler", CLAIMS, ids=str)
def test_claimed_order_on_an_uneven_grid(order, sampler):
    check(order, sampler, *PATHS[0])


@pytest.mark.parametrize(
    "order,sampler", [(1, DDIM()), (2, Heun()), (3, DPMSolverPP(3)), (3, DEIS(3)), (4, UniPC(3))], ids=str
)
@pytest.mark.parametrize("path", PATHS[1:], ids=lambda path: type(path[0]).__name__)
def test_claimed_order_on_other_paths(order, sampler, path):
    check(order, sampler, *path, STEPS[:3])


def test_claimed_order_where_the_dimensions_are_coupled():
    # In the plane quantiles do not help: fine runs of three unlike samplers must agree first.
    schedule = VariancePreserving()
    means = torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.3, -1.2]])
    mixture = GaussianMixture(means, torch.tensor([0.4, 0.5, 0.3]), schedule=schedule)
    grid = between(schedule, grids.uniform)
    x = 1.5 * torch.linspace(-2.0, 2.0, 16, dtype=torch.float64).view(8, 2)

    def run(sampler, count):
        return sample(mixture, sampler, grid(count), (8, 2), x_start=x, dtype=torch.float64)

    reference = run(UniPC(3), 1024)
    for other, near in ((run(IPNDM(4), 1024), 1e-8), (run(Adaptive(1e-7, 1e-7), 1), 1e-5)):
        torch.testing.assert_close(other, reference, rtol=0.0, atol=near)
    for order, sampler in ((2, DPMSolverPP(2)), (3, DPMSolverPP(3))):
        errors = [float((run(sampler, count) - reference).abs().mean()) for count in STEPS[:3]]
        low, high = ALLOWED[order]
        assert low <= slope(STEPS[:3], errors) <= high


def test_without_a_warm_start_the_high_orders_are_lost():
    # Why the first steps are Runge-Kutta steps: one step of order 1 costs an error of h^2 that nothing mends.
    grid, mixture = between(Cosine(), grids.uniform), bumpy(Cosine())
    for warm, cold in ((IPNDM(4), IPNDM(4, warm_start=False)), (DPMSolverPP(3), DPMSolverPP(3, warm_start=False))):
        assert flow_error(mixture, warm, grid(512)) < 0.1 * flow_error(mixture, cold, grid(512))
        assert 1.8 < flow_order(mixture, cold, grid, (128, 512)) < 2.5


def test_the_adaptive_sampler_reaches_its_tolerance():
    for schedule in (Karras(),):
        mixture = bumpy(schedule)
        start, end = times(schedule, 4.0, 4.0)
        grid = torch.tensor([start, end], dtype=torch.float64)
        errors = [flow_error(mixture, Adaptive(rtol=t, atol=t), grid) for t in (1e-3, 1e-5, 1e-7)]
        for error, tolerance in zip(errors, (1e-3, 1e-5, 1e-7), strict=True):
            assert error < 20.0 * tolerance
        assert errors[0] > errors[1] > errors[2]


# Stochastic samplers, by exact moments. Heun's churn moves to an exact marginal, then takes a step of order 2.
STOCHASTIC = {
    1: [DDPM(), DDPM(large_variance=True), DDIM(eta=0.4), DDIM(eta=1.0), DPMSolverPP(1, sde=True)],
    2: [Heun(churn=10.0), DPMSolverPP(2, sde=True)],
}
WEAK = [(order, sampler) for order, samplers in STOCHASTIC.items() for sampler in samplers]


@pytest.mark.parametrize("order,sampler", WEAK, ids=str)
@pytest.mark.parametrize("path", [PATHS[0], PATHS[2]], ids=lambda path: type(path[0]).__name__)
def test_weak_order_of_stochastic_samplers(order, sampler, path):
    schedule, grid = path
    means, variances = moment_errors(lone(schedule), sampler, between(schedule, grid), (32, 64, 128, 256))
    # A sampler that starts at the exact mean of a Gaussian stays there, whatever its step.
    assert max(means) < 1e-12
    assert slope((32, 64, 128, 256), variances) == pytest.approx(order, abs=0.1)


def test_a_third_evaluation_does_not_lower_the_weak_order():
    schedule, grid = PATHS[0]
    _, variances = moment_errors(lone(schedule), DPMSolverPP(3, sde=True), between(schedule, grid), STEPS)
    assert slope(STEPS, variances) >= 1.9


@pytest.mark.parametrize(
    "sampler", [DDPM(), DDIM(eta=1.0), DPMSolverPP(1, sde=True), DPMSolverPP(2, sde=True)], ids=str
)
def test_a_wrong_start_is_forgotten_as_the_reverse_process_says(sampler):
    # The reverse process of a Gaussian contracts a displacement by Cov(x_s, x_t) / Var(x_t).
    # E[x0 | x_t] is a martingale of it, so every one of these samplers gets this right at any number of steps.
    schedule = Cosine()
    target = lone(schedule)
    start, end = times(schedule, 3.0, 3.0)
    moved = one_path(target, sampler, grids.uniform(schedule, 7, start=start, end=end))
    alpha_t, alpha_s = (float(schedule.alpha(torch.tensor(t, dtype=torch.float64))) for t in (start, end))
    wanted = alpha_t / alpha_s * exact_moments(target, end)[1] / exact_moments(target, start)[1]
    assert float(moved[1] - moved[0]) == pytest.approx(wanted, abs=1e-13)


def one_path(target, sampler, grid):
    """Two samples that start at 0 and 1, moved with all noise set to zero."""
    levels, state = tabulate(target.schedule, grid), State(num_steps=len(grid) - 1)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for level_t, level_s in pairwise(levels):
        x, state = sampler.step(
            target, x, level_t, level_s, None, state, lambda: torch.zeros(2, 1, dtype=torch.float64)
        )
    return x


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(0.5), Heun(churn=5.0), DPMSolverPP(2, sde=True)], ids=str)
@pytest.mark.parametrize("start", [0.3, 0.7])
def test_started_below_the_end_the_moments_are_right(sampler, start):
    target = lone(Cosine())
    mean, variance = moments(target, sampler, grids.uniform(Cosine(), 400, start=start, end=0.05))
    exact_mean, exact_variance = exact_moments(target, 0.05)
    assert mean == pytest.approx(exact_mean, abs=1e-10)
    assert variance == pytest.approx(exact_variance, rel=0.02)


@pytest.mark.parametrize("start", [0.2, 0.6, 1.0])
def test_a_default_start_below_the_end_has_the_variance_of_x_t(start):
    # 4 x 2000 draws of unit-variance-at-x_t noise; a chance of 1e-6 to be off by more than 5 standard errors.
    schedule = VariancePreserving()
    target = GaussianMixture(torch.zeros(1, 2000), 0.6, schedule=schedule)
    grid = grids.uniform(schedule, 4, start=start, end=0.1)
    first = next(sample_iter(target, DDIM(), grid, (4, 2000))).x_t
    t = torch.tensor(start, dtype=torch.float64)
    wanted = float(schedule.alpha(t) ** 2 * 0.36 + schedule.sigma(t) ** 2)
    assert float(first.square().mean()) / wanted == pytest.approx(1.0, abs=5.0 * (2.0 / 8000) ** 0.5)


# The stated error of the round trip, in units of the data, over 100 steps each way between log-SNR 4 and -4.
ROUND_TRIP = [
    (DDIM(), 3e-2),
    (Heun(), 1e-4),
    (DPMSolverPP(2), 1e-3),
    (DPMSolverPP(3), 2e-4),
    (UniPC(2), 2e-4),
    (IPNDM(3), 3e-4),
    (DEIS(3), 5e-5),
    (Adaptive(rtol=1e-6, atol=1e-6), 2e-4),
]


@pytest.mark.parametrize("sampler,bound", ROUND_TRIP, ids=str)
def test_a_rising_grid_inverts(sampler, bound):
    schedule = Cosine()
    mixture = bumpy(schedule)
    high, low = times(schedule, 4.0, 4.0)
    rising = grids.uniform(schedule, 1 if isinstance(sampler, Adaptive) else 100, start=low, end=high)
    data = quantile(mixture, QUANTILES, low)
    up = sample(mixture, sampler, rising, data.shape, x_start=data, dtype=torch.float64)
    # The way up is the exact flow too, not just something that the way down undoes.
    assert float((up - quantile(mixture, QUANTILES, high)).abs().max()) < max(bound, 2e-3)
    back = sample(mixture, sampler, rising.flip(0), data.shape, x_start=up, dtype=torch.float64)
    assert float((back - data).abs().max()) < bound


@pytest.mark.parametrize("sampler", [DDPM(), DDIM(0.5), Heun(churn=1.0), DPMSolverPP(2, sde=True)], ids=str)
def test_fresh_noise_cannot_invert(sampler):
    with pytest.raises(ValueError, match="cannot run a rising grid"):
        sample(lone(Cosine()), sampler, torch.tensor([0.1, 0.5]), (2, 1))
