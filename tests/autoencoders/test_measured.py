"""Measurements of pictures as a model of latents sees them: against the same in pixels, through an exact transform."""

import pytest
import torch
from torch import Tensor, nn

from kakusan.autoencoders import Autoencoder, KlAutoencoder, measured
from kakusan.autoencoders.latents import LatentSpec
from kakusan.autoencoders.measured import decoded, fitted
from kakusan.autoencoders.networks import NetworkSize, fold, unfold
from kakusan.data.spec import DataSpec
from kakusan.grids import karras
from kakusan.operators import Downsample, Identity, Mask, Measurement
from kakusan.oracles import GaussianMixture
from kakusan.posteriors import DiffPIR
from kakusan.samplers import sample
from kakusan.schedules import Cosine

SHAPE, LATENT = (1, 8, 8), (4, 4, 4)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Turned(Autoencoder):
    """Squares of 2 x 2 pixels as the channels of one place, turned among each other: nothing is lost."""

    kind = "turned"

    def __init__(self, std: float) -> None:
        super().__init__(channels=1, factor=2, latent_channels=4, rank=2, coded=4, size=NetworkSize(width=1))
        turn = torch.linalg.qr(drawn(4, 4))[0]
        self.latent_std.fill_(std)
        self.turn = turn

        class Back(nn.Module):
            def forward(self, z: Tensor) -> Tensor:
                return unfold(torch.einsum("ij,bi...->bj...", turn, z), 2)

        self.decoder = Back()  # type: ignore[assignment]

    def raw_moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.einsum("ij,bj...->bi...", self.turn, fold(x, 2)), None

    def code(self, x: Tensor, noise: object) -> object:  # type: ignore[override]
        raise NotImplementedError


def turned(std: float = 1.0) -> LatentSpec:
    pixels = DataSpec(channels=1, size=SHAPE[1:], mean=(0.0,), std=(std,), mode="L")
    return LatentSpec.of(pixels, Turned(std))


def mask(top: int, left: int, side: int = 4) -> Tensor:
    known = torch.ones(1, 8, 8, dtype=torch.bool)
    known[:, top : top + side, left : left + side] = False
    return known


@pytest.mark.parametrize("operator", [Mask(mask(1, 3)), Downsample(SHAPE, 2, kernel="bicubic")], ids=["mask", "small"])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_through_an_exact_transform_restoring_latents_is_restoring_pixels(operator, noise: float) -> None:
    spec, schedule = turned(), Cosine()
    means = drawn(2, *SHAPE, seed=1)
    among_pixels = GaussianMixture(means, 0.4, schedule=schedule)
    among_latents = GaussianMixture(spec.made(means), 0.4, schedule=schedule)
    pixels = Measurement(operator, operator(means[:1] + 0.4 * drawn(1, *SHAPE, seed=2)), noise)
    start, grid, method = drawn(3, *SHAPE, seed=3), karras(schedule, 12), DiffPIR(fresh=0.0)
    x = sample(among_pixels, method.sampler(pixels), grid, start.shape, x_start=start)
    seen = decoded(spec, pixels)
    z = sample(among_latents, method.sampler(seen), grid, (3, *LATENT), x_start=spec.made(start))
    torch.testing.assert_close(spec.decoded(z), x, rtol=1e-4, atol=1e-4)


def test_the_step_towards_a_measurement_is_the_mean_of_the_posterior_in_latents() -> None:
    spec, noise, spread = turned(0.5), 0.2, 0.7
    operator = Downsample(SHAPE, 4)
    pixels = Measurement(operator, drawn(1, *operator.measured, seed=4), noise)
    z = drawn(1, *LATENT, seed=5)
    columns = operator(spec.decoded(torch.eye(64).view(64, *LATENT))).flatten(1).T.double()
    error = pixels.y.flatten().double() - columns @ z.flatten().double()
    gram = spread**2 * columns @ columns.T + noise**2 * torch.eye(len(columns))
    expected = z.flatten().double() + spread**2 * columns.T @ torch.linalg.solve(gram, error)
    found = decoded(spec, pixels).towards(z, noise**2 / spread**2)
    torch.testing.assert_close(found.flatten().double(), expected, rtol=1e-4, atol=1e-4)


def test_what_a_decoder_misses_is_brought_back_as_far_as_the_noise_allows() -> None:
    shape, noise, missing = (1, 64, 64), 0.3, 0.2
    truth = drawn(1, *shape, seed=9)
    found = truth + missing * drawn(4, *shape, seed=10)
    # The mean of the posterior of the truth given both: each weighs by the other's variance.
    y = truth + noise * drawn(1, *shape, seed=11)
    share = missing**2 / (missing**2 + noise**2)
    whole = fitted(found, Measurement(Identity(shape), y, noise))
    torch.testing.assert_close(whole, found + share * (y - found), rtol=0.0, atol=0.05)
    small = Measurement(Downsample(shape, 4), Downsample(shape, 4)(truth))
    assert float(small.residual(fitted(found, small)).abs().max()) < 1e-5
    assert torch.equal(fitted(truth, small), truth)


@pytest.mark.parametrize(("place", "cells"), [((2, 4), 12), ((2, 3), 10), ((1, 3), 7)])
def test_a_latent_cell_is_known_where_all_its_pixels_are(place: tuple[int, int], cells: int) -> None:
    spec, x = turned(), drawn(1, *SHAPE, seed=6)
    operator = Mask(mask(*place))
    seen = decoded(spec, Measurement(operator, operator(x)))
    assert (seen.cells, seen.owned) == (cells, cells)
    known = seen.operator.seen(seen.y)
    assert int(known.sum()) == cells
    torch.testing.assert_close(seen.y, spec.made(x) * known)


def test_an_encoder_that_looks_further_knows_less_and_only_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "STEADY", 0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        size = NetworkSize(width=8, multipliers=(1,), patch=1)
        network = KlAutoencoder(channels=1, factor=2, latent_channels=2, size=size).eval()
    spec = LatentSpec.of(DataSpec(channels=1, size=(24, 24), mean=(0.0,), std=(0.5,), mode="L"), network)
    x = drawn(1, 1, 24, 24, seed=7).clamp(-1.0, 1.0)
    network.measure_latents(lambda: [x])
    known = torch.ones(1, 24, 24, dtype=torch.bool)
    known[:, 16:, 16:] = False
    operator = Mask(known)
    seen = decoded(spec, Measurement(operator, operator(x)))
    assert 0 < seen.cells < seen.owned == 144 - 16
    other = spec.made(torch.where(known, x, drawn(1, 1, 24, 24, seed=8).clamp(-1.0, 1.0)))
    moved = (other - seen.y).square().mean(1).sqrt() * seen.operator.seen(x)[0]
    assert float(moved.max()) < 0.1
    nothing = torch.zeros(1, 24, 24, dtype=torch.bool)
    nothing[:, ::2, ::2] = True
    little = Mask(nothing)
    seen = decoded(spec, Measurement(little, little(x)))
    assert (seen.cells, seen.owned, type(seen.operator)) == (0, 0, Identity)
