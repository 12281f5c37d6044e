"""Keeping the predicted x0 within the range of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.guidance.base import Wrapped
from kakusan.guidance.rules import Reading
from kakusan.levels import Level
from kakusan.specs import register


class Thresholding(ABC):
    """A frozen dataclass that keeps x0 in range."""

    @abstractmethod
    def keep(self, x0: Tensor) -> Tensor:
        """x0 (B, C, *spatial) within the bound."""

    def __call__(self, denoiser: BaseDenoiser) -> Thresholded:
        return Thresholded(denoiser, self)


@register
@dataclass(frozen=True)
class DynamicThresholding(Thresholding):
    """Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3).

    Where a sample's |x0| has a quantile q above `bound`, x0 is clamped to [-q, q] and divided by q / bound: strong
    guidance then saturates fewer pixels than a clamp at the bound. quantile = 1 only scales; a static clamp is
    `StaticThresholding`.

    Args:
        quantile: in (0, 1]; the paper takes 0.995.
        bound: of the data, 1 in model units.
    """

    quantile: float = 0.995
    bound: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.quantile <= 1.0:
            raise ValueError(f"the quantile of dynamic thresholding is in (0, 1], got {self.quantile}")
        if self.bound <= 0.0:
            raise ValueError(f"the bound of thresholding must be positive, got {self.bound}")

    def keep(self, x0: Tensor) -> Tensor:
        size = x0.flatten(1).abs()
        # By sorting: torch.quantile refuses more than 16 million values.
        rank = round(self.quantile * (size.shape[1] - 1))
        reach = size.kthvalue(rank + 1, dim=1).values.clamp_min(self.bound).view(-1, *[1] * (x0.dim() - 1))
        return x0.clamp(-reach, reach) * (self.bound / reach)


@register
@dataclass(frozen=True)
class StaticThresholding(Thresholding):
    """x0 clamped to [-bound, bound] (Ho et al. 2020)."""

    bound: float = 1.0

    def __post_init__(self) -> None:
        if self.bound <= 0.0:
            raise ValueError(f"the bound of thresholding must be positive, got {self.bound}")

    def keep(self, x0: Tensor) -> Tensor:
        return x0.clamp(-self.bound, self.bound)


class Thresholded(Wrapped):
    """A denoiser whose x0 is kept within the range of data; eps follows from it."""

    def __init__(self, inner: BaseDenoiser, thresholding: Thresholding) -> None:
        super().__init__(inner)
        self.thresholding = thresholding

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        output, beside = self.parted(self.inner.output(x_t, level, cond))
        reading = Reading(x_t, level, self.coefficients(level, x_t), self.schedule)
        return self.joined(reading.from_x0(self.thresholding.keep(reading.x0(output))), beside)
