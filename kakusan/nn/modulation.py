"""RMSNorm with a scale and a shift given per sample: the way noise level and condition enter a transformer block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """x (B, L, width), scale and shift (B or 1, 1, width) -> `rms_norm(x) * (1 + scale) + shift`, of x's shape."""
    if x.device.type != "cpu" or x.dtype != scale.dtype or torch.compiler.is_compiling():
        return torch.addcmul(shift, F.rms_norm(x, (x.shape[-1],), eps=eps), 1.0 + scale)
    out: Tensor = _ModulatedNorm.apply(x, scale, shift, eps)[0]
    return out


class _ModulatedNorm(torch.autograd.Function):
    """`modulated_norm` with few passes over memory: in eager mode the CPU has no RMSNorm of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = (size.square() / x.shape[-1] + eps).rsqrt()
        return torch.addcmul(shift, x * inverse, 1.0 + scale), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.eps = inputs[3]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:3], output[1])
        ctx.save_for_forward(*inputs[:3], output[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, scale, shift, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():
            # A derivative of this derivative is wanted, and the factor is a function of x.
            inverse = (x.square().mean(dim=-1, keepdim=True) + ctx.eps).rsqrt()
        unit = x * inverse
        along = gradient * unit
        # Over the features of each token, as a product: the mean of gradient * (1 + scale) * unit.
        dot = along @ (1.0 + scale).mT / x.shape[-1]
        change = torch.addcmul(gradient * (1.0 + scale), unit, dot, value=-1.0) * inverse
        return change, along.sum_to_size(scale.shape), gradient.sum_to_size(shift.shape), None

    @staticmethod
    def jvp(
        ctx: Any, x_tangent: Tensor | None, scale_tangent: Tensor | None, shift_tangent: Tensor | None, _: None
    ) -> tuple[Tensor, None]:
        x, scale, shift, inverse = ctx.saved_tensors
        unit = x * inverse
        change = torch.zeros_like(x) + torch.zeros_like(shift)
        if x_tangent is not None:
            dot = (x_tangent * unit).mean(dim=-1, keepdim=True)
            change = change + (x_tangent - unit * dot) * inverse * (1.0 + scale)
        if scale_tangent is not None:
            change = change + unit * scale_tangent
        if shift_tangent is not None:
            change = change + shift_tangent
        return change, None
