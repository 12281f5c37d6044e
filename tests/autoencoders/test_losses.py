"""Laws of the loss: gradients, balance, the game, equivariance."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from test_autoencoders import build, noise

from kakusan.autoencoders import perceptual
from kakusan.autoencoders.discriminator import GAMES, PatchDiscriminator
from kakusan.autoencoders.equivariance import Turn, equivariance_error
from kakusan.autoencoders.health import measure_health
from kakusan.autoencoders.losses import AutoencoderLosses, Bench, JudgeLoss, MakerLoss, balance_of
from kakusan.autoencoders.perceptual import Features, empty_features, features_of, perceptual_distance
from kakusan.train.feed import Batch


def batch(count: int = 4, size: int = 8) -> Batch:
    x = noise(count, 3, size, size).clamp(-1, 1)
    return Batch(x, None, torch.arange(count), torch.arange(count))


def maker(progress: float = 0.0, *, kind: str = "kl", features: Features | None = None, **losses) -> MakerLoss:
    given = AutoencoderLosses(**losses)
    torch.manual_seed(0)
    bench = Bench(build(kind).train(), given)
    return MakerLoss(bench, given, features, seed=3, progress=lambda: progress)


def gradients(loss: torch.Tensor, side: MakerLoss) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, side.bench.maker_parameters(), allow_unused=True)
    return [torch.zeros(1) if g is None else g for g in found]


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("learned", [False, True])
def test_value_and_gradient_are_those_of_the_loss_written_out(kind: str, learned: bool) -> None:
    """The gradient that is taken at the picture and carried on is that of backpropagation through everything."""
    features = empty_features(3)
    side = maker(kind=kind, features=features, perceptual=0.3, bottleneck=0.1, learned_scale=learned)
    given = batch()
    terms = side(given)
    made, truth, code = side._made(given)
    error = (made - truth).abs().flatten(1).mean(1) + 0.3 * perceptual_distance(features, made, truth)
    if learned:
        error = error * (-side.bench.log_scale).exp() + side.bench.log_scale
    whole = error + (0.1 * code.cost if kind == "kl" else code.cost)
    assert torch.allclose(terms.loss, whole, atol=1e-5)
    for mine, theirs in zip(gradients(terms.loss.sum(), side), gradients(whole.sum(), side), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4, rtol=1e-3)


def test_the_balance_is_the_ratio_of_the_gradients_at_the_last_layer_and_bounded() -> None:
    last = torch.nn.Parameter(torch.tensor([2.0]))
    made = last * torch.tensor([1.0, 2.0])
    first, second = torch.tensor([6.0, 0.0]), torch.tensor([0.0, 1.0])
    assert float(balance_of(made, first, second, last, 10.0)) == pytest.approx(3.0)
    assert float(balance_of(made, first, second, last, 2.0)) == 2.0
    assert float(balance_of(made, first, torch.zeros(2), last, 5.0)) == 5.0
    assert float(balance_of(made.detach(), first, second, last, 5.0)) == 1.0


def test_the_discriminator_matters_from_its_start_on_and_never_trains_the_autoencoder() -> None:
    given = batch()
    early, late = maker(0.4, start=0.5), maker(0.7, start=0.5)
    assert (early.share(), late.share()) == (0.0, 1.0)
    assert maker(0.55, start=0.5).share() == pytest.approx(0.5)
    early(given), late(given)
    assert early.watched.take()["balance"] == 0.0
    assert 0.0 < late.watched.take()["balance"] <= 4.0
    loss = JudgeLoss(late)(given).loss.sum()
    loss.backward()
    assert all(p.grad is None for p in late.bench.autoencoder.parameters())
    assert any(float(p.grad.abs().sum()) > 0.0 for p in late.bench.discriminator.parameters())
    idle = JudgeLoss(early)(given).loss
    assert torch.equal(idle, torch.zeros(4))
    idle.sum().backward()


def test_the_discriminator_sees_what_this_step_decoded() -> None:
    side, given = maker(1.0), batch()
    side(given)
    made = side.decoded[0][1]
    with torch.no_grad():
        judge = side.bench.discriminator
        expected = GAMES["hinge"].judge(judge(given.x0), judge(made))
    assert torch.allclose(JudgeLoss(side)(given).loss, expected, atol=1e-6)


@pytest.mark.parametrize("name", sorted(GAMES))
def test_each_side_of_a_game_gains_where_the_other_loses(name: str) -> None:
    game = GAMES[name]
    real, fake = torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    better = fake + 0.5
    assert bool((game.maker(real, better) < game.maker(real, fake)).all())
    assert bool((game.judge(real, better) > game.judge(real, fake)).all())
    assert torch.equal(GAMES["hinge"].judge(real + 2.0, fake - 2.0), torch.zeros(2))


def test_a_patch_is_judged_by_its_surroundings() -> None:
    judge = PatchDiscriminator(3, width=4)
    x = noise(1, 3, 64, 64)
    other = x.clone()
    other[..., 60:] = 0.0
    with torch.no_grad():
        a, b = judge(x), judge(other)
    assert a.shape == (1, 1, 8, 8)
    assert torch.equal(a[..., :3], b[..., :3])
    assert not torch.equal(a[..., 7], b[..., 7])
    assert judge(x[..., :13, :5]).shape == (1, 1, 2, 1)


def test_a_loss_without_parts_is_the_reconstruction() -> None:
    side = maker(perceptual=0.0, adversarial=0.0, bottleneck=0.0, reconstruction="squared")
    assert side.bench.discriminator is None
    terms = side(batch())
    assert torch.allclose(terms.loss, terms.x0_error, atol=1e-6)


def test_losses_do_not_depend_on_the_rest_of_the_batch() -> None:
    whole, part = maker(), maker()
    given = batch()
    assert torch.allclose(whole(given).loss[2:], part(given.part(slice(2, 4))).loss, atol=1e-5)


class TestPerceptual:
    def test_equal_pictures_are_at_distance_0_and_blur_is_seen(self, pictures) -> None:
        features = features_of("random", pictures)
        x = pictures.spec.to_model(pictures.read(range(8)))
        x = x + 0.3 * noise(*x.shape)
        assert float(perceptual_distance(features, x, x).abs().max()) == 0.0
        slight, strong = (F.avg_pool2d(x, k, 1, k // 2) for k in (3, 5))
        near, far = (perceptual_distance(features, y, x) for y in (slight, strong))
        assert bool((near > 0.0).all())
        assert bool((far > near).all())

    def test_learned_features_are_the_same_again_and_are_not_trained_further(self, pictures, monkeypatch) -> None:
        short = dataclasses.replace(perceptual._RECIPE, steps=4, batch=8)
        monkeypatch.setattr(perceptual, "_RECIPE", short)
        features, again = (features_of("learned", pictures, seed=1) for _ in range(2))
        for name, value in features.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])
        assert not any(p.requires_grad for p in features.parameters())
        assert not features.train().training
        with pytest.raises(ValueError, match="did you mean 'learned'"):
            features_of("learnt", pictures)


class TestEquivariance:
    def test_means_over_cells_are_equivariant(self) -> None:
        x = noise(3, 3, 16, 16)

        def encode(pictures: torch.Tensor) -> torch.Tensor:
            return F.avg_pool2d(pictures, 4)

        for turn in (Turn(1), Turn(3), Turn(0, (2, 2)), Turn(2, (2, 2))):
            assert equivariance_error(encode, x, turn, factor=4) < 1e-6

    def test_a_map_that_knows_left_from_right_is_not(self) -> None:
        x = noise(3, 3, 16, 16)
        ramp = torch.linspace(0.0, 1.0, 4)
        error = equivariance_error(lambda pictures: F.avg_pool2d(pictures, 4) * ramp, x, Turn(1), factor=4)
        assert error > 0.1

    def test_turns_are_drawn_in_range_and_alike(self) -> None:
        drawn = [Turn.drawn((8, 8), seed=0, number=k) for k in range(200)]
        assert {turn.quarters for turn in drawn} == {0, 1, 2, 3}
        sizes = [8 if turn.size is None else turn.size[0] for turn in drawn]
        assert (min(sizes), max(sizes)) == (2, 8)
        assert {Turn.drawn((8, 4), seed=0, number=k).quarters for k in range(50)} == {0, 2}
        assert Turn.drawn((8, 8), seed=0, number=7) == drawn[7]

    def test_training_compares_what_was_turned_alike(self) -> None:
        side, given = maker(equivariance=1.0), batch(size=16)
        made, truth, _ = side._made(given)
        number = 2 * int(given.numbers[0]) + 1
        turn = Turn.drawn((4, 4), seed=3, number=number)
        assert torch.equal(truth, turn(given.x0, factor=4))
        assert made.shape == truth.shape
        assert side(given).loss.shape == (4,)


class TestHealth:
    def test_a_dead_channel_is_found(self, pictures) -> None:
        autoencoder = build()
        with torch.no_grad():
            autoencoder.decoder.body[0].weight[:, 2] = 0.0
        x = pictures.spec.to_model(pictures.read(range(8)))
        autoencoder.measure_latents(lambda: [x])
        health = measure_health(autoencoder, x)
        assert 2 in health.dead
        assert health.lost[2] == pytest.approx(0.0, abs=1e-4)
        assert len(health.kl) == 4
        assert health.latent_range[0] < 0.0 < health.latent_range[1]
        assert health.turned is not None
        assert "PSNR" in health.text()

    def test_a_posterior_that_is_the_prior_is_dead(self, pictures) -> None:
        autoencoder = build()
        with torch.no_grad():
            for row in (1, 5):  # mean and log deviation of channel 1
                autoencoder.encoder.head.weight[row] = 0.0
                autoencoder.encoder.head.bias[row] = 0.0
        health = measure_health(autoencoder, pictures.spec.to_model(pictures.read(range(4))))
        assert health.kl[1] == pytest.approx(0.0, abs=1e-6)
        assert 1 in health.dead

    def test_the_use_of_codes_is_counted(self, pictures) -> None:
        autoencoder = build("vq", codes=8)
        with torch.no_grad():
            autoencoder.codebook[1:] = 1e4
        health = measure_health(autoencoder, pictures.spec.to_model(pictures.read(range(4))))
        assert health.codes_used == pytest.approx(1 / 8)
        assert health.perplexity == pytest.approx(1.0)
        with pytest.raises(ValueError, match="at least one picture"):
            measure_health(autoencoder, torch.zeros(0, 3, 8, 8))


@pytest.mark.parametrize(
    "wrong",
    [
        {"perceptual": -1.0},
        {"bottleneck": float("inf")},
        {"start": 1.5},
        {"equivariance": -0.1},
        {"reconstruction": "cubed"},
        {"game": "chess"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        AutoencoderLosses(**wrong)
