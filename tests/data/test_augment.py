"""Augmentation: lossless where it can be, near the true picture elsewhere, keyed by the sample, told to the network."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from kakusan.building import build_model
from kakusan.conditioning import Condition
from kakusan.config import ModelSettings
from kakusan.data.augment import LABELS, Augmentation, Transformations, transform
from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.nn import FourierFeatures, Patched, UNet
from kakusan.nn.embeddings import Embedding
from kakusan.train.feed import Feed

SIDE = 32


def noise(count: int = 2, height: int = 12, width: int = 12, seed: int = 0) -> Tensor:
    """Pictures in which every pixel is its own."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def waves(period: float, direction: float = 0.0, phase: float = 0.3, side: int = SIDE) -> Tensor:
    """(1, 1, side, side) float64: one plane wave, seen from the middle of the picture."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) - (side - 1) / 2] * 2, indexing="ij")
    along = math.cos(direction) * x + math.sin(direction) * y
    return (2 * math.pi * along / period + phase).cos()[None, None]


def pictures(flip: bool = False, augment: float = 0.25, count: int = 40) -> ArrayPictures:
    stored = np.random.default_rng(1).integers(0, 256, (count, 3, 10, 10)).astype(np.uint8)
    return ArrayPictures(dataclasses.replace(DataSpec.measure(stored, flip=flip), augment=augment), stored)


class TestLossless:
    def test_probability_zero_is_the_identity(self) -> None:
        x = noise(8)
        same, label = Augmentation(0.0)(x, 5, torch.arange(8))
        assert torch.equal(same, x)
        assert label.shape == (8, len(LABELS))
        assert not label.any()

    @pytest.mark.parametrize("size", [(12, 12), (12, 9), (1, 5), (1, 1)])
    def test_mirrors_are_flips(self, size: tuple[int, int]) -> None:
        x = noise(2, *size)
        assert torch.equal(transform(x, Transformations.of(2, mirror_x=1.0)), x.flip(3))
        assert torch.equal(transform(x, Transformations.of(2, mirror_y=1.0)), x.flip(2))

    @pytest.mark.parametrize("turns", [-3, -1, 0, 1, 2, 5])
    @pytest.mark.parametrize("size", [(12, 12), (7, 7)])
    def test_quarter_turns_are_exact(self, turns: int, size: tuple[int, int]) -> None:
        x = noise(2, *size)
        turned = transform(x, Transformations.of(2, rotation=turns * math.pi / 2))
        # From right towards down, which numpy and torch count the other way.
        assert torch.equal(turned, x.rot90(-turns, (2, 3)))

    @pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-4, 5), (30, -41)])
    def test_whole_shifts_are_exact_and_mirror_at_the_edge(self, right: int, down: int) -> None:
        x = noise(2, 12, 9)
        moved = transform(x, Transformations.of(2, right=right, down=down))
        padded = np.pad(x.numpy(), [(0, 0), (0, 0), (50, 50), (50, 50)], mode="reflect")
        rows, columns = slice(50 - down, 62 - down), slice(50 - right, 59 - right)
        np.testing.assert_array_equal(moved.numpy(), padded[:, :, rows, columns])

    def test_they_compose_in_the_stated_order(self) -> None:
        x = noise(1)
        done = Transformations.of(1, mirror_x=1.0, rotation=math.pi / 2, right=2.0)
        turned = x.flip(3).rot90(-1, (2, 3))
        assert torch.equal(transform(x, done)[..., 2:], turned[..., :-2])

    def test_a_half_size_is_not_copied_pixel_by_pixel(self) -> None:
        # Its map has whole numbers only, but dropping every second pixel is no way to shrink.
        x = waves(2.2, side=33)
        small = transform(x, Transformations.of(1, scale=math.log(0.5)))
        assert small[..., 10:23, 10:23].abs().max() < 0.06


class TestResampling:
    @pytest.mark.parametrize(
        "given",
        [
            {"rotation": 0.7},
            {"right": 1.3, "down": -0.4},
            {"scale": 0.15, "rotation": -2.0},
            {"stretch": 0.2, "direction": 0.6},
            {"mirror_x": 1.0, "scale": -0.1, "rotation": 0.4, "stretch": -0.15, "direction": 1.1, "right": 2.6},
        ],
    )
    @pytest.mark.parametrize("direction", [0.0, 1.0])
    def test_a_wave_goes_where_the_closed_form_says(self, given: dict[str, float], direction: float) -> None:
        """Error of a plane wave falls with the square of its frequency: the linear reading between fine samples."""
        done = Transformations.of(1, **given)
        matrix, offset = (part[0] for part in done.source())
        middle = (SIDE - 1) / 2
        y, x = torch.meshgrid(*[torch.arange(SIDE, dtype=torch.float64) - middle] * 2, indexing="ij")
        place = torch.stack([x, y], -1) @ matrix.T - offset
        # Where a reach of four pixels stays inside the picture.
        inside = (place.abs().amax(-1) < middle - 4)[None, None]
        inside &= torch.nn.functional.pad(inside[..., 4:-4, 4:-4], [4] * 4)
        errors = []
        for period in (8.0, 16.0):
            along = math.cos(direction) * place[..., 0] + math.sin(direction) * place[..., 1]
            expected = (2 * math.pi * along / period + 0.3).cos()[None, None]
            got = transform(waves(period, direction), done)
            errors.append(float((got - expected)[inside].square().mean().sqrt()))
        assert errors[0] < 0.04
        assert errors[1] < 0.3 * errors[0]

    def test_it_agrees_with_scipy_up_to_the_edge(self) -> None:
        """Against a spline of high order with the same mirrored edges, on a smooth picture."""
        generator = np.random.default_rng(3)
        picture = scipy.ndimage.gaussian_filter(generator.normal(size=(24, 30)), 3.0, mode="mirror")
        picture /= picture.std()
        done = Transformations.of(1, rotation=0.5, scale=0.1, stretch=0.1, direction=0.3, right=1.4, down=-2.2)
        matrix, offset = (part[0].numpy() for part in done.source())
        # scipy counts (row, column) from the first pixel; it takes the place `matrix @ place + offset`.
        middle, swapped = np.array([11.5, 14.5]), matrix[::-1, ::-1]
        expected = scipy.ndimage.affine_transform(
            picture, swapped, middle - swapped @ middle - offset[::-1], order=5, mode="mirror"
        )
        got = transform(torch.from_numpy(picture)[None, None], done)[0, 0].numpy()
        assert np.abs(got - expected).max() < 0.05
        assert np.sqrt(np.mean((got - expected) ** 2)) < 0.01

    def test_constants_stay_and_the_mean_too(self) -> None:
        x = torch.full((4, 2, 9, 14), 0.37)
        changed, _ = Augmentation(1.0)(x, 0, torch.arange(4))
        torch.testing.assert_close(changed, x, rtol=0, atol=1e-6)

    def test_what_a_shrunk_picture_cannot_show_is_removed(self) -> None:
        # 0.4 cycles per pixel become 0.67, which plain interpolation would show as 0.33.
        x = waves(2.5)
        small = transform(x, Transformations.of(1, scale=math.log(0.6)))
        plain = scipy.ndimage.zoom(x[0, 0].numpy(), 0.6, order=3)
        assert np.sqrt(np.mean(plain[5:-5, 5:-5] ** 2)) > 0.4
        # The filter leaves 0.07 of this wave; its images by the linear reading come to as much again.
        assert small[..., 12:20, 12:20].square().mean().sqrt() < 0.15 * math.sqrt(0.5)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_is_kept_and_both_agree(self, dtype: torch.dtype) -> None:
        x = noise(6)
        changed, label = Augmentation(0.9)(x.to(dtype), 1, torch.arange(6))
        assert changed.dtype == dtype
        assert label.dtype == torch.float32
        wide, _ = Augmentation(0.9)(x.double(), 1, torch.arange(6))
        torch.testing.assert_close(changed.double(), wide, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 40)])
    def test_pictures_of_any_size(self, size: tuple[int, int]) -> None:
        x = noise(16, *size)
        changed, label = Augmentation(0.7)(x, 2, torch.arange(16))
        assert changed.shape == x.shape
        assert changed.isfinite().all()
        assert label.isfinite().all()
        assert changed.abs().max() < 2.0 * x.abs().max()

    @pytest.mark.parametrize("shape", [(2, 3, 8), (2, 1, 4, 4, 4), (3, 8, 8)])
    def test_other_ranks_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="augmentation turns and moves pictures"):
            Augmentation(0.1)(torch.zeros(shape), 0, torch.arange(shape[0]))


class TestDraws:
    def test_alone_as_in_any_batch(self) -> None:
        x, numbers, pipeline = noise(12), torch.arange(100, 112), Augmentation(0.5)
        together, labels = pipeline(x, 7, numbers)
        assert not torch.equal(together, x)
        for i in range(12):
            alone, label = pipeline(x[i : i + 1], 7, numbers[i : i + 1])
            assert torch.equal(alone[0], together[i])
            assert torch.equal(label[0], labels[i])
        order = torch.tensor([5, 3, 11])
        assert torch.equal(pipeline(x[order], 7, numbers[order])[0], together[order])
        assert not torch.equal(pipeline(x, 8, numbers)[1], labels)

    def test_frequencies_and_sizes_are_those_asked_for(self) -> None:
        count, p = 40_000, 0.12
        done, label = Augmentation(p).draw(0, torch.arange(count), (32, 64))
        five_sigma = 5 * math.sqrt(p * (1 - p) / count)
        for name, share in [("mirror_x", p / 2), ("mirror_y", p / 2), ("scale", p), ("rotation", p), ("stretch", p)]:
            assert float((getattr(done, name) != 0).double().mean()) == pytest.approx(share, abs=five_sigma)
        # A chosen shift may round to none, but hardly ever on both axes.
        moved = (done.right != 0) | (done.down != 0)
        assert float(moved.double().mean()) == pytest.approx(p, abs=five_sigma)
        chosen = label[:, 2][label[:, 2] != 0]
        assert float(chosen.std()) == pytest.approx(1.0, abs=5 / math.sqrt(2 * len(chosen)))
        assert torch.allclose(done.scale, 0.2 * math.log(2) * label[:, 2])
        assert torch.allclose(label[:, 5:7].norm(dim=1) * 0.2 * math.log(2), done.stretch.abs())
        assert torch.allclose(label[:, 7] * 0.125 * 64, done.right)
        assert torch.allclose(label[:, 8] * 0.125 * 32, done.down)
        assert float(done.right[moved].std()) == pytest.approx(8.0, rel=0.1)
        whole = (done.right == done.right.round()) & (done.down == done.down.round())
        assert float(whole[moved].double().mean()) == pytest.approx(0.5, abs=0.05)
        # Each on its own: together as often as the product says.
        both = (done.scale != 0) & (done.rotation != 0)
        assert float(both.double().mean()) == pytest.approx(p * p, abs=5 * p / math.sqrt(count))

    def test_the_label_tells_all(self) -> None:
        """Two draws with one label would be one picture: the map can be found again from the label."""
        done, label = Augmentation(0.6).draw(3, torch.arange(500), (20, 20))
        angle = torch.atan2(label[:, 4], label[:, 3] + 1.0)
        stretch = label[:, 5:7].norm(dim=1)
        again = Transformations(
            label[:, 0],
            label[:, 1],
            label[:, 2] * 0.2 * math.log(2),
            angle,
            stretch * 0.2 * math.log(2),
            torch.atan2(label[:, 6], label[:, 5]) / 2,
            label[:, 7] * 2.5,
            label[:, 8] * 2.5,
        )
        for mine, theirs in zip(again.source(), done.source(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)

    def test_bad_settings(self) -> None:
        for arguments in ({"probability": 1.2}, {"probability": 0.1, "whole": -0.5}, {"probability": 0.1, "scale": -1}):
            with pytest.raises(ValueError, match="got"):
                Augmentation(**arguments)


class TestFeed:
    def test_batches_are_pictures_that_could_be_stored(self) -> None:
        data = pictures()
        batch = Feed(data, seed=3, batch=16).batch(32)
        assert batch.augment is not None
        assert batch.augment.shape == (16, len(LABELS))
        assert batch.augment.any()
        assert torch.equal(data.spec.to_model(data.spec.to_stored(batch.x0)), batch.x0)
        part = batch.part(slice(4, 9))
        assert part.augment is not None
        assert torch.equal(part.augment, batch.augment[4:9])
        plain = Feed(pictures(augment=0.0), seed=3, batch=16).batch(32)
        assert plain.augment is None
        untouched = ~batch.augment.any(1)
        assert untouched.any()
        assert torch.equal(batch.x0[untouched], plain.x0[untouched])
        assert not torch.equal(batch.x0, plain.x0)

    def test_a_sample_is_changed_alike_wherever_its_batch_begins(self) -> None:
        feed = Feed(pictures(flip=True), seed=3, batch=8)
        whole, later = feed.batch(0, 16), feed.batch(5, 4)
        assert torch.equal(whole.x0[5:9], later.x0)

    def test_the_spec_refuses_what_it_cannot_do(self) -> None:
        spec = pictures().spec
        with pytest.raises(ValueError, match="probability"):
            dataclasses.replace(spec, augment=1.5)
        with pytest.raises(ValueError, match="leave augment at 0"):
            dataclasses.replace(spec, size=(8,), augment=0.1)


class TestConditioning:
    def test_a_zero_label_changes_nothing_and_another_does(self) -> None:
        torch.manual_seed(0)
        embedding = Embedding(width=16, feature_width=8, augment_width=9)
        assert embedding.augment is not None
        c_noise, label = torch.randn(4), torch.randn(4, 9)
        torch.nn.init.normal_(embedding.augment)
        plain = embedding(c_noise, None)
        assert torch.equal(embedding(c_noise, None, torch.zeros(4, 9)), plain)
        changed = (embedding(c_noise, None, label) - plain).abs().amax(1)
        assert (changed > 1e-3).all()

    def test_the_rest_of_the_network_starts_as_without(self) -> None:
        def network(width: int) -> UNet:
            torch.manual_seed(0)
            return UNet(channels=1, width=8, multipliers=(1, 1), depth=1, augment_width=width)

        plain, told = network(0).state_dict(), network(9).state_dict()
        assert told.keys() - plain.keys() == {"embedding.augment"}
        assert all(torch.equal(value, told[name]) for name, value in plain.items())

    @pytest.mark.parametrize("wrapped", ["plain", "patched", "fourier"])
    @pytest.mark.parametrize("condition_width", [0, 5])
    def test_the_network_is_told(self, wrapped: str, condition_width: int) -> None:
        torch.manual_seed(0)
        channels = {"plain": 1, "patched": 4, "fourier": 3}[wrapped]
        inner = UNet(
            channels=channels,
            out_channels={"fourier": 1}.get(wrapped, channels),
            width=8,
            multipliers=(1,),
            depth=1,
            middle_attention=False,
            condition_width=condition_width,
            augment_width=9,
        )
        for value in inner.parameters():
            torch.nn.init.normal_(value, std=0.2)
        network = {
            "plain": lambda: inner,
            "patched": lambda: Patched(backbone=inner, patch=2),
            "fourier": lambda: FourierFeatures(backbone=inner, frequencies=(3.0,)),
        }[wrapped]()
        x, c_noise = torch.randn(3, 1, 8, 8), torch.randn(3)
        vector = torch.randn(3, condition_width) if condition_width else None
        plain = network(x, c_noise, Condition(vector=vector))
        assert torch.equal(network(x, c_noise, Condition(vector=vector, augment=torch.zeros(3, 9))), plain)
        told = network(x, c_noise, Condition(vector=vector, augment=torch.eye(9)[:3]))
        assert ((told - plain).abs().flatten(1).amax(1) > 1e-4).all()

    def test_a_label_is_never_ignored(self) -> None:
        network = UNet(channels=1, width=8, multipliers=(1,), depth=1)
        with pytest.raises(ValueError, match="augment_width=9"):
            network(torch.zeros(2, 1, 8, 8), torch.zeros(2), Condition(augment=torch.zeros(2, 9)))

    def test_models_of_augmented_data_take_the_label(self) -> None:
        settings = ModelSettings(width=8, depth=1, multipliers=(1,), patch=2)
        for augment, width in ((0.0, 0), (0.12, 9)):
            model = build_model(settings, pictures(augment=augment).spec)
            assert isinstance(model.denoiser.backbone, Patched)
            assert model.denoiser.backbone.backbone.augment_width == width

    def test_conditions_carry_it(self) -> None:
        cond = Condition(vector=torch.ones(1, 2), augment=torch.ones(1, 9))
        assert len(cond.tensors()) == 2
        doubled = cond.cat(cond).map(lambda v: 2 * v)
        assert doubled.augment is not None
        assert doubled.augment.shape == (2, 9)
        assert float(doubled.augment.mean()) == 2.0
        with pytest.raises(ValueError, match="different kinds"):
            cond.cat(Condition(vector=torch.ones(1, 2)))
