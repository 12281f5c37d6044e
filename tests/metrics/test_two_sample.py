"""Laws of the classifier two-sample test: calibration, the Bayes accuracy of known laws, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.toys import TOYS, Rings
from kakusan.metrics.two_sample import TwoSampleNetwork, classifier_two_sample

QUICK = TwoSampleNetwork(steps=120, batch=256)


def gaussian(n, dim, seed, shift=0.0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)) + shift


def test_two_samples_of_one_law_score_a_half_within_the_stated_error():
    records = [
        classifier_two_sample(gaussian(1000, 2, 2 * k), gaussian(1000, 2, 2 * k + 1), seed=k, network=QUICK)
        for k in range(8)
    ]
    z = torch.tensor([(r.accuracy - 0.5) / r.stderr for r in records])
    # The stated error is an upper bound, so z varies by at most 1: eight rarely pass 3.5, and their mean 4 / sqrt(8).
    assert float(z.abs().max()) < 3.5
    assert abs(float(z.mean())) < 4.0 / math.sqrt(8.0)
    # It is not far above the true one either, which is at least 1 / sqrt(2) of it (independent halves).
    assert float(z.std()) > 0.25


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("dim", [1, 3])
def test_shifted_gaussians_score_near_the_best_possible(shift, dim):
    r = classifier_two_sample(gaussian(3000, dim, 1), gaussian(3000, dim, 2, shift / math.sqrt(dim)), network=QUICK)
    best = 0.5 * (1.0 + math.erf(shift / (2.0 * math.sqrt(2.0))))
    assert r.accuracy < best + 4.0 * r.stderr, "better than the Bayes rule: it scores points it has seen"
    assert r.accuracy > best - 4.0 * r.stderr - 0.02


def test_the_toys_are_told_from_slightly_blurred_ones_but_not_from_themselves():
    n, toy, judge = 3000, TOYS["rings"], TwoSampleNetwork(steps=400)
    same = classifier_two_sample(toy.sample(n, 1), toy.sample(n, 2), network=judge)
    blurred = classifier_two_sample(toy.sample(n, 1), Rings(noise=0.2).sample(n, 2), network=judge)
    assert abs(same.accuracy - 0.5) < 4.0 * same.stderr
    # Across a ring N(0, s^2) beside N(0, 4 s^2): the best possible is near (1 + 0.32) / 2.
    assert 0.6 < blurred.accuracy < 0.66 + 4.0 * blurred.stderr


def test_identical_samples_cannot_be_told_apart():
    x = gaussian(1000, 2, 5)
    # Each point stands in both samples, often in both halves: at worst the judge names the half it was trained on.
    r = classifier_two_sample(x, x, network=QUICK)
    assert r.accuracy < 0.5 + 4.0 * r.stderr


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(32, 90),
    dim=st.integers(1, 5),
    scale=st.floats(1e-3, 1e3),
    offset=st.floats(-1e3, 1e3),
    wide=st.booleans(),
    constant=st.booleans(),
)
def test_any_samples_give_a_record(n, dim, scale, offset, wide, constant):
    a, b = gaussian(n, dim, 1).double() * scale + offset, gaussian(n, dim, 2).double() * scale + offset
    if constant:
        a[:, 0] = b[:, 0] = offset
    if not wide:
        a, b = a.float(), b.float()
    r = classifier_two_sample(a, b, network=TwoSampleNetwork(width=8, depth=1, steps=3, batch=16))
    assert 0.0 <= r.accuracy <= 1.0
    assert r.n == n
    assert r.accuracy == pytest.approx(sum(r.halves) / 2, abs=0.02)
    assert r.settings["dim"] == dim


def test_the_record_is_a_function_of_the_samples_and_the_seed_and_leaves_the_global_generator():
    a, b = gaussian(200, 2, 1), gaussian(200, 2, 2, 0.3)
    before = torch.random.get_rng_state()
    first, again = (classifier_two_sample(a, b, seed=3, network=QUICK) for _ in range(2))
    assert first == again
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.no_grad():
        assert classifier_two_sample(a, b, seed=3, network=QUICK) == first
    assert first.record()["settings"]["steps"] == QUICK.steps


def test_records_of_other_settings_do_not_compare():
    a, b = gaussian(100, 2, 1), gaussian(100, 2, 2)
    tiny = TwoSampleNetwork(width=8, steps=3)
    one, two = (classifier_two_sample(a, b, seed=seed, network=tiny) for seed in (1, 2))
    value, stderr = one.difference(two)
    assert value == two.accuracy - one.accuracy
    assert stderr == pytest.approx(math.hypot(one.stderr, two.stderr))
    with pytest.raises(ValueError, match="differ in width"):
        one.difference(classifier_two_sample(a, b, network=TwoSampleNetwork(width=16, steps=3)))
    with pytest.raises(ValueError, match="differ in n"):
        one.difference(classifier_two_sample(a[:50], b[:50], network=tiny))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(40), torch.zeros(40)),
        (torch.zeros(40, 2), torch.zeros(41, 2)),
        (torch.zeros(40, 2), torch.zeros(40, 3)),
        (torch.zeros(31, 2), torch.zeros(31, 2)),
    ],
)
def test_other_shapes_are_refused(a, b):
    with pytest.raises(ValueError, match="two samples of one shape"):
        classifier_two_sample(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    x = gaussian(40, 2, 1)
    broken = x.clone()
    broken[3, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        classifier_two_sample(x, broken)


@pytest.mark.parametrize(
    "change", [{"width": 0}, {"batch": 3}, {"batch": 0}, {"rate": 0.0}, {"weight_decay": -1.0}, {"bandwidth": 0.0}]
)
def test_impossible_networks_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        TwoSampleNetwork(**change)
