"""Sheets of texts: every text stands above its pictures, whatever is written in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.report import style
from kakusan.report.prompts import prompt_sheet, wrapped


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), value, np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.integers(40, 500), st.integers(1, 5))
def test_lines_fit_and_nothing_is_lost_but_what_is_cut(text: str, width: int, most: int) -> None:
    lines = wrapped(text, 15, width, most=most)
    assert 1 <= len(lines) <= most
    assert all(style.text_width(line, 15) <= width or len(line) == 1 for line in lines)
    if not any(line.endswith("…") for line in lines) and "…" not in text:
        assert "".join("".join(lines).split()) == "".join(text.split())


def test_lines_break_at_spaces_and_between_japanese_characters() -> None:
    english = wrapped("a red flower with five round petals", 15, 120, most=6)
    assert " ".join(english) == "a red flower with five round petals"
    assert len(english) > 1
    japanese = wrapped("五枚の丸い花びらをもつ赤い花、背景は空、葉は二枚", 15, 120, most=6)
    assert "".join(japanese) == "五枚の丸い花びらをもつ赤い花、背景は空、葉は二枚"
    assert not any(line.startswith("、") for line in japanese)


def test_a_long_text_is_fast_and_cut() -> None:
    lines = wrapped("花 flower " * 2000, 15, 300, most=3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")


def test_pictures_stand_below_their_text() -> None:
    sheet = prompt_sheet([("dark", [picture(10)] * 3), ("", [picture(200)])], columns=2)
    values = np.asarray(sheet)
    dark, light = ((values == value).all(2).any(1).nonzero()[0] for value in (10, 200))
    assert dark.max() < light.min()
    # Two in the first row of the first text, one in its second.
    assert (values == 10).all(2).sum() == 3 * 96 * 96
    assert (values == 200).all(2).sum() == 96 * 96


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to show"):
        prompt_sheet([("a", [])])
