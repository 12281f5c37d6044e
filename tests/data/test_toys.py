"""Laws of the plane point sets: densities are densities, samples follow them, entropies are exact."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from kakusan.data.toys import TOYS, Checkerboard, Curve, Mixture, Moons, Rings, Spiral, Toy

each = pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS.keys())


def plane(toy: Toy, step: float) -> torch.Tensor:
    border = toy.reach + 8.0 * toy.noise
    axis = torch.arange(-border, border, step, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)


@each
def test_density_integrates_to_one_and_has_the_moments_of_its_samples(toy: Toy) -> None:
    step = toy.noise / 2.0
    grid = plane(toy, step)
    mass = toy.log_prob(grid).exp() * step**2
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-8)
    x = toy.sample(20_000, seed=3)
    assert x.shape == (20_000, 2)
    assert x.dtype == torch.float64
    for function in (lambda p: p, lambda p: p * p, lambda p: p[..., :1] * p[..., 1:], lambda p: torch.cos(3.0 * p)):
        values = function(x)
        exact = (function(grid) * mass[..., None]).sum(dim=(0, 1))
        error = values.std(dim=0) / math.sqrt(len(x))
        assert bool(((values.mean(dim=0) - exact).abs() < 4.5 * error).all())


@each
def test_entropy_is_the_mean_surprise_of_samples(toy: Toy) -> None:
    surprise = -toy.log_prob(toy.sample(20_000, seed=8))
    assert float(surprise.mean()) == pytest.approx(toy.entropy, abs=4.5 * float(surprise.std()) / math.sqrt(20_000))


@each
def test_entropy_is_exact(toy: Toy) -> None:
    # Another rule on another grid: the midpoint rule with a step that shares no points with the first.
    step = toy.noise / 2.3
    log_p = toy.log_prob(plane(toy, step))
    assert -float((log_p.exp() * log_p.clamp(min=-700.0)).sum()) * step**2 == pytest.approx(toy.entropy, abs=1e-6)


def test_entropies_with_a_closed_form() -> None:
    gaussian = Mixture(means=((0.3, -0.1),), noise=0.5)
    assert gaussian.entropy == pytest.approx(math.log(2.0 * math.pi * math.e * 0.25), abs=1e-9)
    assert Checkerboard(noise=0.0).entropy == pytest.approx(math.log(8.0), abs=1e-12)
    # Far apart components only add the entropy of the choice between them.
    apart = Mixture(means=((-3.0, 0.0), (3.0, 0.0)), weights=(0.25, 0.75), noise=0.1)
    choice = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert apart.entropy == pytest.approx(math.log(2.0 * math.pi * math.e * 0.01) + choice, abs=1e-9)


@pytest.mark.parametrize("toy", [Moons(), Spiral(), Moons(noise=0.03), Spiral(arms=3, turns=2.0, noise=0.05)])
def test_curve_quadrature_agrees_with_simpsons_rule(toy: Curve) -> None:
    x = toy.sample(40, seed=1)
    away = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
    x = torch.cat([x, x + 3.0 * toy.noise * away])
    nodes = toy.curves(torch.linspace(0.0, 1.0, 6001, dtype=torch.float64))
    simpson = torch.tensor([1.0] + [4.0, 2.0] * 2999 + [4.0, 1.0], dtype=torch.float64) / (3.0 * 6000 * len(nodes))
    squared = (x[:, None] - nodes.reshape(-1, 2)).square().sum(dim=-1)
    log_p = torch.logsumexp(simpson.log().repeat(len(nodes)) - squared / (2.0 * toy.noise**2), dim=1)
    log_p -= math.log(2.0 * math.pi * toy.noise**2)
    near = log_p > -60.0
    assert int(near.sum()) > 50
    torch.testing.assert_close(toy.log_prob(x)[near], log_p[near], atol=1e-6, rtol=0.0)


def test_rings_are_blurred_circles() -> None:
    toy = Rings(radii=(1.0,), noise=0.2)
    angle = torch.linspace(0.0, 2.0 * math.pi, 401, dtype=torch.float64)[:-1]
    circle = Mixture(means=tuple((math.cos(a), math.sin(a)) for a in angle.tolist()), noise=0.2)
    x = toy.sample(100, seed=0)
    torch.testing.assert_close(toy.log_prob(x), circle.log_prob(x), atol=1e-9, rtol=0.0)


def test_sharp_checkerboard() -> None:
    toy = Checkerboard(noise=0.0)
    x = toy.sample(5000, seed=2)
    torch.testing.assert_close(toy.log_prob(x), torch.full((5000,), -math.log(8.0), dtype=torch.float64))
    column, row = torch.floor(x + 2.0).long().T
    counts = np.histogram2d(column, row, bins=4, range=((0, 4), (0, 4)))[0]
    black = np.add.outer(np.arange(4), np.arange(4)) % 2 == 0
    assert counts[~black].sum() == 0
    assert abs(counts[black] - 625.0).max() < 4.5 * math.sqrt(625.0)
    outside = torch.tensor([[-1.5, -0.5], [2.5, 0.5]], dtype=torch.float64)
    assert bool((toy.log_prob(outside) == -math.inf).all())


def test_blurred_checkerboard_far_away_is_finite_and_falls_as_a_gaussian() -> None:
    toy = Checkerboard(noise=0.05)
    far = toy.log_prob(torch.tensor([[30.0, 0.5], [40.0, 0.5]], dtype=torch.float64))
    assert bool(far.isfinite().all())
    assert float(far[1] - far[0]) == pytest.approx(-(38.0**2 - 28.0**2) / (2.0 * 0.05**2), rel=1e-3)


@each
def test_samples_are_a_function_of_the_seed_and_the_number(toy: Toy) -> None:
    long = toy.sample(64, seed=5)
    assert torch.equal(long[:10], toy.sample(10, seed=5))
    assert not torch.equal(long, toy.sample(64, seed=6))
    assert torch.equal(long, dataclasses.replace(toy).sample(64, seed=5))  # type: ignore[type-var]


@each
def test_log_prob_takes_any_leading_shape(toy: Toy) -> None:
    x = toy.sample(12, seed=0)
    flat = toy.log_prob(x)
    assert torch.equal(toy.log_prob(x.reshape(3, 4, 2)), flat.reshape(3, 4))
    torch.testing.assert_close(toy.log_prob(x[0]), flat[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mixture(noise=0.0),
        lambda: Mixture(means=()),
        lambda: Mixture(weights=(0.5, 0.5)),
        lambda: Rings(radii=()),
        lambda: Rings(radii=(-1.0,)),
        lambda: Moons(scale=0.0),
        lambda: Spiral(radius=0.2),
        lambda: Checkerboard(squares=3),
        lambda: Checkerboard(noise=-1.0),
        lambda: Moons().sample(0, seed=0),
    ],
)
def test_impossible_settings_are_refused(make) -> None:
    with pytest.raises(ValueError, match=r"\d|need"):
        make()
