import contextlib
import json
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from kakusan.report.png import MAX_TEXT, parameters_text, read_pixels, read_record, save_png

RECORD = {
    "label": "桜 🌸",
    "seed": 7,
    "num_steps": 20,
    "sampler": {"type": "DDIM", "eta": 0.5},
    "guidance_scale": 3.0,
    "model_hash": "abc",
    "nested": {"list": [1, 2.5, None, True, "\u0000\n"]},
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Any text, lone surrogates too: Python file names can hold them.
    | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PICTURE = Image.new("RGB", (3, 2), (1, 2, 3))


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def itxt(text, key=b"kakusan", packed=False):
    return chunk(b"iTXt", key + b"\0" + (b"\1" if packed else b"\0") + b"\0\0\0" + text)


ENVELOPE = json.dumps({"schema": 1, "record": {"seed": 1}}).encode()


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text(st.characters(), max_size=8), VALUES, max_size=6))
def test_any_json_record_comes_back(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "any.png"
    save_png(PICTURE, path, record)
    assert read_record(path) == record


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pixels_and_record_come_back_in_every_mode(tmp_path, mode):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(values).convert(mode)
    save_png(image, tmp_path / "a.png", RECORD)
    assert read_record(tmp_path / "a.png") == RECORD
    found = read_pixels(tmp_path / "a.png")
    assert found.mode == mode
    assert found.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bits_are_kept(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(dtype)
    values[0, :2] = 0, 65535
    save_png(Image.fromarray(values), tmp_path / "a.png", RECORD)
    found = read_pixels(tmp_path / "a.png")
    assert found.mode == "I;16"
    assert np.array_equal(np.asarray(found), values)
    assert read_record(tmp_path / "a.png") == RECORD


def test_other_programs_read_the_text(tmp_path):
    save_png(PICTURE, tmp_path / "a.png", RECORD)
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.text["kakusan"]) == {"schema": 1, "record": RECORD}
        lines = image.text["parameters"].split("\n")
    assert lines[0] == "桜 🌸"
    assert lines[-1] == "Steps: 20, Sampler: DDIM, CFG scale: 3.0, Seed: 7, Model hash: abc, Size: 3x2"


def test_parameters_quote_what_would_split_them():
    text = parameters_text({"prompt": "a rose", "negative_prompt": "blur", "note": 'a, b: "c"\nd', "seed": 3})
    assert text.split("\n") == ["a rose", "Negative prompt: blur", 'Seed: 3, Note: "a, b: \\"c\\"\\nd"']


def test_without_a_record_there_is_no_text(tmp_path):
    save_png(PICTURE, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert not image.text
    with pytest.raises(ValueError, match="holds no record of kakusan's\\. Only"):
        read_record(tmp_path / "a.png")


@pytest.mark.parametrize(
    "record",
    [{"a": float("nan")}, {"a": float("inf")}, {"a": {1, 2}}, {1: 2}, {"a": [{2: 3}]}, {"a": "x" * (MAX_TEXT + 1)}],
)
def test_records_that_json_cannot_hold_are_refused_before_anything_is_written(tmp_path, record):
    with pytest.raises(ValueError, match="record"):
        save_png(PICTURE, tmp_path / "a.png", record)
    assert not list(tmp_path.iterdir())


def test_modes_without_a_png_form_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode 'F' has no PNG form"):
        save_png(Image.new("F", (2, 2)), tmp_path / "a.png", {})


def test_records_are_found_after_the_pixels_and_in_every_text_chunk(tmp_path):
    path = tmp_path / "a.png"
    text = b"kakusan\0" + ENVELOPE
    packed = zlib.compress(ENVELOPE)
    for body in (
        itxt(ENVELOPE),
        itxt(packed, packed=True),
        chunk(b"tEXt", text),
        chunk(b"zTXt", b"kakusan\0\0" + packed),
    ):
        path.write_bytes(png(body))
        assert read_record(path) == {"seed": 1}
        late = png()[:-12] + body + chunk(b"IEND", b"")
        path.write_bytes(late)
        assert read_record(path) == {"seed": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a PNG file but empty"),
        (b"\xff\xd8\xff\xe0 etc", "but a JPEG"),
        (b"<svg/>", "but markup"),
        (b"\x80\x02}q\x00.", "but a pickle"),
        (b"hello world", "is not a PNG file; records"),
        (png(), "holds no record"),
        (png(itxt(b"Steps: 20", key=b"parameters")), "written by an A1111-style program"),
        (png(chunk(b"tEXt", b"workflow\0{}")), "written by ComfyUI"),
        (png(itxt(ENVELOPE), itxt(ENVELOPE)), "holds 2 records"),
        (png(itxt(ENVELOPE)[:-1] + b"?"), "checksum"),
        (png(itxt(b"{")), "is not JSON"),
        (png(itxt(b"\xff\xfe")), "is not JSON"),
        (png(itxt(b"[" * 500_000)), "is not JSON"),
        (png(itxt(b'{"schema": 1, "record": {"a": NaN}}')), "NaN is not JSON"),
        (png(itxt(b'{"schema": 1, "record": {"a": ' + b"9" * 5000 + b"}}")), "is not JSON"),
        (png(itxt(b"[]")), "no schema number"),
        (png(itxt(b'{"schema": true, "record": {}}')), "no schema number"),
        (png(itxt(b'{"schema": 2, "record": {}}')), "newer kakusan"),
        (png(itxt(b'{"schema": 0, "record": {}}')), "not of the form"),
        (png(itxt(b'{"schema": 1, "record": []}')), "not of the form"),
        (png(chunk(b"iTXt", b"kakusan\0\2\0\0\0{}")), "well-formed iTXt"),
        (png(chunk(b"iTXt", b"kakusan\0\0")), "well-formed iTXt"),
        (png(itxt(b"not zlib", packed=True)), "cannot be inflated"),
        (png(itxt(zlib.compress(ENVELOPE)[:-5], packed=True)), "cut off"),
        (png(chunk(b"zTXt", b"kakusan\0\1")), "unknown compression"),
        (png(itxt(ENVELOPE))[:60], "cut off inside a chunk"),
        (png()[:-12], "ends before its last chunk"),
        (png()[:8] + struct.pack(">I4s", 2**31, b"IDAT"), "cut off inside a chunk"),
    ],
)
def test_files_without_a_sound_record_say_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_record(path)


BOMB = zlib.compress(bytes(64 << 20), 9)


@pytest.mark.parametrize(
    "body",
    [
        itxt(BOMB, packed=True),
        chunk(b"zTXt", b"kakusan\0\0" + BOMB),
        itxt(b" " * (2 * MAX_TEXT)),
    ],
)
def test_text_bombs_are_refused_in_little_memory(tmp_path, body):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(body))
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"more than 1,048,576"):
            read_record(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_bombs_of_others_do_not_hide_our_record(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(itxt(BOMB, key=b"other", packed=True), itxt(bytes(3 * MAX_TEXT), key=b"big"), itxt(ENVELOPE)))
    assert read_record(path) == {"seed": 1}


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_damage_is_a_value_error_or_the_true_record(tmp_path_factory, junk, place):
    path = tmp_path_factory.getbasetemp() / "junk.png"
    whole = png(itxt(ENVELOPE))
    path.write_bytes(whole[:place] + junk + whole[place + len(junk) :])
    with contextlib.suppress(ValueError):
        assert read_record(path) == {"seed": 1}


def test_pixels_of_damaged_files_are_a_value_error(tmp_path):
    path = tmp_path / "a.png"
    save_png(Image.effect_noise((64, 64), 50), path)
    for content in (b"", b"GIF89a", path.read_bytes()[:1000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a PNG picture that can be read"):
            read_pixels(path)
    with pytest.raises(FileNotFoundError):
        read_pixels(tmp_path / "none.png")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(PICTURE, path, {"seed": 1})

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_png(PICTURE, path, {"seed": 2})
    assert read_record(path) == {"seed": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_folders_are_made_and_permissions_are_the_users(tmp_path):
    path = tmp_path / "new" / "folder" / ("x" * 251 + ".png")
    save_png(PICTURE, path, RECORD)
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert read_record(path) == RECORD


@pytest.mark.parametrize("order", ["<", ">"])
def test_big_and_little_endian_16_bit_images_agree(tmp_path, order):
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    mode = {"<": "I;16", ">": "I;16B"}[order]
    image = Image.frombytes(mode, (4, 3), values.astype(f"{order}u2").tobytes())
    save_png(image, tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_pixels(tmp_path / "a.png")), values)


def test_our_text_survives_a_copy_that_keeps_it(tmp_path):
    save_png(PICTURE, tmp_path / "a.png", RECORD)
    with Image.open(tmp_path / "a.png") as image:
        texts = PngInfo()
        texts.add_itxt("kakusan", image.text["kakusan"], zip=True)
        image.save(tmp_path / "b.png", pnginfo=texts)
    assert read_record(tmp_path / "b.png") == RECORD
