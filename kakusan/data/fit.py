"""How a picture of any size is brought to the size of the model. The rule is stored with the model.

All rules work on integer arrays (H, W, C), 8 or 16 bits, any number of channels, and change nothing in a picture that
already has the size asked for. Resizing is antialiased (Lanczos, which widens its support when it shrinks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from kakusan.specs import register

Box = tuple[float, float, float, float]


@runtime_checkable
class Fit(Protocol):
    """A rule that brings a picture to a size."""

    def apply(self, picture: np.ndarray, size: tuple[int, ...], *, alpha: bool = False) -> np.ndarray:
        """Picture (h, w, C) uint8 or uint16 -> (H, W, C) of the same type.

        Args:
            picture: (h, w, C).
            size: (H, W).
            alpha: the last channel is opacity, so colours are weighted by it while resizing.
        """
        ...


@register
@dataclass(frozen=True)
class CenterCrop:
    """Resize until the picture just covers the size, then cut the middle. Nothing is distorted, edges are lost."""

    def apply(self, picture: np.ndarray, size: tuple[int, ...], *, alpha: bool = False) -> np.ndarray:
        height, width = _check(picture, size)
        h, w = picture.shape[:2]
        scale = max(height / h, width / w)
        if scale == 1.0:
            # Whole-pixel offsets, so that a cut alone never blurs.
            top, left = (h - height) // 2, (w - width) // 2
            return picture[top : top + height, left : left + width]
        box_h, box_w = min(h, height / scale), min(w, width / scale)
        top, left = (h - box_h) / 2, (w - box_w) / 2
        return resize(picture, (height, width), box=(left, top, left + box_w, top + box_h), alpha=alpha)


@register
@dataclass(frozen=True)
class Pad:
    """Resize until the picture just fits into the size, then fill the rest. Nothing is lost or distorted.

    Args:
        value: brightness of the border, from 0 (black) to 1 (white). Where pictures have opacity the border is clear.
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"the border of Pad is a brightness from 0 (black) to 1 (white), got {self.value}")

    def apply(self, picture: np.ndarray, size: tuple[int, ...], *, alpha: bool = False) -> np.ndarray:
        height, width = _check(picture, size)
        h, w, channels = picture.shape
        scale = min(height / h, width / w)
        new_h, new_w = min(height, max(1, round(h * scale))), min(width, max(1, round(w * scale)))
        border = np.full(channels, round(self.value * np.iinfo(picture.dtype).max), picture.dtype)
        if alpha:
            border[-1] = 0
        canvas = np.empty((height, width, channels), picture.dtype)
        canvas[:] = border
        top, left = (height - new_h) // 2, (width - new_w) // 2
        canvas[top : top + new_h, left : left + new_w] = resize(picture, (new_h, new_w), alpha=alpha)
        return canvas


@register
@dataclass(frozen=True)
class Stretch:
    """Resize to the size whatever the shape. Nothing is lost, pictures of other shapes are distorted."""

    def apply(self, picture: np.ndarray, size: tuple[int, ...], *, alpha: bool = False) -> np.ndarray:
        return resize(picture, _check(picture, size), alpha=alpha)


FITS: dict[str, Fit] = {"crop": CenterCrop(), "pad": Pad(), "stretch": Stretch()}
"""Names for the command line."""


def resize(picture: np.ndarray, size: tuple[int, int], *, box: Box | None = None, alpha: bool = False) -> np.ndarray:
    """Antialiased resize of (h, w, C) uint8 or uint16 to (*size, C).

    Args:
        picture: (h, w, C).
        size: (H, W).
        box: (left, top, right, bottom) of the part to take, in pixels of `picture`, fractions allowed.
        alpha: the last channel is opacity; the hidden colour of clear pixels then does not leak into their neighbours.
    """
    h, w, channels = picture.shape
    whole = box is None or tuple(box) == (0.0, 0.0, float(w), float(h))
    if whole and (h, w) == tuple(size):
        return picture
    top = np.iinfo(picture.dtype).max
    if picture.dtype == np.uint8 and not alpha and channels in (1, 3):
        image = Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if channels == 1 else picture))
        resized = np.asarray(image.resize(size[::-1], Image.Resampling.LANCZOS, box=box))
        return resized.reshape(*size, channels)
    values = picture.astype(np.float32)
    if alpha:
        values[:, :, :-1] *= values[:, :, -1:] / top
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(values[:, :, c])).resize(size[::-1], Image.Resampling.LANCZOS, box=box)
        )
        for c in range(channels)
    ]
    result = np.stack(planes, axis=-1)
    if alpha:
        opacity = result[:, :, -1:] / top
        # Below half a level of opacity there is no colour to recover, only rounding.
        visible = opacity > 0.5 / top
        result[:, :, :-1] = np.where(visible, result[:, :, :-1] / np.where(visible, opacity, 1.0), 0.0)
    rounded: np.ndarray = np.rint(np.clip(result, 0, top)).astype(picture.dtype)
    return rounded


def _check(picture: np.ndarray, size: tuple[int, ...]) -> tuple[int, int]:
    if picture.ndim != 3 or picture.dtype not in (np.uint8, np.uint16) or 0 in picture.shape:
        raise ValueError(f"expected a uint8 or uint16 picture (H, W, C), got {picture.dtype} {picture.shape}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"the size of a picture is (height, width), both at least 1, got {tuple(size)}")
    return int(size[0]), int(size[1])
