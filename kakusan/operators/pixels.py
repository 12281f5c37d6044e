"""Operators on pixels and channels: nothing at all, a mask, gray."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kakusan.operators.base import Operator, reflected


class Mask(Operator):
    """Some elements are known, the others are not; a measurement has the shape of the sample, with zeros there.

    Args:
        known: (C, *spatial), or (1, *spatial) for all channels: True or 1 where the element is known.
        shape: of one sample, when `known` has one channel and the sample more.

    Raises:
        ValueError: another shape, values that are not 0 and 1, or nothing known.
    """

    def __init__(self, known: Tensor, shape: Sequence[int] | None = None) -> None:
        full = tuple(known.shape if shape is None else shape)
        values = known.to(torch.float64)
        if values.dim() != len(full) or values.shape[0] not in (1, full[0]) or tuple(values.shape[1:]) != full[1:]:
            raise ValueError(f"a mask of shape {tuple(known.shape)} does not fit pictures of shape {full}")
        if not bool(((values == 0.0) | (values == 1.0)).all()):
            raise ValueError("a mask holds 1 where a pixel is known and 0 where it is not, and nothing between")
        if not bool(values.any()):
            raise ValueError("this mask knows no pixel at all; draw new pictures instead (kakusan sample)")
        super().__init__(full, full, values)

    def rotate(self, x: Tensor) -> Tensor:
        return x

    def unrotate(self, z: Tensor) -> Tensor:
        return z

    def read(self, z: Tensor) -> Tensor:
        return z

    def place(self, y: Tensor) -> Tensor:
        return y

    def composite(self, restored: Tensor, known: Tensor) -> Tensor:
        """`known` where it is known, bit for bit, and `restored` elsewhere; both (B, C, *spatial)."""
        return torch.where(self.seen(restored) > 0.0, known, restored)


class Identity(Mask):
    """Everything is measured: restoring from it is denoising."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(torch.ones(*shape))


# Rec. 601, the weights of Pillow's and JPEG's gray.
LUMA = (0.299, 0.587, 0.114)


class Gray(Operator):
    """A weighted mean of the channels; a measurement is (1, *spatial).

    Args:
        shape: of one sample.
        weights: one for each channel; Rec. 601 luma for three channels and the plain mean for others by default.

    Raises:
        ValueError: one channel only, or another number of weights.
    """

    def __init__(self, shape: Sequence[int], weights: Sequence[float] | None = None) -> None:
        channels = shape[0]
        if channels < 2:
            raise ValueError("these pictures have one channel and are gray already")
        chosen = weights if weights is not None else LUMA if channels == 3 else [1.0 / channels] * channels
        if len(chosen) != channels:
            raise ValueError(f"{len(chosen)} weights were given for {channels} channels")
        self._weights = torch.tensor(chosen, dtype=torch.float64)
        size = self._weights.norm()
        singular = torch.zeros(channels, *[1] * (len(shape) - 1), dtype=torch.float64)
        singular[0] = size
        self._towards = self._weights / size
        super().__init__(shape, (1, *shape[1:]), singular)

    def rotate(self, x: Tensor) -> Tensor:
        return reflected(x, 1, self._towards)

    def unrotate(self, z: Tensor) -> Tensor:
        return reflected(z, 1, self._towards)

    def read(self, z: Tensor) -> Tensor:
        return z[:, :1]

    def place(self, y: Tensor) -> Tensor:
        return torch.cat([y, y.new_zeros(len(y), self.shape[0] - 1, *self.shape[1:])], 1)
