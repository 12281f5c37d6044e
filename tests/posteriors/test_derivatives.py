"""Methods that differentiate the network, where the network's derivative is wrong."""

import pytest
import torch

from kakusan import grids
from kakusan.levels import Level, tabulate
from kakusan.noise import StepNoise
from kakusan.operators import Downsample, Mask, Measurement
from kakusan.oracles import GaussianMixture
from kakusan.posteriors import DPS, MMPS, PiGDM
from kakusan.posteriors.gradient import isotropic_score
from kakusan.samplers import DDPM
from kakusan.samplers.base import State
from kakusan.schedules import Cosine

SHAPE = (1, 6, 6)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Crooked(GaussianMixture):
    """Right values, and a derivative that is far from symmetric."""

    def output(self, x_t, level, cond):
        wrong = (x_t - x_t.detach()).flatten(1) @ (300.0 * random(36, 36, seed=9)).to(x_t)
        return super().output(x_t, level, cond) + wrong.view(x_t.shape)


def measurement():
    known = torch.ones(SHAPE)
    known[:, 2:4] = 0.0
    operator = Mask(known)
    return Measurement(operator, operator(0.5 * random(1, *SHAPE, seed=4)), 0.05)


def test_moment_matching_never_fits_worse_than_the_prediction_it_began_with():
    prior = Crooked(torch.zeros(1, *SHAPE), 0.5, schedule=Cosine())
    x_t, level = random(5, *SHAPE, seed=2), Level.of(Cosine(), 0.8)
    before = measurement().residual(prior(x_t, level).x0).square().sum()
    found = MMPS().guide(prior, measurement())(x_t, level).x0
    assert measurement().residual(found).square().sum() <= before
    x = MMPS().sample(prior, measurement(), grids.karras(Cosine(), 20), 8, dtype=torch.float64)
    assert float(x.abs().max()) < 5.0


def test_above_the_limit_the_network_is_not_differentiated():
    crooked = Crooked(torch.zeros(1, *SHAPE), 0.5, schedule=Cosine())
    straight = GaussianMixture(torch.zeros(1, *SHAPE), 0.5, schedule=Cosine())
    x_t, loud = random(2, *SHAPE), Level.of(Cosine(), 0.9)
    found = PiGDM(limit=3.0).guide(crooked, measurement())(x_t, loud).x0
    exact = PiGDM(limit=None).guide(straight, measurement())(x_t, loud).x0
    # The normal distribution's own derivative is the right one for normal data.
    torch.testing.assert_close(found, exact)
    assert not torch.allclose(PiGDM(limit=None).guide(crooked, measurement())(x_t, loud).x0, exact)
    score, variance = isotropic_score(straight, measurement(), straight(x_t, loud).x0, loud)
    torch.testing.assert_close(straight(x_t, loud).x0 + variance * score, exact)


@pytest.mark.parametrize("steps", [10, 40])
def test_the_way_that_dps_can_go_does_not_depend_on_the_number_of_steps(steps):
    # With a network that predicts x_t itself the gradient of the distance is a unit vector times the operator.
    class Straight(GaussianMixture):
        def output(self, x_t, level, cond):
            return x_t

    operator = Downsample(SHAPE, 2)
    far = Measurement(operator, operator(torch.full((1, *SHAPE), 1e6, dtype=torch.float64)), 0.1)
    levels = tabulate(Cosine(), grids.uniform(Cosine(), steps))
    prior = Straight(torch.zeros(1, *SHAPE), 0.5, schedule=Cosine())
    x = random(1, *SHAPE)
    total = 0.0
    for index in range(steps):
        noise = StepNoise(torch.tensor([0]), index, x)
        plain, _ = DDPM().step(prior, x, levels[index], levels[index + 1], None, State(steps), noise)
        led, _ = DPS(scale=2.0).sampler(far).step(prior, x, levels[index], levels[index + 1], None, State(steps), noise)
        total += float((led - plain).norm())
    assert total == pytest.approx(2.0 * 1000.0 * (36 / 196608) ** 0.5, rel=1e-6)
