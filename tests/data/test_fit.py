"""Laws of bringing pictures to a size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.fit import FITS, CenterCrop, Fit, Pad, Stretch, resize
from kakusan.specs import from_spec, to_spec

SIDES = st.integers(1, 40)


def ramp(h: int, w: int, channels: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (h, w, channels), dtype, endpoint=True)


@given(h=SIDES, w=SIDES, out_h=SIDES, out_w=SIDES, channels=st.integers(1, 5), wide=st.booleans())
@settings(deadline=None)
def test_every_rule_gives_the_size_and_keeps_a_flat_picture_flat(
    h: int, w: int, out_h: int, out_w: int, channels: int, wide: bool
) -> None:
    dtype = np.uint16 if wide else np.uint8
    flat = np.full((h, w, channels), np.iinfo(dtype).max // 3, dtype)
    for fit in (CenterCrop(), Stretch()):
        result = fit.apply(flat, (out_h, out_w))
        assert result.dtype == dtype
        assert result.shape == (out_h, out_w, channels)
        assert (result == flat[0, 0, 0]).all()
    padded = Pad(1.0).apply(flat, (out_h, out_w))
    assert padded.shape == (out_h, out_w, channels)
    assert set(np.unique(padded)) <= {flat[0, 0, 0], np.iinfo(dtype).max}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("alpha", [False, True])
def test_a_picture_of_the_size_is_left_alone(fit: Fit, alpha: bool) -> None:
    picture = ramp(9, 12, 4, np.uint16)
    assert np.array_equal(fit.apply(picture, (9, 12), alpha=alpha), picture)


@given(h=st.integers(8, 30), extra=st.integers(0, 20))
def test_a_cut_without_scaling_moves_no_pixel(h: int, extra: int) -> None:
    picture = ramp(h, h + extra, 3, np.uint8)
    assert np.array_equal(CenterCrop().apply(picture, (h, h)), picture[:, extra // 2 : extra // 2 + h])


def test_crop_takes_the_middle_and_pad_keeps_all() -> None:
    picture = np.zeros((20, 60, 1), np.uint8)
    picture[:, :20] = 100
    picture[:, 40:] = 200
    # The antialiasing filter reaches over the cut, so the outermost columns may see their neighbours.
    assert (CenterCrop().apply(picture, (10, 10))[:, 3:-3] == 0).all()
    padded = Pad(1.0).apply(picture, (30, 30))[:, :, 0]
    assert (padded[:10] == 255).all()
    assert (padded[20:] == 255).all()
    assert abs(int(padded[15, 3]) - 100) <= 1
    assert abs(int(padded[15, 27]) - 200) <= 1


def test_16_bits_agree_with_8_bits_on_the_same_picture() -> None:
    small = ramp(33, 47, 3, np.uint8)
    wide = resize(small.astype(np.uint16) * 257, (20, 16))
    # The 8-bit path rounds and clips between its two passes.
    assert np.abs(wide / 257 - resize(small, (20, 16))).max() < 2.5


def test_16_bits_keep_more_than_8() -> None:
    gradient = np.linspace(1000, 1200, 64).astype(np.uint16)[None, :, None].repeat(8, 0)
    assert len(np.unique(resize(gradient, (8, 32)))) == 32


def test_clear_pixels_do_not_bleed_their_hidden_colour() -> None:
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[:, :8] = (255, 0, 0, 255)
    picture[:, 8:] = (0, 255, 0, 0)
    result = Stretch().apply(picture, (5, 5), alpha=True)
    seen = result[result[:, :, 3] > 0]
    assert (seen[:, 0] >= 254).all()
    assert (seen[:, 1] == 0).all()
    assert Stretch().apply(picture, (5, 5))[:, 2, 1].max() > 50  # what would happen without


def test_the_border_is_clear_where_there_is_opacity() -> None:
    picture = np.full((4, 8, 4), 255, np.uint8)
    assert (Pad(1.0).apply(picture, (8, 8), alpha=True)[0, 0] == (255, 255, 255, 0)).all()


@pytest.mark.parametrize("fit", [CenterCrop(), Pad(0.25), Stretch()])
def test_rules_are_stored_with_the_model(fit: Fit) -> None:
    assert from_spec(to_spec(fit), Fit) == fit  # type: ignore[type-abstract]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8 or uint16"):
        CenterCrop().apply(np.zeros((4, 4, 3), np.float32), (2, 2))
    with pytest.raises(ValueError, match="height, width"):
        Stretch().apply(np.zeros((4, 4, 3), np.uint8), (0, 2))
    with pytest.raises(ValueError, match="brightness"):
        Pad(255)
