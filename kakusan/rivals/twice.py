"""A convolution whose gradient by its input is cheap to differentiate again, as gradient penalties do.

torch differentiates its convolution's gradient by general transposed convolutions, which take two to three times as
long on a CPU as the kernels there are for these very products. A convolution is bilinear, so there are only three:

    forward(x, w) -> y        input(y', w) -> x'        weight(x, y') -> w'

with sum(forward(x, w) * y') = sum(x * input(y', w)) = sum(w * weight(x, y')), and the gradients of each are the other
two (Karras et al. 2020, arXiv 1912.04958, use the same fact).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class _Form:
    """Padding and groups of one convolution, and its three products."""

    padding: tuple[int, ...]
    groups: int

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, w, bias, padding=self.padding, groups=self.groups)

    def input(self, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """x' for y and w; only the shape of `x` counts."""
        return self._back(y, x, w, (True, False, False))[0]

    def weight(self, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """w' for x and y; only the shape of `w` counts."""
        return self._back(y, x, w, (False, True, False))[1]

    def _back(self, y: Tensor, x: Tensor, w: Tensor, wanted: tuple[bool, bool, bool]) -> Any:
        ones, zeros = (1,) * len(self.padding), (0,) * len(self.padding)
        return torch.ops.aten.convolution_backward(
            y, x, w, None, ones, self.padding, ones, False, zeros, self.groups, list(wanted)
        )


class _Input(torch.autograd.Function):
    """`input(y, w)`: the gradient of the convolution by its input."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, w: Tensor, x: Tensor, form: _Form) -> Tensor:
        ctx.save_for_backward(y, w)
        ctx.form = form
        return form.input(x, y, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        y, w = ctx.saved_tensors
        by_y = ctx.form.forward(slope, w) if ctx.needs_input_grad[0] else None
        by_w = ctx.form.weight(slope, y, w) if ctx.needs_input_grad[1] else None
        return by_y, by_w, None, None


class _Convolution(torch.autograd.Function):
    """`forward(x, w)` and a bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, form: _Form) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.form = form
        return form.forward(x, w, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        by_x = _Input.apply(slope, w, x.detach(), ctx.form) if ctx.needs_input_grad[0] else None
        # Gradients are recorded here only in the pass that a penalty is made of, which asks for that of the input.
        last = not torch.is_grad_enabled()
        by_w = ctx.form.weight(x, slope, w) if ctx.needs_input_grad[1] and last else None
        by_bias = slope.sum(dim=(0, 2, 3)) if ctx.needs_input_grad[2] and last else None
        return by_x, by_w, by_bias, None


class Convolution(nn.Conv2d):
    """`nn.Conv2d` of stride 1 that is twice differentiable by its input, and once by its weights.

    A pass with `create_graph` gives the gradient of the input alone: it has none of the weights.
    """

    def forward(self, x: Tensor) -> Tensor:
        form = _Form(tuple(int(n) for n in self.padding), self.groups)
        y: Tensor = _Convolution.apply(x, self.weight, self.bias, form)
        return y
