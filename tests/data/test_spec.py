"""Laws of the data spec."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.data.fit import Pad
from kakusan.data.spec import DataSpec, picture_mode
from kakusan.specs import from_spec, to_spec


def spec(channels: int = 3, size: tuple[int, int] = (4, 5), bits: int = 8, **changes: object) -> DataSpec:
    given: dict[str, object] = {
        "channels": channels,
        "size": size,
        "bits": bits,
        "mean": (0.0,) * channels,
        "std": (0.5,) * channels,
        "mode": picture_mode(channels, bits),
    }
    return DataSpec(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(8, 0, 255), (8, 0, 16), (8, 16, 235), (16, 0, 65535), (16, 7, 4095)]
)
def test_every_stored_value_comes_back_exactly(bits: int, low: int, high: int) -> None:
    values = torch.arange(low, high + 1, dtype=torch.int32)
    one = spec(1, (1, len(values)), bits, low=float(low), high=float(high))
    stored = values.to(one.dtype).reshape(1, 1, 1, -1)
    x = one.to_model(stored)
    assert x.dtype == torch.float32
    assert float(x.min()) == -1.0
    assert float(x.max()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(one.to_stored(x).to(torch.int32), stored.to(torch.int32))


@given(st.floats(-3, 3, width=32))
def test_stored_is_the_nearest_value_in_range(x: float) -> None:
    found = int(spec(1, (1, 1)).to_stored(torch.tensor([[[[x]]]])))
    exact = (min(1.0, max(-1.0, x)) + 1) * 127.5
    assert abs(found - exact) <= 0.5 + 1e-4


def test_halves_round_to_even() -> None:
    one = spec(1, (1, 4), low=0.0, high=4.0)
    x = torch.tensor([0.5, 1.5, 2.5, 3.5]) / 2 - 1
    assert one.to_stored(x.view(1, 1, 1, 4)).flatten().tolist() == [0, 2, 2, 4]


def test_infinite_values_are_clamped_and_nan_is_refused() -> None:
    x = torch.tensor([math.inf, -math.inf]).view(1, 1, 1, 2)
    assert spec(1, (1, 2)).to_stored(x).flatten().tolist() == [255, 0]
    with pytest.raises(ValueError, match="NaN"):
        spec(1, (1, 2)).to_stored(x * 0)


@pytest.mark.parametrize(
    ("channels", "bits", "mode"), [(1, 8, "L"), (2, 8, "LA"), (3, 8, "RGB"), (4, 8, "RGBA"), (1, 16, "I;16")]
)
def test_pictures_hold_the_stored_values(channels: int, bits: int, mode: str) -> None:
    one = spec(channels, (6, 9), bits)
    assert one.mode == mode
    stored = torch.randint(0, 2**bits, (3, *one.shape), dtype=torch.int32).to(one.dtype)
    images = one.to_pil(one.to_model(stored))
    assert [i.mode for i in images] == [mode] * 3
    back = np.stack([np.asarray(i).reshape(6, 9, channels) for i in images]).transpose(0, 3, 1, 2)
    assert np.array_equal(back, stored.numpy())


def test_a_narrow_range_is_spread_over_the_picture() -> None:
    one = spec(1, (1, 2), low=0.0, high=16.0)
    image = one.to_pil(torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2))[0]
    assert np.asarray(image).tolist() == [[0, 255]]


def test_arrays_with_many_channels_are_shown_side_by_side() -> None:
    one = spec(7, (4, 5))
    assert one.mode == ""
    assert one.to_pil(torch.zeros(1, 7, 4, 5))[0].size == (35, 4)


def test_measured_statistics_are_those_of_the_pictures() -> None:
    stored = np.random.default_rng(0).integers(0, 65536, (300, 2, 5, 7)).astype(np.uint16)
    one = DataSpec.measure(stored, fit=Pad(0.5), flip=True)
    x = stored / 65535 * 2 - 1
    np.testing.assert_allclose(one.mean, x.mean((0, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(one.std, x.std((0, 2, 3)), atol=1e-12)
    assert one.sigma_data == pytest.approx(math.sqrt((x**2).mean()))
    assert one.shape == (2, 5, 7)
    assert one.mode == "LA"
    assert one.bits == 16
    assert one.flip


def test_stored_with_the_model() -> None:
    one = spec(classes=("a", "b"), fit=Pad(0.5), flip=True)
    assert from_spec(to_spec(one), DataSpec) == one


def test_a_batch_outside_the_spec_is_refused() -> None:
    one = spec(1, (2, 2), low=0.0, high=16.0)
    one.check(torch.full((3, 1, 2, 2), 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="0 to 17 leave the range 0 to 16"):
        one.check(torch.tensor([0, 1, 2, 17], dtype=torch.uint8).view(1, 1, 2, 2))
    with pytest.raises(ValueError, match="expected pictures"):
        one.check(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="float32"):
        one.check(torch.zeros(1, 1, 2, 2))


def test_labels_out_of_range_are_refused() -> None:
    one = spec(classes=("a", "b"))
    one.check_labels(torch.tensor([0, 1]))
    for bad in ([0, 2], [-1]):
        with pytest.raises(ValueError, match="2 classes"):
            one.check_labels(torch.tensor(bad))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 12}, "8 or 16"),
        ({"high": 300.0}, "does not fit"),
        ({"low": 255.0}, "low < high"),
        ({"mode": "L"}, "does not hold"),
        ({"mean": (0.0,)}, "mean and std"),
        ({"std": (math.nan,) * 3}, "finite"),
        ({"classes": ("a", "a")}, "same name"),
        ({"size": (0, 4)}, "one pixel"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**changes)  # type: ignore[arg-type]
