"""The reverse process as an exact way to denoise."""

import math

import pytest
import torch

from kakusan import grids
from kakusan.operators import Identity, Mask, Measurement
from kakusan.oracles import GaussianMixture
from kakusan.posteriors import Reverse
from kakusan.posteriors.direct import falling
from kakusan.schedules import Cosine, Karras, Rectified

SHAPE = (2, 3)
SCHEDULES = [Cosine(), Rectified(), Karras()]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_samples_have_the_moments_of_the_posterior(schedule):
    std, noise, count = 0.7, 0.5, 2000
    prior = GaussianMixture(torch.zeros(1, *SHAPE), std, schedule=schedule)
    y = random(1, *SHAPE)
    x = Reverse().sample(
        prior, Measurement(Identity(SHAPE), y, noise), grids.karras(schedule, 60), count, seeds=1, dtype=torch.float64
    )
    gain = std**2 / (std**2 + noise**2)
    wide = math.sqrt(gain) * noise
    assert float(((x.mean(0) - gain * y[0]) / wide * math.sqrt(count)).abs().max()) < 4.5
    torch.testing.assert_close(x.std(0), torch.full(SHAPE, wide).double(), rtol=0.08, atol=0.0)


def test_two_modes_are_weighed_as_bayes_weighs_them():
    prior = GaussianMixture(torch.tensor([-1.0, 1.0]).view(2, 1, 1).expand(2, 1, 1), 0.1, schedule=Cosine())
    noise, y, count = 1.0, torch.full((1, 1, 1), 0.3, dtype=torch.float64), 4000
    x = Reverse().sample(
        prior, Measurement(Identity((1, 1)), y, noise), grids.karras(Cosine(), 100), count, dtype=torch.float64
    )
    share = 1.0 / (1.0 + math.exp(-2.0 * 0.3 / (noise**2 + 0.01)))
    assert float((x > 0).double().mean()) == pytest.approx(share, abs=4.0 * math.sqrt(share * (1 - share) / count))


def test_a_group_follows_its_own_picture_and_a_sample_its_own_seed():
    prior = GaussianMixture(random(3, *SHAPE), 0.3, schedule=Cosine())
    measurement = Measurement(Identity(SHAPE), random(2, *SHAPE, seed=2), 0.4)
    grid = grids.karras(Cosine(), 8)
    both = Reverse().sample(prior, measurement, grid, 4, seeds=[5, 6, 7, 8], dtype=torch.float64)
    second = Measurement(Identity(SHAPE), measurement.y[1:], 0.4)
    alone = Reverse().sample(prior, second, grid, 1, seeds=[8], dtype=torch.float64)
    torch.testing.assert_close(both[3:], alone)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_times_begin_at_the_noise_and_fall_to_data(schedule):
    times = falling(schedule, 0.3, 7)
    u = schedule.sigma(times[:1]) / schedule.alpha(times[:1])
    assert float(u) == pytest.approx(0.3, rel=1e-4)
    assert len(times) == 8
    assert float(times[-1]) == 0.0
    assert (times.diff() < 0).all()


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="use another posterior"):
        Reverse().sampler(Measurement(Mask(torch.tensor([[1, 0, 1]] * 2)), torch.zeros(1, *SHAPE), 0.1))
    with pytest.raises(ValueError, match="without noise"):
        Reverse().sampler(Measurement(Identity(SHAPE), torch.zeros(1, *SHAPE), 0.0))
    with pytest.raises(ValueError, match="more than this model was ever shown"):
        falling(Cosine(), 1e7, 4)
