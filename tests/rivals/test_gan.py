"""The GAN: its losses against closed forms, its game, its keys, its sizes, and that it leaves out no mode."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.nn.count import flops
from kakusan.nn.patch import Patched
from kakusan.nn.unet import UNet
from kakusan.noise import Stream
from kakusan.rivals import RIVALS
from kakusan.rivals.gan import DiscriminatorLoss, Gan, GeneratorLoss, Penalty, pairing_loss, scored
from kakusan.rivals.gan_networks import Block, halvings
from kakusan.rivals.twice import Convolution
from kakusan.specs import from_spec, to_spec
from kakusan.train.feed import Batch, Feed
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import Group, Trainer, seeded

SMALL = {"latent": 6, "widths": (16, 8), "group": 4, "patch": 1}


def spec_of(channels: int = 3, size: tuple[int, ...] = (8, 8), classes: int = 3) -> DataSpec:
    many = (0.0,) * channels, (1.0,) * channels
    return DataSpec(
        channels=channels, size=size, mean=many[0], std=many[1], mode="", classes=tuple("abcdefgh"[:classes])
    )


def gan(*, seed: int = 0, spec: DataSpec | None = None, **options: object) -> Gan:
    spec = spec_of() if spec is None else spec
    shares = tuple(1.0 / len(spec.classes) for _ in spec.classes)
    with seeded(seed):
        found = Gan(spec=spec, proportions=shares, **{**SMALL, **options})
        for block in (m for m in found.modules() if isinstance(m, Block)):
            nn.init.normal_(block.narrow.weight, 0.0, 0.2)
    return found


def batch(count: int = 6, *, spec: DataSpec | None = None, first: int = 100) -> Batch:
    spec = spec_of() if spec is None else spec
    x = torch.rand(count, *spec.shape, generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0
    numbers = torch.arange(first, first + count)
    return Batch(x, numbers % len(spec.classes) if spec.classes else None, numbers, torch.arange(count))


class Judge(nn.Module):
    """A discriminator in closed form."""

    def __init__(self, score) -> None:
        super().__init__()
        self.score = score
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return self.scale * self.score(x.flatten(1))


# The losses.


@given(seed=st.integers(0, 10**6), size=st.integers(1, 6))
@settings(max_examples=10, deadline=None)
def test_the_penalty_of_a_linear_and_of_a_quadratic_score_is_its_closed_form(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, x = (torch.randn(n, size, generator=generator, dtype=torch.float64) for n in (size, 4))
    linear, slopes = scored(lambda x, _: x.flatten(1) @ a[0], x[:, :, None, None], None)
    torch.testing.assert_close(linear, x @ a[0])
    torch.testing.assert_close(slopes, a[0].square().sum().expand(4).float())
    # D = x' A x / 2 has the gradient (A + A') x / 2.
    quadratic = scored(lambda x, _: 0.5 * ((x.flatten(1) @ a) * x.flatten(1)).sum(1), x[:, :, None, None], None)
    torch.testing.assert_close(quadratic[1], (x @ (a + a.T) / 2).square().sum(1).float(), rtol=1e-5, atol=1e-6)


def test_the_penalty_is_differentiable_by_the_weights() -> None:
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # D = s |x|^2 / 2: |grad|^2 = s^2 |x|^2, whose derivative by s is 2 s |x|^2.
    _, slopes = scored(lambda x, _: 0.5 * scale * x.flatten(1).square().sum(1), x, None)
    (by_scale,) = torch.autograd.grad(slopes.sum(), scale)
    torch.testing.assert_close(by_scale, 2.0 * 1.5 * x.square().sum(), rtol=1e-5, atol=0.0)


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(-30, 30))
@settings(max_examples=25, deadline=None)
def test_the_pairing_loss_is_relativistic_and_antisymmetric(real: float, fake: float, shift: float) -> None:
    r, f = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (real, fake))
    discriminator, generator = pairing_loss(r, f), pairing_loss(f, r)
    gap = real - fake
    expected = gap + math.log1p(math.exp(-gap)) if gap > 0 else math.log1p(math.exp(gap))
    assert generator.item() == pytest.approx(expected, abs=1e-8)
    # The sides exchange the roles of the scores, only differences count, and what one gains in the logit is what the
    # other loses.
    assert (generator - discriminator).item() == pytest.approx(gap, abs=1e-8)
    assert pairing_loss(r + shift, f + shift).item() == pytest.approx(discriminator.item(), abs=1e-8)
    of_d, of_g = (torch.autograd.grad(loss.sum(), (r, f)) for loss in (discriminator, generator))
    assert of_d[0].item() == pytest.approx(-of_d[1].item())
    assert of_g[0].item() == pytest.approx(-of_g[1].item())
    assert of_g[0].item() - of_d[0].item() == pytest.approx(1.0)


def test_the_discriminators_loss_is_its_formula() -> None:
    model, data = gan(gamma=(0.7, 0.7)), batch()
    a = torch.linspace(-1.0, 1.0, math.prod(model.spec.shape))
    model.discriminator = Judge(lambda x: x @ a)  # type: ignore[assignment]
    loss = DiscriminatorLoss(model, seed=5)
    fake = loss.fakes(data).detach().flatten(1) @ a
    expected = F.softplus(fake - data.x0.flatten(1) @ a) + 0.5 * 0.7 * 2.0 * a.square().sum()
    torch.testing.assert_close(loss(data).loss, expected)


def test_the_generators_loss_is_its_formula_and_makes_its_pictures_score_higher() -> None:
    model, data = gan(), batch()
    a = 0.03 * torch.linspace(-1.0, 1.0, math.prod(model.spec.shape))
    model.discriminator = Judge(lambda x: x @ a)  # type: ignore[assignment]
    loss = GeneratorLoss(model, seed=5)
    found, before = loss(data).loss, loss.fakes(data).detach().flatten(1) @ a
    torch.testing.assert_close(found, F.softplus(data.x0.flatten(1) @ a - before))
    found.sum().backward()
    with torch.no_grad():
        for p in model.generator.parameters():
            p -= 1e-3 * p.grad
    assert float((loss.fakes(data).detach().flatten(1) @ a).sum()) > float(before.sum())


def test_a_constant_discriminator_moves_no_generator() -> None:
    model, data = gan(), batch()
    model.discriminator = Judge(lambda x: 0.0 * x.sum(1) + 3.0)  # type: ignore[assignment]
    terms = GeneratorLoss(model, seed=0)(data)
    torch.testing.assert_close(terms.loss, torch.full((len(data),), math.log(2.0)))
    terms.loss.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.generator.parameters())


def test_each_loss_differentiates_its_own_side_alone() -> None:
    model, data = gan(), batch()
    sides = (DiscriminatorLoss(model, seed=0), model.discriminator, model.generator)
    other = (GeneratorLoss(model, seed=0), model.generator, model.discriminator)
    for loss, own, foreign in (sides, other):
        model.zero_grad(set_to_none=True)
        loss(data).loss.sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in own.parameters())
        assert all(p.grad is None and p.requires_grad for p in foreign.parameters())


def test_gamma_falls_by_half_towards_its_end() -> None:
    penalty = Penalty(1.0, 0.2, 100.0)
    found = penalty.at(torch.tensor([0, 100, 200, 10**6]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.6, 0.4, 0.2]))
    with pytest.raises(ValueError, match="half-life"):
        Penalty(1.0, 0.2, 0.0)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_convolution_agrees_with_torchs_in_both_orders(groups: int) -> None:
    with seeded(0):
        ours = Convolution(8, 12, 3, padding=1, groups=groups).double()
        x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    plain = nn.Conv2d(8, 12, 3, padding=1, groups=groups).double()
    plain.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, plain):
        given_x = x.clone().requires_grad_()
        y = layer(given_x).tanh().square().sum(dim=(1, 2, 3))
        (slope,) = torch.autograd.grad(y.sum(), given_x, create_graph=True)
        (slope.square().sum() + y.sum()).backward()
        found.append((y.detach(), slope.detach(), given_x.grad, layer.weight.grad, layer.bias.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


# The trainer.


def pictures(count: int = 40, *, spec: DataSpec | None = None, seed: int = 0) -> ArrayPictures:
    spec = spec_of() if spec is None else spec
    stored = np.random.default_rng(seed).integers(0, 256, (count, *spec.shape), dtype=np.uint8)
    return ArrayPictures(spec, stored, labels=[i % len(spec.classes) for i in range(count)] if spec.classes else None)


def trainer(model: Gan, data: ArrayPictures, *, groups: list[Group] | None = None, **options: object) -> Trainer:
    given_groups = model.groups(seed=3) if groups is None else groups
    return Trainer(model, given_groups, Feed(data, seed=3, batch=8), steps=6, seed=3, **options)


@pytest.mark.parametrize("which", [0, 1])
def test_a_step_of_one_side_leaves_the_other_as_it_was(which: int) -> None:
    model = gan()
    before = copy.deepcopy(model.state_dict())
    own, foreign = ("discriminator", "generator")[:: 1 if which == 0 else -1]
    taken = list(trainer(model, pictures(), groups=[model.groups(seed=3)[which]]).run())
    assert all(step.trouble is None for step in taken)
    now = model.state_dict()
    assert all(torch.equal(now[name], before[name]) for name in now if name.startswith(foreign))
    assert any(not torch.equal(now[name], before[name]) for name in now if name.startswith(own))


def test_the_curve_does_not_depend_on_how_the_batch_is_cut_and_a_resumed_run_is_the_whole_one() -> None:
    def curve(run: Trainer) -> list[float]:
        return [value for step in run.run() for value in step.losses]

    whole_model = gan()
    whole = curve(trainer(whole_model, pictures()))
    assert curve(trainer(gan(), pictures(), micro_batch=3)) == pytest.approx(whole, rel=1e-3)
    model = gan()
    first = trainer(model, pictures())
    for _, step in zip(range(3), first.run(), strict=False):
        assert step.trouble is None
    tensors, facts = first.state()
    second_model = gan(seed=9)
    second_model.load_state_dict(model.state_dict())
    second = trainer(second_model, pictures())
    second.load_state({n: v.clone() for n, v in tensors.items()}, facts, copy.deepcopy(first.ema.averages))
    curve(second)
    for name, value in whole_model.state_dict().items():
        assert torch.equal(value, second_model.state_dict()[name]), name


def test_a_loss_that_is_not_finite_is_named_and_skipped() -> None:
    model = gan()
    with torch.no_grad():
        model.discriminator.pixels.weight[0, 0, 0, 0] = math.nan
    steps = trainer(model, pictures()).run()
    trouble = next(steps).trouble
    steps.close()
    assert trouble is not None
    assert trouble.what == "the loss"
    assert trouble.module.startswith("discriminator.pixels")


# Samples.


def test_samples_belong_to_their_seed_and_class() -> None:
    model = gan().eval()
    labels = torch.tensor([0, 1, 2, 0, 1])
    seeds = [7, 2**40, 3, 7, -1]
    x = model.sample(seeds, labels)
    assert x.shape == (5, *model.spec.shape)
    assert float(x.abs().max()) <= 1.0
    for k in (1, 4):
        torch.testing.assert_close(model.sample(seeds[k : k + 1], labels[k : k + 1])[0], x[k], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x[0], x[3], atol=1e-6, rtol=0.0)
    assert float((model.sample(seeds, (labels + 1) % 3) - x).abs().amax(dim=(1, 2, 3)).min()) > 1e-3
    assert float((model.sample([s ^ 1 for s in seeds], labels) - x).abs().amax(dim=(1, 2, 3)).min()) > 1e-3
    assert model.log_likelihood(torch.zeros(1, *model.spec.shape, dtype=torch.uint8), seeds=[0]) is None


def test_latents_of_training_belong_to_the_samples_number() -> None:
    model, data = gan(), batch(6)
    for loss in (DiscriminatorLoss(model, seed=4), GeneratorLoss(model, seed=4)):
        whole = loss(data).loss
        parts = torch.cat([loss(data.part(slice(i, i + 2))).loss for i in (0, 2, 4)])
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(type(loss)(model, seed=5)(data).loss, whole)
    a, b = (loss(model, seed=4).fakes(data).detach() for loss in (DiscriminatorLoss, GeneratorLoss))
    assert float((a - b).abs().amax(dim=(1, 2, 3)).min()) > 1e-3


# The networks.


@given(
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    patch=st.integers(1, 4),
    classes=st.integers(0, 3),
)
@settings(max_examples=12, deadline=None)
def test_any_size_and_number_of_channels(channels: int, height: int, width: int, patch: int, classes: int) -> None:
    spec = spec_of(channels, (height, width), classes)
    model, data = gan(spec=spec, patch=patch), batch(2, spec=spec)
    labels = data.raw
    assert model.sample([0, 1], labels).shape == data.x0.shape
    scores, slopes = scored(model.discriminator, data.x0, labels)
    assert scores.shape == slopes.shape == (2,)
    assert bool((torch.autograd.grad(slopes.sum(), model.discriminator.pixels.weight)[0]).isfinite().all())


def test_every_pixel_is_made_and_judged() -> None:
    spec = spec_of(2, (13, 22))
    model, data = gan(spec=spec, patch=2), batch(2, spec=spec)
    x = data.x0.requires_grad_()
    (slope,) = torch.autograd.grad(model.discriminator(x, data.raw).sum(), x)
    assert bool((slope != 0.0).all())
    # Before they are clamped.
    made = model.generator(model.latents(torch.arange(40), Stream.START), torch.zeros(40, dtype=torch.int64)).detach()
    assert made.shape[1:] == spec.shape
    assert float(made.std(dim=0).min()) > 0.0


def test_fresh_blocks_are_the_identity_and_nothing_is_normalised() -> None:
    with seeded(0):
        model = Gan(spec=spec_of(size=(32, 32)), proportions=(0.5, 0.25, 0.25))
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    assert blocks
    for block in blocks:
        x = torch.randn(1, block.widen.in_channels, 4, 4)
        assert torch.equal(block(x), x)
    assert not any("Norm" in type(m).__name__ for m in model.modules())


def test_the_grids() -> None:
    assert [halvings((n, n)) for n in (1, 4, 5, 8, 9, 16, 32, 64)] == [0, 0, 1, 1, 2, 2, 3, 4]


def test_it_is_described_in_json_and_found_by_its_name() -> None:
    model = gan()
    again = from_spec(to_spec(model), Gan)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.sample([1], torch.tensor([2])), model.sample([1], torch.tensor([2])))
    assert RIVALS["gan"] is Gan
    assert Gan.likelihood_kind == "none"


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(ValueError, match="pictures \\(H, W\\)"):
        gan(spec=spec_of(1, (16,)))
    with pytest.raises(ValueError, match="at least 1"):
        gan(widths=())
    with pytest.raises(ValueError, match="at least 1"):
        gan(latent=0)


@pytest.mark.parametrize("side", [32, 64])
def test_a_training_step_costs_about_what_the_demos_does(side: int) -> None:
    spec = spec_of(3, (side, side))
    with torch.device("meta"):
        model = Gan(spec=spec, proportions=(0.5, 0.25, 0.25))
        unet = UNet(channels=12, width=48, multipliers=(1, 2, 2), depth=1, attention_levels=(), condition_width=96)
        demo = Patched(backbone=unet, patch=2)
    z, x = (torch.empty(1, *shape, device="meta") for shape in ((model.generator.latent,), spec.shape))
    label = torch.zeros(1, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as of_generator, torch.no_grad():
        model.generator(z, label)
    with FlopCounterMode(display=False) as of_discriminator, torch.no_grad():
        model.discriminator(x, label)
    # Discriminator: pictures made once; on two pictures a pass, its gradient, and both of these differentiated.
    # Generator: a pass and its gradients; the judge's gradient by a picture, and its score of a real one.
    cost = 4 * of_generator.get_total_flops() + (2 * 6 + 2 + 1) * of_discriminator.get_total_flops()
    assert 0.5 < cost / flops(demo, spec.shape, backward=True) < 2.0


# What the recipe claims.


def eight_modes(count: int) -> tuple[ArrayPictures, Tensor]:
    """The eight Gaussians: pictures of one pixel and two channels near one of eight values on a circle, and these."""
    angle = torch.arange(8) * (2.0 * math.pi / 8.0)
    modes = 0.7 * torch.stack([angle.cos(), angle.sin()], 1)
    x = modes[torch.arange(count) % 8] + 0.1 * torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    stored = ((x + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).view(count, 2, 1, 1)
    return ArrayPictures(DataSpec.measure(stored), stored.numpy()), modes


def test_eight_modes_are_all_covered() -> None:
    data, modes = eight_modes(4096)
    with seeded(0):
        model = Gan.for_data(data, latent=2, widths=(32,), expansion=2, gamma=(0.02, 0.005))

    def near() -> Tensor:
        """Of 1000 samples, how many lie within three standard deviations of each mode."""
        distance, nearest = torch.cdist(model.sample(range(1000)).flatten(1), modes).min(dim=1)
        return torch.bincount(nearest[distance < 0.3], minlength=8)

    before = near()
    rate = OptimSettings(rate=1e-2, warmup=10, decay=0.5, beta1=0.0, beta2=0.99, clip=0.0)
    run = Trainer(model, model.groups(seed=0, settings=rate), Feed(data, seed=0, batch=64), steps=150)
    assert all(step.trouble is None for step in run.run())
    model.load_state_dict({**model.state_dict(), **run.ema.averages["ema"]})
    after = near()
    # An eighth of the data lies near each mode.
    assert int(after.min()) > 35, (before.tolist(), after.tolist())
    assert int(after.sum()) > 500, (before.tolist(), after.tolist())
    assert int(before.sum()) < 430
