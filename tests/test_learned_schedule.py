"""The learned schedule: monotone and invertible whatever its parameters, and trained as the paper says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan import grids, specs
from kakusan.denoiser import Denoiser
from kakusan.learned_schedule import FIRST_TIME, LearnedSchedule, Sensitivity
from kakusan.nn import MLP
from kakusan.parameterizations import Eps
from kakusan.samplers import SAMPLERS, sample
from kakusan.schedules import NoiseSchedule


def random_schedule(seed: int, pieces: int = 16) -> LearnedSchedule:
    schedule = LearnedSchedule(high=9.0, low=-6.0, pieces=pieces)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        schedule.rises.copy_(3.0 * torch.randn(pieces, generator=generator))
        schedule.high.add_(torch.randn((), generator=generator))
        schedule.log_range.add_(0.3 * torch.randn((), generator=generator))
    return schedule


TIMES = torch.linspace(1e-6, 1.0, 4001, dtype=torch.float64)


@given(seed=st.integers(0, 10_000), pieces=st.integers(1, 80))
def test_it_falls_and_its_inverse_is_exact(seed, pieces):
    schedule = random_schedule(seed, pieces).requires_grad_(False)
    log_snr = schedule.log_snr(TIMES)
    assert bool((log_snr.diff() < 0.0).all())
    torch.testing.assert_close(schedule.time(log_snr), TIMES, rtol=1e-7, atol=1e-7)
    assert float(log_snr[TIMES >= FIRST_TIME].max()) <= 20.0
    assert float(log_snr.min()) >= -20.0


@given(seed=st.integers(0, 10_000))
def test_derivatives_are_those_of_the_functions(seed):
    schedule = random_schedule(seed)
    t = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)
    for function, derivative in (
        (schedule.log_snr, schedule.log_snr_prime),
        (schedule.alpha, schedule.alpha_prime),
        (schedule.sigma, schedule.sigma_prime),
    ):
        (found,) = torch.autograd.grad(function(t).sum(), t)
        torch.testing.assert_close(derivative(t), found)


def test_it_is_variance_preserving_and_ends_in_data():
    schedule = random_schedule(1).requires_grad_(False)
    torch.testing.assert_close(schedule.alpha(TIMES) ** 2 + schedule.sigma(TIMES) ** 2, torch.ones_like(TIMES))
    zero = torch.zeros((), dtype=torch.float64)
    assert (float(schedule.alpha(zero)), float(schedule.sigma(zero))) == (1.0, 0.0)
    assert float(schedule.time(torch.tensor(torch.inf, dtype=torch.float64))) == 0.0


@pytest.mark.parametrize("ends", [(0.0, 0.0), (-1.0, 3.0), (25.0, -5.0), (10.0, -21.0)])
def test_a_schedule_that_does_not_fall_is_refused(ends):
    with pytest.raises(ValueError, match="must fall"):
        LearnedSchedule(high=ends[0], low=ends[1])


def test_stored_and_built_again_with_its_parameters_once():
    schedule = random_schedule(2)
    denoiser = Denoiser(MLP(dim=2, width=16, depth=1), schedule, Eps())
    names = [name for name in denoiser.state_dict() if "rises" in name]
    assert names == ["schedule.rises"]
    again = specs.from_spec(specs.to_spec(schedule), NoiseSchedule)
    again.load_state_dict(schedule.state_dict())
    torch.testing.assert_close(again.log_snr(TIMES), schedule.log_snr(TIMES), rtol=0.0, atol=0.0)
    # Another path for sampling leaves the trained one.
    assert denoiser.with_schedule(random_schedule(3)).trained_schedule is schedule


def test_a_denoiser_follows_a_schedule_that_moves():
    schedule = LearnedSchedule()
    denoiser = Denoiser(MLP(dim=2, width=16, depth=1), schedule, Eps())
    x = torch.randn(3, 2)
    with torch.no_grad():
        before = denoiser(x, 0.5).x0
        schedule.high.add_(1.0)
        after = denoiser(x, 0.5).x0
    assert not torch.allclose(before, after)


def test_sensitivity_makes_the_gradient_of_a_square():
    """d(L^2) = 2 L dL for the interior, and the plain gradient for the ends, both from one backward pass."""
    t = torch.linspace(0.05, 0.95, 12, dtype=torch.float64)

    def loss(schedule):
        return (schedule.log_snr(t) - 1.0) * schedule.log_snr_prime(t).square()

    schedule = random_schedule(5)
    schedule.sensitivity = Sensitivity()
    value = loss(schedule)
    schedule.sensitivity.value = 2.0 * value.detach()
    value.sum().backward()
    plain = random_schedule(5)
    (rises,) = torch.autograd.grad(loss(plain).square().sum(), plain.rises)
    ends = torch.autograd.grad(loss(plain).sum(), [plain.high, plain.log_range])
    torch.testing.assert_close(schedule.rises.grad, rises)
    torch.testing.assert_close([schedule.high.grad, schedule.log_range.grad], list(ends))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "adaptive"])
def test_every_sampler_runs_on_it(name):
    """Warnings are errors here: a schedule with gradients must not leak them into a grid or a level."""
    schedule = random_schedule(4)
    denoiser = Denoiser(MLP(dim=2, width=16, depth=1), schedule, Eps())
    for grid in (grids.karras, grids.log_snr, grids.uniform):
        assert bool(sample(denoiser, SAMPLERS[name], grid(schedule, 6), (3, 2)).isfinite().all())
