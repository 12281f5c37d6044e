"""Laws of the Frechet distance: Gaussians whose distance is known, singular covariances, symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.frechet import Frechet, frechet, frechet_of_moments


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(dim, seed=0):
    return torch.linalg.qr(normal(dim, dim, seed=seed)).Q


def test_commuting_covariances_differ_by_their_roots_in_any_basis():
    a, b = torch.tensor([4.0, 1.0, 0.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.0, 0.0]).double()
    shift = torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    expected = float((a.sqrt() - b.sqrt()).square().sum() + shift.square().sum())
    turn = rotation(4)
    moments = [torch.zeros(4), turn @ a.diag() @ turn.T, turn @ shift, turn @ b.diag() @ turn.T]
    assert frechet_of_moments(*moments) == pytest.approx(expected, rel=1e-12)


def test_two_dimensions_have_a_closed_form_also_where_covariances_do_not_commute():
    roots = normal(2, 2, 2, seed=3)
    a, b = roots[0] @ roots[0].T, roots[1] @ roots[1].T
    # For 2 x 2 the eigenvalues of A B are known by trace and determinant.
    cross = math.sqrt(float((a @ b).trace()) + 2.0 * math.sqrt(float(a.det() * b.det())))
    expected = float(a.trace() + b.trace()) - 2.0 * cross
    assert frechet_of_moments(torch.zeros(2), a, torch.zeros(2), b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2])
def test_lines_at_an_angle(angle):
    u, v = torch.tensor([[1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
    a, b = 4.0 * torch.outer(u, u), 9.0 * torch.outer(v, v)
    # Rank one: tr((A B)^(1/2)) = 2 * 3 * |cos|.
    expected = 4.0 + 9.0 - 12.0 * math.cos(angle)
    assert frechet_of_moments(torch.zeros(3), a, torch.zeros(3), b) == pytest.approx(expected, abs=1e-12)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 8), st.integers(0, 99))
def test_features_give_the_distance_of_their_moments(n, m, dim, seed):
    a, b = normal(n, dim, seed=seed), normal(m, dim, seed=seed + 1000) * 2.0 + 1.0
    moments = [x for s in (a, b) for x in (s.mean(0), torch.cov(s.T).reshape(dim, dim))]
    assert frechet(a, b) == pytest.approx(frechet_of_moments(*moments), rel=1e-6, abs=1e-6)


@given(st.integers(2, 10), st.integers(2, 10), st.integers(1, 6), st.integers(0, 99))
def test_more_dimensions_that_hold_nothing_change_nothing(n, m, dim, seed):
    # With many zeros the other branch is taken: samples fewer than dimensions.
    a, b = normal(n, dim, seed=seed), normal(m, dim, seed=seed + 1000)
    wide = [torch.cat([x, torch.zeros(len(x), 16, dtype=torch.float64)], dim=1) for x in (a, b)]
    assert frechet(*wide) == pytest.approx(frechet(a, b), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(("n", "dim"), [(40, 5), (5, 40)])
def test_scaled_and_shifted_features_have_a_known_distance(n, dim):
    x, shift = normal(n, dim), normal(dim, seed=1)
    spread = float(torch.cov(x.T).trace())
    expected = float((0.5 * x.mean(0) + shift).square().sum()) + 0.25 * spread
    assert frechet(x, 1.5 * x + shift) == pytest.approx(expected, rel=1e-10)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-10 * spread)
    turn = rotation(dim)
    assert frechet(x @ turn, (1.5 * x + shift) @ turn) == pytest.approx(expected, rel=1e-9)
    assert frechet(x + 1e6, 1.5 * x + shift + 1e6) == pytest.approx(expected, rel=1e-6)


def test_it_is_symmetric_and_rows_choose():
    x = normal(30, 4)
    compare = Frechet().on(x)
    a, b = torch.arange(0, 30, 2), torch.arange(1, 30, 2)
    assert compare(a, b) == pytest.approx(compare(b, a), rel=1e-12)
    assert compare(a, b) == pytest.approx(frechet(x[a], x[b]), rel=1e-12)


def test_many_samples_of_known_gaussians_come_near_the_truth():
    deviation = torch.tensor([1.0, 2.0, 0.5, 3.0]).double()
    a, b = normal(20_000, 4), normal(20_000, 4, seed=1) * deviation + 0.5
    expected = float((deviation - 1.0).square().sum()) + 4 * 0.25
    assert frechet(a, b) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("a", "b"), [((1, 3), (5, 3)), ((5, 3), (5, 2)), ((5,), (5,)), ((5, 3), (0, 3))], ids=["one", "dim", "1-d", "none"]
)
def test_what_has_no_covariance_is_refused(a, b):
    with pytest.raises(ValueError, match="features"):
        frechet(torch.zeros(a), torch.zeros(b))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        frechet(torch.tensor([[1.0], [math.nan]]), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="two samples"):
        Frechet().on(torch.zeros(3, 1))(torch.tensor([0]), torch.tensor([1, 2]))
