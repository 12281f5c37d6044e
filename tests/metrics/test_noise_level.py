"""The noise found in a picture against the noise that was put there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.metrics.noise_level import likeliest_noise, noise_of_patches
from kakusan.oracles import GaussianMixture
from kakusan.schedules import Cosine, Karras


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(side):
    line = torch.linspace(0.0, 3.0, side, dtype=torch.float64)
    return torch.stack([line.sin().outer(line.cos()), line.outer(line) / 9.0, line.cos().outer(line.sin())])[None]


@settings(max_examples=20)
@given(st.floats(0.01, 0.5), st.integers(0, 20))
def test_the_noise_on_a_smooth_picture_is_found(std, seed):
    found = noise_of_patches(smooth(40) + std * noise(1, 3, 40, 40, seed=seed))
    assert found == pytest.approx(std, rel=0.15)


def test_a_flat_picture_has_no_noise():
    assert noise_of_patches(torch.full((1, 3, 24, 24), 0.3)) < 1e-3


@pytest.mark.parametrize("schedule", [Cosine(), Karras()], ids=["cosine", "karras"])
@settings(max_examples=12)
@given(std=st.floats(0.05, 0.9), spread=st.floats(0.1, 0.8), seed=st.integers(0, 9))
def test_the_likeliest_noise_of_gaussian_data_is_what_their_variance_leaves(schedule, std, spread, seed):
    # Data N(0, spread^2) with noise have the variance spread^2 + std^2 everywhere: likeliest is where it fits y.
    y = (spread**2 + std**2) ** 0.5 * noise(1, 3, 16, 16, seed=seed)
    prior = GaussianMixture(torch.zeros(1, 3, 16, 16), spread, schedule=schedule)
    exact = float((y.square().mean() - spread**2).clamp_min(0.0).sqrt())
    if exact < 0.1:
        return  # then it may be likeliest that there is none
    assert likeliest_noise(prior, y, probes=1) == pytest.approx(exact, rel=0.01)


def test_a_mixture_tells_noise_from_shape():
    means = noise(4, 3, 16, 16, seed=3)
    prior = GaussianMixture(means, 0.05, schedule=Cosine())
    for std in (0.1, 0.3, 0.6):
        y = means[2:3] + (0.05**2 + std**2) ** 0.5 * noise(1, 3, 16, 16, seed=4)
        exact = float((y - means[2]).square().mean() - 0.05**2) ** 0.5
        assert likeliest_noise(prior, y) == pytest.approx(exact, rel=0.01)
        if std == 0.1:
            # A picture as rough as noise itself misleads its patches, not a model that knows it.
            assert noise_of_patches(y) > 5.0 * exact


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="too small to find its noise"):
        noise_of_patches(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="one picture"):
        noise_of_patches(torch.zeros(2, 3, 32, 32))
