"""Guidance by a worse version of the same model: autoguidance and perturbed attention; no condition is needed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser, Denoiser
from kakusan.guidance.base import Contrast, Guidance, GuidedDenoiser
from kakusan.guidance.rules import Reading
from kakusan.levels import Level
from kakusan.nn.perturbed import without_attention
from kakusan.specs import register


@register
@dataclass(frozen=True)
class AutoGuidance(Guidance):
    """Autoguidance (Karras et al. 2024, arXiv 2406.02507): away from a weaker model of the same data, such as an early
    checkpoint of the run. Both see the same condition, or none. Arguments as in `Guidance`.
    """

    def __call__(self, denoiser: BaseDenoiser, weaker: BaseDenoiser) -> GuidedDenoiser:
        """Guide `denoiser` away from `weaker`, which may have another parameterization and schedule.

        Raises:
            ValueError: one of them was trained on coupled noise and the other was not.
        """
        if denoiser.independent_noise != weaker.independent_noise:
            raise ValueError("the weaker model was trained on another coupling of noise and data; take one of this run")
        same = weaker.schedule == denoiser.schedule
        return GuidedDenoiser(denoiser, self, Worse(weaker if same else _on(weaker, denoiser)))


@register
@dataclass(frozen=True)
class PerturbedAttention(Guidance):
    """Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377): away from the same network whose self-attention
    lets every position see itself only. The paper's scale s is 1 less than this one. Arguments as in `Guidance`.

    Args:
        layers: which self-attention layers, counted from the input; all by default.
    """

    layers: tuple[int, ...] | None = None

    def __call__(self, denoiser: Denoiser) -> GuidedDenoiser:
        """Guide `denoiser`.

        Raises:
            ValueError: its network has no self-attention, or no such layer.
        """
        return GuidedDenoiser(denoiser, self, Worse(without_attention(denoiser, self.layers)))


@dataclass(frozen=True)
class Worse(Contrast):
    """The model itself, and a worse one."""

    other: BaseDenoiser

    def strong(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        return inner.output(x_t, level, cond)

    def weak(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        # By way of x0, because the two may say it differently.
        x0 = self.other(x_t, level, cond).x0
        output = Reading(x_t, level, inner.coefficients(level, x_t), inner.schedule).from_x0(x0)
        # A learned variance is taken from the stronger one; here it only keeps the shape.
        return GuidedDenoiser.joined(output, output) if inner.learned_variance else output

    def forget(self) -> None:
        self.other.forget()


def _on(weaker: BaseDenoiser, denoiser: BaseDenoiser) -> BaseDenoiser:
    if not isinstance(weaker, Denoiser):
        raise ValueError("the weaker model stands on another schedule and cannot be brought to this one")
    return weaker.with_schedule(denoiser.schedule)
