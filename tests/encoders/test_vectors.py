"""CLIP vectors as conditions: what holds of them exactly, and what a prior of Gaussian vectors must find."""

import math

import pytest
import torch
import torch.nn.functional as F

from kakusan.conditioning import Condition
from kakusan.config import TrainConfig, merge
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser
from kakusan.encoders.clip import Clip
from kakusan.encoders.folder import StoredClip
from kakusan.encoders.image import ConvolutionalTower
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import Tokenizer
from kakusan.encoders.vector_data import VectorSpec
from kakusan.encoders.vectors import GivenVectors, ImageVectors, along_texts, directed, direction, moved, standardised
from kakusan.metrics.vectors import Nearness
from kakusan.noise import Draws, Stream, normal
from kakusan.objectives import Objective, SimpleX0
from kakusan.specs import from_spec, to_spec
from kakusan.time_samplers import Uniform
from kakusan.train.vector_models import PRIOR, prior_model

TEXTS = ["a red flower", "a blue flower", "赤い花", ""]


def small(width: int = 6) -> Clip:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(TEXTS * 2, size=300).json
    text = TextTower(tokenizer=tokenizer, width=32, depth=1, heads=1, length=24, vector_width=width)
    image = ConvolutionalTower(channels=3, vector_width=width, width=8, multipliers=(1, 2), patch=1)
    return Clip(image=image, text=text).eval()


def made(**options: object) -> ImageVectors:
    clip = small()
    images = clip.embed_images(torch.randn(40, 3, 8, 8))
    clip.measure_gap(images, clip.embed_texts(TEXTS[:2]).repeat(20, 1))
    return ImageVectors(clip=clip, width=10, size=(8, 8), **options).eval()  # type: ignore[arg-type]


def draws(count: int) -> Draws:
    return Draws(torch.full((count,), 3), torch.arange(count))


def equal(a: Condition, b: Condition) -> bool:
    assert a.vector is not None
    assert b.vector is not None
    return torch.equal(a.vector, b.vector)


def test_directions_have_length_one_and_an_empty_text_is_no_condition() -> None:
    conditioner = made()
    asked = conditioner.asked(TEXTS)
    torch.testing.assert_close(asked.norm(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(conditioner.embed(torch.randn(3, 3, 8, 8)).norm(dim=1), torch.ones(3))
    assert equal(conditioner(conditioner.asked([""])), conditioner.null())
    dropping = made(dropout=0.5)
    kept = dropping.drop(asked[:2], torch.tensor([0.2, 0.7], dtype=torch.float64))
    assert torch.equal(dropping(kept).vector[0], dropping.null(2).vector[0])  # type: ignore[index]
    assert torch.equal(kept[1], asked[1])
    with pytest.raises(ValueError, match="without condition dropout"):
        made(dropout=0.0).null()


def test_a_pictures_own_vector_is_the_condition_of_training_bit_for_bit() -> None:
    conditioner, x0 = made(), torch.randn(3, 3, 8, 8)
    trained = conditioner(conditioner.raw(x0, None, draws(3)))
    given = GivenVectors(conditioner.embed(x0))
    assert equal(conditioner.start(given, None, torch.arange(3)), trained)
    # A text that is led away from stands beside given vectors.
    away = conditioner.start(given, conditioner.asked(["a red flower"] * 3), torch.arange(3))
    assert equal(away, conditioner(conditioner.asked(["a red flower"] * 3)))
    assert not any(p.requires_grad for p in conditioner.clip.parameters())
    assert not conditioner.train().clip.training
    again = from_spec(to_spec(conditioner), ImageVectors)
    again.load_state_dict(conditioner.state_dict())
    assert equal(again.eval()(conditioner.embed(x0)), trained)


def test_features_are_standard_on_the_pictures_of_the_clip_and_come_back() -> None:
    clip = small()
    images = clip.embed_images(torch.randn(64, 3, 8, 8))
    clip.measure_gap(images, images)
    z = standardised(clip, images)
    torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(z.square().mean(), torch.tensor(1.0), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(directed(clip, z), images)


def test_moved_vectors_turn_by_the_angle_of_the_noise_each_for_itself() -> None:
    e, noise = direction(torch.randn(200, 512)), 0.75
    found = moved(e, noise, draws(200))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(200))
    # In many dimensions the random vector stands at a right angle.
    assert float((found * e).sum(1).mean()) == pytest.approx(1.0 / math.sqrt(1.0 + noise**2), abs=0.01)
    alone = moved(e[7:8], noise, Draws(torch.tensor([3]), torch.tensor([7])))
    torch.testing.assert_close(alone[0], found[7])


def test_a_text_difference_turns_by_its_share_of_the_angle() -> None:
    clip, e = small(), direction(torch.randn(3, 6))
    pair = ("a red flower", "a blue flower")
    first, second = clip.embed_texts(pair)
    end = direction(second - first)
    assert torch.equal(along_texts(clip, e, pair, 0.0), e)
    torch.testing.assert_close(along_texts(clip, e, pair, 1.0), end.expand(3, 6))
    third = along_texts(clip, e, pair, 0.3)
    torch.testing.assert_close((third * e).sum(1).arccos(), 0.3 * (e @ end).arccos(), atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="does not tell"):
        along_texts(clip, e, ("red", "red"), 0.3)


def test_other_sizes_are_brought_to_the_clips_and_other_things_refused() -> None:
    conditioner, x = made(), torch.randn(2, 3, 8, 8)
    large = F.interpolate(x, scale_factor=4.0, mode="nearest")
    assert float((conditioner.embed(large) * conditioner.embed(x)).sum(1).min()) > 0.9
    for broken, match in (
        (lambda: conditioner.embed(torch.zeros(1, 1, 8, 8)), "sees pictures"),
        (lambda: conditioner.asked([3]), "asked with texts"),
        (lambda: conditioner(torch.tensor([1, 2])), "not on classes"),
        (lambda: conditioner.start(GivenVectors(torch.zeros(1, 5)), None, torch.arange(1)), "CLIP vectors"),
        (lambda: made(bridge="lineal"), "did you mean 'linear'"),
        (lambda: made(noise=-1.0), "a length, 0 or more"),
    ):
        with pytest.raises(ValueError, match=match):
            broken()
    assert "one vector of the whole text" in " ".join(conditioner.notes("a (red:1.3) flower"))
    assert "too long" in " ".join(conditioner.notes("red " * 200))


def test_nearness_of_the_pictures_themselves() -> None:
    images = direction(torch.randn(50, 6))
    own = Nearness.between(images, images)
    assert own.cosine == pytest.approx(1.0)
    assert own.spread == pytest.approx(1.0)
    one = Nearness.between(images, images[:1].expand(50, 6))
    assert one.spread == pytest.approx(0.0, abs=1e-9)
    assert one.cosine == pytest.approx(float((images @ images[0]).mean()))


def test_a_prior_of_gaussian_vectors_finds_the_conditional_mean() -> None:
    """Vectors of a text are Gaussian around a mean of its own: E[x0 | x_t, text] is known at every level."""
    clip = small(4)
    pixels = DataSpec(channels=3, size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3, mode="RGB")
    spec = VectorSpec.of(pixels, StoredClip(clip, pixels, {}, "hash"))
    changes = {"model": {"width": 64, "layers": 1}, "vectors": {"clip": "somewhere", "prior": True}}
    model = prior_model(merge(merge(TrainConfig(), PRIOR), changes), spec).train()
    assert model.conditioner is not None
    means, variance = torch.tensor([[1.0, -1.0, 0.5, 0.0], [-1.0, 0.0, 0.5, 1.0]]), 0.25
    ids = model.conditioner.asked(TEXTS[:2])
    objective, count = Objective(time_sampler=Uniform(), weighting=SimpleX0()), 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    steps = 80
    for step in range(steps):
        numbers = torch.arange(step * count, (step + 1) * count)
        which = numbers % 2
        seeds = torch.zeros_like(numbers)
        x0, eps = (normal(seeds, Stream.RESERVED_FOR_TESTS, 2 * numbers + k, shape=(4, 1)) for k in (0, 1))
        x0 = means[which][..., None] + math.sqrt(variance) * x0
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1.0 - step / steps)
        t = objective.time_sampler.draw(model.denoiser.schedule, 0, numbers)
        loss = objective.terms(model.denoiser, x0, model.condition(ids[which]), t, eps).loss.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    model.eval()
    assert isinstance(model.denoiser, Denoiser)
    which = torch.arange(200) % 2
    centre = means[which][..., None]
    start = torch.randn(200, 4, 1)
    for time in (0.95, 0.6):
        level = torch.tensor(time)
        alpha, sigma = (float(f(level)) for f in (model.denoiser.schedule.alpha, model.denoiser.schedule.sigma))
        x_t = alpha * (centre + math.sqrt(variance) * start) + sigma * torch.randn(200, 4, 1)
        exact = centre + alpha * variance / (alpha**2 * variance + sigma**2) * (x_t - alpha * centre)
        with torch.no_grad():
            found = model.denoiser(x_t, level, model.condition(ids[which])).x0
        assert float((found - exact).square().mean().sqrt()) < 0.2
        assert float((exact - exact.mean(0)).square().mean().sqrt()) > 0.5
