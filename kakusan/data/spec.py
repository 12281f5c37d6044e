"""`DataSpec`: what the data are, found by looking once and stored with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kakusan.data.fit import CenterCrop, Fit
from kakusan.specs import register

MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1, "": None}
"""Pillow modes a picture can be written back in, with their channels; "" is an array with any number of channels."""

_DTYPES = {8: torch.uint8, 16: torch.uint16}


def picture_mode(channels: int, bits: int) -> str:
    """The natural picture mode for a number of channels: L, LA, RGB, RGBA, I;16, or "" when there is none."""
    names = {1: "L" if bits == 8 else "I;16", 2: "LA", 3: "RGB", 4: "RGBA"}
    return names.get(channels, "")


@register
@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Shape, range and statistics of stored pictures, and the exact way to model space and back.

    Args:
        channels: C.
        size: (H, W).
        bits: 8 or 16; stored pictures are uint8 or uint16.
        low: stored value that becomes -1.
        high: stored value that becomes +1; the largest value of `bits` when not given.
        mean: per channel, in [-1, 1] units.
        std: per channel, in [-1, 1] units.
        classes: class names in label order; empty for data without labels.
        mode: Pillow mode pictures are written in (L, LA, RGB, RGBA, I;16), or "" for arrays with C channels.
        fit: how a picture of another size was brought to `size`.
        flip: whether training may mirror pictures left to right.
        augment: how often training applies each transformation of `kakusan.data.augment`; 0 is never.

    Raises:
        ValueError: a field that contradicts another.
    """

    channels: int
    size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str
    bits: int = 8
    low: float = 0.0
    high: float = math.nan
    classes: tuple[str, ...] = ()
    fit: Fit = field(default_factory=CenterCrop)
    flip: bool = False
    augment: float = 0.0

    def __post_init__(self) -> None:
        if self.bits not in _DTYPES:
            raise ValueError(f"pictures are stored with 8 or 16 bits, got {self.bits}")
        if math.isnan(self.high):
            object.__setattr__(self, "high", float(2**self.bits - 1))
        for name in ("size", "mean", "std", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.channels < 1 or len(self.size) < 1 or min(self.size) < 1:
            raise ValueError(f"pictures need at least one channel and one pixel, got {self.channels} and {self.size}")
        if not 0 <= self.low < self.high <= 2**self.bits - 1:
            raise ValueError(
                f"range [{self.low}, {self.high}] does not fit in {self.bits} bits: 0 <= low < high needed"
            )
        if self.mode not in MODES or MODES[self.mode] not in (None, self.channels):
            raise ValueError(
                f"mode {self.mode!r} does not hold {self.channels} channels; expected one of {list(MODES)}"
            )
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values each, got {len(self.mean)} and {len(self.std)}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) < 0:
            raise ValueError(f"mean and std must be finite and std not negative, got {self.mean} and {self.std}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        if not 0.0 <= self.augment <= 1.0:
            raise ValueError(f"augment is a probability, 0 to 1, got {self.augment}")
        if self.augment and len(self.size) != 2:
            raise ValueError(
                f"augmentation turns and moves pictures (H, W); these data have size {self.size}: leave augment at 0"
            )

    @classmethod
    def measure(
        cls,
        stored: Tensor | np.ndarray,
        *,
        low: float = 0.0,
        high: float = math.nan,
        mode: str | None = None,
        classes: tuple[str, ...] = (),
        fit: Fit | None = None,
        flip: bool = False,
    ) -> DataSpec:
        """The spec of `stored` pictures (N, C, H, W), uint8 or uint16, with mean and std measured over all of them."""
        array = stored.numpy() if isinstance(stored, Tensor) else stored
        if array.ndim != 4 or array.dtype not in (np.uint8, np.uint16) or len(array) == 0:
            raise ValueError(f"expected uint8 or uint16 pictures (N, C, H, W), got {array.dtype} {array.shape}")
        bits = 8 * array.dtype.itemsize
        high = float(2**bits - 1) if math.isnan(high) else high
        mean, std = measure_statistics(array, low=low, high=high)
        return cls(
            channels=array.shape[1],
            size=tuple(array.shape[2:]),
            mean=mean,
            std=std,
            mode=picture_mode(array.shape[1], bits) if mode is None else mode,
            bits=bits,
            low=low,
            high=high,
            classes=classes,
            fit=CenterCrop() if fit is None else fit,
            flip=flip,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *size)."""
        return (self.channels, *self.size)

    @property
    def dtype(self) -> torch.dtype:
        """Type of stored pictures: uint8 or uint16."""
        return _DTYPES[self.bits]

    @property
    def sigma_data(self) -> float:
        """Root mean square of x0 over all channels: `sqrt(mean(std^2 + mean^2))`."""
        return math.sqrt(sum(m * m + s * s for m, s in zip(self.mean, self.std, strict=True)) / self.channels)

    @property
    def pictured(self) -> DataSpec:
        """The spec of what is stored and shown: this one, or that of the pictures behind latents."""
        return self

    def networks(self) -> Mapping[str, nn.Module]:
        """Networks between what is stored and model space, by name; none for pictures."""
        return {}

    def to_model(self, stored: Tensor) -> Tensor:
        """Stored integers (B, C, *size) -> float32 in [-1, 1]."""
        return (stored.to(torch.float32) - self.low) * (2.0 / (self.high - self.low)) - 1.0

    def snap(self, x: Tensor) -> Tensor:
        """The nearest picture that can be stored, in model space (B, C, *size). Unchanged where `x` is one."""
        values = (x.clamp(-1.0, 1.0) + 1.0) * ((self.high - self.low) / 2.0) + self.low
        return self.to_model(values.round())

    def to_stored(self, x: Tensor) -> Tensor:
        """Model space (B, C, *size) -> stored integers: clamped, rounded half to even. Exact inverse of `to_model`.

        Raises:
            ValueError: NaN in `x`.
        """
        x = x.detach().to(torch.float32)
        if bool(torch.isnan(x).any()):
            raise ValueError("the picture holds NaN: the model that made it has diverged; load an earlier checkpoint")
        values = (x.clamp(-1.0, 1.0) + 1.0) * ((self.high - self.low) / 2.0) + self.low
        return values.round().to(torch.int32).to(self.dtype)

    def to_pil(self, x: Tensor) -> list[Image.Image]:
        """Model space (B, C, H, W) -> pictures, [-1, 1] spread over the full range of the picture mode.

        Colour of 16 bits is shown with 8 (Pillow has no mode for it; `to_stored` keeps all 16). Arrays without a
        picture mode (`mode == ""`) become one gray picture each, channels side by side.
        """
        self._check_shape(x)
        stored = self.to_stored(x).cpu().numpy().astype(np.float64)
        unit = (stored - self.low) / (self.high - self.low)
        top, dtype = (65535, np.uint16) if self.mode == "I;16" else (255, np.uint8)
        values = np.rint(unit * top).astype(dtype)
        if self.mode == "" or self.channels == 1:
            return [Image.fromarray(np.ascontiguousarray(np.concatenate(list(v), axis=-1))) for v in values]
        return [Image.fromarray(np.ascontiguousarray(v.transpose(1, 2, 0))) for v in values]

    def check(self, stored: Tensor) -> None:
        """Raise `ValueError` when a batch of stored pictures (B, C, *size) is not what this spec says."""
        if stored.dtype != self.dtype:
            raise ValueError(f"stored pictures are {self.dtype}, this batch is {stored.dtype}")
        self._check_shape(stored)
        if stored.numel() == 0:
            return
        least, most = (int(v) for v in torch.aminmax(stored.to(torch.int32)))
        if least < self.low or most > self.high:
            raise ValueError(
                f"pixel values {least} to {most} leave the range {self.low:g} to {self.high:g} of this model; scale "
                "them as the training pictures were"
            )

    def check_labels(self, labels: Tensor) -> None:
        """Raise `ValueError` when a label is not an index into `classes`."""
        if labels.numel() == 0:
            return
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= len(self.classes):
            raise ValueError(
                f"labels run from {least} to {most}, but there are {len(self.classes)} classes "
                f"(0 to {len(self.classes) - 1})"
            )

    def _check_shape(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected pictures (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")


def measure_statistics(
    array: np.ndarray, *, low: float, high: float, chunk: int = 256
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of stored pictures (N, C, H, W), in [-1, 1] units."""
    channels = array.shape[1]
    levels = np.zeros((channels, 2 ** (8 * array.dtype.itemsize)), np.int64)
    for start in range(0, len(array), chunk):
        part = array[start : start + chunk]
        for c in range(channels):
            levels[c] += np.bincount(part[:, c].ravel(), minlength=levels.shape[1])
    # Integer counts first: the result does not depend on chunks or on the order of the pictures.
    values = (np.arange(levels.shape[1]) - low) * (2.0 / (high - low)) - 1.0
    total = levels.sum(axis=1)
    mean = (levels @ values) / total
    variance = (levels * (values[None] - mean[:, None]) ** 2).sum(axis=1) / total
    return tuple(float(m) for m in mean), tuple(float(math.sqrt(v)) for v in variance)
