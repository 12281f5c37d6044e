"""Laws of the nearest-neighbour distances: counts by hand, expected coverage, apart, the same, copies, constants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.manifold import Coverage, Density, Precision, Recall, TwoSample, expected_coverage

FOUR = {"precision": Precision, "recall": Recall, "density": Density, "coverage": Coverage}


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def between(distance, a, b):
    rows = torch.arange(len(a) + len(b))
    return distance.on(torch.cat([a, b]))(rows[: len(a)], rows[len(a) :])


def by_hand(name, a, b, k):
    """From the papers' words, with whole numbers, so that ties are ties."""

    def far(x, y):
        return sum((int(i) - int(j)) ** 2 for i, j in zip(x, y, strict=True))

    def balls(s):
        return [sorted(far(x, y) for j, y in enumerate(s) if j != i)[min(k, len(s) - 1) - 1] for i, x in enumerate(s)]

    real, fake = balls(b), balls(a)
    if name == "precision":
        return sum(any(far(x, y) <= r for y, r in zip(b, real, strict=True)) for x in a) / len(a)
    if name == "recall":
        return sum(any(far(x, y) <= r for x, r in zip(a, fake, strict=True)) for y in b) / len(b)
    if name == "density":
        inside = sum(far(x, y) <= r for x in a for y, r in zip(b, real, strict=True))
        return inside / (min(k, len(b) - 1) * len(a))
    return sum(any(far(x, y) <= r for x in a) for y, r in zip(b, real, strict=True)) / len(b)


@pytest.mark.parametrize("name", FOUR)
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=9),
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=9),
    st.integers(1, 6),
)
def test_they_count_what_the_papers_count(name, a, b, k):
    found = between(FOUR[name](k), torch.tensor(a).double(), torch.tensor(b).double())
    # Roots of whole numbers compare as the numbers do, but for rounding: a ball's edge is a distance itself.
    assert found == pytest.approx(by_hand(name, a, b, k), abs=1e-12)


@pytest.mark.parametrize("distance", [*FOUR.values(), TwoSample], ids=[*FOUR, "two-sample"])
def test_sets_that_lie_apart(distance):
    a, b = normal(20, 3), normal(30, 3, seed=1) + 1000.0
    assert between(distance(), a, b) == (1.0 if distance is TwoSample else 0.0)


def test_copies_of_the_real_pictures():
    x = normal(40, 5)
    assert [between(FOUR[name](), x, x) for name in ("precision", "recall", "coverage")] == [1.0, 1.0, 1.0]
    # A ball holds k others and its own centre, so the copies lie in (k + 1) / k balls each.
    assert between(Density(k=4), x, x) == pytest.approx(5 / 4)
    # Each point's nearest is its copy, of the other set.
    assert between(TwoSample(), x, x) == 0.0


@pytest.mark.parametrize("offset", [0.0, 1e6, -3e3])
def test_copies_are_copies_also_far_from_zero(offset):
    x = normal(60, 64) + offset
    assert between(TwoSample(), x, x.clone()) == 0.0


def test_half_of_the_modes():
    left, right = normal(30, 3), normal(30, 3, seed=1) + 1000.0
    real = torch.cat([left, right])
    found = {name: between(build(), left, real) for name, build in FOUR.items()}
    assert found == {"precision": 1.0, "recall": 0.5, "density": pytest.approx(6 / 5), "coverage": 0.5}
    # One picture far away stretches its own ball over what is between, and precision believes it; density does not.
    outlier = torch.cat([left, torch.full((1, 3), 1000.0)])
    between_them = normal(30, 3, seed=2) + 500.0
    assert between(Precision(), between_them, outlier) == 1.0
    assert between(Density(), between_them, outlier) <= 1 / 5 + 1e-12


def test_precision_of_one_is_recall_of_the_other():
    a, b = normal(25, 4), normal(35, 4, seed=1) * 0.7
    assert between(Precision(3), a, b) == between(Recall(3), b, a)


@pytest.mark.parametrize(("n", "m", "k"), [(30, 30, 5), (40, 20, 3), (12, 30, 2)])
@pytest.mark.parametrize("dim", [1, 6])
def test_coverage_of_one_law_has_the_expected_value(n, m, k, dim):
    found = torch.tensor(
        [between(Coverage(k), normal(m, dim, seed=2 * s), normal(n, dim, seed=2 * s + 1)) for s in range(200)]
    )
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - expected_coverage(n, m, k)) < 4.0 * error
    assert error < 0.01


def test_expected_coverage_in_small_cases():
    # Of the two others as seen from one picture either is the nearer: one half.
    assert expected_coverage(2, 1, 1) == 0.5
    # Naeem et al.: n = m, 1 - (n - 1) ... (n - k) / ((2 n - 1) ... (2 n - k)), above 1 - 2^-k.
    assert expected_coverage(10, 10, 2) == pytest.approx(1 - (9 * 8) / (19 * 18))
    assert expected_coverage(10**6, 10**6, 5) == pytest.approx(1 - 2.0**-5, rel=1e-5)
    for wrong in ((5, 5, 0), (5, 5, 5), (5, 0, 2)):
        with pytest.raises(ValueError, match="expected"):
            expected_coverage(*wrong)


@pytest.mark.parametrize("dim", [1, 6])
def test_the_two_sample_test_of_one_law(dim):
    n = 25
    found = torch.tensor(
        [between(TwoSample(), normal(n, dim, seed=2 * s), normal(n, dim, seed=2 * s + 1)) for s in range(200)]
    )
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - (n - 1) / (2 * n - 1)) < 4.0 * error


def test_constant_features_tell_nothing_apart():
    # All distances are nothing: every ball holds every point. Rounding of the mean must not show.
    x = torch.full((24, 7), 0.1).double()
    assert [between(build(), x, x) for build in (Precision, Recall, Coverage)] == [1.0, 1.0, 1.0]
    assert between(Density(), x, x) == pytest.approx(24 / 5)
    assert between(TwoSample(), x, x) == pytest.approx(23 / 47)


def test_wrong_settings_are_refused():
    for build in FOUR.values():
        with pytest.raises(ValueError, match="neighbour"):
            build(0)
    with pytest.raises(ValueError, match="two points"):
        between(Precision(), torch.zeros(3, 1), torch.zeros(1, 1))
