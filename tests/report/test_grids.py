import os

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.report import style
from kakusan.report.grids import grid, grid_layout, tile
from kakusan.report.pictures import auto_scale, checkerboard, from_array, show, to_gray8

LABELS = st.text(max_size=30)


def pixels(image):
    return np.asarray(image)


def colours(image):
    return {colour for _, colour in image.getcolors(1 << 24)}


def random_images(count, width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(v) for v in values]


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 9),
    columns=st.integers(1, 5),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
    scale=st.none() | st.integers(1, 4),
    title=st.none() | LABELS,
    data=st.data(),
)
def test_every_source_pixel_is_an_exact_square_at_its_place(count, columns, width, height, scale, title, data):
    images = random_images(count, width, height)
    used = min(columns, count)
    rows = -(-count // used)
    row_labels = data.draw(st.none() | st.lists(LABELS, min_size=rows, max_size=rows))
    column_labels = data.draw(st.none() | st.lists(LABELS, min_size=columns, max_size=columns))
    options = {
        "columns": columns,
        "row_labels": row_labels,
        "column_labels": column_labels,
        "title": title,
        "scale": scale,
    }
    if column_labels is not None:
        used, rows = columns, -(-count // columns)
        options["row_labels"] = row_labels and [*row_labels, *row_labels][:rows]
    sheet, layout = grid(images, **options), grid_layout(images, **options)
    factor = auto_scale(width, height) if scale is None else scale
    assert (sheet.mode, sheet.size) == ("RGB", layout.size)
    assert (layout.rows, layout.columns) == (rows, used)
    # Cells stand a gap apart and end a margin before the sheet does.
    first, last = layout.box(0, 0), layout.box(rows - 1, used - 1)
    assert first[3] - first[1] == height * factor
    assert last[1] - first[1] == (rows - 1) * (height * factor + layout.gap)
    assert last[0] - first[0] == (used - 1) * (width * factor + layout.gap)
    assert sheet.height - last[3] == style.MARGIN
    assert sheet.width - last[2] >= style.MARGIN
    for index, image in enumerate(images):
        found = pixels(sheet.crop(layout.box(*divmod(index, used))))
        assert np.array_equal(found, pixels(image).repeat(factor, 0).repeat(factor, 1))


def test_empty_cells_and_the_margin_are_paper():
    images = random_images(3, 8, 8)
    sheet, layout = grid(images, columns=2), grid_layout(images, columns=2)
    left, top, right, bottom = layout.box(1, 1)
    assert colours(sheet.crop((left, top, right, bottom))) == {style.rgb(style.PAPER)}
    assert colours(sheet.crop((0, 0, sheet.width, style.MARGIN))) == {style.rgb(style.PAPER)}


def test_unequal_sizes_are_centred_and_whole():
    small, large = random_images(1, 4, 6)[0], random_images(1, 10, 12, seed=1)[0]
    layout = grid_layout([small, large], columns=2, scale=2)
    sheet = grid([small, large], columns=2, scale=2)
    left, top, _, _ = layout.box(0, 0)
    found = sheet.crop((left + 6, top + 6, left + 14, top + 18))
    assert np.array_equal(pixels(found), pixels(small).repeat(2, 0).repeat(2, 1))


def test_labels_are_drawn_and_long_ones_stay_inside():
    images = random_images(2, 8, 8)
    plain = grid(images, columns=1, row_labels=["", ""])
    long = grid(images, columns=1, row_labels=["w" * 500, "b"], title="t" * 500)
    assert plain.width < long.width < 900
    edge = long.crop((long.width - style.MARGIN, 0, long.width, long.height))
    assert colours(edge) == {style.rgb(style.PAPER)}


def test_column_labels_may_have_lines():
    images = random_images(2, 32, 32)
    one = grid_layout(images, columns=2, column_labels=["a", "b"])
    two = grid_layout(images, columns=2, column_labels=["a\nb", "c"])
    assert two.origin[1] > one.origin[1]


def test_tile_has_nothing_but_pictures():
    images = random_images(4, 5, 3)
    sheet = tile(images, columns=2)
    rows = [np.concatenate([pixels(a), pixels(b)], 1) for a, b in (images[:2], images[2:])]
    assert np.array_equal(pixels(sheet), np.concatenate(rows, 0))
    assert tile(images, columns=2, gap=1).size == (11, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": 0}, "columns is 0"),
        ({"columns": 2, "row_labels": ["a", "b"]}, "2 row labels were given for 1 rows"),
        ({"columns": 2, "column_labels": ["a"]}, "1 column labels were given for 2 columns"),
        ({"columns": 2, "scale": 0}, "scale is 0"),
        ({"columns": 2, "scale": 100_000}, "fewer pictures or a smaller scale"),
    ],
)
def test_impossible_grids_say_why(options, message):
    with pytest.raises(ValueError, match=message):
        grid(random_images(2, 8, 8), **options)


def test_no_pictures_say_so():
    with pytest.raises(ValueError, match="at least one"):
        grid([], columns=2)
    with pytest.raises(ValueError, match="nothing to show"):
        grid([Image.new("RGB", (0, 4))], columns=1)


def test_gray_is_repeated():
    gray = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    assert np.array_equal(pixels(show(gray)), np.repeat(pixels(gray)[..., None], 3, 2))


def test_16_bits_are_rounded_to_8():
    values = np.array([[0, 128, 129, 257, 32767, 65406, 65407, 65535]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(to_gray8(values), expected)
    assert np.array_equal(pixels(show(Image.fromarray(values)))[..., 0], expected)
    assert np.array_equal(pixels(show(Image.fromarray(values.astype(np.int32))))[..., 0], expected)
    with pytest.raises(ValueError, match=r"outside 0\.\.65535"):
        show(Image.fromarray(np.array([[70000]], np.int32)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_the_checkerboard(mode):
    image = Image.new(mode, (20, 20), 0)
    assert np.array_equal(pixels(show(image)), pixels(checkerboard(20, 20)))
    opaque = Image.new("RGB", (20, 20), (9, 9, 9)).convert(mode)
    assert np.array_equal(pixels(show(opaque)), np.full((20, 20, 3), 9))


def test_transparent_palettes_and_gray_keys_are_seen():
    gray = Image.new("L", (4, 4), 7)
    gray.info["transparency"] = 7
    assert np.array_equal(pixels(show(gray)), pixels(checkerboard(4, 4)))


def test_modes_without_a_range_are_refused():
    with pytest.raises(ValueError, match="mode 'F'"):
        show(Image.new("F", (2, 2)))


@settings(deadline=None, max_examples=30)
@given(channels=st.integers(1, 12), height=st.integers(1, 6), width=st.integers(1, 6))
def test_no_channel_is_hidden(channels, height, width):
    values = np.random.default_rng(channels).integers(0, 256, (channels, height, width), dtype=np.uint8)
    image = pixels(from_array(values))
    if channels == 3:
        assert np.array_equal(image, values.transpose(1, 2, 0))
        return
    columns = next(c for c in range(1, 5) if c * c >= channels)
    for k in range(channels):
        row, column = divmod(k, columns)
        found = image[row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert np.array_equal(found, values[k])


@pytest.mark.parametrize("values", [np.zeros((4, 4)), np.zeros((2, 0, 3), np.uint8), np.zeros((1, 1, 1, 1), np.uint8)])
def test_arrays_that_are_no_pictures_are_refused(values):
    with pytest.raises(ValueError, match="expected"):
        grid([values], columns=1)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40))
def test_any_text_can_be_drawn_and_cut(text):
    line, _ = style.typeset(text, 12)
    assert "\n" not in line
    assert style.text_width(style.shorten(text, 12, 60), 12) <= 60


def test_a_missing_glyph_is_a_box(monkeypatch):
    monkeypatch.setattr(style, "japanese_font", lambda: None)
    assert style.typeset("桜 rose", 12)[0] == "□ rose"


def test_a_font_that_has_the_glyphs_is_used(monkeypatch):
    every = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "LastResortHE-Regular.ttf")
    if not os.path.exists(every):
        pytest.skip("this matplotlib has no font of every glyph")
    monkeypatch.setattr(style, "japanese_font", lambda: every)
    line, face = style.typeset("桜 rose", 12)
    assert (line, face.path) == ("桜 rose", every)
    assert style.typeset("rose", 12)[1].path != every


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1,234,567"),
        (0.0317421, "0.03174"),
        (None, "–"),
        (True, "yes"),
        (-3, "−3"),
        ("a", "a"),
        (1e-9, "1e−09"),
        (123456.7, "123,457"),
        (np.int64(-1000), "−1,000"),
    ],
)
def test_numbers_read_well(value, text):
    assert style.number(value) == text
