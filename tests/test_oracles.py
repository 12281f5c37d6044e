"""The closed forms that everything else is measured against, themselves checked by quadrature and autograd."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.conditioning import Condition
from kakusan.oracles import DataSet, GaussianMixture
from kakusan.schedules import Cosine, Karras, Rectified, VariancePreserving

SCHEDULES = [Cosine(), Karras(), Rectified(), VariancePreserving()]
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[-1.0], [0.1], [1.3]], dtype=torch.float64)
SPREADS = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)


def line(schedule):
    return GaussianMixture(MEANS, SPREADS, WEIGHTS, schedule=schedule)


def density(x0):
    """p(x0), written out."""
    total = torch.zeros_like(x0)
    for w, m, s in zip(WEIGHTS.tolist(), MEANS.flatten().tolist(), SPREADS.tolist(), strict=True):
        total += w * torch.exp(-0.5 * ((x0 - m) / s) ** 2) / (s * math.sqrt(2.0 * math.pi))
    return total


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@settings(max_examples=20)
@given(log_snr=st.floats(-6.0, 6.0), place=st.floats(-2.5, 2.5))
def test_the_mixture_is_the_posterior_mean_by_quadrature(schedule, log_snr, place):
    mixture = line(schedule)
    t = schedule.time(torch.tensor(log_snr, dtype=torch.float64))
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    x_t = place * math.sqrt(alpha**2 + sigma**2)
    x0 = torch.linspace(-6.0, 6.0, 20_001, dtype=torch.float64)
    joint = density(x0) * torch.exp(-0.5 * ((x_t - alpha * x0) / sigma) ** 2) / (sigma * math.sqrt(2.0 * math.pi))
    evidence = torch.trapezoid(joint, x0)
    x = torch.full((1, 1), x_t, dtype=torch.float64)
    assert float(mixture(x, t).x0) == pytest.approx(
        float(torch.trapezoid(joint * x0, x0) / evidence), rel=1e-6, abs=1e-8
    )
    assert float(mixture.log_prob(x, t)) == pytest.approx(math.log(float(evidence)), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("shape", [(2,), (1, 3), (2, 2, 2), (1, 2, 2, 2)], ids=str)
def test_the_score_is_the_gradient_of_the_log_density(schedule, shape):
    generator = torch.Generator().manual_seed(4)
    means, spread = torch.randn(4, *shape, generator=generator), 0.2 + torch.rand(4, *shape, generator=generator)
    mixture = GaussianMixture(means, spread, torch.tensor([1.0, 2.0, 3.0, 4.0]), schedule=schedule)
    t = schedule.time(torch.tensor([3.0, 0.0, -2.0], dtype=torch.float64))
    x = torch.randn(3, *shape, dtype=torch.float64, generator=generator).requires_grad_(True)
    (gradient,) = torch.autograd.grad(mixture.log_prob(x, t).sum(), x)
    prediction = mixture(x.detach(), t)
    torch.testing.assert_close(prediction.score, gradient, rtol=1e-9, atol=1e-9)
    # And the other readings agree with it: x0 by Tweedie's formula, eps, v, and the flow's velocity.
    wide = (-1, *[1] * len(shape))
    alpha, sigma = schedule.alpha(t).view(wide), schedule.sigma(t).view(wide)
    x = x.detach()
    torch.testing.assert_close(prediction.x0, (x + sigma**2 * gradient) / alpha, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(prediction.eps, -sigma * gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.v, alpha * prediction.eps - sigma * prediction.x0, rtol=1e-9, atol=1e-9)


def test_log_prob_integrates_to_one():
    x = torch.linspace(-12.0, 12.0, 8001, dtype=torch.float64).view(-1, 1)
    for t in (0.0, 0.2, 0.9):
        assert float(torch.trapezoid(line(Cosine()).log_prob(x, t).exp(), x.flatten())) == pytest.approx(1.0, abs=1e-9)


def test_the_velocity_carries_the_density():
    # The continuity equation dp/dt = -d(p velocity)/dx, by central differences.
    schedule, h = Cosine(), 1e-4
    mixture = line(schedule)
    x = torch.linspace(-2.0, 2.0, 41, dtype=torch.float64).view(-1, 1)

    def flux(x, t):
        return mixture.log_prob(x, t).exp() * mixture(x, t).velocity.flatten()

    for t in (0.3, 0.6):
        rate = (mixture.log_prob(x, t + h).exp() - mixture.log_prob(x, t - h).exp()) / (2.0 * h)
        divergence = (flux(x + h, t) - flux(x - h, t)) / (2.0 * h)
        torch.testing.assert_close(rate, -divergence, rtol=1e-5, atol=1e-6)


def test_conditions_are_bayes():
    # Log-weights that single out a component leave only it; equal ones change nothing.
    mixture, x = line(Cosine()), torch.tensor([[0.3], [-0.7]], dtype=torch.float64)
    same = mixture(x, 0.4, Condition(vector=torch.full((2, 3), 1.7))).x0
    torch.testing.assert_close(same, mixture(x, 0.4).x0)
    only = mixture(x, 0.4, Condition(vector=torch.tensor([[0.0, -torch.inf, -torch.inf]] * 2))).x0
    torch.testing.assert_close(only, GaussianMixture(MEANS[:1], SPREADS[:1], schedule=Cosine())(x, 0.4).x0)
    assert bool((only != same).all())


def test_exact_samples_have_the_mixture_s_moments():
    mixture = line(Cosine())
    generator = torch.Generator().manual_seed(8)
    count = 200_000
    x = mixture.draw(torch.rand(count, generator=generator), torch.randn(count, 1, generator=generator))
    mean = float((WEIGHTS * MEANS.flatten()).sum())
    square = float((WEIGHTS * (MEANS.flatten() ** 2 + SPREADS**2)).sum())
    assert float(x.mean()) == pytest.approx(mean, abs=5.0 * (square / count) ** 0.5)
    assert float(x.square().mean()) == pytest.approx(square, rel=0.02)
    assert mixture.sigma_data == pytest.approx(square**0.5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_data_set_is_a_mixture_without_spread(schedule):
    samples = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 0, 1, 2, 2, 0])
    found, exact = DataSet(samples, labels, schedule=schedule), GaussianMixture(samples, 0.0, schedule=schedule)
    assert found.sigma_data == pytest.approx(exact.sigma_data, rel=1e-6)
    t = schedule.time(torch.tensor([4.0, 1.0, -3.0], dtype=torch.float64))
    x = torch.randn(3, 2, 3)
    torch.testing.assert_close(found(x, t).x0, exact(x, t).x0, rtol=1e-4, atol=1e-4)
    for label in (0, 1, 2):
        chosen = DataSet(samples[labels == label], schedule=schedule)
        cond = Condition(vector=torch.full((3, 1), float(label)))
        torch.testing.assert_close(found(x, t, cond).x0, chosen(x, t).x0, rtol=1e-4, atol=1e-4)
    anything = Condition(vector=torch.full((3, 1), -1.0))
    torch.testing.assert_close(found(x, t, anything).x0, found(x, t).x0)


def test_a_data_set_near_data_gives_the_nearest_sample_back():
    samples = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    oracle = DataSet(samples, schedule=Cosine())
    torch.testing.assert_close(oracle(samples + 1e-3 * torch.randn(50, 4), 0.001).x0, samples)


@pytest.mark.parametrize("make", [line, lambda s: DataSet(torch.randn(5, 1), schedule=s)])
def test_the_same_distribution_on_another_path(make):
    torch.manual_seed(1)
    oracle = make(Cosine())
    moved = oracle.with_schedule(Rectified())
    log_snr = torch.tensor([2.0, -1.0], dtype=torch.float64)
    t, s = Cosine().time(log_snr), Rectified().time(log_snr)
    y = torch.randn(2, 1, dtype=torch.float64)  # x / alpha, which does not depend on the path
    here = oracle(y * Cosine().alpha(t).view(-1, 1), t).x0
    torch.testing.assert_close(moved(y * Rectified().alpha(s).view(-1, 1), s).x0, here, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "weights", [torch.tensor([1.0]), torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, 0.0, 1.0])]
)
def test_nonsense_weights_are_refused(weights):
    with pytest.raises(ValueError, match="one positive weight"):
        GaussianMixture(MEANS, 0.3, weights, schedule=Cosine())
