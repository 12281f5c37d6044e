"""Linear degradations, each known by its singular value decomposition.

A = U S V^T. `spectrum(x)` is V^T x, a rotation of the sample in which A only scales: `singular` are the factors, zero
where nothing is measured. Everything that restoration needs follows from it: adjoint, pseudo-inverse, and exact
solutions of least squares with a Gaussian prior. The rotation may be complex (a Fourier transform); functions of
`singular` then keep real samples real.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Operator(ABC):
    """A linear map of samples (B, *shape) to measurements (B, *measured).

    Args:
        shape: of one sample, (C, *spatial).
        measured: of one measurement.
        singular: factors >= 0 that broadcast against a spectrum of `shape`.
    """

    def __init__(self, shape: Sequence[int], measured: Sequence[int], singular: Tensor) -> None:
        self.shape, self.measured = tuple(shape), tuple(measured)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"an operator needs the shape of one sample, as in (3, 32, 32); got {self.shape}")
        # A direction whose factor is lost in rounding is not measured; its inverse would be noise alone.
        largest = float(singular.max()) if singular.numel() else 0.0
        if not math.isfinite(largest) or largest <= 0.0:
            raise ValueError(f"{type(self).__name__} measures nothing: all of its factors are zero")
        self._singular = torch.where(singular > 1e-7 * largest, singular, 0.0).to(torch.float64)
        self._kept: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    @abstractmethod
    def rotate(self, x: Tensor) -> Tensor:
        """V^T x: (B, *shape) -> the spectrum (B, *shape)."""

    @abstractmethod
    def unrotate(self, z: Tensor) -> Tensor:
        """V z, real: the inverse of `rotate`."""

    @abstractmethod
    def read(self, z: Tensor) -> Tensor:
        """U z for the measured directions: (B, *shape) -> (B, *measured)."""

    @abstractmethod
    def place(self, y: Tensor) -> Tensor:
        """U^T y, at the measured directions of a spectrum, whatever elsewhere: (B, *measured) -> (B, *shape)."""

    def __call__(self, x: Tensor) -> Tensor:
        """A x, (B, *measured).

        Raises:
            ValueError: samples of another shape.
        """
        self._check(x, self.shape, "pictures")
        return self.read(self.rotate(x) * self.singular(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, (B, *shape).

        Raises:
            ValueError: measurements of another shape.
        """
        self._check(y, self.measured, "measurements")
        return self.unrotate(self.place(y) * self.singular(y))

    def pinv(self, y: Tensor) -> Tensor:
        """The sample of least norm among those that fit y best (Moore and Penrose), (B, *shape).

        Raises:
            ValueError: measurements of another shape.
        """
        self._check(y, self.measured, "measurements")
        return self.unrotate(self.place(y) * self.inverse(y))

    def singular(self, like: Tensor) -> Tensor:
        """The factors in the real dtype and on the device of `like`."""
        return self._table("singular", lambda: self._singular, like)

    def inverse(self, like: Tensor) -> Tensor:
        """1 / factor where something is measured, 0 elsewhere."""
        return self._table("inverse", lambda: torch.where(self._singular > 0.0, 1.0 / self._singular, 0.0), like)

    def seen(self, like: Tensor) -> Tensor:
        """1 where something is measured, 0 elsewhere."""
        return self._table("seen", lambda: (self._singular > 0.0).to(torch.float64), like)

    def filtered(self, x: Tensor, factors: Tensor) -> Tensor:
        """V diag(factors) V^T x: a function of A^T A applied to samples; factors broadcast against a spectrum."""
        return self.unrotate(self.rotate(x) * factors)

    @property
    def rank(self) -> int:
        """Number of measured directions."""
        return int((self._singular > 0.0).expand(self.shape).sum())

    @property
    def norm(self) -> float:
        """The largest factor."""
        return float(self._singular.max())

    def _table(self, name: str, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        real = torch.float64 if like.dtype in (torch.float64, torch.complex128) else torch.float32
        key = (name, like.device, real)
        if key not in self._kept:
            self._kept[key] = make().to(device=like.device, dtype=real)
        return self._kept[key]

    def _check(self, values: Tensor, shape: tuple[int, ...], what: str) -> None:
        if tuple(values.shape[1:]) != shape:
            raise ValueError(
                f"{type(self).__name__} was made for {what} of shape {shape}; got {tuple(values.shape[1:])}"
            )


def reflected(x: Tensor, dim: int, towards: Tensor) -> Tensor:
    """Householder's reflection of the vectors along `dim` that exchanges the first axis and the unit vector `towards`.

    It is orthonormal and its own inverse.
    """
    first = torch.zeros_like(towards)
    first[0] = 1.0
    normal = first - towards
    squared = float(normal.square().sum())
    if squared < 1e-24:
        return x
    shape = [1] * x.dim()
    shape[dim] = -1
    normal = normal.to(x).view(shape)
    return x - (2.0 / squared) * normal * (normal * x).sum(dim, keepdim=True)
