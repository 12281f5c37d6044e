"""Law 1 for losses: weights are written once, on the x0 error, and mean the same for every parameterization."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan import specs
from kakusan.denoiser import Denoiser
from kakusan.objectives import (
    Absolute,
    Distance,
    EdmWeight,
    Elbo,
    FlowMatching,
    MinSnr,
    Objective,
    PseudoHuber,
    ScoreMatching,
    SigmoidWeight,
    Simple,
    SimpleV,
    SimpleX0,
    Squared,
    TrainingNoise,
    Weighting,
    trivial_floor,
)
from kakusan.oracles import GaussianMixture
from kakusan.parameterizations import X0, Edm, Eps, Score, V, Velocity
from kakusan.schedules import Cosine, Karras, Rectified, SubVariancePreserving, VariancePreserving, expand
from kakusan.time_samplers import LogitNormal, LogNormalSigma, Stratified, Uniform

ROWS = [X0(), Eps(), V(), Velocity(), Score(), Edm()]
SCHEDULES = [Cosine(), Karras(), Rectified(), SubVariancePreserving(), VariancePreserving()]
WEIGHTINGS = [
    Simple(),
    SimpleV(),
    SimpleX0(),
    FlowMatching(),
    ScoreMatching(),
    ScoreMatching(likelihood=True),
    Elbo(),
    SigmoidWeight(-1.0),
    MinSnr(),
    EdmWeight(),
]
names = dict(ids=lambda value: type(value).__name__)


class Speaking(torch.nn.Module):
    """A backbone that says what a given denoiser predicts, in the terms of any row."""

    def __init__(self, believed, schedule, row):
        super().__init__()
        self.believed, self.schedule, self.row, self.at = believed, schedule, row, None

    def forward(self, x, c_noise, cond):
        x_t, t = self.at
        said = self.believed(x_t, t)
        a, b = self.row.row(self.schedule, t)
        return expand(a, x_t) * said.x0 + expand(b, x_t) * said.eps


def speaking(believed, schedule, row, x0, t, eps):
    backbone = Speaking(believed, schedule, row)
    backbone.at = (expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps, t)
    return Denoiser(backbone, schedule, row)


def oracle(schedule, rank=1):
    means = torch.randn(3, 2, *[2] * (rank - 1), generator=torch.Generator().manual_seed(0))
    return GaussianMixture(means, 0.5, schedule=schedule)


def batch(schedule, count, rank=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 2, *[2] * (rank - 1))
    x0, eps = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return x0, eps, schedule.time(torch.linspace(6.0, -5.0, count, dtype=torch.float64))


@pytest.mark.parametrize("weighting", WEIGHTINGS, **names)
@pytest.mark.parametrize("schedule", SCHEDULES, **names)
@pytest.mark.parametrize("rank", [1, 3])
def test_one_denoiser_has_one_loss_in_all_parameterizations(weighting, schedule, rank):
    x0, eps, t = batch(schedule, 7, rank)
    sampler = LogNormalSigma(0.0, 2.0)
    objective = Objective(time_sampler=sampler, weighting=weighting)
    believed = oracle(schedule, rank)
    x0_error = believed(expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps, t).x0 - x0
    wanted = weighting.weight(schedule, t, sampler.density(schedule, t)) * x0_error.square().flatten(1).mean(1)
    for row in ROWS:
        terms = objective.terms(speaking(believed, schedule, row, x0, t, eps), x0, None, t, eps)
        assert terms.loss.shape == (7,)
        torch.testing.assert_close(terms.loss.double(), wanted, rtol=2e-3, atol=1e-6)
        torch.testing.assert_close(terms.x0_error.double(), x0_error.square().flatten(1).mean(1), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES, **names)
@pytest.mark.parametrize("weighting,row", [(Simple(), Eps()), (FlowMatching(), Velocity())], **names)
def test_named_losses_are_the_plain_errors_of_their_papers(schedule, weighting, row):
    x0, eps, t = batch(schedule, 6)
    denoiser = speaking(oracle(schedule), schedule, row, x0, t, eps)
    x_t = expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps
    said = denoiser(x_t, t)
    if isinstance(row, Eps):
        error = said.eps - eps
    else:
        error = said.velocity - (expand(schedule.alpha_prime(t), x0) * x0 + expand(schedule.sigma_prime(t), x0) * eps)
    loss = Objective(time_sampler=Uniform(), weighting=weighting).terms(denoiser, x0, None, t, eps).loss
    torch.testing.assert_close(loss.double(), error.square().flatten(1).mean(1), rtol=2e-3, atol=1e-6)


def test_the_v_loss_is_the_v_error():
    for schedule in (Cosine(), Rectified()):
        x0, eps, t = batch(schedule, 6)
        denoiser = speaking(oracle(schedule), schedule, V(), x0, t, eps)
        alpha, sigma = expand(schedule.alpha(t), x0), expand(schedule.sigma(t), x0)
        error = denoiser(alpha * x0 + sigma * eps, t).v - (alpha * eps - sigma * x0)
        loss = Objective(time_sampler=Uniform(), weighting=SimpleV()).terms(denoiser, x0, None, t, eps).loss
        torch.testing.assert_close(loss.double(), error.square().flatten(1).mean(1), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, **names)
@pytest.mark.parametrize("likelihood", [False, True])
def test_score_matching_is_the_weighted_error_of_the_score(schedule, likelihood):
    # Against the score of the kernel p(x_t | x0), -(x_t - alpha x0) / sigma^2 = -eps / sigma (Vincent 2011).
    x0, eps, t = batch(schedule, 6)
    denoiser = speaking(oracle(schedule), schedule, Score(), x0, t, eps)
    alpha, sigma = expand(schedule.alpha(t), x0), expand(schedule.sigma(t), x0)
    error = (denoiser(alpha * x0 + sigma * eps, t).score + eps / sigma).square().flatten(1).mean(1)
    slope = schedule.sigma_prime(t) / schedule.sigma(t) - schedule.alpha_prime(t) / schedule.alpha(t)
    scale = 2.0 * schedule.sigma(t) ** 2 * slope if likelihood else schedule.sigma(t) ** 2
    loss = Objective(Uniform(), ScoreMatching(likelihood)).terms(denoiser, x0, None, t, eps).loss
    torch.testing.assert_close(loss.double(), scale * error, rtol=2e-3, atol=1e-6)


def test_edm_weights_every_level_alike_in_its_own_row():
    # Karras et al. 2022: their weight times c_out^2 is 1, so the loss is the plain error of the network's output.
    for schedule in SCHEDULES:
        x0, eps, t = batch(schedule, 6)
        denoiser = speaking(oracle(schedule), schedule, Edm(0.5), x0, t, eps)
        a, b = Edm(0.5).row(schedule, t)
        target = expand(a, x0) * x0 + expand(b, x0) * eps
        error = denoiser.backbone(None, None, None) - target
        loss = Objective(time_sampler=Uniform(), weighting=EdmWeight(0.5)).terms(denoiser, x0, None, t, eps).loss
        torch.testing.assert_close(loss.double(), error.square().flatten(1).mean(1), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, **names)
@pytest.mark.parametrize("sampler", [Uniform(), LogitNormal(0.0, 1.5), LogNormalSigma(0.0, 2.5), Stratified()], ids=str)
@pytest.mark.parametrize("weighting", [Elbo(), SigmoidWeight(1.0)], **names)
def test_the_bound_does_not_depend_on_the_schedule_nor_on_the_times_drawn(schedule, sampler, weighting):
    # E_t[weight * error(l)] = integral of error(l) e^l / 2 dl (times the sigmoid) over log-SNR l.
    def error(log_snr):
        return torch.exp(-0.5 * (log_snr / 1.5) ** 2)

    # A weighted sum over t against the density, by the trapezoidal rule in log-SNR.
    log_snr = torch.linspace(-9.0, 9.0, 4001, dtype=torch.float64)
    low, high = (
        float(schedule.log_snr(torch.tensor(t, dtype=torch.float64))) for t in (schedule.t_max, schedule.t_min)
    )
    log_snr = log_snr[(log_snr > low) & (log_snr < high)]
    t = schedule.time(log_snr)
    density = sampler.density(schedule, t)
    found = torch.trapezoid(weighting.weight(schedule, t, density) * error(log_snr) * density, -t)
    factor = torch.sigmoid(1.0 - log_snr) if isinstance(weighting, SigmoidWeight) else 1.0
    wanted = torch.trapezoid(0.5 * log_snr.exp() * factor * error(log_snr), log_snr)
    assert float(found) == pytest.approx(float(wanted), rel=1e-3)


@pytest.mark.parametrize("weighting", WEIGHTINGS, **names)
def test_the_exact_denoiser_is_the_minimiser(weighting):
    # Over many draws no other denoiser does better than E[x0 | x_t]: here the oracle pushed, in any direction.
    schedule = Cosine()
    truth = oracle(schedule)
    generator = torch.Generator().manual_seed(7)
    count = 20_000
    x0 = truth.draw(torch.rand(count, generator=generator), torch.randn(count, 2, generator=generator))
    eps = torch.randn(count, 2, dtype=torch.float64, generator=generator)
    t = schedule.time(4.0 * torch.rand(count, dtype=torch.float64, generator=generator) - 2.0)
    objective = Objective(time_sampler=LogNormalSigma(0.0, 2.0), weighting=weighting)

    def loss(shift, gain):
        class Pushed(torch.nn.Module):
            def forward(self, x, c_noise, cond):
                return gain * self.answer + shift

        backbone = Pushed()
        backbone.answer = truth(expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * eps, t).x0
        return objective.terms(Denoiser(backbone, schedule, X0()), x0, None, t, eps).loss.double()

    best = loss(0.0, 1.0)
    for shift, gain in ((0.3, 1.0), (-0.3, 1.0), (0.0, 0.7), (0.0, 1.3)):
        excess = loss(shift, gain) - best
        assert float(excess.mean()) > 3.0 * float(excess.std()) / count**0.5


@pytest.mark.parametrize("schedule", SCHEDULES, **names)
def test_the_trivial_floor_is_the_exact_error_on_a_gaussian(schedule):
    # For Gaussian data the best linear guess is the oracle: its mean squared x0 error by quadrature over x0 and eps.
    variance, t = 0.49, schedule.time(torch.tensor(0.7, dtype=torch.float64))
    nodes = torch.linspace(-6.0, 6.0, 241, dtype=torch.float64)
    x0, eps = (grid.reshape(-1, 1) for grid in torch.meshgrid(variance**0.5 * nodes, nodes, indexing="ij"))
    weight = torch.exp(-0.5 * (x0**2 / variance + eps**2)).flatten()
    oracle = GaussianMixture(torch.zeros(1, 1), variance**0.5, schedule=schedule)
    error = (oracle(schedule.alpha(t) * x0 + schedule.sigma(t) * eps, t).x0 - x0).square().flatten()
    assert float((weight * error).sum() / weight.sum()) == pytest.approx(
        float(trivial_floor(schedule, t, variance)), rel=1e-5
    )


@given(st.lists(st.floats(-50.0, 50.0), min_size=4, max_size=4), st.floats(0.01, 2.0))
def test_distances(values, c):
    error = torch.tensor(values, dtype=torch.float64).view(1, 2, 2)
    assert float(Squared()(error)) == pytest.approx(sum(v * v for v in values) / 4)
    assert float(Absolute()(error)) == pytest.approx(sum(abs(v) for v in values) / 4)
    huber = float(PseudoHuber(c)(error))
    assert huber <= float(Squared()(error)) / 2 + 1e-9  # below the parabola it touches at zero
    assert huber <= c * float(Absolute()(error)) + 1e-9  # and below the cone it follows far out
    assert huber >= c * float(Absolute()(error)) - c * c - 1e-9


def test_pseudo_huber_touches_the_parabola_and_the_cone():
    small, large = torch.full((1, 1, 4), 1e-4, dtype=torch.float64), torch.full((1, 1, 4), 1e4, dtype=torch.float64)
    assert float(PseudoHuber(0.5)(small)) == pytest.approx(0.5e-8, rel=1e-6)
    assert float(PseudoHuber(0.5)(large)) == pytest.approx(0.5 * 1e4, rel=1e-4)


@settings(max_examples=15)
@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_law_4_a_sample_s_loss_does_not_depend_on_its_batch(seed, first):
    denoiser = Denoiser(torch.nn.Tanh(), Cosine(), V())
    denoiser.backbone.forward = lambda x, c_noise, cond: torch.tanh(x)
    objective = Objective(time_sampler=Stratified())
    numbers = first + torch.arange(5)
    x0 = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))
    together = objective(denoiser, x0, None, TrainingNoise(seed, numbers))
    assert together.shape == (5,)
    for rows in ([0], [3, 1]):
        alone = objective(denoiser, x0[rows], None, TrainingNoise(seed, numbers[rows]))
        torch.testing.assert_close(alone, together[rows], rtol=1e-4, atol=1e-6)


def test_law_7_one_time_or_one_for_each_sample():
    for rank in (1, 2, 3):
        x0, eps = torch.randn(2, 3, 2, *[2] * rank)
        denoiser = Denoiser(torch.nn.Identity(), Cosine(), V())
        denoiser.backbone.forward = lambda x, c_noise, cond: torch.tanh(x)
        objective = Objective(time_sampler=Uniform())
        one = objective.terms(denoiser, x0, None, torch.tensor(0.4), eps)
        each = objective.terms(denoiser, x0, None, torch.full((3,), 0.4), eps)
        torch.testing.assert_close(one.loss, each.loss)
        assert one.t.shape == (3,)


@pytest.mark.parametrize("thing", [*WEIGHTINGS, Squared(), Absolute(), PseudoHuber(0.1)], ids=str)
def test_stored_and_built_again(thing):
    kind = Weighting if isinstance(thing, Weighting) else Distance
    assert specs.from_spec(specs.to_spec(thing), kind) == thing


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="gamma must be positive"):
        MinSnr(gamma=0.0)
