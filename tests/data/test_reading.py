"""Reading one picture that nobody vouches for."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from kakusan.data.reading import UnreadablePicture, read_header, read_picture, sniff

RNG = np.random.default_rng(0)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def npy(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, interlace: int = 0) -> bytes:
    """A PNG written by hand: Pillow cannot write 16-bit colour."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png16(values: np.ndarray) -> bytes:
    """(H, W, C) uint16 with the five row filters of PNG in turn."""
    height, width, channels = values.shape
    step = 2 * channels
    rows = values.astype(">u2").tobytes()
    lines = np.frombuffer(rows, np.uint8).reshape(height, -1).astype(int)
    out = b""
    for y, line in enumerate(lines):
        kind = y % 5
        left = np.concatenate([np.zeros(step, int), line[:-step]])
        up = lines[y - 1] if y else np.zeros_like(line)
        corner = np.concatenate([np.zeros(step, int), up[:-step]])
        guess = left + up - corner
        a, b, c = abs(guess - left), abs(guess - up), abs(guess - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, up, corner))
        predicted = [np.zeros_like(line), left, up, (left + up) // 2, paeth][kind]
        out += bytes([kind]) + ((line - predicted) % 256).astype(np.uint8).tobytes()
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], out)


def photo(mode: str = "RGB", size: tuple[int, int] = (13, 9)) -> Image.Image:
    channels = len(mode)
    values = RNG.integers(0, 256, (size[1], size[0], channels)).astype(np.uint8)
    return Image.fromarray(values if channels > 1 else values[:, :, 0])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_png_keeps_every_mode_exactly(mode: str) -> None:
    image = photo(mode)
    found = read_picture(encode(image, "PNG"), "a.png")
    assert found.mode == mode
    assert np.array_equal(found.values, np.asarray(image).reshape(9, 13, len(mode)))


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "PNG", "GIF", "WEBP", "JPEG"])
def test_every_format_on_the_list_is_read_by_content(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    flat = Image.new("RGB", (13, 9), (200, 100, 50))
    data = encode(flat, kind, **options)
    found, header = read_picture(data, "wrong-suffix.txt"), read_header(data, "x")
    assert (header.height, header.width, header.mode, header.bits, header.format) == (9, 13, "RGB", 8, kind)
    assert np.abs(found.values.astype(int) - (200, 100, 50)).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (photo("L").convert("1"), "L"),
        (photo("RGB").convert("P"), "RGB"),
        (photo("RGBA").quantize(8), "RGBA"),
    ],
    ids=["1-bit", "palette", "palette with opacity"],
)
def test_palettes_and_bits_are_unfolded(image: Image.Image, mode: str) -> None:
    found = read_picture(encode(image, "PNG"), "a.png")
    assert found.mode == mode
    assert np.array_equal(found.values, np.asarray(image.convert(mode)).reshape(9, 13, len(mode)))


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found = read_picture(encode(image, "TIFF"), "a.tif")
    assert found.mode == "RGB"
    assert (found.values == (255, 0, 0)).all()


def test_a_transparent_colour_becomes_opacity() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    found = read_picture(encode(image, "PNG", transparency=(9, 9, 9)), "a.png")
    assert found.mode == "RGBA"
    assert found.values[0, :, 3].tolist() == [255, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_gray_stays_16_bit(kind: str) -> None:
    values = RNG.integers(0, 65536, (9, 13)).astype(np.uint16)
    data = encode(Image.fromarray(values), kind)
    found = read_picture(data, "a")
    assert found.values.dtype == np.uint16
    assert np.array_equal(found.values[:, :, 0], values)
    assert read_header(data, "a").bits == 16


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_png_stays_16_bit(channels: int) -> None:
    values = RNG.integers(0, 65536, (11, 7, channels)).astype(np.uint16)
    found = read_picture(png16(values), "a.png")
    assert found.mode == ("RGB", "RGBA")[channels - 3]
    assert np.array_equal(found.values, values)


def test_16_bits_that_cannot_be_kept_are_refused() -> None:
    deep = RNG.integers(0, 65536, (4, 5, 2)).astype(np.uint16)
    ppm = b"P6\n2 1\n65535\n" + bytes(12)
    for data in (png16(deep), ppm):
        with pytest.raises(UnreadablePicture, match="16-bit"):
            read_picture(data, "a")
    with pytest.raises(UnreadablePicture, match="32-bit floats"):
        read_picture(encode(Image.new("F", (3, 3)), "TIFF"), "a")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_upright(orientation: int, kind: str) -> None:
    image = photo("RGB", (7, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(image, kind, exif=exif, **options)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_picture(data, "a").values, upright)
    header = read_header(data, "a")
    assert (header.height, header.width) == upright.shape[:2]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_picture(data, "a.gif").values[0, 0, :3] == (255, 0, 0)).all()
    assert read_header(data, "a.gif").frames


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (6, 5, 7), (6, 5, 13)])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
def test_arrays_of_any_channels(shape: tuple[int, ...], dtype: str) -> None:
    values = RNG.integers(0, 256, shape).astype(dtype)
    found, header = read_picture(npy(values), "a.npy"), read_header(npy(values), "a.npy")
    assert np.array_equal(found.values, values.reshape(6, 5, -1))
    assert found.values.dtype.isnative
    assert found.mode == header.mode == {1: "L", 3: "RGB"}.get(found.values.shape[2], "")
    assert header.channels == found.values.shape[2]


class Trap:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy(np.array([[Trap(), 1]], object), allow_pickle=True), "pickled objects"),
        (pickle.dumps(Trap()), "pickle"),
        (npy(np.array([[0.0, np.nan]])), "float64 and holds NaN; scale it"),
        (npy(np.zeros((3, 3), np.float32)), "float32; scale it"),
        (npy(np.zeros((3, 3), np.int64)), "int64"),
        (npy(np.zeros((3, 64, 64), np.uint8)), "channels last"),
        (npy(np.zeros((2, 3, 4, 5), np.uint8)), r"\(H, W\)"),
        (npy(np.zeros((8, 8, 3), np.uint8))[:-1], "cut off"),
        (b"", "empty"),
        (b"hello", "not a PNG"),
        (b"\0\0\0\x20ftypheic" + bytes(40), "HEIC"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_what_is_not_read_and_why(data: bytes, reason: str) -> None:
    for read in (read_picture, read_header):
        with pytest.raises(UnreadablePicture, match=reason) as caught:
            read(data, "some/name.png")
        assert caught.value.path == "some/name.png"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_file_that_is_cut_off_is_refused(kind: str) -> None:
    data = encode(photo("RGB", (60, 50)), kind)
    with pytest.raises(UnreadablePicture, match="name"):
        read_picture(data[: len(data) // 2], "name")


@pytest.mark.parametrize(
    "data",
    [
        png(50_000, 50_000, 8, 2, b""),
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" + b"\xff\x3f\0",
        b"P6\n60000 60000\n255\n",
        b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (90000, 90000), }".ljust(117)
        + b"\n",
        npy(np.zeros((2**13, 2**13), np.bool_))[:128],
    ],
    ids=["png", "webp", "ppm", "gif", "npy", "npy of another type"],
)
def test_bombs_are_refused_before_decoding(data: bytes) -> None:
    with pytest.raises(UnreadablePicture, match=r"megapixels|bomb"):
        read_picture(data, "bomb")


def test_the_limit_on_pixels_can_be_set() -> None:
    data = encode(photo("RGB", (20, 20)), "PNG")
    with pytest.raises(UnreadablePicture, match=r"20 x 20 is more than 0.0001 megapixels"):
        read_picture(data, "a", max_pixels=100)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_damage_never_raises_anything_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "NPY"]))
    picture = Image.new("RGB", (9, 7), (10, 200, 30))
    whole = bytearray(npy(np.asarray(picture)) if kind == "NPY" else encode(picture, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for read in (read_picture, read_header):
        try:
            found = read(damaged, "x", max_pixels=10_000)
        except UnreadablePicture:
            continue
        assert found is not None


def test_sniffing() -> None:
    assert sniff(b"P6 1 1") == "PPM"
    assert sniff(b"P9 1 1") is None
    assert sniff(b"RIFF0000WAVE") is None
