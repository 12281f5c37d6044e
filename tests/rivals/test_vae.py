"""The VAE's bound against exact likelihoods: by quadrature, and in closed form for linear Gaussian models."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.noise import Stream
from kakusan.rivals.bounds import DiscretisedLogistic, divergence, importance_bound, log_ratio
from kakusan.rivals.vae import Vae
from kakusan.train.feed import Batch


def spec(size: tuple[int, int] = (2, 2), *, channels: int = 1, bits: int = 8, classes: int = 0, high: float = math.nan):
    return DataSpec(
        channels=channels,
        size=size,
        mean=(0.1,) * channels,
        std=(0.5,) * channels,
        mode="",
        bits=bits,
        high=high,
        classes=tuple(f"class {k}" for k in range(classes)),
    )


def disturbed(vae: Vae, by: float = 0.3) -> Vae:
    """No weight is left at zero, so every part matters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return vae.eval()


def one_number(size: tuple[int, int] = (1, 2), **options) -> Vae:
    """A VAE whose only latent is one number, so its likelihood is an integral over a line."""
    given = {"width": 4, "multipliers": (1,), "patch": 1, "latents": (1, 0), **options}
    return disturbed(Vae(spec=spec(size), **given), 0.2)


def exact(vae: Vae, stored: torch.Tensor) -> torch.Tensor:
    """log P by the trapezoidal rule over the latent, (B,)."""
    u = torch.linspace(-9.0, 9.0, 3001)
    told = vae._told(None, len(u))
    with torch.no_grad():
        mean, log_scale = vae.decode(lambda i, h: u[:, None], told)
        x0 = vae.spec.to_model(stored)
        found = [
            vae.likelihood.log_prob(x.expand(len(u), *x.shape), mean, log_scale).double() - 0.5 * u.double().square()
            for x in x0
        ]
    return torch.stack(found).logsumexp(1) + math.log(18.0 / 3000.0) - 0.5 * math.log(2.0 * math.pi)


@pytest.fixture(scope="module")
def line() -> Vae:
    torch.manual_seed(0)
    return one_number()


PICTURES = torch.tensor([[0, 255], [90, 120], [200, 10], [255, 255]], dtype=torch.uint8).view(4, 1, 1, 2)


def test_the_bound_is_never_better_than_the_truth_and_draws_close_the_gap(line: Vae) -> None:
    truth = -exact(line, PICTURES) / math.log(2.0) / 2.0
    gaps, many = [], 150
    for draws in (1, 6, 60):
        line.draws = draws
        bits = line.log_likelihood(PICTURES.repeat(many, 1, 1, 1), seeds=list(range(4 * many))).view(many, 4)
        gaps.append(bits.mean(0) - truth)
        error = bits.std(0) / math.sqrt(many)
        assert bool((gaps[-1] >= -4.0 * error - 1e-4).all()), (draws, gaps[-1], error)
    assert float(gaps[0].mean()) > float(gaps[1].mean()) > float(gaps[2].mean()) - 1e-3
    assert float(gaps[0].mean()) > 0.05
    assert float(gaps[2].mean()) < 0.3 * float(gaps[0].mean())


def test_probabilities_of_all_pictures_add_up_to_one() -> None:
    vae = one_number((1, 1))
    every = torch.arange(256).to(torch.uint8).view(256, 1, 1, 1)
    assert float(exact(vae, every).exp().sum()) == pytest.approx(1.0, abs=1e-4)


def test_the_training_loss_is_the_mean_bound(line: Vae) -> None:
    """Reconstruction and divergence, the latter in closed form: on the mean the same as log weights of one draw."""
    line.draws, many = 1, 600
    stored = PICTURES[1:2].expand(many, 1, 1, 2)
    loss = line.groups(seed=5)[0].loss
    with torch.no_grad():
        numbers = torch.arange(many)
        a = loss(Batch(line.spec.to_model(stored), None, numbers, numbers)).loss / math.log(2.0)
    b = line.log_likelihood(stored, seeds=list(range(many)))
    error = math.hypot(float(a.std()), float(b.std())) / math.sqrt(many)
    assert abs(float(a.mean()) - float(b.mean())) < 4.0 * error


def linear_gaussian(*, mean_off: float, log_std_off: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(log weights (K, B), elbo in closed form (B,), log p(x)) of x = w u + s e with a posterior that is off."""
    w, s, count, batch = 0.8, 0.5, 64, 500
    x = torch.full((batch, 1), 1.3, dtype=torch.float64)
    variance = 1.0 / (1.0 + w**2 / s**2)
    mean = variance * w / s**2 * x + mean_off
    log_std = torch.full_like(mean, 0.5 * math.log(variance) + log_std_off)
    eps = torch.randn(count, batch, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u = mean + log_std.exp() * eps
    likelihood = (-0.5 * ((x - w * u) / s) ** 2 - math.log(s) - 0.5 * math.log(2.0 * math.pi)).sum(2)
    weights = likelihood + torch.stack([log_ratio(mean, log_std, e) for e in eps])
    total = w**2 + s**2
    truth = -0.5 * 1.3**2 / total - 0.5 * math.log(2.0 * math.pi * total)
    # ELBO = log p(x) - KL(q | p(u | x)).
    kl = 0.5 * (math.exp(2.0 * log_std_off) + mean_off**2 / variance - 1.0) - log_std_off
    return weights, torch.full((batch,), truth - kl, dtype=torch.float64), truth


def test_with_the_right_posterior_every_draw_is_exact() -> None:
    weights, _, truth = linear_gaussian(mean_off=0.0, log_std_off=0.0)
    torch.testing.assert_close(weights, torch.full_like(weights, truth))


def test_linear_gaussian_bounds_are_those_of_the_closed_form() -> None:
    weights, elbo, truth = linear_gaussian(mean_off=0.2, log_std_off=0.3)
    error = float(weights.std()) / math.sqrt(weights.numel())
    assert abs(float(weights.mean()) - float(elbo[0])) < 4.0 * error
    means = [float(importance_bound(weights[:k]).mean()) for k in (1, 4, 16, 64)]
    assert means == sorted(means)
    assert means[-1] < truth + 1e-3
    assert truth - means[-1] < 0.1 * (truth - float(elbo[0]))


def test_the_divergence_is_the_mean_of_the_log_ratio() -> None:
    mean, log_std = torch.tensor([[0.7, -0.2]]), torch.tensor([[-0.5, 0.3]])
    eps = torch.randn(200_000, 1, 2, generator=torch.Generator().manual_seed(0))
    drawn = -torch.stack([log_ratio(mean.expand(1, 2), log_std, e) for e in eps[:4]])
    assert drawn.shape == (4, 1)
    many = -log_ratio(mean.expand(200_000, 2), log_std.expand(200_000, 2), eps[:, 0])
    assert float(many.mean()) == pytest.approx(float(divergence(mean, log_std)), abs=0.02)


@given(st.floats(-3.0, 3.0), st.floats(-9.0, 3.0), st.sampled_from([1.0, 7.0, 255.0]))
def test_the_masses_of_the_bins_add_up_to_one(mean: float, log_scale: float, high: float) -> None:
    one = spec((1, 1), high=high)
    every = torch.arange(int(high) + 1).view(-1, 1, 1, 1).to(torch.uint8)
    x0 = one.to_model(every).double()
    logs = DiscretisedLogistic(one).log_prob(x0, torch.full_like(x0, mean), torch.tensor(log_scale).double())
    assert float(logs.exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_a_range_between_integers_keeps_open_outer_bins() -> None:
    odd = DataSpec(channels=1, size=(1, 1), mean=(0.0,), std=(0.5,), mode="", low=2.5, high=9.25)
    x0 = odd.to_model(torch.arange(3, 10).view(-1, 1, 1, 1).to(torch.uint8)).double()
    logs = DiscretisedLogistic(odd).log_prob(x0, torch.full_like(x0, -0.3), torch.tensor(-0.5).double())
    assert float(logs.exp().sum()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("size", "channels"), [((5, 7), 1), ((12, 9), 4), ((1, 1), 2)])
def test_any_size_channels_and_bits(size: tuple[int, int], channels: int, bits: int) -> None:
    given = spec(size, channels=channels, bits=bits, classes=2)
    top = 2**bits - 1
    stored = torch.randint(0, top + 1, (6, channels, *size), generator=torch.Generator().manual_seed(0)).to(given.dtype)
    pictures = ArrayPictures(given, stored, labels=[0, 1, 0, 1, 0, 1])
    vae = disturbed(Vae.for_data(pictures, width=8, draws=2), 0.02)
    samples = vae.sample([5, 6, 7], torch.tensor([0, 1, 1]))
    assert samples.shape == (3, channels, *size)
    alone = vae.sample([7], torch.tensor([1]))
    torch.testing.assert_close(alone[0], samples[2], rtol=0, atol=1e-5)
    bits_found = vae.log_likelihood(stored, pictures.labels, seeds=list(range(6)))
    assert bits_found is not None
    assert bool(bits_found.isfinite().all())
    one = vae.log_likelihood(stored[4:5], pictures.labels[4:5], seeds=[4])
    torch.testing.assert_close(one[0], bits_found[4], rtol=1e-4, atol=1e-4)
    assert vae.reconstruct(given.to_model(stored), pictures.labels).shape == samples[:1].expand(6, -1, -1, -1).shape


def test_every_latent_of_every_draw_has_noise_of_its_own() -> None:
    vae = Vae(spec=spec((8, 8)), width=8, multipliers=(1, 2), latents=(4, 2, 1))
    seeds = torch.tensor([5, 6])
    drawn = [vae._noise(seeds, Stream.BOUND_NOISE, draw)(i, (4,)) for draw in range(3) for i in range(3)]
    drawn += [vae._noise(seeds, Stream.TRAINING_NOISE, torch.tensor([7, 8]))(i, (4,)) for i in range(3)]
    values = torch.stack(drawn).flatten().tolist()
    assert len(set(values)) == len(values)


def test_class_and_picture_decide() -> None:
    vae = disturbed(
        Vae(spec=spec((8, 8), classes=2), proportions=(0.5, 0.5), width=8, multipliers=(1, 2), latents=(4, 2, 1))
    )
    first, second = vae.sample([1], torch.tensor([0])), vae.sample([1], torch.tensor([1]))
    assert float((first - second).abs().max()) > 1e-3
    assert float((first - vae.sample([2], torch.tensor([0]))).abs().max()) > 1e-3


def test_free_nats_only_raise_the_loss() -> None:
    torch.manual_seed(0)
    given = spec((8, 8))
    x0 = given.to_model(torch.randint(0, 256, (4, 1, 8, 8)).to(torch.uint8))
    batch = Batch(x0, None, torch.arange(4), torch.arange(4))
    losses = []
    for free in (0.0, 0.5):
        torch.manual_seed(1)
        vae = disturbed(Vae(spec=given, width=8, multipliers=(1, 2), latents=(4, 2, 0), free=free), 0.01)
        losses.append(vae.groups(seed=0)[0].loss(batch).loss.detach())
    assert bool((losses[1] > losses[0]).all())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latents": (4, 2)}, "latents holds"),
        ({"latents": (0, 0, 0)}, "not all 0"),
        ({"width": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Vae(**{"spec": spec((8, 8)), "multipliers": (1, 2), "latents": (4, 2, 0), **options})
