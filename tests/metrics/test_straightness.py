"""Straightness against closed forms: zero for straight flows, s (2 - pi / 2) for a Gaussian's independent coupling."""

import math

import pytest
import torch

from kakusan.metrics.straightness import straightness
from kakusan.oracles import GaussianMixture, Oracle
from kakusan.schedules import Cosine, Karras, Rectified, VariancePreserving

STD = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
MEAN = torch.tensor([0.7, -1.0, 0.0], dtype=torch.float64)


class Straight(Oracle):
    """E[x0 | x_t] of the optimal coupling x0 = mean + std eps: x_t = alpha mean + (alpha std + sigma) eps."""

    independent_noise = False

    def __init__(self, schedule):
        super().__init__(schedule, sigma_data=1.0)

    def output(self, x_t, level, cond):
        eps = (x_t - level.alpha * MEAN) / (level.alpha * STD + level.sigma)
        return MEAN + STD * eps


def gaussian(schedule):
    return GaussianMixture(MEAN[None], STD[None], schedule=schedule)


@pytest.mark.parametrize("steps", [1, 7])
def test_an_optimal_gaussian_coupling_is_exactly_straight(steps):
    start = torch.linspace(-2.0, 2.0, 8, dtype=torch.float64)[:, None].expand(8, 3).contiguous()
    found = straightness(Straight(Rectified()), (8, 3), x_start=start, num_steps=steps, dtype=torch.float64)
    # eps = (x_t - alpha x0) / sigma multiplies the rounding of fp64 by 1 / t_min = 2e4, before it is squared.
    assert found.value < 1e-20
    # The chord from t_max to t_min is nearly that from 1 to 0: E |x1 - x0|^2 = mean of |(1 - std) x1 - mean|^2.
    expected = float((((1.0 - STD) * start - MEAN) ** 2).sum(1).mean())
    assert found.cost == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "schedule", [Rectified(), Cosine(), Karras(), VariancePreserving()], ids=lambda s: type(s).__name__
)
def test_the_independent_coupling_of_a_gaussian_bends_by_the_closed_form(schedule):
    """x_t = (1 - t) m + S(t) xi with S^2 = (1 - t)^2 s^2 + t^2, so the integral is xi^2 (int S'^2 - (1 - s)^2), which
    is xi^2 s (2 - pi / 2).

    xi is known for every trajectory, so nothing here is statistical.
    """
    start = torch.tensor([[1.0, -0.5, 2.0], [-1.0, 1.5, 0.0], [0.3, 0.4, 0.5]], dtype=torch.float64)
    found = straightness(gaussian(schedule), (3, 3), x_start=start, num_steps=400, dtype=torch.float64)
    t_max = torch.tensor(Rectified().t_max, dtype=torch.float64)
    xi = (start - (1.0 - t_max) * MEAN) / ((1.0 - t_max) ** 2 * STD**2 + t_max**2).sqrt()
    bends = (xi**2 * STD * (2.0 - math.pi / 2.0)).sum(1)
    assert found.value == pytest.approx(float(bends.mean()), rel=2e-3)
    assert found.stderr == pytest.approx(float(bends.std()) / math.sqrt(3), rel=2e-3)
    costs = (((1.0 - STD) * xi - MEAN) ** 2).sum(1)
    assert found.cost == pytest.approx(float(costs.mean()), rel=1e-3)
    assert found.relative == pytest.approx(float(bends.mean() / costs.mean()), rel=3e-3)


def test_the_error_of_the_quadrature_is_of_second_order():
    start = torch.ones(2, 3, dtype=torch.float64)
    values = [
        straightness(gaussian(Rectified()), (2, 3), x_start=start, num_steps=n, dtype=torch.float64).value
        for n in (40, 80, 640)
    ]
    assert abs(values[0] - values[2]) / abs(values[1] - values[2]) == pytest.approx(4.0, rel=0.15)


def test_seeds_decide_and_batches_do_not():
    whole = straightness(gaussian(Rectified()), (6, 3), seeds=40, num_steps=5, dtype=torch.float64)
    parts = straightness(gaussian(Rectified()), (6, 3), seeds=range(40, 46), num_steps=5, batch=4, dtype=torch.float64)
    assert whole.value == pytest.approx(parts.value, rel=1e-12)
    assert whole.settings == parts.settings
    assert whole.n == 6


def test_the_standard_error_covers_the_truth():
    found = straightness(gaussian(Rectified()), (2000, 3), num_steps=60, dtype=torch.float64)
    truth = float(STD.sum()) * (2.0 - math.pi / 2.0)
    assert abs(found.value - truth) < 4.0 * found.stderr + 1e-3 * truth
    assert abs(found.cost - float((MEAN**2 + (1 - STD) ** 2).sum())) < 4.0 * found.cost_stderr + 1e-3


def test_records_compare_only_under_like_settings():
    flow = gaussian(Rectified())
    a, b = (straightness(flow, (4, 3), num_steps=n, seeds=s) for n, s in ((4, 0), (4, 9)))
    difference, error = a.difference(b)
    assert difference == pytest.approx(b.value - a.value)
    assert error == pytest.approx(math.hypot(a.stderr, b.stderr))
    with pytest.raises(ValueError, match="num_steps"):
        a.difference(straightness(flow, (4, 3), num_steps=5))
    with pytest.raises(ValueError, match="start"):
        a.difference(straightness(flow, (4, 3), num_steps=4, x_start=torch.zeros(4, 3)))


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="seeds"):
        straightness(gaussian(Rectified()), (4, 3), seeds=[1, 2])
    with pytest.raises(ValueError, match="starts"):
        straightness(gaussian(Rectified()), (4, 3), x_start=torch.zeros(4, 2))
    with pytest.raises(ValueError, match="two"):
        straightness(gaussian(Rectified()), (1, 3))
