"""Operators that Fourier transforms diagonalise: circular blurs of any kernel, and compressed sensing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kakusan.operators.base import Operator


class Blur(Operator):
    """Circular convolution with any kernel, the same for all channels: motion, defocus, or a photographed one.

    Args:
        shape: of one sample.
        kernel: (*sides), no larger than the sample; its centre is element side // 2.

    Raises:
        ValueError: a kernel of another rank, larger than the sample, or not finite.
    """

    def __init__(self, shape: Sequence[int], kernel: Tensor) -> None:
        spatial = tuple(shape[1:])
        if kernel.dim() != len(spatial) or any(k > s for k, s in zip(kernel.shape, spatial, strict=True)):
            raise ValueError(f"a kernel of shape {tuple(kernel.shape)} does not fit pictures of shape {tuple(shape)}")
        if not bool(kernel.isfinite().all()):
            raise ValueError("the kernel of a blur has values that are not finite")
        self._axes = tuple(range(2, 2 + len(spatial)))
        wide = torch.zeros(spatial, dtype=torch.float64)
        wide[tuple(slice(0, side) for side in kernel.shape)] = kernel.to(torch.float64)
        wide = wide.roll([-(side // 2) for side in kernel.shape], tuple(range(len(spatial))))
        response = torch.fft.fftn(wide)
        size = response.abs()
        # U and V differ by the phase of the response, so that the factors are real.
        self._phase = torch.where(size > 0.0, response / size.clamp_min(1e-300), torch.ones_like(response))
        super().__init__(shape, shape, size.unsqueeze(0))

    def rotate(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=self._axes, norm="ortho")

    def unrotate(self, z: Tensor) -> Tensor:
        return torch.fft.ifftn(z, dim=self._axes, norm="ortho").real

    def read(self, z: Tensor) -> Tensor:
        return torch.fft.ifftn(z * self._phase.to(z), dim=self._axes, norm="ortho").real

    def place(self, y: Tensor) -> Tensor:
        z = torch.fft.fftn(y, dim=self._axes, norm="ortho")
        return z * self._phase.conj().to(z)


def motion(length: int, degrees: float) -> Tensor:
    """The kernel (side, side) of a straight motion of `length` pixels at an angle against the horizontal.

    Raises:
        ValueError: a length below 2.
    """
    if length < 2:
        raise ValueError(f"a motion blurs over at least 2 pixels, got {length}")
    side = length | 1
    kernel = torch.zeros(side, side, dtype=torch.float64)
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    for share in torch.linspace(-0.5, 0.5, 16 * length, dtype=torch.float64):
        x = side // 2 + share * (length - 1) * torch.cos(angle)
        y = side // 2 - share * (length - 1) * torch.sin(angle)
        kernel[int(torch.round(y)), int(torch.round(x))] += 1.0
    return kernel / kernel.sum()


class CompressedSensing(Operator):
    """Some rows of a random orthonormal transform: random signs, a Hartley transform over all elements, a random
    choice of its outputs. A measurement is (m,).

    Args:
        shape: of one sample.
        ratio: measurements over elements, in (0, 1].
        seed: of the signs and the choice.

    Raises:
        ValueError: a ratio outside (0, 1].
    """

    def __init__(self, shape: Sequence[int], ratio: float, *, seed: int = 0) -> None:
        if not 0.0 < ratio <= 1.0:
            raise ValueError(f"the ratio of measurements to elements is in (0, 1], got {ratio}")
        size = 1
        for side in shape:
            size *= side
        generator = torch.Generator().manual_seed(seed)
        count = max(1, round(ratio * size))
        self._signs = (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(torch.float64)
        self._rows = torch.randperm(size, generator=generator)[:count].sort().values
        singular = torch.zeros(size, dtype=torch.float64)
        singular[self._rows] = 1.0
        super().__init__(shape, (count,), singular.view(tuple(shape)))

    def rotate(self, x: Tensor) -> Tensor:
        return _hartley(x.flatten(1) * self._signs.to(x)).view(x.shape)

    def unrotate(self, z: Tensor) -> Tensor:
        return (_hartley(z.flatten(1)) * self._signs.to(z)).view(z.shape)

    def read(self, z: Tensor) -> Tensor:
        return z.flatten(1)[:, self._rows.to(z.device)]

    def place(self, y: Tensor) -> Tensor:
        flat = y.new_zeros(len(y), self._signs.numel())
        flat[:, self._rows.to(y.device)] = y
        return flat.view(-1, *self.shape)


def _hartley(x: Tensor) -> Tensor:
    """The discrete Hartley transform along the last axis: real, orthonormal and its own inverse."""
    z = torch.fft.fft(x, norm="ortho")
    return z.real - z.imag
