"""Couplings: transport is optimal and permutes, partners are kept, and what was coupled is remembered."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kakusan import model_folder
from kakusan.couplings import (
    Independent,
    MinibatchTransport,
    Paired,
    Reflowed,
    Sources,
    TrainingNoise,
    Unpaired,
    optimal_assignment,
    transport_cost,
)
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser
from kakusan.grids import uniform
from kakusan.model_folder import Model, ModelFacts
from kakusan.nn import UNet
from kakusan.noise import Stream, normal
from kakusan.objectives import FlowMatching, Objective
from kakusan.parameterizations import Velocity
from kakusan.samplers import DDIM, DDPM, Heun, sample
from kakusan.schedules import Rectified
from kakusan.specs import from_spec, to_spec


def points(seed, *shape, dtype=torch.float64):
    return normal([seed], Stream.RESERVED_FOR_TESTS, shape=shape, dtype=dtype)[0]


def noise(count, seed=0, **more):
    return TrainingNoise(seed, torch.arange(count), **more)


SEEDS = st.integers(0, 2**31)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 6), shape=st.sampled_from([(1,), (2,), (3, 2), (1, 2, 2)]))
def test_the_assignment_is_the_best_of_all_permutations(seed, count, shape):
    x0, eps = points(seed, count, *shape), points(seed + 1, count, *shape)
    found = transport_cost(x0, eps[optimal_assignment(x0, eps)]).sum()
    best = min(float(transport_cost(x0, eps[list(p)]).sum()) for p in itertools.permutations(range(count)))
    assert float(found) == pytest.approx(best, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 40), dim=st.integers(1, 5), classes=st.integers(1, 4))
def test_transport_deals_out_the_same_noise_and_never_costs_more(seed, count, dim, classes):
    x0 = points(seed, count, dim)
    labels = torch.arange(count) % classes
    free, matched, within = (
        c.eps(x0, noise(count, seed, labels=labels))
        for c in (Independent(), MinibatchTransport(within_classes=False), MinibatchTransport())
    )
    for some, chosen in ((matched, slice(None)), *((within, labels == c) for c in range(classes))):
        assert sorted(map(tuple, some[chosen].tolist())) == sorted(map(tuple, free[chosen].tolist()))
    costs = [float(transport_cost(x0, eps).sum()) for eps in (matched, within, free)]
    assert costs[0] <= costs[1] + 1e-9
    assert costs[1] <= costs[2] + 1e-9


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, count=st.integers(2, 40), dim=st.integers(1, 6))
def test_a_linear_gaussian_map_is_found_again_exactly(seed, count, dim):
    """x0 = A eps with A symmetric positive definite is the optimal map (Brenier), of any batch too."""
    root = points(seed, dim, dim)
    a = root @ root.T + 0.1 * torch.eye(dim, dtype=torch.float64)
    eps = points(seed + 1, count, dim)
    shuffle = torch.argsort(points(seed + 2, count))
    found = eps[shuffle][optimal_assignment(eps @ a, eps[shuffle])]
    assert torch.equal(found, eps)


def test_in_one_dimension_the_map_between_gaussians_is_monotone_with_the_known_slope():
    count, std, mean = 1024, 0.4, 1.5
    x0 = mean + std * points(3, count, 1)
    eps = MinibatchTransport().eps(x0, noise(count))
    order = x0.flatten().argsort()
    assert bool((eps.flatten()[order].diff() >= 0).all())
    # The optimal map is eps = (x0 - mean) / std. The slope estimated from two samples has a relative standard error of
    # sqrt(1 / 2n + 1 / 2n).
    slope = float(torch.cov(torch.stack([x0.flatten(), eps.flatten()]))[0, 1] / x0.var())
    assert abs(slope * std - 1.0) < 4.0 / math.sqrt(count)
    # W2^2 = mean^2 + (1 - std)^2. Its error is that of the two samples' means and deviations.
    cost = float(transport_cost(x0, eps).mean())
    error = math.sqrt((2 * mean) ** 2 * (1 + std**2) / count + (2 * (1 - std)) ** 2 * (1 + std**2) / (2 * count))
    assert abs(cost - mean**2 - (1 - std) ** 2) < 4.0 * error


def test_within_classes_each_class_keeps_its_own_noise():
    """Across classes one that lies apart takes the noise on its side; within them its noise stays standard normal."""
    count = 512
    labels = torch.arange(count) % 2
    x0 = points(0, count, 1) * 0.1 + (4.0 * labels - 2.0)[:, None]
    across = MinibatchTransport(within_classes=False).eps(x0, noise(count, labels=labels))
    within = MinibatchTransport().eps(x0, noise(count, labels=labels))
    fresh = Independent().eps(x0, noise(count))
    assert float(across[labels == 1].mean()) > 0.5
    assert torch.allclose(within[labels == 1].mean(), fresh[labels == 1].mean(), atol=1e-12)


def test_bad_batches_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        optimal_assignment(torch.tensor([[float("nan")], [1.0]]), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="one shape"):
        optimal_assignment(torch.zeros(2, 1), torch.zeros(2, 2))


def test_bridges_take_the_partner_of_each_sample():
    values = points(1, 7, 2)
    sources = Sources.of(values)
    indices = torch.tensor([4, 0, 4])
    x0 = torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(Paired(sources).eps(x0, noise(3, indices=indices)), values[indices])
    with pytest.raises(ValueError, match="indices"):
        Paired(sources).eps(x0, noise(3))
    with pytest.raises(ValueError, match="from 0 to 6"):
        Paired(sources).eps(x0, noise(3, indices=torch.tensor([7, 0, 1])))
    with pytest.raises(ValueError, match="shape"):
        Paired(sources).eps(torch.zeros(3, 3), noise(3, indices=indices))


def test_unpaired_sources_are_drawn_evenly_and_by_the_samples_number():
    sources = Sources.of(torch.arange(5.0)[:, None])
    x0 = torch.zeros(5000, 1)
    drawn = Unpaired(sources).eps(x0, noise(5000)).flatten().long()
    counts = torch.bincount(drawn, minlength=5).double()
    # Chi-squared with four degrees of freedom: 23.5 is exceeded once in 10^4.
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 23.5
    alone = Unpaired(sources).eps(x0[:1], noise(5000).part(slice(17, 18)))
    assert int(alone) == int(drawn[17])


def test_spread_blurs_a_source_by_that_much():
    sources = Sources.of(torch.full((1, 1), 3.0))
    blurred = Unpaired(sources, spread=0.5).eps(torch.zeros(4000, 1), noise(4000))
    assert abs(float(blurred.mean()) - 3.0) < 4 * 0.5 / math.sqrt(4000)
    assert abs(float(blurred.std()) / 0.5 - 1.0) < 4 / math.sqrt(2 * 4000)
    with pytest.raises(ValueError, match="spread"):
        Unpaired(sources, spread=-1.0)


def test_transport_of_a_bridge_moves_the_near_sources():
    sources = Sources.of(torch.tensor([[-5.0], [5.0]]))
    x0 = torch.linspace(-1.0, 1.0, 16)[:, None]
    ends = MinibatchTransport(Unpaired(sources)).eps(x0, noise(16)).flatten()
    assert bool((ends.diff() >= 0).all())


def test_reflowed_noise_is_where_the_path_through_the_start_ends():
    coupling = Reflowed(seed=100, alpha=0.2, sigma=0.9, scale=1.1)
    x0 = points(2, 3, 1, 4, 4)
    indices = torch.tensor([2, 0, 5])
    eps = coupling.eps(x0, noise(3, indices=indices))
    start = normal(100 + indices, Stream.START, shape=x0.shape[1:], dtype=x0.dtype) * 1.1
    assert torch.allclose(coupling.alpha * x0 + coupling.sigma * eps, start, atol=1e-14)


def test_parts_of_the_noise_keep_everything_in_step():
    whole = noise(6, indices=torch.arange(6) * 10, labels=torch.arange(6) % 2)
    part = whole.part(slice(2, 4))
    assert part.indices.tolist() == [20, 30]
    assert part.labels.tolist() == [0, 1]
    assert torch.equal(part.eps(torch.zeros(2, 3)), whole.eps(torch.zeros(6, 3))[2:4])


@pytest.mark.parametrize(
    "coupling",
    [
        MinibatchTransport(),
        Reflowed(seed=5, alpha=0.01, sigma=0.99, scale=0.995),
        MinibatchTransport(Unpaired(Sources.of(torch.zeros(3, 3, 8, 8), name="sketches"), spread=0.1)),
    ],
    ids=lambda c: type(c).__name__,
)
def test_a_coupled_model_is_saved_and_refuses_what_needs_the_score(tmp_path, coupling):
    data = DataSpec(channels=3, size=(8, 8), mean=(0.0,) * 3, std=(0.5,) * 3, mode="RGB")
    denoiser = Denoiser(
        UNet.for_data(3, (8, 8), width=8, depth=1), Rectified(), Velocity(), independent_noise=coupling.independent
    )
    facts = ModelFacts(data, Objective(weighting=FlowMatching(), coupling=coupling))
    model_folder.write(tmp_path, Model(denoiser), facts, {})
    model, read, _ = model_folder.read(tmp_path)
    assert read.objective.coupling == coupling
    assert not model.denoiser.independent_noise
    x_t = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="coupled"):
        model.denoiser(x_t, 0.5).score
    grid = uniform(Rectified(), 2)
    for sampler in (DDPM(), DDIM(eta=1.0), Heun(churn=1.0)):
        with pytest.raises(ValueError, match="coupled"):
            sample(model.denoiser, sampler, grid, x_t.shape)
    assert sample(model.denoiser, DDIM(), grid, x_t.shape).shape == x_t.shape


def test_sources_from_a_file_say_that_they_are_missing():
    saved = from_spec(to_spec(Paired(Sources.of(torch.zeros(3, 2), name="sketches"))), Paired)
    with pytest.raises(ValueError, match="sketches"):
        saved.eps(torch.zeros(1, 2), noise(1, indices=torch.tensor([0])))


class Line(nn.Module):
    """F = a + b x + c t, enough for a bridge between two points."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x, c_noise, cond):
        return self.weight[0] + self.weight[1] * x + self.weight[2] * c_noise.view(-1, 1).to(x)


def test_a_trained_bridge_carries_a_source_to_its_datum():
    """Data = source + 3: the velocity is -3 everywhere, and one Euler step is exact."""
    source = points(4, 64, 1)
    coupling = Paired(Sources.of(source))
    denoiser = Denoiser(Line(), Rectified(), Velocity(), independent_noise=False)
    objective = Objective(weighting=FlowMatching(), coupling=coupling)
    optimizer = torch.optim.LBFGS(denoiser.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective(denoiser, source + 3.0, None, noise(64, indices=torch.arange(64))).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    grid = uniform(Rectified(), 1)
    reached = sample(denoiser, DDIM(), grid, (64, 1), x_start=source, dtype=torch.float64)
    assert torch.allclose(reached, source + 3.0, atol=1e-3)
