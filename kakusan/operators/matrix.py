"""Any matrix on the elements of a sample, for small samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kakusan.operators.base import Operator


class Matrix(Operator):
    """y = M x over the flattened sample; a measurement is (m,).

    Args:
        shape: of one sample of n elements.
        matrix: (m, n).

    Raises:
        ValueError: another width, or values that are not finite.
    """

    def __init__(self, shape: Sequence[int], matrix: Tensor) -> None:
        size = 1
        for side in shape:
            size *= side
        if matrix.dim() != 2 or matrix.shape[1] != size or not bool(matrix.isfinite().all()):
            raise ValueError(f"the matrix must be finite and (m, {size}) for this sample; got {tuple(matrix.shape)}")
        u, s, vt = torch.linalg.svd(matrix.to(torch.float64), full_matrices=True)
        self._left, self._right = u[:, : len(s)], vt
        wide = torch.cat([s, s.new_zeros(size - len(s))])
        super().__init__(shape, (matrix.shape[0],), wide.view(tuple(shape)))

    def rotate(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self._right.T.to(x)).view(x.shape)

    def unrotate(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self._right.to(z)).view(z.shape)

    def read(self, z: Tensor) -> Tensor:
        return z.flatten(1)[:, : self._left.shape[1]] @ self._left.T.to(z)

    def place(self, y: Tensor) -> Tensor:
        flat = y @ self._left.to(y)
        missing = self._right.shape[0] - flat.shape[1]
        return torch.nn.functional.pad(flat, (0, missing)).view(-1, *self.shape)
