"""A noise level, tabulated: what a sampler needs to know of a time, as numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from kakusan.schedules import NoiseSchedule, expand, remembered

Scalar: TypeAlias = "float | Tensor"


@dataclass(frozen=True, slots=True)
class Level:
    """One time of a schedule.

    The values are floats, or tensors that broadcast against the samples when these stand at different times.
    """

    t: Scalar
    alpha: Scalar
    sigma: Scalar
    log_snr: Scalar

    @classmethod
    def of(cls, schedule: NoiseSchedule, t: float | Tensor, like: Tensor | None = None) -> Level:
        """The level at `t`: a float or () for all samples, or (B,) with `like` (B, C, *spatial), the samples.

        Values are computed in fp64 and only then brought to the samples' dtype.

        Raises:
            ValueError: t outside [0, 1], or several times without the samples.
        """
        wide = torch.as_tensor(t, dtype=torch.float64)
        # Not on an accelerator, where asking would wait for it.
        if wide.is_cpu and not bool(((wide >= 0.0) & (wide <= 1.0)).all()):
            raise ValueError(
                f"times lie in [0, 1], where 0 is data and 1 is noise; got {wide.detach().flatten()[:4].tolist()}"
            )
        values = (wide, schedule.alpha(wide), schedule.sigma(wide), schedule.log_snr(wide))
        if wide.dim() == 0 and not schedule.learnable:
            return cls(*(float(value) for value in values))
        if like is None:
            raise ValueError("a level of several times needs the samples, to broadcast against them")
        # fp64 is kept: the ratios that samplers form lose digits in fp32, and these tensors are tiny.
        return cls(
            *(
                expand(value, like.new_empty(like.shape[:1] + (1,) * (like.dim() - 1), dtype=torch.float64))
                for value in values
            )
        )

    def noise_to_signal(self) -> Scalar:
        """u = sigma / alpha."""
        return self.sigma / self.alpha


def tabulate(schedule: NoiseSchedule, grid: Tensor) -> tuple[Level, ...]:
    """The levels of a 1-D grid of times; those of a frozen schedule are kept for the next run on the same grid."""
    return _levels(schedule, tuple(grid.to(torch.float64).tolist()))


@remembered(64)
def _levels(schedule: NoiseSchedule, times: tuple[float, ...]) -> tuple[Level, ...]:
    wide = torch.tensor(times, dtype=torch.float64)
    columns = (times, *(f(wide).tolist() for f in (schedule.alpha, schedule.sigma, schedule.log_snr)))
    return tuple(Level(*row) for row in zip(*columns, strict=True))


# On the CPU torch wraps a Python number into a tensor and converts it in every call, which costs as much as a small
# picture's arithmetic; as the `alpha` of an addition it goes straight into the kernel, with the same bits.
_ZEROS = {dtype: torch.zeros((), dtype=dtype) for dtype in (torch.float32, torch.float64)}


def scaled(x: Tensor, factor: Scalar) -> Tensor:
    """factor * x in x's dtype, a new tensor."""
    if isinstance(factor, Tensor):
        return x * factor.to(x)
    zero = _ZEROS.get(x.dtype) if x.is_cpu else None
    return x * factor if zero is None else torch.add(zero, x, alpha=factor)


def blend(x: Tensor, x_factor: Scalar, y: Tensor, y_factor: Scalar) -> Tensor:
    """x_factor * x + y_factor * y in x's dtype, a new tensor: two passes over memory where the factors are numbers."""
    # Without the two calls below: it runs in every step.
    if isinstance(x_factor, float) and isinstance(y_factor, float) and x.is_cpu and x.dtype in _ZEROS:
        return torch.add(_ZEROS[x.dtype], x, alpha=x_factor).add_(y, alpha=y_factor)
    return add_scaled(scaled(x, x_factor), y, y_factor)


def add_scaled(x: Tensor, y: Tensor, factor: Scalar) -> Tensor:
    """x += factor * y, in place."""
    return x.add_(y * factor.to(x)) if isinstance(factor, Tensor) else x.add_(y, alpha=factor)


def _on_both(number: Callable[[float], float], tensor: Callable[[Tensor], Tensor]) -> Callable[[Scalar], Scalar]:
    def function(value: Scalar) -> Scalar:
        return tensor(value) if isinstance(value, Tensor) else number(value)

    return function


exp = _on_both(math.exp, torch.exp)
expm1 = _on_both(math.expm1, torch.expm1)
# Differences of nearly equal squares may fall a rounding below zero.
root = _on_both(lambda value: math.sqrt(max(value, 0.0)), lambda value: value.clamp_min(0.0).sqrt())
