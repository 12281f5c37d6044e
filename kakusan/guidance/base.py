"""What every guidance shares: two evaluations of the same x_t, a rule that mixes them, and where it acts.

The stronger of the two (with the condition, of the better network, of the whole network) is followed further than the
weaker one (without the condition, of a worse network, of a network whose attention is switched off). Scale 1 is the
stronger alone, 0 the weaker alone, and any other real number extrapolates or interpolates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser, Coefficients
from kakusan.guidance.rules import Linear, Reading, Rule
from kakusan.levels import Level


class Wrapped(BaseDenoiser):
    """A denoiser that changes the output of another and keeps its facts."""

    def __init__(self, inner: BaseDenoiser) -> None:
        super().__init__()
        self.inner = inner
        self.schedule, self.sigma_data = inner.schedule, inner.sigma_data
        self.independent_noise, self.learned_variance = inner.independent_noise, inner.learned_variance

    def coefficients(self, level: Level, x_t: Tensor) -> Coefficients:
        return self.inner.coefficients(level, x_t)

    def forget(self) -> None:
        self.inner.forget()

    def parted(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """(F, what says the learned variance or None): extrapolating a variance means nothing, so it is set apart."""
        return self.split(output) if self.learned_variance else (output, None)

    @staticmethod
    def joined(output: Tensor, beside: Tensor | None) -> Tensor:
        """The inverse of `parted`."""
        return output if beside is None else torch.cat([output, beside], dim=1)


class Contrast(ABC):
    """Where the stronger and the weaker output come from."""

    @abstractmethod
    def strong(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        """The stronger output alone."""

    @abstractmethod
    def weak(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        """The weaker output alone."""

    def pair(self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None) -> tuple[Tensor, Tensor]:
        """Both; in one batched pass where one network makes both."""
        return self.strong(inner, x_t, level, cond), self.weak(inner, x_t, level, cond)

    def parts(
        self, inner: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None
    ) -> list[tuple[float, Tensor]]:
        """The outputs behind both with their weights in the stronger one, which add up to 1; the weaker one is last."""
        strong, weak = self.pair(inner, x_t, level, cond)
        return [(1.0, strong), (0.0, weak)]

    def forget(self) -> None:  # noqa: B027 (most have nothing to forget)
        """A new run begins."""


@dataclass(frozen=True)
class Guidance:
    """How far, by which rule and when; subclasses say between what.

    Args:
        scale: any real number, or a tensor (B,) with one for each sample.
        rescale: phi of Lin et al. 2023 (arXiv 2305.08891, eq. 15-16): how far the guided output, per sample, is brought
            to the standard deviation of the stronger one. Any real number, or a tensor (B,); 0 leaves it.
        interval: (low, high) in t: guided inside, the stronger alone outside (Kynkaanniemi et al. 2024, arXiv
            2404.07724).
        rule: how the two are mixed (`kakusan.guidance.rules`).
    """

    scale: float | Tensor = 1.0
    rescale: float | Tensor = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    rule: Rule = field(default_factory=Linear)

    def __post_init__(self) -> None:
        if not isinstance(self.scale, Tensor) and not math.isfinite(self.scale):
            raise ValueError(f"guidance_scale must be a finite number, got {self.scale}")
        if not isinstance(self.rescale, Tensor) and not math.isfinite(self.rescale):
            raise ValueError(f"rescale must be a finite number, got {self.rescale}")
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"the guidance interval is (low, high) with 0 <= low <= high <= 1, got {self.interval}")

    @property
    def off(self) -> bool:
        """Whether this is the stronger model alone."""
        return not isinstance(self.scale, Tensor) and self.scale == 1.0 and self.rule.neutral_at_one

    @property
    def plain(self) -> bool:
        """Whether nothing but the scale acts."""
        return not isinstance(self.rescale, Tensor) and self.rescale == 0.0 and isinstance(self.rule, Linear)


class GuidedDenoiser(Wrapped):
    """A denoiser whose output is a mix of two evaluations."""

    def __init__(self, inner: BaseDenoiser, guidance: Guidance, contrast: Contrast) -> None:
        super().__init__(inner)
        self.guidance, self.contrast = guidance, contrast
        self._memory: Tensor | None = None

    def forget(self) -> None:
        self._memory = None
        self.contrast.forget()
        super().forget()

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        guidance, contrast = self.guidance, self.contrast
        scale = self._scale(level, x_t)
        if scale is None:
            return contrast.strong(self.inner, x_t, level, cond)
        if not isinstance(scale, Tensor):
            if scale == 1.0 and guidance.rule.neutral_at_one:
                return contrast.strong(self.inner, x_t, level, cond)
            if scale == 0.0 and guidance.plain:
                return contrast.weak(self.inner, x_t, level, cond)
        strong, weak = contrast.pair(self.inner, x_t, level, cond)
        (strong, beside), (weak, _) = self.parted(strong), self.parted(weak)
        reading = Reading(x_t, level, self.coefficients(level, x_t), self.schedule)
        mixed, self._memory = guidance.rule.mix(strong, weak, scale, reading, self._memory)
        return self.joined(self._rescaled(mixed, strong, scale), beside)

    def _rescaled(self, mixed: Tensor, strong: Tensor, scale: float | Tensor) -> Tensor:
        phi = self.guidance.rescale
        # A sample of one element has no spread to bring back.
        if (not isinstance(phi, Tensor) and phi == 0.0) or strong[0].numel() == 1:
            return mixed
        over = tuple(range(1, strong.dim()))
        ratio = strong.std(over, keepdim=True) / mixed.std(over, keepdim=True).clamp_min(1e-12)
        factor = 1.0 + column(phi, mixed) * (ratio - 1.0)
        if isinstance(scale, Tensor) and self.guidance.rule.neutral_at_one:
            factor = torch.where(scale == 1.0, torch.ones_like(factor), factor)
        return mixed * factor

    def _scale(self, level: Level, x_t: Tensor) -> float | Tensor | None:
        """The scale at this level; None where guidance is off for all samples."""
        low, high = self.guidance.interval
        scale = self.guidance.scale
        if not isinstance(level.t, Tensor):
            if not low <= level.t <= high:
                return None
            return column(scale, x_t) if isinstance(scale, Tensor) else float(scale)
        each = torch.as_tensor(column(torch.as_tensor(scale), x_t))
        t = torch.as_tensor(column(level.t, x_t))
        return torch.where((t >= low) & (t <= high), each, torch.ones_like(each))


def column(value: float | Tensor, like: Tensor) -> float | Tensor:
    """() or (B,) -> broadcastable against the samples `like` (B, C, *spatial), in their dtype; a number stays one."""
    if not isinstance(value, Tensor):
        return value
    if value.numel() not in (1, len(like)):
        raise ValueError(f"{value.numel()} values were given for {len(like)} samples; expected one for each, or one")
    return value.to(like).reshape(-1, *[1] * (like.dim() - 1))


def repeated(level: Level, times: int) -> Level:
    """The level of the batch that holds all samples `times` over."""
    if not isinstance(level.t, Tensor):
        return level
    values = (level.t, level.alpha, level.sigma, level.log_snr)
    return Level(*(torch.cat([value] * times) if isinstance(value, Tensor) else value for value in values))


def stacked(conditions: Sequence[Condition], batch: int) -> Condition:
    """The conditions one after the other, each for `batch` samples."""
    first, *others = (cond.expand(batch) for cond in conditions)
    for other in others:
        first = first.cat(other)
    return first
