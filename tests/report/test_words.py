"""Maps per word: sums over tokens, one scale for a picture, smooth panels that read on any picture, sheets, frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.encoders.base import Word
from kakusan.report import style, words
from kakusan.report.animation import save_gif
from kakusan.report.words import legend, overlay, word_frames, word_maps, word_sheet

RED_FLOWER = [Word("red", (1,)), Word("flower", (2, 3))]


def token_maps(size=(8, 8), seed=0):
    return torch.rand(6, *size, generator=torch.Generator().manual_seed(seed)) / 6


def picture(size=(8, 8), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, *size), dtype=np.uint8)


def brightness(image):
    return np.asarray(image.convert("L"), float)


def test_a_word_has_the_sum_of_its_tokens_and_one_scale_serves_all():
    tokens = token_maps()
    found = word_maps(tokens, RED_FLOWER)
    assert found.words == ("red", "flower")
    np.testing.assert_allclose(found.values[0], tokens[1])
    np.testing.assert_allclose(found.values[1], tokens[2] + tokens[3])
    assert found.top == found.values.max()


def test_signs_are_left_out_and_emoji_are_not():
    given = [Word("red", (1,)), Word(",", (2,)), Word("、", (0,)), Word("🌹", (3,)), Word("five-petalled", (4,))]
    assert word_maps(token_maps(), given).words == ("red", "🌹", "five-petalled")
    assert word_maps(token_maps(), given[1:3]).words == (",", "、")


@pytest.mark.parametrize(
    ("tokens", "given", "match"),
    [
        (torch.zeros(2, 6, 8, 8), RED_FLOWER, r"\(L, H, W\)"),
        (torch.full((6, 8, 8), torch.nan), RED_FLOWER, "finite"),
        (token_maps(), [], "empty"),
        (token_maps(), [Word("red", (6,))], "'red' has tokens"),
        (token_maps(), [Word("red", ())], "'red' has tokens"),
    ],
)
def test_what_is_no_map_of_words_is_refused(tokens, given, match):
    with pytest.raises(ValueError, match=match):
        word_maps(tokens, given)


@pytest.mark.parametrize("seed", range(3))
def test_more_attention_is_brighter_on_any_picture(seed):
    """On black, white and noise; the brightest is beyond what any picture without attention reaches."""
    for pixels in (np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 255, np.uint8), picture(seed=seed)):
        levels = [brightness(overlay(pixels, np.full((8, 8), v, np.float32), 0.2)) for v in (0.0, 0.1, 0.2, 0.4)]
        # Noise itself is light and dark, so on the whole.
        assert levels[0].mean() + 15 < levels[1].mean() < levels[2].mean() - 15
        assert np.array_equal(levels[2], levels[3])
        assert levels[0].max() < levels[2].min()


def test_an_overlay_without_attention_is_the_gray_picture():
    image = overlay(picture(), np.zeros((8, 8), np.float32), 1.0, scale=2)
    assert image.size == (16, 16)
    pixels = np.asarray(image, int)
    assert np.abs(pixels.max(2) - pixels.min(2)).max() == 0
    expected = np.asarray(Image.fromarray(picture().transpose(1, 2, 0)).convert("L"), int).repeat(2, 0).repeat(2, 1)
    assert np.corrcoef(expected.ravel(), pixels[..., 0].ravel())[0, 1] > 0.999


def test_attention_stands_where_it_was_and_has_no_steps():
    values = np.zeros((8, 8), np.float32)
    values[5:7, 1:3] = 1.0
    flat = np.full((3, 8, 8), 128, np.uint8)
    bright = brightness(overlay(flat, values, 1.0, scale=20))
    y, x = np.unravel_index(bright.argmax(), bright.shape)
    assert (100 <= y < 140) & (20 <= x < 60)
    assert bright[:60].max() == bright[:60].min() == bright[:, 100:].max()
    # Each pixel of the map is 20 wide: nothing jumps as squares would.
    assert np.abs(np.diff(bright, axis=1)).max() < 0.3 * (bright.max() - bright.min())


@pytest.mark.parametrize("top", [0.0, -1.0, np.nan])
def test_a_scale_without_an_end_is_refused(top):
    with pytest.raises(ValueError, match="positive top"):
        overlay(picture(), np.zeros((8, 8), np.float32), top)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3),
    count=st.integers(1, 20),
    text=st.text(max_size=30),
    gray=st.booleans(),
)
def test_any_pictures_and_words_make_a_sheet(sizes, count, text, gray):
    pictures = [picture(size)[0] if gray else picture(size) for size in sizes]
    given = [Word(text, (k % 6,)) for k in range(count)]
    maps = [word_maps(token_maps(size), given) for size in sizes]
    sheet = word_sheet(pictures, maps, texts=[text] * len(sizes), title=text)
    assert sheet.mode == "RGB"
    alone = word_sheet(pictures[:1], maps[:1])
    assert sheet.height > alone.height
    assert sheet.width >= alone.width


def test_no_attention_at_all_still_makes_a_sheet():
    dark = word_sheet([picture()], [word_maps(torch.zeros(6, 8, 8), RED_FLOWER)])
    assert dark.height == word_sheet([picture()], [word_maps(token_maps(), RED_FLOWER)]).height


def test_panels_share_the_scale_of_their_picture_only():
    weak, strong = word_maps(0.1 * token_maps(), RED_FLOWER), word_maps(token_maps(), RED_FLOWER)
    sheets = [np.asarray(word_sheet([picture()], [maps])) for maps in (weak, strong)]
    # The same colours up to rounding (another end is written at the scale) ...
    assert np.abs(sheets[0][:, :300].astype(int) - sheets[1][:, :300].astype(int)).max() <= 2
    # ... unless an end is given.
    fixed = np.asarray(word_sheet([picture()], [weak], tops=[strong.top]))
    assert fixed[60:180, 200:300].mean() < sheets[1][60:180, 200:300].mean() - 15


def test_words_without_a_font_are_numbered_and_listed(monkeypatch):
    maps = word_maps(token_maps(), [Word("red", (0,)), Word("赤い", (1,)), Word("花", (2,))])
    monkeypatch.setattr(style, "japanese_font", lambda: None)
    assert legend(maps) == ["2 赤い", "3 花"]
    assert words._label("赤い", 2, 200) == "2 赤い"
    assert words._label("red", 1, 200) == "red"
    assert words._label("□", 1, 200) == "□"


def test_wrong_counts_are_refused():
    maps = word_maps(token_maps(), RED_FLOWER)
    for wrong in ({"maps": [maps, maps]}, {"texts": ["a", "b"]}, {"tops": []}):
        with pytest.raises(ValueError, match="one for each"):
            word_sheet(**{"pictures": [picture()], "maps": [maps], **wrong})
    with pytest.raises(ValueError, match="one for each"):
        word_frames([picture()], [maps], labels=[])


def test_frames_are_of_one_size_and_scale(tmp_path):
    steps = [word_maps(share * token_maps(), RED_FLOWER) for share in (0.2, 0.5, 1.0)]
    frames = word_frames([picture(seed=k) for k in range(3)], steps, labels=["t = 1.0", "t = 0.5", "t = 0"])
    assert len({frame.size for frame in frames}) == 1
    heat = [np.asarray(frame)[60:200, 210:340].astype(int) for frame in frames]
    assert heat[0].mean() < heat[1].mean() < heat[2].mean()
    save_gif(frames, tmp_path / "words.gif", 2.0)
    assert (tmp_path / "words.gif").stat().st_size > 1000
