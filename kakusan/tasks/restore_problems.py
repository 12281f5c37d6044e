"""What can be wrong with a picture: how it is read, which operator did it, and how it is shown."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kakusan.data.reading import read_picture
from kakusan.data.spec import DataSpec, picture_mode
from kakusan.operators import (
    Blur,
    CompressedSensing,
    Downsample,
    GaussianBlur,
    Gray,
    Identity,
    Mask,
    Operator,
    motion,
)
from kakusan.operators.seams import continued
from kakusan.tasks.own_pictures import read_mask, read_own

if TYPE_CHECKING:
    from PIL.Image import Image


LATENT_SEAM = 2.0
"""Pixels. A decoder is not exact, so that a hard border shows; over 2 pixels the jump there is that of the picture."""


class Problem(ABC):
    """A frozen dataclass of what happened to a picture."""

    posterior: ClassVar[str] = "diffpir"
    """The method where none is asked for, chosen by measurement (docs/results/restoration.md)."""
    always_degrades: ClassVar[bool] = False
    """Whether the picture is always a clean one: nobody has a file of such measurements."""
    guesses_noise: ClassVar[bool] = False
    """Whether the noise is looked for in the picture where it is not given."""

    @abstractmethod
    def operator(self, data: DataSpec, fit: str | None) -> Operator:
        """What happened, for pictures of this shape."""

    def of_latents(self) -> Problem:
        """The same with what is usual where a model of latents restores it."""
        return self

    def read(self, image: Path, data: DataSpec, operator: Operator, fit: str | None) -> Tensor:
        """The measurement that a file holds, (1, *measured) in model units."""
        return read_own(image, data, fit=fit)

    def shown(self, y: Tensor, data: DataSpec, operator: Operator) -> Image:
        """A measurement (1, *measured) as a picture."""
        return data.to_pil(y.clamp(-1.0, 1.0))[0]

    def finished(self, x0: Tensor, y: Tensor, operator: Operator, noisy: bool) -> Tensor:
        """Samples (B, C, *size) as they are handed over."""
        return x0

    def remarks(self, noisy: bool) -> list[str]:
        """What people should know of the results."""
        return []

    def record(self) -> dict[str, Any]:
        """Plain values for the record of a picture."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in vars(self).items()}


@dataclass(frozen=True)
class Inpaint(Problem):
    """Parts are to be painted anew, white in the mask; the others stay, bit for bit."""

    posterior: ClassVar[str] = "diffpir"
    mask: Path
    mask_fit: str | None = None
    seam: float | None = None
    """Pixels over which what is painted is brought to meet what is known; 0 or None for a hard border."""

    def __post_init__(self) -> None:
        if self.seam is not None and not 0.0 <= self.seam < math.inf:
            raise ValueError(f"a seam is 0 or more pixels wide, got {self.seam}")

    def of_latents(self) -> Problem:
        return replace(self, seam=LATENT_SEAM) if self.seam is None else self

    def operator(self, data: DataSpec, fit: str | None) -> Operator:
        known = read_mask(self.mask, data.size, fit=self.mask_fit or fit)
        if not bool(known.any()):
            raise ValueError(f"{self.mask} is white all over, so nothing is known; draw new pictures (kakusan sample)")
        return Mask(known, data.shape)

    def read(self, image: Path, data: DataSpec, operator: Operator, fit: str | None) -> Tensor:
        return operator(read_own(image, data, fit=fit))

    def shown(self, y: Tensor, data: DataSpec, operator: Operator) -> Image:
        picture = data.to_pil(y.clamp(-1.0, 1.0))[0]
        if picture.mode not in ("L", "RGB"):
            return picture
        # Transparent where nothing is known: a sheet lays a checkerboard under it.
        known = operator.seen(y)[0].expand(data.size).cpu().numpy() > 0.0
        from PIL import Image as Pillow

        picture.putalpha(Pillow.fromarray(np.where(known, 255, 0).astype(np.uint8)))
        return picture

    def finished(self, x0: Tensor, y: Tensor, operator: Operator, noisy: bool) -> Tensor:
        assert isinstance(operator, Mask)
        if noisy:
            return x0
        known = y.expand_as(x0)
        if self.seam:
            # What the known pixels miss by is carried into the hole, where it dies away: known pixels never change.
            seen = operator.seen(x0) > 0.0
            x0 = x0 + continued(known - x0, seen, width=self.seam)
        return operator.composite(x0, known)

    def remarks(self, noisy: bool) -> list[str]:
        if noisy:
            return ["--noise says that the known pixels are noisy: they were cleaned as well, and are not bit-equal"]
        return ["known pixels are bit-equal to those of the picture"]


@dataclass(frozen=True)
class Upscale(Problem):
    """The picture is small: each of its sides is the model's over the factor."""

    posterior: ClassVar[str] = "diffpir"
    factor: int
    kernel: str = "box"

    def operator(self, data: DataSpec, fit: str | None) -> Operator:
        return Downsample(data.shape, self.factor, kernel=self.kernel)

    def read(self, image: Path, data: DataSpec, operator: Operator, fit: str | None) -> Tensor:
        return read_own(image, data, fit=fit, size=operator.measured[1:])

    def shown(self, y: Tensor, data: DataSpec, operator: Operator) -> Image:
        return _spec(data, data.channels, operator.measured[1:]).to_pil(y.clamp(-1.0, 1.0))[0]


@dataclass(frozen=True)
class Deblur(Problem):
    """The picture is blurred: by a Gaussian, by a straight motion, or by the kernel in a picture file."""

    blur: float | None = None
    motion: tuple[int, float] | None = None
    kernel: Path | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.blur, self.motion, self.kernel)) != 1:
            raise ValueError(
                "say how the picture is blurred, in one way: --blur STD, --motion LENGTH ANGLE, or --kernel FILE"
            )

    def operator(self, data: DataSpec, fit: str | None) -> Operator:
        if self.blur is not None:
            return GaussianBlur(data.shape, self.blur)
        if self.motion is not None:
            return Blur(data.shape, motion(*self.motion))
        assert self.kernel is not None
        return Blur(data.shape, _kernel(self.kernel))

    def remarks(self, noisy: bool) -> list[str]:
        if self.blur is not None:
            return []
        return ["this blur wraps around the border: near the border of a photograph, expect faint ringing"]


@dataclass(frozen=True)
class Colorize(Problem):
    """The picture is gray."""

    def operator(self, data: DataSpec, fit: str | None) -> Operator:
        return Gray(data.shape)

    def read(self, image: Path, data: DataSpec, operator: Operator, fit: str | None) -> Tensor:
        if not image.is_file():
            raise ValueError(f"there is no picture at {image}")
        if read_picture(image.read_bytes(), str(image)).values.shape[2] == 1:
            return read_own(image, _spec(data, 1, data.size), fit=fit)
        # A gray picture is often stored with three equal channels; of a coloured one, the gray is taken.
        return operator(read_own(image, data, fit=fit))

    def shown(self, y: Tensor, data: DataSpec, operator: Operator) -> Image:
        return _spec(data, 1, data.size).to_pil(y.clamp(-1.0, 1.0))[0]


@dataclass(frozen=True)
class Denoise(Problem):
    """The picture is noisy."""

    posterior: ClassVar[str] = "reverse"
    guesses_noise: ClassVar[bool] = True

    def operator(self, data: DataSpec, fit: str | None) -> Operator:
        return Identity(data.shape)


@dataclass(frozen=True)
class Sense(Problem):
    """Of the picture only some random mixtures of all its values are known."""

    ratio: float
    pattern: int = 0
    always_degrades: ClassVar[bool] = True

    def operator(self, data: DataSpec, fit: str | None) -> Operator:
        return CompressedSensing(data.shape, self.ratio, seed=self.pattern)

    def shown(self, y: Tensor, data: DataSpec, operator: Operator) -> Image:
        return data.to_pil(operator.pinv(y).clamp(-1.0, 1.0))[0]


def _spec(data: DataSpec, channels: int, size: tuple[int, ...]) -> DataSpec:
    """The facts of pictures of another shape with the same stored values."""
    mode = data.mode if channels == data.channels else picture_mode(channels, data.bits)
    return replace(data, channels=channels, size=size, mean=(0.0,) * channels, std=(1.0,) * channels, mode=mode)


def _kernel(path: Path) -> Tensor:
    if not path.is_file():
        raise ValueError(f"there is no kernel at {path}")
    values = read_picture(path.read_bytes(), str(path)).values.astype(np.float64)
    gray = torch.from_numpy(values[..., : values.shape[2] - (values.shape[2] in (2, 4))].mean(2))
    if not float(gray.sum()) > 0.0:
        raise ValueError(f"{path} is black all over; a kernel is a picture of the blur of one white point")
    return gray / gray.sum()
