"""Sheets and frames of a sweep: every picture stands where its labels say, also where a row goes on below."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kakusan.report.sweep import Block, Slider, arranged, for_palette, frames, sheet


def block(rows: int, columns: int, size: int = 8, title: str | None = None) -> Block:
    """Pictures of one gray each: its own number."""
    pictures = [Image.new("L", (size, size), number % 256) for number in range(rows * columns)]
    return Block(
        pictures=pictures,
        columns=[f"c{i}" for i in range(columns)],
        rows=[f"r{i}" for i in range(rows)],
        title=title,
    )


def labelled(part: Block) -> dict[tuple[str, str], int]:
    """The gray of the picture under each pair of labels."""
    found = {}
    for number, picture in enumerate(part.pictures):
        assert isinstance(picture, Image.Image)
        row, column = divmod(number, len(part.columns))
        found[part.rows[row], part.columns[column]] = picture.getpixel((0, 0))
    return found


@given(st.integers(1, 5), st.integers(1, 45), st.integers(1, 50))
def test_wrapping_loses_and_moves_nothing(rows: int, columns: int, most: int) -> None:
    whole = block(rows, columns, title="all")
    parts = list(whole.wrapped(most))
    together: dict[tuple[str, str], int] = {}
    for part in parts:
        assert len(part.columns) <= most
        assert len(part.pictures) == len(part.columns) * rows
        together.update(labelled(part))
    assert together == labelled(whole)
    assert [part.title for part in parts] == ["all"] + [None] * (len(parts) - 1)
    # No part is left with a few columns only.
    assert max(len(p.columns) for p in parts) - min(len(p.columns) for p in parts) <= len(parts)


def test_every_picture_is_on_the_sheet() -> None:
    drawn = np.asarray(sheet([block(2, 41)], heading="forty-one"))
    colours = {tuple(colour) for colour in drawn.reshape(-1, 3)}
    assert all((gray, gray, gray) in colours for gray in range(82))
    assert drawn.shape[1] <= 2400


def test_a_long_row_goes_on_below_and_a_tall_block_stays_whole() -> None:
    _, parts = arranged([block(1, 41)])
    assert [len(part.columns) for part in parts] == [21, 20]
    _, parts = arranged([block(16, 41)])
    assert len(parts) == 1


def test_a_large_sheet_is_drawn_smaller_and_a_larger_one_refused() -> None:
    scale, _ = arranged([block(10, 100, size=32)])
    assert scale == 3
    scale, _ = arranged([block(200, 200, size=32)])
    assert scale in (1, 2)
    with pytest.raises(ValueError, match=r"40000 pictures of 128 x 128 pixels do not fit"):
        arranged([block(200, 200, size=128)])


def test_a_short_sheet_is_wide_enough_for_its_heading() -> None:
    wide = sheet([block(1, 1)], heading="a heading that is much longer than one picture is wide").width
    assert wide > sheet([block(1, 1)]).width


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 40), st.integers(1, 4), st.booleans())
def test_the_size_is_known_before_anything_is_drawn(
    rows: int, columns: int, size: int, scale: int, titled: bool
) -> None:
    one = block(rows, columns, size, "a title" if titled else None)
    drawn = one.draw(scale).size
    assert all(abs(a - b) <= 3 for a, b in zip(one.size(scale), drawn, strict=True))


def test_few_colours_are_kept_and_many_are_rounded() -> None:
    few = [Image.new("RGB", (4, 4), (k, 3, 7)) for k in range(200)]
    assert all(np.array_equal(a, b) for a, b in zip(few, for_palette(few), strict=True))
    values = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    rounded = np.asarray(for_palette([Image.fromarray(values)])[0]).astype(int)
    assert np.abs(rounded - values).max() <= 8
    assert len(np.unique(rounded)) == 32
    assert (rounded[values == 0] == 0).all()
    assert (rounded[values == 255] == 255).all()


class TestFrames:
    def test_one_for_each_value_and_the_slider_moves(self) -> None:
        pictures = [[Image.new("RGB", (8, 8), (10 * k, 0, 0))] for k in range(5)]
        slider = Slider(name="scale", labels=[str(k) for k in range(5)], reference=2)
        shown = frames(pictures, slider, columns=1)
        assert len(shown) == 5
        assert len({frame.size for frame in shown}) == 1
        handle = (47, 93, 140)
        places = [np.argwhere((np.asarray(frame) == handle).all(-1))[:, 1].mean() for frame in shown]
        assert places == sorted(places)
        assert places[-1] - places[0] > 200
        for k, frame in enumerate(shown):
            assert (np.asarray(frame) == (10 * k, 0, 0)).all(-1).any()

    def test_labels_of_columns_and_rows(self) -> None:
        pictures = [[Image.new("L", (8, 8), 9)] * 6] * 2
        slider = Slider(name="scale", labels=["0", "1"])
        named = frames(pictures, slider, columns=3, column_labels=list("abc"), row_labels=["x", "y"])
        assert named[0].height > frames(pictures, slider, columns=3)[0].height

    def test_what_does_not_fit_is_refused(self) -> None:
        one = [Image.new("L", (8, 8))]
        with pytest.raises(ValueError, match="3 values were named for 2 frames"):
            frames([one, one], Slider(name="x", labels=list("abc")), columns=1)
        with pytest.raises(ValueError, match="same number"):
            frames([one, one * 2], Slider(name="x", labels=list("ab")), columns=1)
