"""What holds for every sampler: identities, the number of calls, independence of the batch, levels for each sample."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan import grids, specs
from kakusan.conditioning import Condition
from kakusan.denoiser import Denoiser
from kakusan.levels import Level, tabulate
from kakusan.noise import StepNoise
from kakusan.oracles import GaussianMixture
from kakusan.parameterizations import V, Velocity
from kakusan.samplers import (
    DDIM,
    DDPM,
    DEIS,
    IPNDM,
    SAMPLERS,
    SEEDS,
    Adaptive,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Heun,
    NormRatio,
    PredictorCorrector,
    Sampler,
    State,
    UniPC,
    sample,
    sample_iter,
)
from kakusan.schedules import Cosine, Karras, Rectified, VariancePreserving

FIXED = [
    DDPM(),
    DDPM(large_variance=True, clip=1.5),
    DDIM(),
    DDIM(eta=0.5),
    Heun(),
    Heun(churn=8.0),
    *(DPMSolverPP(order, sde=sde) for order in (1, 2, 3) for sde in (False, True)),
    *(UniPC(order, corrector=corrector) for order in (1, 2, 3) for corrector in (False, True)),
    *(IPNDM(order) for order in (1, 2, 3, 4)),
    *(DEIS(order) for order in (1, 2, 3, 4)),
    UniPC(3, warm_start=False),
    IPNDM(4, warm_start=False),
    EulerMaruyama(),
    EulerMaruyama(0.0),
    SEEDS(),
    SEEDS(0.5, middle=1.0),
    SEEDS(0.0),
    PredictorCorrector(),
    PredictorCorrector(SEEDS(), corrector_steps=2, step_size=NormRatio()),
]
ALL = [*FIXED, Adaptive(rtol=1e-5, atol=1e-5)]
every = pytest.mark.parametrize("sampler", ALL, ids=str)
fixed = pytest.mark.parametrize("sampler", FIXED, ids=str)
SCHEDULES = [Cosine(), Karras(), Rectified(), VariancePreserving()]


def mixture(schedule, shape=(2, 3)):
    generator = torch.Generator().manual_seed(5)
    return GaussianMixture(
        torch.randn(3, *shape, generator=generator), torch.tensor([0.3, 0.5, 0.4]), schedule=schedule
    )


class Counting(torch.nn.Module):
    """A smooth backbone that counts its calls and the samples it was shown."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x, c_noise, cond):
        self.batches.append(len(x))
        return torch.tanh(x) + 0.1 * c_noise.to(x).view(-1, *[1] * (x.dim() - 1))


def test_every_named_sampler_is_tested_here():
    assert {type(s) for s in SAMPLERS.values()} == {type(s) for s in ALL}


@fixed
@settings(max_examples=8)
@given(
    num_steps=st.integers(1, 9),
    grid=st.sampled_from(list(grids.GRIDS.values())),
    schedule=st.sampled_from(SCHEDULES),
    stop=st.booleans(),
)
def test_the_number_of_calls_is_the_promised_one(sampler, num_steps, grid, schedule, stop):
    backbone = Counting()
    denoiser = Denoiser(backbone, schedule, V())
    points = grid(schedule, num_steps, end=0.3 if stop else None)
    out = sample(denoiser, sampler, points, (2, 1, 3), seeds=[4, 9])
    assert bool(out.isfinite().all())
    assert len(backbone.batches) == sampler.network_calls(tabulate(schedule, points))
    assert set(backbone.batches) == {2}


def test_multistep_costs_one_call_a_step_beyond_its_start():
    levels = tabulate(Cosine(), grids.uniform(Cosine(), 20))
    assert DPMSolverPP(2).network_calls(levels) == DDIM().network_calls(levels) == 20
    assert DPMSolverPP(3).network_calls(levels) == 21
    assert IPNDM(4).network_calls(levels) == 24
    assert IPNDM(4, warm_start=False).network_calls(levels) == 20
    assert Heun().network_calls(levels) == 39  # the step to data needs one


@every
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 3, 2)], ids=["1-d", "2-d", "3-d"])
def test_law_4_a_sample_does_not_depend_on_its_batch(sampler, shape):
    denoiser = mixture(Cosine(), (2, *shape))
    grid = grids.uniform(Cosine(), 1 if isinstance(sampler, Adaptive) else 8)
    seeds = [11, -3, 2**40 + 1, 7]
    together = sample(denoiser, sampler, grid, (4, 2, *shape), seeds=seeds)
    for rows in ([0], [3], [2, 1]):
        alone = sample(denoiser, sampler, grid, (len(rows), 2, *shape), seeds=[seeds[i] for i in rows])
        torch.testing.assert_close(alone, together[rows], rtol=1e-4, atol=1e-4)


def test_samples_of_different_seeds_differ_and_consecutive_seeds_are_meant():
    denoiser, grid = mixture(Cosine()), grids.uniform(Cosine(), 6)
    for sampler in (DDIM(), DDPM()):
        out = sample(denoiser, sampler, grid, (3, 2, 3), seeds=20)
        assert torch.equal(out, sample(denoiser, sampler, grid, (3, 2, 3), seeds=[20, 21, 22]))
        assert bool((out[0] != out[1]).all())


@every
def test_law_8_the_condition_changes_the_sample(sampler):
    denoiser = mixture(Cosine())
    grid = grids.uniform(Cosine(), 2 if isinstance(sampler, Adaptive) else 12)
    wanted = torch.full((3, 3), -torch.inf).fill_diagonal_(0.0)
    out = sample(denoiser, sampler, grid, (3, 2, 3), Condition(vector=wanted), seeds=[1, 1, 1])
    plain = sample(denoiser, sampler, grid, (3, 2, 3), seeds=[1, 1, 1])
    for k in range(3):
        # One condition for all samples is the same as each its own.
        shared = sample(denoiser, sampler, grid, (3, 2, 3), Condition(vector=wanted[k : k + 1]), seeds=[1, 1, 1])
        torch.testing.assert_close(shared[k], out[k], rtol=1e-4, atol=1e-4)
        only = GaussianMixture(denoiser.means[k : k + 1], denoiser.variance[k : k + 1].sqrt(), schedule=Cosine())
        only.sigma_data = denoiser.sigma_data
        torch.testing.assert_close(
            sample(only, sampler, grid, (3, 2, 3), seeds=[1, 1, 1])[k], out[k], rtol=1e-3, atol=1e-3
        )
    assert float((out - plain).abs().amax((1, 2)).max()) > 1e-2


# Identities.


def run(sampler, schedule=None, steps=9, **kwargs):
    schedule = schedule or Cosine()
    grid = grids.uniform(schedule, steps, **kwargs)
    return sample(mixture(schedule), sampler, grid, (4, 2, 3), seeds=3, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("end", [None, 0.2])
def test_methods_of_order_one_are_ddim(schedule, end):
    wanted = run(DDIM(), schedule, end=end)
    others = [Euler(), DPMSolverPP(1), UniPC(1, corrector=False), IPNDM(1), DEIS(1)]
    for other in others:
        torch.testing.assert_close(run(other, schedule, end=end), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("end", [None, 0.2])
def test_ddim_with_eta_one_is_ddpm_is_the_first_order_sde(schedule, end):
    wanted = run(DDPM(), schedule, end=end)
    torch.testing.assert_close(run(DDIM(eta=1.0), schedule, end=end), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(run(DPMSolverPP(1, sde=True), schedule, end=end), wanted, rtol=1e-9, atol=1e-9)


def test_on_the_straight_path_ddim_is_euler_of_the_velocity():
    schedule = Rectified()
    denoiser = mixture(schedule)
    grid = grids.uniform(schedule, 7, start=0.9, end=0.1)
    steps = list(sample_iter(denoiser, DDIM(), grid, (2, 2, 3), dtype=torch.float64))
    for step, t, s in zip(steps, grid[:-1], grid[1:], strict=True):
        torch.testing.assert_close(
            step.x_s, step.x_t + (s - t) * denoiser(step.x_t, t).velocity, rtol=1e-12, atol=1e-12
        )


def test_the_posterior_of_ddpm_is_bayes():
    # p(x_s | x_t, x0) from the joint Gaussian of (x_s, x_t) given x0, by the textbook rule for conditioning.
    schedule = Cosine()
    level_t, level_s = (Level.of(schedule, t) for t in (0.7, 0.4))
    r = level_t.alpha / level_s.alpha
    gain = r * level_s.sigma**2 / level_t.sigma**2
    variance = level_s.sigma**2 * (1.0 - r * gain)
    x0, x_t = torch.randn(2, 1, 4, dtype=torch.float64)
    exact = GaussianMixture(x0, 0.0, schedule=schedule)
    moved = [
        DDPM().step(
            exact, x_t, level_t, level_s, None, State(), lambda draw=0, z=z: torch.full((1, 4), z, dtype=torch.float64)
        )[0]
        for z in (0.0, 1.0)
    ]
    torch.testing.assert_close(moved[0], level_s.alpha * x0 + gain * (x_t - level_t.alpha * x0))
    torch.testing.assert_close(moved[1] - moved[0], torch.full_like(x0, variance**0.5))


# Churn means to move a sample within its level.
@pytest.mark.parametrize("sampler", [s for s in ALL if s != Heun(churn=8.0)], ids=str)
def test_a_step_from_t_to_t_is_the_identity(sampler):
    denoiser = mixture(Cosine())
    level = Level.of(Cosine(), 0.5)
    x = torch.randn(2, 2, 3, dtype=torch.float64)
    noise = StepNoise(torch.tensor([1, 2]), 0, x)
    out, state = sampler.step(denoiser, x, level, level, None, State(), noise)
    torch.testing.assert_close(out, x, rtol=1e-12, atol=1e-12)
    # And it does no harm to the steps after it.
    following = Level.of(Cosine(), 0.4)
    direct, _ = sampler.step(denoiser, x, level, following, None, State(), noise)
    after, _ = sampler.step(denoiser, out, level, following, None, state, noise)
    torch.testing.assert_close(after, direct, rtol=1e-9, atol=1e-9)


@fixed
def test_samples_at_different_times_step_as_if_alone(sampler):
    # Serving: one batch, levels (B,), against each sample by itself with levels as numbers, through several steps.
    schedule = Cosine()
    denoiser = Denoiser(Counting(), schedule, V())
    plans = [torch.linspace(0.9, 0.2, 6), torch.linspace(0.5, 0.1, 6), torch.linspace(0.99, 0.0001, 6)]
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    seeds = torch.tensor([5, 6, 7])
    alone = []
    for i, plan in enumerate(plans):
        levels, one, state = tabulate(schedule, plan), x[i : i + 1], State(num_steps=5)
        for k in range(5):
            one, state = sampler.step(
                denoiser, one, levels[k], levels[k + 1], None, state, StepNoise(seeds[i : i + 1], k, one)
            )
        alone.append(one)
    state = State(num_steps=5)
    for k in range(5):
        level_t, level_s = (Level.of(schedule, torch.stack([plan[j] for plan in plans]), x) for j in (k, k + 1))
        x, state = sampler.step(denoiser, x, level_t, level_s, None, state, StepNoise(seeds, k, x))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", [s for s in FIXED if not isinstance(s, (DDIM, DDPM))], ids=str)
def test_samples_that_reach_data_together(sampler):
    schedule = Cosine()
    denoiser = Denoiser(Counting(), schedule, V())
    x = torch.randn(2, 2, 4)
    noise = StepNoise(torch.tensor([5, 6]), 0, x)
    level_t, level_s = (Level.of(schedule, torch.tensor(t), x) for t in ([0.1, 0.1], [0.0, 0.0]))
    together, _ = sampler.step(denoiser, x, level_t, level_s, None, State(), noise)
    level_t, level_s = (Level.of(schedule, float(torch.tensor(t))) for t in (0.1, 0.0))
    alone, _ = sampler.step(denoiser, x, level_t, level_s, None, State(), noise)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


# The loop.


def test_the_loop_yields_every_step_and_sample_returns_the_last():
    denoiser, grid = mixture(Cosine()), grids.uniform(Cosine(), 5)
    steps = list(sample_iter(denoiser, DPMSolverPP(2), grid, (2, 2, 3), seeds=1))
    assert [step.index for step in steps] == list(range(5))
    assert [step.level.t for step in steps] == grid[:-1].tolist()
    assert [step.next_level.t for step in steps] == grid[1:].tolist()
    for before, after in pairwise(steps):
        assert torch.equal(before.x_s, after.x_t)
    assert torch.equal(steps[-1].x_s, sample(denoiser, DPMSolverPP(2), grid, (2, 2, 3), seeds=1))
    # Reaching data, the last step returns its own prediction.
    torch.testing.assert_close(steps[-1].x_s, steps[-1].prediction.x0)


def test_watching_does_not_change_the_samples_nor_the_gradient_mode():
    denoiser = Denoiser(torch.nn.Sequential(), Cosine(), V())
    denoiser.backbone = Counting()
    grid = grids.uniform(Cosine(), 6)
    looked = None
    for step in sample_iter(denoiser, DDIM(), grid, (2, 1, 4), seeds=2):
        assert torch.is_grad_enabled()
        step.prediction.x0, step.prediction.eps
        assert not step.x_s.requires_grad
        looked = step.x_s
    assert torch.equal(looked, sample(denoiser, DDIM(), grid, (2, 1, 4), seeds=2))


def test_stopped_and_continued_is_the_same_for_methods_without_memory():
    denoiser, grid = mixture(Cosine()), grids.uniform(Cosine(), 8)
    whole = sample(denoiser, DDIM(), grid, (2, 2, 3), seeds=1)
    half = sample(denoiser, DDIM(), grid[:5], (2, 2, 3), seeds=1)
    torch.testing.assert_close(sample(denoiser, DDIM(), grid[4:], (2, 2, 3), x_start=half), whole)


def test_the_start_is_not_written_to():
    x = torch.randn(2, 2, 3)
    kept = x.clone()
    for sampler in ALL:
        sample(mixture(Cosine()), sampler, grids.uniform(Cosine(), 3, start=0.5), (2, 2, 3), x_start=x)
        assert torch.equal(x, kept), sampler


@pytest.mark.parametrize(
    "kwargs,message",
    [
        (dict(seeds=[1, 2, 3]), "3 seeds were given for 2 samples"),
        (dict(seeds=torch.ones(2)), "one integer per sample"),
        (dict(x_start=torch.zeros(2, 2, 4)), "x_start has shape"),
        (dict(cond=Condition(vector=torch.zeros(3, 3))), "condition for 3 samples"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sample(mixture(Cosine()), DDIM(), grids.uniform(Cosine(), 2), (2, 2, 3), **kwargs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDIM(eta=-0.1),
        lambda: Heun(churn=-1.0),
        lambda: DPMSolverPP(4),
        lambda: DPMSolverPP(0),
        lambda: UniPC(5),
        lambda: IPNDM(5),
        lambda: DEIS(0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError, match=r"orders|must not be negative"):
        make()


def test_fresh_noise_is_refused_where_noise_and_data_are_coupled():
    denoiser = Denoiser(Counting(), Rectified(), Velocity(), independent_noise=False)
    grid = grids.uniform(Rectified(), 3)
    for sampler in (
        DDPM(),
        DDIM(0.1),
        Heun(churn=1.0),
        DPMSolverPP(2, sde=True),
        EulerMaruyama(),
        SEEDS(),
        PredictorCorrector(),
    ):
        with pytest.raises(ValueError, match="coupled"):
            sample(denoiser, sampler, grid, (1, 1, 2))
    assert sample(denoiser, Euler(), grid, (1, 1, 2)).shape == (1, 1, 2)


def test_the_adaptive_sampler_says_when_it_gives_up_and_passes_errors_on():
    with pytest.raises(ValueError, match="loosen rtol and atol"):
        sample(mixture(Cosine()), Adaptive(1e-9, 1e-9, max_steps=3), grids.uniform(Cosine(), 1), (2, 2, 3))

    class Broken(Counting):
        def forward(self, x, c_noise, cond):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sample(Denoiser(Broken(), Cosine(), V()), Adaptive(), grids.uniform(Cosine(), 1), (2, 2, 3))


@every
def test_stored_and_built_again(sampler):
    assert specs.from_spec(specs.to_spec(sampler), Sampler) == sampler
