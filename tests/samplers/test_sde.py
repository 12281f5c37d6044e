"""The SDE of a path against the paper's closed forms, and the weak orders of the solvers of its reverse."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampler_laws import (
    Fixed,
    bumpy,
    exact_moments,
    flow_order,
    lone,
    moment_errors,
    moments,
    slope,
    times,
    weak_error,
)

from kakusan import grids
from kakusan.denoiser import Denoiser
from kakusan.levels import Level
from kakusan.oracles import GaussianMixture
from kakusan.parameterizations import Velocity
from kakusan.samplers import SEEDS, DPMSolverPP, EulerMaruyama, Heun, State, sample
from kakusan.schedule_tables import Tabulated
from kakusan.schedule_wrappers import Shifted, ZeroTerminalSnr
from kakusan.schedules import (
    Cosine,
    Karras,
    NoiseSchedule,
    Rectified,
    Sigmoid,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from kakusan.sde import diffusion, drift, squared_diffusion

# Four rates: the times below lie within one, where everything is smooth.
TABLE = Tabulated.from_betas([0.1, 0.3, 0.2, 0.4])
EVERY = [
    VariancePreserving(),
    VarianceExploding(),
    SubVariancePreserving(),
    Cosine(),
    Sigmoid(),
    Karras(),
    Rectified(),
    Shifted(Cosine(), 2.0),
    ZeroTerminalSnr(VariancePreserving()),
    TABLE,
]
every = pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)
STEPS = (64, 128, 256)


def fp64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def between(schedule: NoiseSchedule, grid: grids.Grid):
    start, end = times(schedule, 4.0, 4.0)
    return lambda count: grid(schedule, count, start=start, end=end)


# Drift and diffusion.


@given(
    t=st.floats(1e-4, 1.0),
    low=st.floats(0.01, 1.0),
    span=st.floats(0.0, 30.0),
)
def test_vp_and_sub_vp_are_those_of_the_paper(t, low, span):
    # Song et al. 2021, eqs. 27 and 28 with beta(t) = low + t span.
    time = fp64(t)
    beta, integral = low + t * span, fp64(t * low + 0.5 * t**2 * span)
    for schedule, wanted in (
        (VariancePreserving(low, low + span), fp64(beta)),
        (SubVariancePreserving(low, low + span), -beta * torch.expm1(-2.0 * integral)),
    ):
        torch.testing.assert_close(drift(schedule, time), fp64(-0.5 * beta), rtol=1e-10, atol=0.0)
        torch.testing.assert_close(squared_diffusion(schedule, time), wanted, rtol=1e-9, atol=0.0)


@given(t=st.floats(1e-4, 1.0), low=st.floats(1e-3, 0.5), ratio=st.floats(2.0, 1e5))
def test_ve_is_that_of_the_paper(t, low, ratio):
    # Eq. 26 with sigma(t) = low ratio^t (eq. 30); ours starts from sigma(0) = 0, which the SDE does not notice.
    schedule = VarianceExploding(low, low * ratio)
    wanted = low * fp64(ratio) ** t * (2.0 * fp64(ratio).log()).sqrt()
    torch.testing.assert_close(diffusion(schedule, fp64(t)), wanted, rtol=1e-8, atol=0.0)
    assert float(drift(schedule, fp64(t))) == 0.0


@every
@given(ends=st.tuples(st.floats(0.26, 0.49), st.floats(0.26, 0.49)))
def test_the_forward_sde_has_the_moments_of_the_path(schedule, ends):
    # The linear SDE's own solution: log alpha is the integral of f, (sigma / alpha)^2 that of g^2 / alpha^2.
    points, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(24))
    s, t = fp64(*ends)
    at, weight = s + (t - s) * 0.5 * (points + 1.0), 0.5 * (t - s) * weights
    both = torch.stack([s, t])
    gained = schedule.alpha(both).log()
    torch.testing.assert_close((weight * drift(schedule, at)).sum(), gained[1] - gained[0], rtol=1e-8, atol=1e-12)
    noise = (schedule.sigma(both) / schedule.alpha(both)) ** 2
    added = (weight * squared_diffusion(schedule, at) / schedule.alpha(at) ** 2).sum()
    torch.testing.assert_close(added, noise[1] - noise[0], rtol=1e-7, atol=1e-12)
    # And it is the rate of log-SNR.
    rate = -(schedule.sigma(at) ** 2) * schedule.log_snr_prime(at)
    torch.testing.assert_close(squared_diffusion(schedule, at), rate, rtol=1e-7, atol=1e-12)


def test_rates_take_numbers_and_any_shape():
    schedule = VariancePreserving()
    for shape in ((), (3,), (2, 2)):
        t = torch.full(shape, 0.5, dtype=torch.float64)
        for function in (drift, squared_diffusion, diffusion):
            assert function(schedule, t).shape == shape
            torch.testing.assert_close(function(schedule, t), function(schedule, 0.5).expand(shape))


@pytest.mark.parametrize("function", [drift, squared_diffusion, diffusion])
@pytest.mark.parametrize("t", [-1e-9, 1.0 + 1e-9, float("nan"), [0.5, 2.0]])
def test_times_outside_are_refused(function, t):
    with pytest.raises(ValueError, match="t runs from 0"):
        function(Cosine(), fp64(*t) if isinstance(t, list) else t)


def test_the_diffusion_of_data_is_refused():
    with pytest.raises(ValueError, match="small t"):
        diffusion(VariancePreserving(), 0.0)


# Single steps.


@pytest.mark.parametrize("noise_level", [0.0, 0.6, 1.0])
def test_euler_maruyama_is_the_step_of_the_paper(noise_level):
    schedule = VariancePreserving()
    denoiser, x = bumpy(schedule), fp64(-1.3, 0.2, 2.0)[:, None]
    t, s, z = 0.6, 0.55, fp64(0.3, -1.0, 0.5)[:, None]
    score = denoiser(x, t).score
    beta = 0.1 + t * 19.9
    wanted = x - (t - s) * (-0.5 * beta * x - 0.5 * (1.0 + noise_level**2) * beta * score)
    wanted = wanted + noise_level * (beta * (t - s)) ** 0.5 * z
    levels = [Level.of(schedule, v) for v in (t, s)]
    found, _ = EulerMaruyama(noise_level).step(denoiser, x, *levels, None, State(), Fixed(z))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@every
def test_without_noise_euler_maruyama_is_euler_of_the_velocity(schedule):
    denoiser, x = bumpy(schedule), fp64(-1.3, 0.2, 2.0)[:, None]
    levels = [Level.of(schedule, v) for v in (0.6, 0.55)]
    found, _ = EulerMaruyama(0.0).step(denoiser, x, *levels, None, State(), Fixed())
    wanted = x + (0.55 - 0.6) * denoiser(x, 0.6).velocity
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [EulerMaruyama(), SEEDS()], ids=str)
def test_the_last_step_to_data_is_the_expected_x0(sampler):
    denoiser, x = bumpy(Cosine()), fp64(-0.7, 0.4)[:, None]
    levels = [Level.of(Cosine(), v) for v in (0.1, 0.0)]
    found, _ = sampler.step(denoiser, x, *levels, None, State(), Fixed())
    torch.testing.assert_close(found, denoiser(x, 0.1).x0)


@pytest.mark.parametrize("noise_level", [0.3, 1.0])
def test_without_a_network_seeds_has_the_exact_covariance(noise_level):
    # x0 = 0 known: the SDE is linear with additive noise, so y = x / sigma is an Ornstein-Uhlenbeck process in
    # log(alpha / sigma) of rate l^2 and variance 1: one step of any length is exact, and so is the stage within it.
    schedule = Cosine()
    stages = []

    class Nothing(GaussianMixture):
        def output(self, x_t, level, cond):
            stages.append((x_t.clone(), level))
            return torch.zeros_like(x_t)

    denoiser = Nothing(torch.zeros(1, 1), 0.0, schedule=schedule)
    unit = torch.eye(3, dtype=torch.float64)
    levels = [Level.of(schedule, v) for v in (0.8, 0.3)]
    x_s, _ = SEEDS(noise_level, middle=0.3).step(
        denoiser, unit[:, :1], *levels, None, State(), Fixed(unit[:, 1:2], unit[:, 2:])
    )
    (start, level_t), (x_m, level_m) = stages
    torch.testing.assert_close(start, unit[:, :1])
    early, late = (0.5 * (b.log_snr - a.log_snr) for a, b in ((level_t, level_m), (level_m, levels[1])))
    assert early / (early + late) == pytest.approx(0.3)
    y_m, y_s = x_m[:, 0] / level_m.sigma, x_s[:, 0] / levels[1].sigma
    kept_m, kept_s = (float(torch.exp(fp64(-(noise_level**2) * h))) for h in (early, early + late))
    assert float(y_m[0]) * level_t.sigma == pytest.approx(kept_m)
    assert float(y_s[0]) * level_t.sigma == pytest.approx(kept_s)
    assert float(y_m[1:].square().sum()) == pytest.approx(1.0 - kept_m**2)
    assert float(y_s[1:].square().sum()) == pytest.approx(1.0 - kept_s**2)
    # Cov(y_s, y_m) = kept over the later part * Var(y_m).
    assert float(y_s[1:] @ y_m[1:]) == pytest.approx(kept_s / kept_m * (1.0 - kept_m**2))


# Weak orders, by exact moments on a Gaussian and by quadrature on a mixture.

PATHS = [
    (Cosine(), grids.uniform),
    (VariancePreserving(), grids.uniform),
    (VarianceExploding(), grids.quadratic),
    (SubVariancePreserving(), grids.log_snr),
]
on_paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path[0]).__name__)


@pytest.mark.parametrize("noise_level", [0.6, 1.0])
@on_paths
def test_euler_maruyama_has_weak_order_one(path, noise_level):
    schedule, grid = path
    # A narrow target, whose variance errors do not happen to cancel on the way.
    means, variances = moment_errors(
        lone(schedule, std=0.3), EulerMaruyama(noise_level), between(schedule, grid), STEPS
    )
    assert slope(STEPS, variances) == pytest.approx(1.0, abs=0.1)
    # Where alpha is constant the mean of a Gaussian does not move at all.
    if isinstance(schedule, VarianceExploding):
        assert max(means) < 1e-12
    else:
        assert slope(STEPS, means) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("sampler", [SEEDS(), SEEDS(0.5), SEEDS(middle=0.7), SEEDS(middle=1.0)], ids=str)
@on_paths
def test_seeds_has_weak_order_two(path, sampler):
    schedule, grid = path
    means, variances = moment_errors(lone(schedule), sampler, between(schedule, grid), STEPS, draws=2)
    assert max(means) < 1e-12
    assert slope(STEPS, variances) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("order,sampler,draws", [(1, EulerMaruyama(), 1), (2, SEEDS(), 2)], ids=str)
def test_weak_order_where_the_score_is_not_linear(order, sampler, draws):
    schedule = Cosine()
    grid, steps = between(schedule, grids.uniform), (16, 32, 64)
    errors = [
        weak_error(bumpy(schedule), sampler, grid(count), draws=draws, points=301, nodes=5 if draws > 1 else 10)
        for count in steps
    ]
    assert slope(steps, errors) == pytest.approx(order, abs=0.1 if order == 1 else 0.15)


def test_a_stage_with_noise_of_its_own_is_of_first_order_only():
    # What the joint covariance is for: the same two stages, but the middle one sees noise that the step does not hold.
    schedule = Cosine()

    class Unrelated(SEEDS):
        def step(self, denoiser, x_t, level_t, level_s, cond, state, noise):
            first = denoiser(x_t, level_t, cond)
            h = 0.5 * (level_s.log_snr - level_t.log_snr)
            once = DPMSolverPP(1, sde=True)
            middle = Level.of(schedule, float(schedule.time(fp64(level_t.log_snr + h))))
            x_m, _ = once.step(denoiser, x_t, level_t, middle, cond, State(), Fixed(noise(0)))
            second = denoiser(x_m, middle, cond).x0
            x_s, _ = once.step(denoiser, x_t, level_t, level_s, cond, State(), Fixed(noise(1)))
            total = -torch.expm1(fp64(-2.0 * h)).item()
            return x_s + level_s.alpha * total * (second - first.x0), state

    _, variances = moment_errors(lone(schedule), Unrelated(), between(schedule, grids.uniform), STEPS, draws=2)
    assert slope(STEPS, variances) < 1.3


@pytest.mark.parametrize("schedule", [Cosine(), VariancePreserving(), VarianceExploding()], ids=str)
def test_seeds_forgets_a_wrong_start_as_the_reverse_process_does(schedule):
    # E[x0 | x_t] is a martingale of the reverse process, which a line through two exact stages keeps: the mean of a
    # displaced start is right at any number of steps. It contracts by Cov(x_s, x_t) / Var(x_t).
    target = lone(schedule)
    start, end = times(schedule, 3.0, 3.0)
    x, zero = fp64(0.0, 1.0)[:, None], torch.zeros(2, 1, dtype=torch.float64)
    grid = grids.log_snr(schedule, 5, start=start, end=end).tolist()
    for t, s in pairwise(grid):
        levels = (Level.of(schedule, t), Level.of(schedule, s))
        x, _ = SEEDS().step(target, x, *levels, None, State(), Fixed(zero, zero))
    alpha_t, alpha_s = schedule.alpha(fp64(start, end)).tolist()
    wanted = alpha_t / alpha_s * exact_moments(target, end)[1] / exact_moments(target, start)[1]
    assert float(x[1] - x[0]) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("start", [0.3, 0.7])
def test_started_below_the_end_the_moments_are_right(start):
    target = lone(Cosine())
    grid = grids.uniform(Cosine(), 200, start=start, end=0.05)
    exact_mean, exact_variance = exact_moments(target, 0.05)
    mean, variance = moments(target, SEEDS(), grid, draws=2)
    assert mean == pytest.approx(exact_mean, abs=1e-10)
    assert variance == pytest.approx(exact_variance, rel=1e-3)
    mean, variance = moments(target, EulerMaruyama(), grid)
    assert mean == pytest.approx(exact_mean, rel=0.02)
    assert variance == pytest.approx(exact_variance, rel=0.05)


@pytest.mark.parametrize(
    "order,sampler", [(1, EulerMaruyama(0.0)), (2, SEEDS(0.0)), (2, SEEDS(0.0, middle=1.0))], ids=str
)
def test_without_noise_the_solvers_keep_their_order_on_the_flow(order, sampler):
    schedule = Cosine()
    measured = flow_order(bumpy(schedule), sampler, between(schedule, grids.uniform), STEPS)
    assert measured == pytest.approx(order, abs=0.1)


# What is refused, and what is not.


@pytest.mark.parametrize("sampler", [EulerMaruyama(), EulerMaruyama(0.1), SEEDS()], ids=str)
def test_fresh_noise_is_refused_for_coupled_models_and_rising_grids(sampler):
    coupled = Denoiser(torch.nn.Identity(), Rectified(), Velocity(), independent_noise=False)
    with pytest.raises(ValueError, match="coupled"):
        sample(coupled, sampler, grids.uniform(Rectified(), 2), (1, 2))
    with pytest.raises(ValueError, match="cannot run a rising grid"):
        sample(lone(Cosine()), sampler, fp64(0.1, 0.5), (2, 1))


class Still(torch.nn.Module):
    def forward(self, x, c_noise, cond):
        return torch.tanh(x)


@pytest.mark.parametrize("sampler", [EulerMaruyama(0.0), SEEDS(0.0)], ids=str)
def test_without_noise_they_serve_coupled_models_and_invert(sampler):
    coupled = Denoiser(Still(), Rectified(), Velocity(), independent_noise=False)
    start, end = 0.9, 0.1
    x = fp64(-1.0, 0.4)[:, None]
    up, down = (
        grids.uniform(Rectified(), 400, start=end, end=start),
        grids.uniform(Rectified(), 400, start=start, end=end),
    )
    there = sample(coupled, sampler, up, (2, 1), x_start=x, dtype=torch.float64)
    assert float((there - x).abs().max()) > 0.1
    back = sample(coupled, sampler, down, (2, 1), x_start=there, dtype=torch.float64)
    assert float((back - x).abs().max()) < 1e-2
    # The same flow as another solver's.
    heun = sample(coupled, Heun(), up, (2, 1), x_start=x, dtype=torch.float64)
    torch.testing.assert_close(there, heun, rtol=0.0, atol=1e-2)


def test_where_no_signal_is_left():
    schedule = ZeroTerminalSnr(VariancePreserving())
    target = lone(schedule)
    grid = torch.cat([fp64(1.0), grids.log_snr(schedule, 60, start=0.9, end=times(schedule, 4.0, 4.0)[1])])
    mean, variance = moments(target, SEEDS(), grid, draws=2)
    exact_mean, exact_variance = exact_moments(target, float(grid[-1]))
    assert mean == pytest.approx(exact_mean, abs=1e-6)
    assert variance == pytest.approx(exact_variance, rel=1e-2)
    with pytest.raises(ValueError, match="no signal left at t = 1"):
        sample(target, EulerMaruyama(), grid, (2, 1))
    with pytest.raises(ValueError, match="no signal left at t = 1"):
        levels = (Level.of(schedule, fp64(*v), torch.zeros(2, 1)) for v in ((0.5, 1.0), (0.4, 0.9)))
        EulerMaruyama().step(target, torch.zeros(2, 1), *levels, None, State(), Fixed())


@pytest.mark.parametrize(
    "make",
    [
        lambda: EulerMaruyama(-0.1),
        lambda: EulerMaruyama(float("nan")),
        lambda: SEEDS(float("inf")),
        lambda: SEEDS(middle=0.0),
        lambda: SEEDS(middle=1.1),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError, match="noise_level must|middle must"):
        make()
