"""The sheet of restored pictures: heat that can be read, and everything in its place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kakusan.report.restoration import heat, restoration_sheet, round_top


def plain(colour, side=8):
    return Image.new("RGB", (side, side), colour)


def luminance(image):
    return np.asarray(image.convert("L"), np.float64)


@given(st.floats(1e-6, 1e6))
def test_the_scale_ends_at_a_round_number_that_holds_the_most(most):
    top = round_top(most)
    assert most <= top * (1 + 1e-6)
    assert top <= 2.6 * most
    assert float(f"{top:.0e}") == pytest.approx(top)


def test_nothing_at_all_still_has_a_scale():
    assert round_top(0.0) > 0.0


@given(st.floats(0.1, 10.0))
def test_heat_grows_darker_and_depends_on_shares_of_the_top_alone(top):
    ramp = np.linspace(0.0, top, 64)[None, :]
    shades = luminance(heat(ramp, top))[0]
    assert (np.diff(shades) <= 0).all()
    assert shades[0] - shades[-1] > 150
    np.testing.assert_array_equal(np.asarray(heat(ramp, top)), np.asarray(heat(ramp / top, 1.0)))
    np.testing.assert_array_equal(np.asarray(heat(ramp * 0 + 2 * top, top)), np.asarray(heat(ramp * 0 + top, top)))


@pytest.mark.parametrize("values", [np.zeros((2, 2, 2)), np.full((2, 2), np.nan)])
def test_what_is_no_map_is_refused(values):
    with pytest.raises(ValueError, match="heat shows"):
        heat(values, 1.0)


@pytest.mark.parametrize("count", [2, 4, 5, 11])
def test_every_picture_is_on_the_sheet_as_often_as_it_should_be(count):
    spread = np.full((8, 8), 0.2)
    samples = [plain((250 - 20 * k, 10 * k, 200)) for k in range(count)]
    sheet = restoration_sheet(
        [("given", plain((1, 2, 3), 4)), ("mean", plain((7, 8, 9)))], samples, spread=spread, scale=3
    )
    pixels = np.asarray(sheet).reshape(-1, 3)
    for colour in ((1, 2, 3), (7, 8, 9), *[(250 - 20 * k, 10 * k, 200) for k in range(count)]):
        # The small picture stands in squares of its own pixels, as large as the others.
        assert (pixels == colour).all(1).sum() == 24 * 24
    # The cell of the spread, and the dark end of its scale.
    assert (pixels == np.asarray(heat(spread, 0.2))[0, 0]).all(1).sum() >= 24 * 24


def test_one_result_makes_one_row():
    two = restoration_sheet([("given", plain("red")), ("restored", plain("blue"))], [], scale=3)
    more = restoration_sheet([("given", plain("red")), ("mean", plain("blue"))], [plain("green")] * 2, scale=3)
    assert two.height < more.height
