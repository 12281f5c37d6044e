"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) and its uses: negative and mixed conditions.

Scale 1 is the conditional model, 0 the unconditional one, and any other real number extrapolates or interpolates:
F = F_null + scale (F_cond - F_null). Mixing acts on the network's own output; for the output's linear meaning that is
the same as mixing x0 or eps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.guidance.base import Contrast, Guidance, GuidedDenoiser, repeated, stacked
from kakusan.levels import Level
from kakusan.specs import register


@register
@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """`ClassifierFree(scale=3.0)(denoiser, conditioner.null())` is a guided denoiser; arguments as in `Guidance`."""

    def __call__(
        self, denoiser: BaseDenoiser, null: Condition, *, mixture: Sequence[tuple[float, Condition]] = ()
    ) -> GuidedDenoiser:
        """Guide `denoiser`.

        Args:
            denoiser: what is guided.
            null: what its conditioner gives for "no condition", for one sample or for each. Any other condition in its
                place is a negative one: samples are led away from it.
            mixture: weights and further conditions (Liu et al. 2022, arXiv 2206.01714): the followed output is the
                weighted mean of theirs and of that of the condition given with x_t, whose own weight is 1 less the
                others. Weights are any real numbers.
        """
        for weight, _ in mixture:
            if not math.isfinite(weight):
                raise ValueError(f"the weight of a condition must be a finite number, got {weight}")
        return GuidedDenoiser(denoiser, self, Conditions(null, tuple(mixture)))


@dataclass(frozen=True)
class Conditions(Contrast):
    """With the condition, and with another or none; every output of one batched pass.

    Args:
        null: the weaker condition.
        mixture: further conditions with their weights.
    """

    null: Condition
    mixture: tuple[tuple[float, Condition], ...] = ()

    def strong(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        return self._mean(self._outputs(inner, x_t, level, [_given(cond), *(other for _, other in self.mixture)]))

    def weak(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        _given(cond)
        return inner.output(x_t, level, self.null.expand(len(x_t)))

    def pair(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> tuple[Tensor, Tensor]:
        *outputs, free = self._all(inner, x_t, level, cond)
        return self._mean(outputs), free

    def parts(
        self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None
    ) -> list[tuple[float, Tensor]]:
        others = [weight for weight, _ in self.mixture]
        weights = [1.0 - sum(others), *others, 0.0]
        return list(zip(weights, self._all(inner, x_t, level, cond), strict=True))

    def _all(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> Sequence[Tensor]:
        conditions = [_given(cond), *(other for _, other in self.mixture), self.null]
        return self._outputs(inner, x_t, level, conditions)

    def _outputs(
        self, inner: BaseDenoiser, x_t: Tensor, level: Level, conditions: Sequence[Condition]
    ) -> Sequence[Tensor]:
        count = len(conditions)
        if count == 1:
            return [inner.output(x_t, level, conditions[0].expand(len(x_t)))]
        together = stacked(conditions, len(x_t))
        return inner.output(torch.cat([x_t] * count), repeated(level, count), together).chunk(count)

    def _mean(self, outputs: Sequence[Tensor]) -> Tensor:
        first, *others = outputs
        mean = first
        for (weight, _), other in zip(self.mixture, others, strict=True):
            mean = mean + weight * (other - first)
        return mean


def _given(cond: Condition | None) -> Condition:
    if cond is None:
        raise ValueError("guidance needs a condition to guide towards; pass cond, or use the denoiser without guidance")
    return cond
