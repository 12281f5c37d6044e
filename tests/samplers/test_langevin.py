"""Langevin corrections: where they come to rest, what they cost, and what they are refused for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_laws import Fixed, bumpy, exact_moments, lone, moments, slope, times

from kakusan import grids
from kakusan.denoiser import Denoiser
from kakusan.levels import Level, tabulate
from kakusan.noise import StepNoise, Stream, normal
from kakusan.oracles import GaussianMixture
from kakusan.parameterizations import Velocity
from kakusan.samplers import (
    DDIM,
    DDPM,
    SEEDS,
    Adaptive,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    NoiseScale,
    NormRatio,
    PredictorCorrector,
    State,
    UniPC,
    sample,
)
from kakusan.schedules import Cosine, Rectified, VarianceExploding, VariancePreserving

RULES = [NoiseScale(), NormRatio()]


def test_a_correction_is_the_langevin_step_of_the_paper():
    denoiser, x = bumpy(Cosine()), torch.tensor([[-1.2], [0.3]], dtype=torch.float64)
    z, level = torch.tensor([[0.5], [-2.0]], dtype=torch.float64), Level.of(Cosine(), 0.4)
    score = denoiser(x, 0.4).score
    for rule, size in (
        (NoiseScale(), torch.full_like(x, 2.0 * (0.2 * level.sigma) ** 2)),
        (NormRatio(), 2.0 * (0.2 * z.abs() / score.abs()) ** 2),
    ):
        found = PredictorCorrector(snr=0.2, step_size=rule).correct(denoiser, x, level, None, z)
        torch.testing.assert_close(found, x + size * score + (2.0 * size).sqrt() * z, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("snr", [0.1, 0.3])
def test_corrections_of_one_size_come_to_rest_at_the_known_variance(snr):
    # On a Gaussian of variance V the step is affine: the exact law is a geometric series, V / (1 - e / 2V).
    target, level = lone(VariancePreserving()), Level.of(VariancePreserving(), 0.3)
    mean, variance = exact_moments(target, 0.3)
    corrector = PredictorCorrector(snr=snr)
    x, zero = torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    still = corrector.correct(target, x, level, None, zero)
    gain = float(still[1] - still[0])
    fresh = float(corrector.correct(target, x, level, None, zero + 1.0)[0] - still[0])
    assert float(still[0]) == pytest.approx((1.0 - gain) * mean)  # the mean stays
    size = 2.0 * (snr * level.sigma) ** 2
    assert fresh**2 / (1.0 - gain**2) == pytest.approx(variance / (1.0 - 0.5 * size / variance))


def test_corrections_by_the_norms_come_to_rest_at_the_known_variance():
    # With D numbers in a sample the norms are those of their law to 1 / sqrt(D): e = 2 snr^2 V^2 / V', whence
    # V' = (1 + snr^2) V. The start is wrong by a factor of four.
    d, snr, t = 40_000, 0.4, 0.3
    target = GaussianMixture(torch.zeros(1, d), 0.6, schedule=VariancePreserving())
    level = Level.of(target.schedule, t)
    variance = level.alpha**2 * 0.36 + level.sigma**2
    seed = torch.tensor([3])
    x = normal(seed, Stream.RESERVED_FOR_TESTS, shape=(d,), dtype=torch.float64) * 2.0 * variance**0.5
    corrector = PredictorCorrector(snr=snr, step_size=NormRatio())
    for k in range(20):
        x = corrector.correct(target, x, level, None, StepNoise(seed, k, x)())
    # Five standard errors of a variance of D numbers.
    assert float(x.square().mean()) / variance == pytest.approx(1.0 + snr**2, abs=1.2 * 5.0 * (2.0 / d) ** 0.5)


def test_corrections_bring_a_wrong_start_to_the_mixture():
    # Kolmogorov-Smirnov distance to the exact law, 2000 samples: 1.95 / sqrt(n) is passed by chance once in 1000. The
    # step is small enough for its bias to be a tenth of that.
    schedule = Cosine()
    target, n, t = bumpy(schedule), 2000, times(schedule, 0.0, 0.0)[0]
    level, seeds = Level.of(schedule, t), torch.arange(n)
    x = torch.full((n, 1), 2.5, dtype=torch.float64)
    corrector = PredictorCorrector(snr=0.12)

    def distance():
        centre = level.alpha * target.means.flatten()
        spread = (level.alpha**2 * target.variance.flatten() + level.sigma**2).sqrt()
        at = x.sort(0).values
        exact = (target.log_weights.exp() * torch.special.ndtr((at - centre) / spread)).sum(1)
        rank = torch.arange(n + 1) / n
        return float(torch.maximum((exact - rank[:-1]).abs(), (rank[1:] - exact).abs()).max())

    assert distance() > 0.5
    for k in range(250):
        x = corrector.correct(target, x, level, None, StepNoise(seeds, k, x)())
    assert distance() < 1.95 / n**0.5


def test_with_many_steps_the_error_is_that_of_the_corrector_at_rest():
    # Exact moments: with `NoiseScale` the steps are affine. The predictor is of order 2, its own error small.
    schedule, snr = Cosine(), 0.3
    target = lone(schedule)
    start, end = times(schedule, 4.0, 0.0)
    exact_mean, exact = exact_moments(target, end)
    half = (snr * Level.of(schedule, end).sigma) ** 2 / exact
    rest, away = half / (1.0 - half), []
    for steps in (50, 100, 200):
        grid = grids.log_snr(schedule, steps, start=start, end=end)
        mean, variance = moments(target, PredictorCorrector(SEEDS(), snr=snr), grid, draws=3)
        assert mean == pytest.approx(exact_mean, abs=1e-12)
        away.append(abs(variance / exact - 1.0 - rest) / rest)
    # What is not the corrector's falls as one over the steps; what is its own stays.
    assert slope((50, 100, 200), away) == pytest.approx(1.0, abs=0.2)
    assert away[-1] < 0.05


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_whole_run_has_the_right_marginal(rule):
    # 60 numbers in a sample, 500 samples; five standard errors plus the stated bias of the corrector, snr^2.
    schedule, snr = VariancePreserving(), 0.1
    target = GaussianMixture(torch.full((1, 60), 0.5), 0.6, schedule=schedule)
    grid = grids.log_snr(schedule, 100)
    sampler = PredictorCorrector(DDPM(), snr=snr, step_size=rule)
    x = sample(target, sampler, grid, (500, 60), seeds=4)
    assert float(x.mean()) == pytest.approx(0.5, abs=5.0 * 0.6 / 30_000**0.5)
    # The predictor's own error, from exact moments in one dimension.
    one = GaussianMixture(torch.tensor([[0.5]]), 0.6, schedule=schedule)
    alone = moments(one, DDPM(), grid)[1]
    low = min(alone, 0.36) * (1.0 - 5.0 * (2.0 / 30_000) ** 0.5)
    high = 0.36 * (1.0 + snr**2 + 5.0 * (2.0 / 30_000) ** 0.5)
    assert low < float(x.var()) < high


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("schedule", [VariancePreserving(), VarianceExploding()], ids=str)
def test_samples_of_other_levels_are_corrected_as_if_alone(rule, schedule):
    denoiser = GaussianMixture(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)), 0.4, schedule=schedule)
    x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z, times_ = x.flip(0), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    corrector = PredictorCorrector(step_size=rule)
    together = corrector.correct(denoiser, x, Level.of(schedule, times_, x), None, z)
    for k in range(3):
        level = Level.of(schedule, float(times_[k]))
        alone = corrector.correct(denoiser, x[k : k + 1], level, None, z[k : k + 1])
        torch.testing.assert_close(together[k : k + 1], alone)


class Counted(GaussianMixture):
    calls = 0

    def output(self, x_t, level, cond):
        self.calls += 1
        return super().output(x_t, level, cond)


@settings(max_examples=15)
@given(
    predictor=st.sampled_from([DDPM(), DDIM(), Heun(), Heun(churn=3.0), EulerMaruyama(), SEEDS()]),
    corrector_steps=st.integers(1, 14),
    num_steps=st.integers(1, 5),
    end=st.sampled_from([None, 0.2]),
    rule=st.sampled_from(RULES),
)
def test_the_number_of_calls_is_the_promised_one(predictor, corrector_steps, num_steps, end, rule):
    denoiser = Counted(torch.randn(2, 3), 0.5, schedule=Cosine())
    sampler = PredictorCorrector(predictor, corrector_steps=corrector_steps, step_size=rule)
    grid = grids.log_snr(Cosine(), num_steps, end=end)
    out = sample(denoiser, sampler, grid, (2, 3))
    levels = tabulate(Cosine(), grid)
    assert bool(out.isfinite().all())
    assert denoiser.calls == sampler.network_calls(levels)
    assert denoiser.calls == predictor.network_calls(levels) + corrector_steps * (num_steps - (end is None))


def test_an_adaptive_predictor_promises_no_number_of_calls():
    assert PredictorCorrector(Adaptive()).network_calls(tabulate(Cosine(), grids.uniform(Cosine(), 2))) is None


def test_every_draw_of_a_step_is_another():
    asked = []

    def noise(draw=0):
        asked.append(draw)
        return torch.zeros(1, 1, dtype=torch.float64)

    levels = [Level.of(Cosine(), t) for t in (0.6, 0.5)]
    sampler = PredictorCorrector(SEEDS(), corrector_steps=14)
    sampler.step(lone(Cosine()), torch.zeros(1, 1, dtype=torch.float64), *levels, None, State(), noise)
    assert sorted(asked) == list(range(16))  # all that a step may use


def test_data_is_not_corrected():
    denoiser, x = bumpy(Cosine()), torch.tensor([[0.4]], dtype=torch.float64)
    levels = [Level.of(Cosine(), t) for t in (0.1, 0.0)]
    found, _ = PredictorCorrector().step(denoiser, x, *levels, None, State(), Fixed())
    torch.testing.assert_close(found, denoiser(x, 0.1).x0)


def test_a_score_of_zero_is_finite():
    denoiser = lone(Cosine(), mean=0.0)
    x = torch.zeros(1, 1, dtype=torch.float64)
    out = PredictorCorrector(step_size=NormRatio()).correct(denoiser, x, Level.of(Cosine(), 0.5), None, x + 1.0)
    assert bool(out.isfinite().all())


def test_fresh_noise_is_refused_for_coupled_models_and_rising_grids():
    coupled = Denoiser(torch.nn.Identity(), Rectified(), Velocity(), independent_noise=False)
    for predictor in (DDPM(), DDIM()):
        sampler = PredictorCorrector(predictor)
        with pytest.raises(ValueError, match="coupled"):
            sample(coupled, sampler, grids.uniform(Rectified(), 2), (1, 2))
        with pytest.raises(ValueError, match="cannot run a rising grid"):
            sample(lone(Cosine()), sampler, torch.tensor([0.1, 0.5]), (2, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: PredictorCorrector(DPMSolverPP(2)),
        lambda: PredictorCorrector(UniPC()),
        lambda: PredictorCorrector(PredictorCorrector()),
        lambda: PredictorCorrector(corrector_steps=0),
        lambda: PredictorCorrector(corrector_steps=15),
        lambda: PredictorCorrector(snr=0.0),
        lambda: PredictorCorrector(snr=1.0),
        lambda: PredictorCorrector(snr=float("nan")),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError, match="cannot be a predictor|corrector_steps must|snr must"):
        make()
