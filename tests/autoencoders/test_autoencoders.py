"""Laws of autoencoders: shapes, standardisation, locality, the bottlenecks against closed forms and brute force."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.autoencoders import KINDS, Autoencoder, KlAutoencoder, VqAutoencoder
from kakusan.autoencoders.kl import kl_divergence
from kakusan.autoencoders.networks import NetworkSize, PlaceNorm, fold, unfold
from kakusan.autoencoders.vq import nearest, straight_through
from kakusan.noise import Stream, normal

SMALL = NetworkSize(width=8, multipliers=(1, 2), decoder_depth=1, patch=2)


def build(kind: str = "kl", *, seed: int = 0, **options) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = KINDS[kind](**{"channels": 3, "factor": 4, "latent_channels": 4, "size": SMALL, **options})
        # The last layer of each block begins at zero: let every layer take part.
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return found.eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    factor=st.sampled_from([2, 4, 8]),
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
)
def test_any_size_goes_there_and_back(kind: str, factor: int, size: tuple[int, int]) -> None:
    autoencoder = build(kind, factor=factor)
    x = noise(2, 3, *size)
    with torch.no_grad():
        z = autoencoder.encode(x)
        assert z.shape[1:] == autoencoder.latent_shape(x.shape[1:])
        assert z.shape[2:] == tuple(-(-side // factor) for side in size)
        assert autoencoder.decode(z, size=size).shape == x.shape
        assert autoencoder.decode(z).shape == (2, 3, *(factor * side for side in z.shape[2:]))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_rank(kind: str, rank: int) -> None:
    autoencoder = build(kind, rank=rank, channels=2)
    x = noise(2, 2, *[9, 8, 7][:rank])
    with torch.no_grad():
        assert autoencoder.decode(autoencoder.encode(x), size=x.shape[2:]).shape == x.shape


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("flip", [False, True])
def test_latents_of_the_training_set_have_mean_0_and_deviation_1(pictures, kind: str, flip: bool) -> None:
    from kakusan.data.source import Subset
    from kakusan.train.autoencoder_checkpoint import measured_latents

    spec = dataclasses.replace(pictures.spec, flip=flip)
    given = Subset(pictures, range(40), spec=spec)
    autoencoder = build(kind)
    measured_latents(autoencoder, given, batch=7)
    x = spec.to_model(given.read(range(40)))
    with torch.no_grad():
        z = autoencoder.encode(torch.cat([x, x.flip(-1)]) if flip else x).double().transpose(0, 1).flatten(1)
    assert z.mean(1).abs().max() < 1e-5
    assert (z.std(1, unbiased=False) - 1.0).abs().max() < 1e-5


def test_standardisation_changes_no_picture(pictures) -> None:
    autoencoder = build()
    x = pictures.spec.to_model(pictures.read(range(4)))
    with torch.no_grad():
        before = autoencoder.decode(autoencoder.encode(x))
        autoencoder.measure_latents(lambda: [x])
        assert float((autoencoder.latent_std - 1.0).abs().max()) > 0.01
        assert torch.allclose(autoencoder.decode(autoencoder.encode(x)), before, atol=1e-5)


def test_a_channel_that_never_moves_is_not_divided_by_nothing() -> None:
    autoencoder = build()
    with torch.no_grad():
        autoencoder.encoder.head.weight[1] = 0.0
    mean, std = autoencoder.measure_latents(lambda: [noise(4, 3, 8, 8)])
    assert float(std[1]) == 1.0
    assert bool(mean.isfinite().all())
    with pytest.raises(ValueError, match="no pictures"):
        autoencoder.measure_latents(list)


def test_the_mean_is_deterministic_and_noise_draws_by_the_deviation() -> None:
    autoencoder, x = build(), noise(2, 3, 8, 8)
    with torch.no_grad():
        mean, std = autoencoder.moments(x)
        assert torch.equal(autoencoder.encode(x), autoencoder.encode(x))
        assert torch.equal(autoencoder.encode(x), mean)
        eps = noise(2, 4, 2, 2)
        assert torch.allclose(autoencoder.encode(x, eps), mean + std * eps)
        assert float(std.min()) > 0.0
    with pytest.raises(ValueError, match="the noise is"):
        autoencoder.encode(x, eps[:1])


def test_a_place_sees_its_neighbourhood_only() -> None:
    """The part of a picture is coded as the whole is, away from the cut: no statistics are taken over a picture."""
    autoencoder, x = build(), noise(1, 3, 64, 64)
    other = x.clone()
    other[..., 48:] = 5.0 * noise(1, 3, 64, 16, seed=2)
    with torch.no_grad():
        z, changed = autoencoder.encode(x), autoencoder.encode(other)
        assert torch.equal(z[..., :6], changed[..., :6])
        assert not torch.allclose(z[..., 12:], changed[..., 12:])
        part = autoencoder.encode(x[..., :32])
        assert torch.allclose(part[..., :3], z[..., :3], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"factor": 3}, "power of 2"),
        ({"factor": 1}, "power of 2"),
        ({"size": NetworkSize(width=8, patch=3)}, "power of 2"),
        ({"channels": 0}, "at least 1"),
        ({"latent_channels": 0}, "at least 1"),
        ({"rank": 4}, "rank is 1, 2 or 3"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(**options)


def test_pictures_and_latents_of_other_shapes_are_refused() -> None:
    autoencoder = build()
    with pytest.raises(ValueError, match="3 channels"):
        autoencoder.encode(noise(1, 1, 8, 8))
    with pytest.raises(ValueError, match="takes latents"):
        autoencoder.decode(noise(1, 3, 2, 2))
    with pytest.raises(ValueError, match="do not have latents"):
        autoencoder.decode(noise(1, 4, 2, 2), size=(16, 8))


@pytest.mark.parametrize(("rank", "patch"), [(1, 2), (2, 2), (2, 4), (3, 2)])
def test_folding_is_undone(rank: int, patch: int) -> None:
    x = noise(2, 3, *[8] * rank)
    folded = fold(x, patch)
    assert folded.shape == (2, 3 * patch**rank, *[8 // patch] * rank)
    assert torch.equal(unfold(folded, patch), x)
    if rank == 2:
        assert torch.equal(folded, torch.nn.functional.pixel_unshuffle(x, patch))


def test_a_place_norm_gives_root_mean_square_1() -> None:
    x = 7.0 * noise(2, 5, 3, 4)
    assert torch.allclose(PlaceNorm(5)(x).square().mean(1), torch.ones(2, 3, 4), atol=1e-4)


class TestKl:
    @settings(max_examples=30, deadline=None)
    @given(mean=st.floats(-5, 5), log_std=st.floats(-3, 2))
    def test_the_divergence_is_that_of_torch(self, mean: float, log_std: float) -> None:
        m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(log_std, dtype=torch.float64)
        expected = torch.distributions.kl_divergence(
            torch.distributions.Normal(m, s.exp()), torch.distributions.Normal(0.0, 1.0)
        )
        assert float(kl_divergence(m, s)) == pytest.approx(float(expected), abs=1e-9)

    def test_the_cost_is_the_divergence_of_the_latents_for_each_element_of_the_picture(self) -> None:
        autoencoder, x = build(), noise(2, 3, 8, 8)
        eps = noise(2, 4, 2, 2)
        with torch.no_grad():
            code = autoencoder.code(x, lambda shape: eps)
            mean, std = autoencoder.raw_moments(x)
        nats = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
        )
        assert torch.allclose(code.cost, nats.flatten(1).sum(1) / (3 * 64), rtol=1e-4)
        assert torch.allclose(code.latent, mean + std * eps, atol=1e-6)
        assert torch.allclose(code.health["kl"], nats.mean(dim=(0, 2, 3)), rtol=1e-4)


class TestVq:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000), codes=st.integers(1, 40), length=st.integers(1, 6))
    def test_the_nearest_code_is_that_of_brute_force(self, seed: int, codes: int, length: int) -> None:
        vectors, book = noise(50, length, seed=seed).double(), noise(codes, length, seed=seed + 1).double()
        brute = torch.stack([(book - v).square().sum(1).argmin() for v in vectors])
        assert torch.equal(nearest(vectors, book), brute)

    def test_the_gradient_passes_straight_through(self) -> None:
        latent, quantised = noise(2, 4, 3, 3).requires_grad_(), noise(2, 4, 3, 3, seed=2)
        out = straight_through(latent, quantised)
        assert torch.allclose(out, quantised, atol=1e-6)
        given = noise(2, 4, 3, 3, seed=3)
        (gradient,) = torch.autograd.grad(out, latent, given)
        assert torch.equal(gradient, given)

    def test_decoding_knows_only_codes(self) -> None:
        autoencoder, x = build("vq", codes=16), noise(2, 3, 8, 8)
        with torch.no_grad():
            z = autoencoder.encode(x)
            numbers = autoencoder.numbers(x)
            assert numbers.shape == (2, 2, 2)
            codes = autoencoder.codebook[numbers].movedim(-1, 1)
            assert torch.equal(autoencoder.decode(z), autoencoder.decoder(codes))
            assert torch.allclose(autoencoder.decode(z + 1e-6), autoencoder.decode(z))

    def test_codes_move_to_the_mean_of_what_they_stand_for(self) -> None:
        """With a decay near 0 one step is one of Lloyd's k-means."""
        autoencoder = build("vq", codes=3, latent_channels=2, decay=1e-6)
        rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [0.0, 9.0], [0.0, 11.0]])
        autoencoder.codebook.data = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
        autoencoder.usage.fill_(5 / 3)
        autoencoder._gather(rows, nearest(rows, autoencoder.codebook))
        autoencoder.after_step(seed=0, step=1, good=True)
        assert torch.allclose(
            autoencoder.codebook.data, torch.tensor([[0.5, 0.0], [10.0, 0.0], [0.0, 10.0]]), atol=1e-4
        )

    def test_dead_codes_begin_anew_where_there_are_latents(self) -> None:
        autoencoder = build("vq", codes=4, latent_channels=2).train()
        autoencoder.codebook.data.fill_(1e3)
        autoencoder.usage.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        autoencoder.code(noise(2, 3, 8, 8), lambda shape: torch.zeros(2, *shape))
        with torch.no_grad():
            rows = autoencoder.raw_moments(noise(2, 3, 8, 8))[0].movedim(1, -1).reshape(-1, 2)
        autoencoder.after_step(seed=0, step=1, good=True)
        for code in autoencoder.codebook[1:]:
            assert float((rows - code).abs().sum(1).min()) < 1e-5

    def test_a_step_that_was_skipped_leaves_the_codebook(self) -> None:
        autoencoder = build("vq", codes=4).train()
        before = autoencoder.codebook.clone()
        autoencoder.code(noise(2, 3, 8, 8), lambda shape: torch.zeros(2, *shape))
        autoencoder.after_step(seed=0, step=1, good=False)
        autoencoder.after_step(seed=0, step=2, good=True)
        assert torch.equal(autoencoder.codebook, before)

    def test_parts_of_a_batch_teach_the_codebook_what_the_whole_does(self) -> None:
        x, books = noise(4, 3, 8, 8), []
        for cuts in ((4,), (1, 3)):
            autoencoder = build("vq", codes=4).train()
            autoencoder.usage.fill_(4.0)
            for part in x.split(cuts):
                autoencoder.code(part, lambda shape: torch.zeros(1, *shape))
            autoencoder.after_step(seed=0, step=1, good=True)
            books.append(autoencoder.codebook.clone())
        assert torch.allclose(*books, atol=1e-6)

    def test_settings_out_of_range_are_refused(self) -> None:
        for wrong in ({"codes": 1}, {"decay": 1.0}, {"commitment": -1.0}):
            with pytest.raises(ValueError, match="codebook"):
                VqAutoencoder(channels=3, size=SMALL, **wrong)


def test_attention_is_a_choice() -> None:
    autoencoder = KlAutoencoder(channels=3, size=dataclasses.replace(SMALL, attention=True))
    x = normal([0, 1], Stream.RESERVED_FOR_TESTS, shape=(3, 8, 8))
    assert autoencoder.decode(autoencoder.encode(x)).shape == x.shape
