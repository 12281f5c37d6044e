"""What was measured: an operator, its result and the noise upon it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.operators.base import Operator


@dataclass(frozen=True)
class Measurement:
    """y = A x0 + noise_std * (standard normal noise), in model units.

    Args:
        operator: A.
        y: (G, *measured), one for each of G groups of samples; B samples of one batch belong to them in order, B / G
            to each.
        noise_std: standard deviation of the noise in y; 0 for none.

    Raises:
        ValueError: y of another shape, not finite, or a negative noise.
    """

    operator: Operator
    y: Tensor
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        expected = self.operator.measured
        if tuple(self.y.shape[1:]) != expected or len(self.y) < 1:
            raise ValueError(
                f"{type(self.operator).__name__} measures {expected}; got measurements of {tuple(self.y.shape[1:])}"
            )
        if not bool(self.y.isfinite().all()):
            raise ValueError("the measurement holds values that are not finite")
        if not math.isfinite(self.noise_std) or self.noise_std < 0.0:
            raise ValueError(f"the noise of a measurement must not be negative, got {self.noise_std}")

    def rows(self, like: Tensor) -> Tensor:
        """y for each sample of `like` (B, C, *spatial), (B, *measured), in its dtype and on its device.

        Raises:
            ValueError: B is no multiple of G.
        """
        if len(like) % len(self.y):
            raise ValueError(f"{len(like)} samples cannot be shared out among {len(self.y)} measurements")
        return self.y.to(like).repeat_interleave(len(like) // len(self.y), dim=0)

    def placed(self, like: Tensor) -> Tensor:
        """U^T y in the spectrum, (B, *shape); 0 where nothing is measured."""
        y = self.rows(like)
        return self.operator.place(y) * self.operator.seen(y)

    def towards(self, x0: Tensor, ratio: Tensor | float) -> Tensor:
        """The x with the least |y - A x|^2 + ratio |x - x0|^2, (B, C, *spatial).

        It is the mean of the posterior of a Gaussian prior around x0 of variance noise_std^2 / ratio. At ratio 0 it
        fits y exactly and keeps x0 elsewhere.
        """
        operator = self.operator
        s = operator.singular(x0)
        gain = torch.where(s > 0.0, s / (s * s + ratio).clamp_min(1e-30), torch.zeros_like(s))
        return x0 + operator.unrotate(gain * (self.placed(x0) - s * operator.rotate(x0)))

    def residual(self, x0: Tensor) -> Tensor:
        """y - A x0, (B, *measured)."""
        return self.rows(x0) - self.operator(x0)

    def log_likelihood(self, x0: Tensor, variance: float | Tensor = 0.0) -> Tensor:
        """log p(y | x) for x normal around x0 (B, C, *spatial) with this variance in every direction, (B,), in nats.

        Raises:
            ValueError: neither the noise nor x has a variance.
        """
        operator = self.operator
        s = operator.singular(x0)
        total = s * s * variance + self.noise_std**2
        if not bool((total > 0.0).all()):
            raise ValueError("a measurement without noise has no density; give a small noise_std")
        error = (self.placed(x0) - s * operator.rotate(x0)).abs().square() * operator.seen(x0)
        each = -0.5 * (error / total + (2.0 * math.pi * total).log()) * operator.seen(x0)
        return each.expand_as(x0).flatten(1).sum(1) if each.shape != x0.shape else each.flatten(1).sum(1)
