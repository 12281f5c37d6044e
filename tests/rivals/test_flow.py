"""The flow against its own inverse, against autograd's Jacobian, and where its density is known."""

import math

import pytest
import torch
from torch import Tensor

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.rivals.flow import TOLD, NormalizingFlow
from kakusan.train.feed import Batch

pytest.importorskip("normflows")


SMALL = {"levels": 2, "depth": 2, "widths": (8, 8)}


def spec(size: tuple[int, int] = (4, 4), *, channels: int = 1, bits: int = 8, classes: int = 0) -> DataSpec:
    names = tuple(f"class {k}" for k in range(classes))
    return DataSpec(
        channels=channels, size=size, mean=(0.0,) * channels, std=(0.5,) * channels, mode="", bits=bits, classes=names
    )


def stored(given: DataSpec, count: int) -> Tensor:
    top = int(given.high)
    return torch.randint(0, top + 1, (count, *given.shape), generator=torch.Generator().manual_seed(1)).to(given.dtype)


def batch(given: DataSpec, count: int = 6) -> Batch:
    labels = torch.arange(count) % len(given.classes) if given.classes else None
    return Batch(given.to_model(stored(given, count)), labels, torch.arange(count), torch.arange(count))


def flow(given: DataSpec, *, by: float = 0.2, **options) -> NormalizingFlow:
    """A flow started on data, with no weight left at zero."""
    shares = [1.0 / len(given.classes) for _ in given.classes]
    model = NormalizingFlow(spec=given, proportions=shares, **{**SMALL, **options})
    model.start(batch(given))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_inverse_of_the_flow_is_the_picture(channels: int) -> None:
    given = spec((8, 8), channels=channels, classes=3)
    model, data = flow(given).double(), batch(given)
    latents, _ = model.to_latents(data.x0.double(), data.raw)
    torch.testing.assert_close(model.to_data(latents, data.raw), data.x0.double(), rtol=0, atol=1e-7)
    assert sum(z[0].numel() for z in latents) == data.x0[0].numel()


def test_the_log_determinant_is_that_of_the_jacobian() -> None:
    given = spec((4, 4), classes=2)
    model, data = flow(given).double(), batch(given, 3)
    assert data.raw is not None
    for i in range(3):
        label = data.raw[i : i + 1]

        def flat(x: Tensor, label: Tensor = label) -> Tensor:
            return torch.cat([z.flatten() for z in model.to_latents(x.view(1, 1, 4, 4), label)[0]])

        jacobian = torch.autograd.functional.jacobian(flat, data.x0[i].double().flatten())
        _, change = model.to_latents(data.x0[i : i + 1].double(), label)
        assert float(change.detach()) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-6)


def unmoved(given: DataSpec, std: float) -> NormalizingFlow:
    """A flow that only rotates and scales: its density is a normal of standard deviation `std`."""
    model = NormalizingFlow(spec=given, **SMALL)
    model.start(batch(given))
    with torch.no_grad():
        for level in model.levels:
            for step in level.steps:
                step.norm.s.zero_()
                step.norm.t.zero_()
        # Half of the elements leave after the first level and half after the second: both see the first scale.
        model.levels[0].steps[0].norm.s.fill_(math.log(std))
    return model.eval()


def test_bits_of_a_normal_density_are_those_of_the_formula() -> None:
    given, std = spec((4, 4), channels=3), 0.6
    model = unmoved(given, std)
    pictures = stored(given, 5)
    v = model.spread(given.to_model(pictures), torch.arange(5), 0).double()
    nats = 0.5 * (v / std).square() + math.log(std) + 0.5 * math.log(2.0 * math.pi) - math.log(2.0 / 255.0)
    found = model.log_likelihood(pictures, seeds=list(range(5)))
    torch.testing.assert_close(found, nats.flatten(1).mean(1) / math.log(2.0), rtol=1e-5, atol=1e-5)


def test_samples_of_a_normal_density_are_normal() -> None:
    given = spec((4, 4), channels=3)
    samples = unmoved(given, 0.25).sample(list(range(2000)))
    assert float(samples.std()) == pytest.approx(0.25, rel=0.02)
    assert float(samples.mean()) == pytest.approx(0.0, abs=0.01)


def test_the_bound_is_never_better_than_the_mass_of_the_bins_and_draws_close_the_gap() -> None:
    """Under a normal density the probability of integers is known; bins as wide as the density leave a gap."""
    wide, std, many = DataSpec(channels=1, size=(4, 4), mean=(0.0,), std=(0.5,), mode="", high=3.0), 0.4, 200
    model, normal = unmoved(wide, std), torch.distributions.Normal(0.0, std)
    pictures = stored(wide, 4)
    x0 = wide.to_model(pictures)
    masses = normal.cdf(x0 + 1.0 / 3.0) - normal.cdf(x0 - 1.0 / 3.0)
    truth = -masses.log2().flatten(1).mean(1).double()
    gaps = []
    for draws in (1, 4, 32):
        model.draws = draws
        bits = model.log_likelihood(pictures.repeat(many, 1, 1, 1), seeds=list(range(4 * many))).view(many, 4)
        gap, error = bits.mean(0) - truth, bits.std(0) / math.sqrt(many)
        assert bool((gap > -4.0 * error - 1e-4).all())
        gaps.append(float(gap.mean()))
    assert gaps[0] > 0.05
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.5 * gaps[0]


@pytest.mark.parametrize(
    ("size", "channels", "bits"), [((5, 7), 1, 8), ((6, 4), 2, 16), ((1, 1), 4, 8), ((8, 12), 3, 8)]
)
def test_any_size_channels_and_bits(size: tuple[int, int], channels: int, bits: int) -> None:
    given = spec(size, channels=channels, bits=bits, classes=2)
    data = stored(given, 6)
    pictures = ArrayPictures(given, data, labels=[0, 1, 0, 1, 0, 1])
    model = NormalizingFlow.for_data(pictures, depth=2)
    model.start(batch(given))
    model.eval()
    samples = model.sample([5, 6, 7], torch.tensor([0, 1, 1]))
    assert samples.shape == (3, *given.shape)
    torch.testing.assert_close(model.sample([7], torch.tensor([1]))[0], samples[2], rtol=0, atol=1e-4)
    bits_found = model.log_likelihood(data, pictures.labels, seeds=list(range(6)))
    assert bits_found is not None
    assert bool(bits_found.isfinite().all())
    one = model.log_likelihood(data[4:5], pictures.labels[4:5], seeds=[4])
    torch.testing.assert_close(one[0], bits_found[4], rtol=1e-4, atol=1e-4)


def test_temperature_zero_is_one_picture_and_class_and_seed_decide() -> None:
    given = spec((8, 8), channels=3, classes=2)
    model = flow(given, by=0.05)
    first = model.sample([1], torch.tensor([0]))
    assert float((first - model.sample([1], torch.tensor([1]))).abs().max()) > 1e-3
    assert float((first - model.sample([2], torch.tensor([0]))).abs().max()) > 1e-3
    cold = flow(given, by=0.05, temperature=0.0).sample([1, 2], torch.tensor([0, 0]))
    torch.testing.assert_close(cold[0], cold[1], rtol=0, atol=1e-6)


def test_starting_makes_latents_of_unit_size_and_one_picture_is_enough() -> None:
    given = spec((8, 8), channels=3)
    model = NormalizingFlow(spec=given, **SMALL)
    data = batch(given, 64)
    model.start(data)
    latents, _ = model.to_latents(data.x0, None)
    for z in latents:
        assert float(z.detach().std()) == pytest.approx(1.0, abs=0.1)
    alone = NormalizingFlow(spec=given, **SMALL)
    alone.start(batch(given, 1))
    assert bool(alone.log_likelihood(stored(given, 2), seeds=[0, 1]).isfinite().all())


def test_a_coupling_answers_bounded_values_to_any_latent() -> None:
    """The largest value of a convolution of features whose root mean square over C channels is 1."""
    step = flow(spec((8, 8), channels=3)).levels[0].steps[0]
    network = step.coupling.param_map
    weight, bias = network.last.weight.detach(), network.last.bias.detach()
    bound = float((weight.abs().sum((1, 2, 3)) * math.sqrt(weight.shape[1]) + bias.abs()).max())
    x = torch.randn(2, step.kept + TOLD, 4, 4)
    with torch.no_grad():
        for size in (1.0, 1e3, 1e6):
            assert float(network(size * x).abs().max()) <= bound


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="widths holds one"):
        NormalizingFlow(spec=spec(), levels=2, widths=(8,))
    with pytest.raises(ValueError, match="H, W"):
        NormalizingFlow(spec=spec((4, 4, 4)))
