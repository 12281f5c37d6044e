"""Operators that act along each axis: shrinking by any kernel, and blurs with any border."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kakusan.operators.base import Operator


class Separable(Operator):
    """A matrix along each spatial axis, the same for all channels.

    Args:
        shape: of one sample, (C, *spatial).
        matrices: one (m, n) for each axis of n elements.

    Raises:
        ValueError: another number of matrices, or one of another width.
    """

    def __init__(self, shape: Sequence[int], matrices: Sequence[Tensor]) -> None:
        if [matrix.shape[1] for matrix in matrices] != list(shape[1:]):
            given = " and ".join(f"{tuple(matrix.shape)}" for matrix in matrices)
            raise ValueError(f"matrices of shapes {given} do not fit pictures of shape {tuple(shape)}")
        self._left, self._right = [], []
        singular = torch.ones(1, *[1] * len(matrices), dtype=torch.float64)
        for axis, matrix in enumerate(matrices):
            u, s, vt = torch.linalg.svd(matrix.to(torch.float64), full_matrices=True)
            self._left.append(u[:, : len(s)])
            self._right.append(vt)
            wide = torch.cat([s, s.new_zeros(matrix.shape[1] - len(s))])
            singular = singular * wide.view([-1 if i == axis else 1 for i in range(-1, len(matrices))])
        self._counts = [matrix.shape for matrix in matrices]
        super().__init__(shape, (shape[0], *(matrix.shape[0] for matrix in matrices)), singular)

    def rotate(self, x: Tensor) -> Tensor:
        return _along(x, self._right)

    def unrotate(self, z: Tensor) -> Tensor:
        return _along(z, [right.T for right in self._right])

    def read(self, z: Tensor) -> Tensor:
        for axis, left in enumerate(self._left):
            z = z.narrow(axis + 2, 0, left.shape[1])
        return _along(z, self._left)

    def place(self, y: Tensor) -> Tensor:
        z = _along(y, [left.T for left in self._left])
        pads: list[int] = []
        for axis in reversed(range(len(self._left))):
            pads += [0, self.shape[axis + 1] - z.shape[axis + 2]]
        return torch.nn.functional.pad(z, pads)


def _along(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    for axis, matrix in enumerate(matrices):
        x = torch.tensordot(x, matrix.to(x), dims=([axis + 2], [1])).movedim(-1, axis + 2)
    return x


def _box(distance: float) -> float:
    # Half open, so that a pixel on the border of two blocks belongs to one of them.
    return 1.0 if -0.5 <= distance < 0.5 else 0.0


def _cubic(distance: float) -> float:
    """Keys 1981, a = -1/2: the bicubic of Pillow and MATLAB."""
    x = abs(distance)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0 if x < 2.0 else 0.0


def _lanczos(distance: float) -> float:
    if abs(distance) >= 3.0:
        return 0.0
    x = math.pi * distance
    return 1.0 if x == 0.0 else 3.0 * math.sin(x) * math.sin(x / 3.0) / (x * x)


KERNELS: dict[str, tuple[Callable[[float], float], float]] = {
    "box": (_box, 0.5),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


class Downsample(Separable):
    """Shrinking by a whole factor with an antialiasing kernel, as picture programs do it (the kernel is stretched by
    the factor, weights at the border are normalised).

    Args:
        shape: of one large sample.
        factor: a divisor of every side.
        kernel: box (the mean of each block), bicubic or lanczos.

    Raises:
        ValueError: a factor that does not divide the sides, or an unknown kernel.
    """

    def __init__(self, shape: Sequence[int], factor: int, *, kernel: str = "box") -> None:
        if kernel not in KERNELS:
            raise ValueError(f"no kernel {kernel!r}; there are {', '.join(KERNELS)}")
        if factor < 2 or any(side % factor for side in shape[1:]):
            sides = " x ".join(str(side) for side in shape[1:])
            raise ValueError(f"the factor must be at least 2 and divide every side of {sides}; got {factor}")
        self.factor, self.kernel = factor, kernel
        super().__init__(shape, [shrinking(side, factor, kernel) for side in shape[1:]])


def shrinking(side: int, factor: int, kernel: str = "box") -> Tensor:
    """The matrix (side / factor, side) of shrinking one axis."""
    shape, reach = KERNELS[kernel]
    rows = []
    for out in range(side // factor):
        centre = (out + 0.5) * factor
        near = range(math.floor(centre - reach * factor) - 1, math.ceil(centre + reach * factor) + 1)
        weights = torch.zeros(side, dtype=torch.float64)
        for place in near:
            if 0 <= place < side:
                weights[place] = shape((place + 0.5 - centre) / factor)
        rows.append(weights / weights.sum())
    return torch.stack(rows)


class GaussianBlur(Separable):
    """A Gaussian blur; beyond the border the picture is mirrored, as picture programs do it.

    Args:
        shape: of one sample.
        std: of the kernel, in pixels.

    Raises:
        ValueError: a standard deviation that is not positive.
    """

    def __init__(self, shape: Sequence[int], std: float) -> None:
        if not 0.0 < std < 1000.0:
            raise ValueError(f"the standard deviation of a blur is in pixels, above 0 and below 1000; got {std}")
        self.std = std
        super().__init__(shape, [blurring(side, std) for side in shape[1:]])


def blurring(side: int, std: float) -> Tensor:
    """The matrix (side, side) of a Gaussian blur of one axis with a mirrored border."""
    reach = max(1, math.ceil(4.0 * std))
    offsets = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (offsets.to(torch.float64) / std) ** 2).exp()
    weights = weights / weights.sum()
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for row in range(side):
        # Mirrored about the edge of the last pixel, again and again where the kernel is wider than the picture.
        places = (row + offsets) % (2 * side)
        places = torch.where(places >= side, 2 * side - 1 - places, places)
        matrix[row].index_add_(0, places, weights)
    return matrix
