"""Laws of the kernel distance: unbiased by enumeration, Gaussians in closed form, sums over pairs by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.kernel import Gaussian, Kernel, Polynomial, kernel_distance

KERNELS = {"cubic": Polynomial(), "linear": Polynomial(1, 0.0), "gaussian": Gaussian((0.7, 2.0))}


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(kernel):
    """The kernel of two points, from its formula."""
    if isinstance(kernel, Polynomial):
        return lambda x, y: (float(x @ y) / len(x) + kernel.offset) ** kernel.degree
    return lambda x, y: (
        sum(math.exp(-float((x - y).square().sum()) / (2 * h * h)) for h in kernel.bandwidths) / len(kernel.bandwidths)
    )


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@given(n=st.integers(2, 6), m=st.integers(2, 6), dim=st.integers(1, 4), seed=st.integers(0, 99))
def test_it_is_the_sum_over_all_pairs_of_different_samples(kernel, n, m, dim, seed):
    a, b, k = normal(n, dim, seed=seed), normal(m, dim, seed=seed + 1000), by_hand(kernel)
    within = [
        sum(k(x[i], x[j]) for i, j in itertools.permutations(range(len(x)), 2)) / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    between = sum(k(x, y) for x in a for y in b) / (n * m)
    assert kernel_distance(a, b, kernel) == pytest.approx(sum(within) - 2.0 * between, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_its_mean_over_all_samples_of_two_discrete_laws_is_the_truth(kernel):
    # Three of law P and two of law Q, every outcome once: the mean is exact, with no chance in it.
    p, q, k = normal(3, 2), normal(3, 2, seed=1), by_hand(kernel)
    truth = sum(
        sign * sum(k(x, y) for x in u for y in v) / 9.0 for u, v, sign in ((p, p, 1.0), (q, q, 1.0), (p, q, -2.0))
    )
    outcomes = [
        kernel_distance(p[list(rows)], q[list(others)], kernel)
        for rows in itertools.product(range(3), repeat=3)
        for others in itertools.product(range(3), repeat=2)
    ]
    assert sum(outcomes) / len(outcomes) == pytest.approx(truth, rel=1e-9)
    null = [
        kernel_distance(p[list(rows)], p[list(others)], kernel)
        for rows in itertools.product(range(3), repeat=2)
        for others in itertools.product(range(3), repeat=2)
    ]
    assert sum(null) / len(null) == pytest.approx(0.0, abs=1e-12)
    assert min(null) < 0.0, "an unbiased estimate of nothing is now and then below it"


def test_the_cubic_kernel_sees_three_moments_of_gaussians():
    # In one dimension MMD^2 = sum of C(3, i) (difference of moment i)^2.
    mean, deviation, n = 0.5, 1.3, 1200
    moments = (mean, mean**2 + deviation**2, mean**3 + 3 * mean * deviation**2)
    truth = 3 * moments[0] ** 2 + 3 * (moments[1] - 1.0) ** 2 + moments[2] ** 2
    found = [
        kernel_distance(normal(n, 1, seed=2 * s), normal(n, 1, seed=2 * s + 1) * deviation + mean) for s in range(8)
    ]
    error = float(torch.tensor(found).std()) / math.sqrt(8)
    assert abs(sum(found) / 8 - truth) < 4.0 * error
    assert error < 0.15 * truth


@pytest.mark.parametrize("dim", [1, 5])
def test_gaussians_under_a_gaussian_kernel_have_a_closed_form(dim):
    h, shift, n = 1.5, 0.8, 1000
    wide = h * h + 2.0
    truth = 2.0 * (h * h / wide) ** (dim / 2) * (1.0 - math.exp(-dim * shift**2 / (2.0 * wide)))
    found = [
        kernel_distance(normal(n, dim, seed=2 * s), normal(n, dim, seed=2 * s + 1) + shift, Gaussian((h,)))
        for s in range(6)
    ]
    error = float(torch.tensor(found).std()) / math.sqrt(6)
    assert abs(sum(found) / 6 - truth) < 4.0 * error
    assert error < 0.1 * truth


def test_what_a_cubic_kernel_cannot_see_a_gaussian_one_does():
    # The same first three moments: +-1 beside the standard normal.
    coins = torch.where(normal(1000, 1) > 0, 1.0, -1.0).double()
    real = normal(1000, 1, seed=1)
    assert abs(kernel_distance(coins, real)) < 0.05
    assert kernel_distance(coins, real, Gaussian((0.5,))) > 0.05


def test_wrong_settings_and_single_samples_are_refused():
    for wrong in (lambda: Polynomial(0), lambda: Polynomial(3, -1.0), lambda: Gaussian(()), lambda: Gaussian((0.0,))):
        with pytest.raises(ValueError, match="expected"):
            wrong()
    with pytest.raises(ValueError, match="two samples"):
        kernel_distance(torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="features"):
        kernel_distance(torch.zeros(3, 2), torch.zeros(3, 1))
    assert Kernel().settings() == {"kernel": "polynomial", "degree": 3, "offset": 1.0}
