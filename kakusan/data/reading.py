"""Reading one picture from bytes that nobody vouches for.

The format is decided by content and only formats on a short list are decoded; the number of pixels is checked before
anything is decoded; 16 bits stay 16 bits; whatever cannot be kept exactly is refused with the reason.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded, unless told otherwise."""
MAX_BYTES = 512 * 2**20
"""Largest file that is read."""
MAX_ARRAY_CHANNELS = 256

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x93NUMPY": "NPY",
    **{b"P%d%c" % (kind, space): "PPM" for kind in range(1, 7) for space in b" \t\r\n"},
}
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib")
    + (".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".npy")
)
"""Names that promise a picture. They only say that a file must be readable; the content says how."""
FOREIGN_SUFFIXES = frozenset(
    (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".exr", ".hdr")
    + (".raw", ".cr2", ".nef", ".arw", ".dng", ".ico")
)
"""Pictures in formats that are not read; they are reported, not passed over."""

_GRAY = "L"
_JOINED = {
    "1": _GRAY,
    "L": _GRAY,
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBX": "RGB",
    "RGBA": "RGBA",
    "RGBa": "RGBA",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
_WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
_DEEP_COLOUR = {"RGB": "RGB;16B", "RGBA": "RGBA;16B"}
_ORIENTATION_TAG = 0x0112


class UnreadablePicture(ValueError):
    """A picture that cannot be read; `path` is its name and `reason` says why and what to do."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class _RefusedError(Exception):
    """A reason without the name of the file."""


@dataclass(frozen=True)
class Header:
    """What is known before decoding: upright size, mode (L, LA, RGB, RGBA, or "" for arrays), channels, bits."""

    height: int
    width: int
    mode: str
    channels: int
    bits: int
    format: str
    frames: bool = False


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W, C), uint8 or uint16, upright, in `mode` (L, LA, RGB, RGBA, or "" for arrays)."""

    values: np.ndarray
    mode: str


def sniff(head: bytes) -> str | None:
    """Format of a file by its first bytes, or None when it is not on the list."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def read_header(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Look at a picture without decoding it.

    Raises:
        UnreadablePicture: not a picture on the list, too large, or of a kind that cannot be kept exactly.
    """
    try:
        if _format(data) == "NPY":
            shape, dtype, _ = _array_header(data, max_pixels)
            mode = {1: "L", 3: "RGB"}.get(shape[2], "")
            return Header(shape[0], shape[1], mode, shape[2], 8 * dtype.itemsize, "NPY")
        image = _open(data, max_pixels)
        mode, bits = _kind(image)
        turned = image.format != "TIFF" and _orientation(image) >= 5
        width, height = image.size[::-1] if turned else image.size
        frames = bool(getattr(image, "is_animated", False))
        return Header(height, width, mode, len(mode), bits, str(image.format), frames)
    except Exception as error:  # a hostile file can raise anything in a decoder
        raise _unreadable(name, error) from error


def read_picture(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode one picture, upright (EXIF orientation applied). Of an animation the first frame is taken.

    Palettes become RGB or RGBA, 1-bit becomes L, CMYK and YCbCr become RGB, gray stays gray, 16 bits stay 16 bits.
    Arrays (`.npy`, (H, W) or (H, W, C), uint8 or uint16) are taken as they are.

    Raises:
        UnreadablePicture: not a picture on the list, damaged, too large, or of a kind that cannot be kept exactly.
    """
    try:
        if _format(data) == "NPY":
            values = _array(data, max_pixels)
            return Picture(values, {1: "L", 3: "RGB"}.get(values.shape[2], ""))
        image = _open(data, max_pixels)
        mode, bits = _kind(image)
        if bits == 8:
            values = np.array(image if image.mode == mode else image.convert(mode))
        elif mode == "L":
            values = _gray16(image)
        else:
            values = _colour16(data, max_pixels)
        values = values.reshape(*values.shape[:2], len(mode))
        # Pillow turns TIFF itself while it decodes.
        upright = values if image.format == "TIFF" else _turn(values, _orientation(image))
        return Picture(np.ascontiguousarray(upright), mode)
    except Exception as error:  # a hostile file can raise anything in a decoder
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> UnreadablePicture:
    if isinstance(error, _RefusedError):
        return UnreadablePicture(name, str(error))
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return UnreadablePicture(name, "too many pixels; this may be a decompression bomb")
    return UnreadablePicture(name, f"damaged or cut off ({str(error).splitlines()[0] if str(error) else repr(error)})")


def _format(data: bytes) -> str:
    found = sniff(data[:16])
    if found is not None:
        return found
    if not data:
        raise _RefusedError("the file is empty")
    if data[:1] == b"\x80" and data[-1:] == b".":
        raise _RefusedError("this is a pickle, which can run code and is never opened; save arrays with numpy.save")
    if data[4:8] == b"ftyp":
        raise _RefusedError("HEIC and AVIF are not read; convert it to PNG or JPEG")
    raise _RefusedError("not a PNG, JPEG, WEBP, BMP, TIFF, GIF, PPM/PGM or NPY file")


def _open(data: bytes, max_pixels: int) -> Image.Image:
    kind = _format(data)
    if kind == "WEBP":
        # Its decoder allocates the whole canvas when it opens the file.
        _check_pixels(*_webp_size(data), max_pixels)
    image = Image.open(io.BytesIO(data), formats=(kind,))
    _check_pixels(*image.size, max_pixels)
    return image


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise _RefusedError(f"it has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise _RefusedError(
            f"{width} x {height} is more than {max_pixels / 1e6:g} megapixels; shrink it, or raise max_pixels if you "
            "trust it (a small file that claims this is a decompression bomb)"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _kind(image: Image.Image) -> tuple[str, int]:
    """Mode after reading and bits; raises for what would lose information silently."""
    mode, keyed = image.mode, "transparency" in image.info
    arguments = getattr(image, "tile", [None])[0:1]
    rawmode = arguments[0].args if arguments else None
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        if keyed:
            raise _RefusedError("16-bit gray with a transparent colour is not read; save it without, or as .npy")
        return "L", 16
    if mode in ("I", "F"):
        raise _RefusedError(
            f"32-bit {'integers' if mode == 'I' else 'floats'} are not read; scale the values to 0-65535 and save a "
            "16-bit PNG or a uint16 .npy"
        )
    if mode not in _JOINED:
        raise _RefusedError(f"colour mode {mode} is not read; convert it to RGB")
    if image.format == "PNG" and isinstance(rawmode, str) and rawmode.endswith(";16B"):
        if rawmode not in _DEEP_COLOUR.values() or keyed:
            raise _RefusedError("this kind of 16-bit PNG is not read exactly; save it as 16-bit RGBA or as .npy")
        return mode, 16
    deep_ppm = image.format == "PPM" and isinstance(rawmode, tuple) and int(rawmode[1]) > 255
    deep_tiff = image.format == "TIFF" and max(image.tag_v2.get(258, (8,))) > 8  # type: ignore[attr-defined]
    if deep_ppm or deep_tiff:
        raise _RefusedError(f"16-bit colour in {image.format} is not read; save it as 16-bit PNG or as .npy")
    joined = _JOINED[mode]
    return (_WITH_ALPHA.get(joined, joined) if keyed else joined), 8


def _gray16(image: Image.Image) -> np.ndarray:
    values = np.array(image)
    if values.min() < 0 or values.max() > 65535:
        raise _RefusedError("values outside 0-65535 do not fit in 16 bits")
    return values.astype(np.uint16)


def _colour16(data: bytes, max_pixels: int) -> np.ndarray:
    # Pillow keeps one byte of each sample: the high one. PNG stores samples high byte first, so decoding the same data
    # as if they were low byte first yields the other byte.
    halves = []
    for order in "BL":
        image = _open(data, max_pixels)
        tile = image.tile[0]  # type: ignore[attr-defined]
        image.tile = [tile._replace(args=tile.args[:-1] + order)]  # type: ignore[attr-defined]
        halves.append(np.array(image).astype(np.uint16))
    return halves[0] << 8 | halves[1]


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF does not make the pixels unreadable
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turn(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, C) upright, by the EXIF orientation 1 to 8."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _array_header(data: bytes, max_pixels: int) -> tuple[tuple[int, int, int], np.dtype[np.generic], int]:
    """(H, W, C), type and offset of an array, checked before a byte of it is used."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise _RefusedError(f"version {version} of the .npy format is not read; save it with numpy.save")
    if dtype.hasobject:
        raise _RefusedError(
            "the array holds pickled objects, which can run code and are never loaded; save plain numbers"
        )
    if len(shape) not in (2, 3) or 0 in shape or fortran:
        raise _RefusedError(f"expected an array (H, W) or (H, W, C) in C order, found {shape}")
    height, width, channels = (*shape, 1)[:3]
    _check_pixels(width, height, max_pixels)
    if channels > MAX_ARRAY_CHANNELS or (height <= 16 < channels):
        raise _RefusedError(f"{shape} would be {channels} channels; save it as (H, W, C), channels last")
    if len(data) - file.tell() < height * width * channels * dtype.itemsize:
        raise _RefusedError("damaged or cut off (the array is shorter than its header says)")
    if dtype not in (np.dtype("u1"), np.dtype("<u2"), np.dtype(">u2")):
        holds = ""
        if dtype.kind == "f" and np.isnan(np.frombuffer(data, dtype, height * width * channels, file.tell())).any():
            holds = " and holds NaN"
        raise _RefusedError(
            f"the array is {dtype.name}{holds}; scale it to whole numbers and save uint8 (0-255) or uint16 (0-65535), "
            "with the same scale for all pictures"
        )
    return (height, width, channels), dtype, file.tell()


def _array(data: bytes, max_pixels: int) -> np.ndarray:
    shape, dtype, offset = _array_header(data, max_pixels)
    values = np.frombuffer(data, dtype, shape[0] * shape[1] * shape[2], offset).reshape(shape)
    return values.astype(dtype.newbyteorder("="))
