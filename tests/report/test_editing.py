"""Pictures of edits: spread and difference are what they say, strips keep their ends."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.report.editing import difference, even, frames, spread, strip


@given(st.integers(1, 300), st.integers(2, 20))
def test_even_places_keep_both_ends(count: int, most: int) -> None:
    places = even(count, most)
    assert len(places) == min(count, most)
    assert places == sorted(set(places))
    assert (places[0], places[-1]) == (0, count - 1)


def test_the_spread_is_the_standard_deviation_over_samples() -> None:
    x = torch.zeros(2, 3, 2, 2)
    x[0, :, 0, 0], x[1, :, 0, 0] = 0.5, -0.5
    picture, white = spread(x)
    assert abs(white - 0.5 * 2**0.5) < 1e-9
    assert picture.tolist() == [[255, 0], [0, 0]]
    for equal in (torch.ones(4, 1, 2, 2), torch.ones(1, 1, 2, 2)):
        assert spread(equal)[0].max() == 0


def test_the_difference_is_the_mean_over_channels() -> None:
    a, b = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    b[0, 1, 1], b[:, 0, 0] = 0.6, 0.4
    picture, white = difference(a, b)
    assert abs(white - 0.4) < 1e-7
    assert picture.tolist() == [[255, 0], [0, round(255 * 0.5)]]


def test_strips_and_frames_have_one_cell_for_each_picture() -> None:
    rows = [[np.full((4, 4), 10 * k, np.uint8) for k in range(15)] for _ in range(2)]
    labels = [f"place {k}" for k in range(15)]
    sheet = strip(rows, labels, ["a", "b"])
    assert sheet.width > sheet.height
    shown = frames(rows, labels)
    assert len(shown) == 15
    assert len({frame.size for frame in shown}) == 1
