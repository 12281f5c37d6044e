"""Data that a network makes of pictures: latents and CLIP vectors, which are trained on as pictures are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class DerivedSpec(DataSpec):
    """What a network makes of pictures, standardised; base class.

    Stored batches are told apart by their type: pictures are whole numbers, what was made of them is not.

    Args:
        pixels: the spec of the pictures.
    """

    pixels: DataSpec
    noun: ClassVar[str]
    """What the values are called."""
    damaged: ClassVar[str]
    """What to do about values that are not finite."""

    @classmethod
    def _of(cls, pixels: DataSpec, shape: Sequence[int], **more: Any) -> Self:
        """Of standardised values of a shape (C, *size).

        Raises:
            ValueError: pictures that are changed while training goes on.
        """
        if pixels.augment:
            raise ValueError(f"{cls.noun} are made once, so pictures cannot be changed at random: leave augment at 0")
        channels, *size = shape
        return cls(
            channels=channels,
            size=tuple(size),
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            mode="",
            bits=pixels.bits,
            classes=pixels.classes,
            pixels=pixels,
            **more,
        )

    @property
    def pictured(self) -> DataSpec:
        return self.pixels

    def networks(self) -> Mapping[str, nn.Module]:
        raise NotImplementedError

    def made(self, x: Tensor) -> Tensor:
        """Pictures (B, C, *pixels) in [-1, 1] -> values (B, C', *size), where the pictures are."""
        raise NotImplementedError

    def to_model(self, stored: Tensor) -> Tensor:
        """Stored pictures (B, C, *pixels) -> values (B, C', *size); values stay as they are."""
        return stored.float() if stored.is_floating_point() else self.made(self.pixels.to_model(stored))

    def snap(self, x: Tensor) -> Tensor:
        """There are no nearest values that can be stored: unchanged."""
        return x

    def check(self, stored: Tensor) -> None:
        """Refuse a batch that is neither values nor stored pictures of this spec.

        Raises:
            ValueError: saying what it is.
        """
        if not stored.is_floating_point():
            self.pixels.check(stored)
            return
        self._check_shape(stored)
        if not bool(stored.isfinite().all()):
            raise ValueError(f"{self.noun} that are not finite; {self.damaged}")


class DerivedPictures:
    """What a network makes of a data set, in its place; base class.

    `pixels` is the data set itself. Labels, captions and names are its own.

    Args:
        pictures: the data set.
        noun: what is made of it.
        identity: of the network.
    """

    def __init__(self, pictures: Pictures, noun: str, identity: str) -> None:
        self.pixels = pictures
        self.labels, self.captions, self.texts = pictures.labels, pictures.captions, pictures.texts
        self.notes = tuple(pictures.notes)
        self.fingerprint = hashlib.sha256(f"{noun} {pictures.fingerprint} {identity}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """What to call one picture in messages."""
        return self.pixels.name(index)

    def digest(self, index: int) -> str:
        """Hash of one picture's content."""
        return self.pixels.digest(index)
