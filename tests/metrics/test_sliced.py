"""Laws of the sliced Wasserstein distance: one dimension exactly, shifts, scalings, Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.sliced import Sliced, directions, sliced_distance, squared_wasserstein


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


NUMBERS = st.lists(st.floats(-9.0, 9.0), min_size=1, max_size=9)


@given(NUMBERS, NUMBERS)
def test_unequal_numbers_are_as_if_each_point_stood_there_often(a, b):
    n, m = len(a), len(b)
    often = np.sort(np.repeat(a, m)), np.sort(np.repeat(b, n))
    expected = float(np.square(often[0] - often[1]).mean())
    found = squared_wasserstein(np.array([a]), np.array([b]))
    assert found.shape == (1,)
    assert float(found[0]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_best_transport_of_points_is_found():
    # Against every assignment of four points.
    from itertools import permutations

    a, b = normal(4).numpy(), normal(4, seed=1).numpy()
    best = min(float(np.square(a - b[list(order)]).mean()) for order in permutations(range(4)))
    assert float(squared_wasserstein(a[None], b[None])[0]) == pytest.approx(best, rel=1e-12)


@given(st.integers(1, 12), st.integers(0, 99))
def test_a_shift_costs_its_square_along_each_direction(dim, seed):
    x, shift = normal(20, dim, seed=seed), normal(dim, seed=seed + 1)
    along = directions(64, dim, seed=5) @ shift
    expected = 3.0 * dim * float(along.square().mean())
    found = sliced_distance(x, x + shift, projections=64, seed=5)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_over_all_directions_a_shift_costs_its_square_over_the_dimension():
    dim, shift = 8, torch.arange(8.0).double()
    found = sliced_distance(normal(5, dim), normal(5, dim) + shift, projections=20_000, scale=1.0)
    # (u . s)^2 has the mean |s|^2 / D and less than sqrt(2) times that as its deviation.
    assert found == pytest.approx(float(shift.square().sum()), rel=4.0 * math.sqrt(2.0 / 20_000))


@pytest.mark.parametrize(("n", "m"), [(3000, 3000), (3000, 2000)])
def test_isotropic_gaussians_have_a_closed_form(n, m):
    dim, shift, deviation = 6, 1.5, 2.0
    a, b = normal(n, dim), normal(m, dim, seed=1) * deviation + shift
    # Along a direction W2^2 = (u . s)^2 + (difference of deviations)^2, the first with the mean |s|^2 / D.
    truth = dim * shift**2 + dim * (deviation - 1.0) ** 2
    along = float((directions(500, dim) @ torch.full((dim,), shift, dtype=torch.float64)).square().mean()) * dim
    found = sliced_distance(a, b, projections=500, scale=1.0)
    assert found == pytest.approx(along + dim * (deviation - 1.0) ** 2, rel=0.05)
    assert found == pytest.approx(truth, rel=0.15)


def test_equal_sets_are_at_nothing_and_scaled_ones_at_their_spread():
    x = normal(50, 4) - normal(50, 4).mean(0)
    assert sliced_distance(x, x[torch.randperm(50, generator=torch.Generator().manual_seed(0))]) == pytest.approx(
        0.0, abs=1e-20
    )
    spread = 3.0 * 4 * float((directions(256, 4) @ x.T).square().mean())
    assert sliced_distance(x, 1.5 * x) == pytest.approx(0.25 * spread, rel=1e-9)


def test_directions_are_of_length_one_and_their_seed_decides_them():
    drawn = directions(100, 7, seed=1)
    assert torch.allclose(drawn.norm(dim=1), torch.ones(100).double())
    assert torch.equal(drawn, directions(100, 7, seed=1))
    assert not torch.equal(drawn, directions(100, 7, seed=2))
    a, b = normal(30, 7), normal(30, 7, seed=1)
    assert sliced_distance(a, b) == sliced_distance(a, b) != sliced_distance(a, b, seed=1)
    assert Sliced(seed=3).settings() == {"projections": 256, "scale": 3.0, "projection_seed": 3}


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="projection"):
        Sliced(0)
    with pytest.raises(ValueError, match="scale"):
        Sliced(scale=0.0)
    with pytest.raises(ValueError, match="features"):
        sliced_distance(torch.zeros(3, 2), torch.zeros(3, 3))
