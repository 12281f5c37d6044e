"""Decoders are distributions: they sum to one, know their values, and refuse what is none of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.spec import DataSpec
from kakusan.levels import Level
from kakusan.likelihood import Categorical, Density, DiscretizedGaussian
from kakusan.schedules import Cosine

DISCRETE = [Categorical, DiscretizedGaussian]


def level(log_snr: float) -> Level:
    return Level.of(Cosine(), float(Cosine().time(torch.tensor(log_snr, dtype=torch.float64))))


@pytest.mark.parametrize("kind", DISCRETE)
@settings(max_examples=40)
@given(levels=st.integers(2, 256), log_snr=st.floats(-8.0, 20.0), place=st.floats(-3.0, 3.0))
def test_probabilities_sum_to_one(kind, levels, log_snr, place):
    decoder = kind(levels)
    at = level(log_snr)
    z = torch.full((levels, 1), place, dtype=torch.float64)
    log_p = decoder.log_prob(torch.arange(levels).view(-1, 1), z, at)
    assert float(log_p.logsumexp(0)) == pytest.approx(0.0, abs=1e-9)
    assert bool((log_p <= 1e-12).all())


@settings(max_examples=40)
@given(levels=st.integers(2, 256), log_snr=st.floats(-4.0, 20.0), index=st.integers(0, 255), off=st.floats(-4.0, 4.0))
def test_the_categorical_is_bayes_with_an_even_prior(levels, log_snr, index, off):
    index %= levels
    at = level(log_snr)
    values = [-1.0 + 2.0 * k / (levels - 1) for k in range(levels)]
    z = at.alpha * values[index] + at.sigma * off
    logs = [-0.5 * ((z - at.alpha * v) / at.sigma) ** 2 for v in values]
    most = max(logs)
    wanted = logs[index] - most - math.log(sum(math.exp(v - most) for v in logs))
    found = Categorical(levels).log_prob(
        torch.tensor([[values[index]]], dtype=torch.float64), torch.tensor([[z]], dtype=torch.float64), at
    )
    assert float(found) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_the_discretized_gaussian_keeps_its_digits_in_the_tails():
    # Mass between a and b in the far tail, by a thousand-point quadrature of the density in logarithms.
    decoder, mean, std = DiscretizedGaussian(17), -0.9, 0.02
    log_variance = 2.0 * math.log(std)
    for k in (1, 5, 9, 15):
        low, high = ((-1.0 + 0.125 * k + s * 0.0625 - mean) / std for s in (-1.0, 1.0))
        z = torch.linspace(low, high, 200_001, dtype=torch.float64)
        log_density = -0.5 * z**2 - 0.5 * math.log(2.0 * math.pi)
        wanted = float(log_density.logsumexp(0) + math.log(float(z[1] - z[0])))
        found = decoder.from_mean(torch.tensor([[k]]), torch.tensor([[mean]], dtype=torch.float64), log_variance)
        assert float(found) == pytest.approx(wanted, rel=2e-3)


def test_the_outer_bins_are_open():
    far = DiscretizedGaussian(3).from_mean(torch.tensor([[2]]), torch.tensor([[50.0]], dtype=torch.float64), 0.0)
    assert float(far) == pytest.approx(0.0, abs=1e-12)


def test_the_density_is_a_gaussian_and_its_mean_is_closed():
    at = level(1.3)
    x, eps = torch.randn(40_000, 3, dtype=torch.float64), torch.randn(40_000, 3, dtype=torch.float64)
    found = Density().log_prob(x, at.alpha * x + at.sigma * eps, at)
    normal = torch.distributions.Normal(x - eps * at.sigma / at.alpha, at.sigma / at.alpha)
    torch.testing.assert_close(found, -normal.log_prob(x).neg().sum(1))
    expected = float(Density().expected(x, at)[0])
    assert float(found.mean()) == pytest.approx(expected, abs=4.0 * float(found.std()) / 200.0)


@pytest.mark.parametrize("kind", DISCRETE)
def test_integers_and_model_units_are_the_same_data(kind):
    spec = DataSpec(channels=1, size=(4, 4), mean=(0.0,), std=(0.5,), mode="L")
    stored = torch.arange(0, 256, 16, dtype=torch.uint8).view(1, 1, 4, 4)
    decoder = kind.for_data(spec)
    z = torch.randn(1, 1, 4, 4)
    both = [decoder.log_prob(x, z, level(4.0)) for x in (stored, spec.to_model(stored))]
    assert torch.equal(*both)
    assert torch.equal(decoder.index(spec.to_model(stored)), stored.long())


@settings(max_examples=30)
@given(levels=st.integers(2, 256), off=st.floats(0.01, 0.49), index=st.integers(0, 255))
def test_values_between_the_levels_are_refused(levels, off, index):
    value = -1.0 + 2.0 * (index % levels + off) / (levels - 1)
    for kind in DISCRETE:
        with pytest.raises(ValueError, match="evenly spaced"):
            kind(levels).log_prob(torch.tensor([[value]]), torch.zeros(1, 1), level(3.0))


@pytest.mark.parametrize("kind", DISCRETE)
def test_what_is_no_8_bit_data_is_refused(kind):
    facts = {"channels": 1, "size": (4, 4), "mean": (0.0,), "std": (0.5,)}
    assert kind.for_data(DataSpec(**facts, mode="L", high=16.0)).levels == 17
    with pytest.raises(ValueError, match="16 bits"):
        kind.for_data(DataSpec(**facts, mode="I;16", bits=16))
    with pytest.raises(ValueError, match="not integers"):
        kind.for_data(DataSpec(**facts, mode="L", high=200.5))
    with pytest.raises(ValueError, match="range 0 to 16"):
        kind(17).log_prob(torch.tensor([[17]]), torch.zeros(1, 1), level(3.0))
    with pytest.raises(ValueError, match="range 0 to 16"):
        kind(17).log_prob(torch.tensor([[1.125]]), torch.zeros(1, 1), level(3.0))
    with pytest.raises(ValueError, match="evenly spaced"):
        kind(17).log_prob(torch.tensor([[math.nan]]), torch.zeros(1, 1), level(3.0))
    with pytest.raises(ValueError, match="at least two"):
        kind(1)
    for x in (torch.tensor([[1]]), torch.tensor([[math.nan]])):
        with pytest.raises(ValueError, match="real numbers"):
            Density().check(x)


def test_a_level_for_each_sample_is_that_sample_s():
    at = Level.of(Cosine(), torch.tensor([0.05, 0.3], dtype=torch.float64), torch.zeros(2, 1, 2, 2))
    x, z = torch.tensor([-1.0, 1.0, 0.0, 1.0]).view(1, 1, 2, 2).expand(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    for decoder in (Categorical(3), DiscretizedGaussian(3), Density()):
        alone = [decoder.log_prob(x[i : i + 1], z[i : i + 1], Level.of(Cosine(), t)) for i, t in ((0, 0.05), (1, 0.3))]
        torch.testing.assert_close(decoder.log_prob(x, z, at), torch.cat(alone))


def test_training_can_differentiate_through_a_decoder():
    for decoder in (Categorical(5), DiscretizedGaussian(5), Density()):
        z = torch.randn(2, 3, requires_grad=True)
        decoder.log_prob(torch.zeros(2, 3), z, level(1.0)).sum().backward()
        assert bool(z.grad.isfinite().all())
        assert float(z.grad.abs().sum()) > 0.0
