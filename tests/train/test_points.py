"""Laws of training on toys: a function of the seed, nearer to the exact denoiser, honest about couplings."""

from __future__ import annotations

import math

import pytest
import torch

from kakusan.couplings import Coupling, Reflowed
from kakusan.data.toys import TOYS
from kakusan.likelihood import flow_log_prob
from kakusan.objectives import EdmWeight, FlowMatching, Objective
from kakusan.parameterizations import Edm, Eps, Velocity
from kakusan.schedules import Karras, Rectified, VariancePreserving
from kakusan.time_samplers import LogNormalSigma
from kakusan.train.points import batches, sigma_data, train_toy

MIXTURE = TOYS["mixture"]
TINY = dict(schedule=VariancePreserving(), parameterization=Eps(), objective=Objective(), width=8, depth=1, batch=16)


def weights(denoiser):
    return torch.cat([p.detach().flatten() for p in denoiser.parameters()])


class Shared(Coupling):
    """The same noise for all: coupled, and simple."""

    def eps(self, x0, noise):
        return noise.eps(x0)[:1].expand_as(x0)


def test_the_weights_are_a_function_of_the_seed_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    first = weights(train_toy(MIXTURE, steps=5, seed=3, **TINY))
    torch.manual_seed(77)
    again = weights(train_toy(MIXTURE, steps=5, seed=3, **TINY))
    torch.random.set_rng_state(before)
    train_toy(MIXTURE, steps=1, **TINY)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(train_toy(MIXTURE, steps=5, seed=4, **TINY)))


def test_fresh_points_are_those_of_the_toy_and_never_come_back():
    run = batches(MIXTURE, 0, 256)
    seen = torch.cat([next(run)[0] for _ in range(130)])
    assert len(seen.unique(dim=0)) == len(seen)
    assert not torch.isin(MIXTURE.sample(256, 0).float()[:, 0], seen[:, 0]).any()
    # The mean of n coordinates of known root mean square.
    assert float(seen.mean().abs()) < 4.0 * sigma_data(MIXTURE) / math.sqrt(seen.numel())
    assert float(seen.square().mean().sqrt()) == pytest.approx(sigma_data(MIXTURE), rel=0.02)


def test_a_finite_set_is_run_through_and_every_point_knows_its_place():
    points = torch.arange(24.0).reshape(12, 2)
    run = batches(points, 5, 4)
    epoch = [next(run) for _ in range(3)]
    assert sorted(torch.cat([places for _, places in epoch]).tolist()) == list(range(12))
    assert all(torch.equal(points[places], x0) for x0, places in epoch)


def test_training_brings_the_density_to_the_truth():
    sd = sigma_data(MIXTURE)
    truth = MIXTURE.sample(200, 9)

    def divergence(steps):
        denoiser = train_toy(
            MIXTURE,
            schedule=Karras(),
            parameterization=Edm(sd),
            objective=Objective(LogNormalSigma(-1.0, 1.2), EdmWeight(sd)),
            steps=steps,
            width=48,
            depth=2,
            batch=128,
        ).requires_grad_(False)
        ratio = MIXTURE.log_prob(truth) - flow_log_prob(denoiser, truth.float(), num_steps=16, start_log_snr=8.0)
        return float(ratio.mean())

    # A Gaussian of the right size, where training begins, is log(2 pi e sigma_data^2) - entropy away.
    gaussian = math.log(2.0 * math.pi * math.e * sd**2) - MIXTURE.entropy
    assert divergence(1) > 0.9 * gaussian
    assert divergence(250) < 0.3 * gaussian


def test_seconds_end_a_run_and_say_hears_of_it():
    heard = []
    train_toy(MIXTURE, seconds=0.2, say=heard.append, **TINY)
    assert heard[-1].startswith("step ")
    assert "100%" in heard[-1]


def test_a_coupling_that_is_not_independent_is_remembered():
    arguments = {**TINY, "objective": Objective(coupling=Shared())}
    denoiser = train_toy(MIXTURE, steps=2, **arguments)
    assert not denoiser.independent_noise
    assert train_toy(MIXTURE, steps=2, **TINY).independent_noise
    with pytest.raises(ValueError, match="coupled"):
        denoiser(torch.zeros(1, 2), 0.5).score


def test_couplings_that_keep_partners_get_the_places_of_a_finite_set():
    class Places(Shared):
        def eps(self, x0, noise):
            assert torch.equal(x0[:, 0], noise.indices.float())
            return noise.eps(x0)

    points = torch.stack([torch.arange(40.0), torch.zeros(40)], dim=1)
    train_toy(points, steps=4, **{**TINY, "objective": Objective(coupling=Places())})
    assert issubclass(Reflowed, Coupling)


def test_points_of_any_dimension_and_a_learned_variance():
    points = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    objective = Objective(weighting=FlowMatching())
    denoiser = train_toy(
        points, schedule=Rectified(), parameterization=Velocity(), objective=objective, steps=2, width=8, depth=1
    )
    assert denoiser(points, 0.5).x0.shape == (64, 5)
    from kakusan.bound_objectives import Hybrid

    learned = train_toy(points, steps=2, learned_variance=True, **{**TINY, "objective": Hybrid(steps=10)})
    assert learned.learned_variance
    assert learned(points, 0.5).x0.shape == (64, 5)


@pytest.mark.parametrize("wrong", [{}, {"steps": 3, "seconds": 1.0}, {"steps": 0}, {"seconds": -1.0}])
def test_a_run_has_one_length(wrong):
    with pytest.raises(ValueError, match="`steps` or `seconds`"):
        train_toy(MIXTURE, **TINY, **wrong)


@pytest.mark.parametrize("shape", [(4,), (4, 2, 2)])
def test_points_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"points are \(N, D\)"):
        train_toy(torch.ones(shape), steps=1, **TINY)
