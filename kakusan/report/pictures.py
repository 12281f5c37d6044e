"""Brings every picture to one opaque 8-bit RGB form for showing. Nothing here is for training or for saving."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from kakusan.report.style import CHECK_DARK, CHECK_LIGHT

Picture: TypeAlias = Image.Image | npt.NDArray[Any]
"""A Pillow image, or an integer array (H, W) or (C, H, W) of dtype uint8 or uint16."""

_CHECK = 8
_PLAIN = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV")
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def to_gray8(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """16-bit integers (any shape) to 8 bits: 0 to 0 and 65535 to 255, rounded to nearest between them."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def from_array(values: npt.NDArray[Any]) -> Image.Image:
    """A Pillow image from an integer array.

    `values`: (H, W) or (C, H, W), uint8 or uint16 (shown in 8 bits). One channel is gray and three are red, green and
    blue. Any other number of channels has no agreed colours, so none is hidden or mixed: the channels are shown as
    gray pictures side by side, row by row, in a near-square mosaic of ceil(sqrt(C)) columns.
    """
    if values.dtype == np.uint16:
        values = to_gray8(values)
    if values.dtype != np.uint8:
        raise ValueError(
            f"a picture array is of dtype {values.dtype}; expected uint8 or uint16 (bring it to stored integers first)"
        )
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"a picture array has shape {values.shape}; expected (H, W) or (C, H, W), none of them 0")
    channels, height, width = values.shape
    if channels == 1:
        return Image.fromarray(np.ascontiguousarray(values[0]))
    if channels == 3:
        return Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0)))
    columns = math.ceil(math.sqrt(channels))
    rows = math.ceil(channels / columns)
    mosaic = np.zeros((rows * columns, height, width), np.uint8)
    mosaic[:channels] = values
    mosaic = mosaic.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    return Image.fromarray(np.ascontiguousarray(mosaic.reshape(rows * height, columns * width)))


def checkerboard(width: int, height: int) -> Image.Image:
    """The pattern shown behind transparent pictures, RGB."""
    y, x = np.mgrid[0:height, 0:width] // _CHECK
    dark = ((x + y) % 2).astype(bool)
    pixels = np.where(dark[..., None], np.array(CHECK_DARK, np.uint8), np.array(CHECK_LIGHT, np.uint8))
    return Image.fromarray(pixels)


def enlarge(image: Image.Image, scale: int) -> Image.Image:
    """`image` with every pixel drawn as a `scale` x `scale` square."""
    if scale == 1:
        return image
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def as_images(pictures: Iterable[Picture], *, what: str = "pictures") -> list[Image.Image]:
    """Every picture as a Pillow image (arrays by `from_array`). None at all is an error that names `what`."""
    images = [from_array(p) if isinstance(p, np.ndarray) else p for p in pictures]
    if not images:
        raise ValueError(f"no {what} were given; at least one is needed")
    for index, image in enumerate(images):
        if image.width == 0 or image.height == 0:
            raise ValueError(f"{what}[{index}] is {image.width} x {image.height} pixels; there is nothing to show")
    return images


def show(image: Image.Image, scale: int = 1) -> Image.Image:
    """`image` as opaque RGB, enlarged by the integer `scale`.

    Gray is repeated over the three channels, 16-bit gray is scaled to 8 bits, and transparency is laid over a
    checkerboard whose squares are not enlarged.
    """
    if image.mode.startswith("I"):
        image = Image.fromarray(to_gray8(gray16(image)))
    if image.mode in _ALPHA or "transparency" in image.info:
        image = enlarge(image.convert("RGBA"), scale)
        under = checkerboard(image.width, image.height)
        under.paste(image, mask=image.getchannel("A"))
        return under
    if image.mode not in _PLAIN:
        raise ValueError(f"a picture has Pillow mode {image.mode!r}, which has no fixed range; convert it to L or RGB")
    return enlarge(image.convert("RGB"), scale)


def gray16(image: Image.Image) -> npt.NDArray[np.uint16]:
    """Values (H, W) of a Pillow image of an integer mode ("I;16" in any byte order, "I")."""
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError("a picture of Pillow mode 'I' has values outside 0..65535; scale it to 16 bits first")
    return values.astype(np.uint16)


def largest(images: Sequence[Image.Image]) -> tuple[int, int]:
    """The width and the height that hold every one of `images`."""
    return max(image.width for image in images), max(image.height for image in images)


def auto_scale(width: int, height: int, target: int = 96) -> int:
    """The smallest integer that makes the longer side at least `target` pixels, so that tiny pictures are seen."""
    return max(1, -(-target // max(width, height)))
