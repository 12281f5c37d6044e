"""Classifier guidance (Dhariwal & Nichol 2021, arXiv 2105.05233, algorithm 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.guidance.base import Wrapped, column
from kakusan.levels import Level, scaled
from kakusan.specs import register


class NoisyClassifier(Protocol):
    """What classifier guidance asks: log-probabilities (B, K) of noisy samples' classes, differentiable in x_t."""

    def log_probabilities(self, x_t: Tensor, level: Level) -> Tensor: ...


@register
@dataclass(frozen=True)
class ClassifierGuidance:
    """eps - scale sigma grad log p(label | x_t): a model without condition is led to a class by a classifier that was
    trained on noisy samples, and a model with one further towards it. Scale 0 is off.

    Args:
        scale: any real number, or a tensor (B,) with one for each sample.
        interval: (low, high) in t in which it acts.
    """

    scale: float | Tensor = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.scale, Tensor) and not math.isfinite(self.scale):
            raise ValueError(f"the scale of classifier guidance must be a finite number, got {self.scale}")
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"the guidance interval is (low, high) with 0 <= low <= high <= 1, got {self.interval}")

    def __call__(self, denoiser: BaseDenoiser, classifier: NoisyClassifier, labels: Tensor) -> ClassifierGuided:
        """Guide `denoiser` towards `labels` (B,) or (1,), class indices of `classifier`."""
        return ClassifierGuided(denoiser, self, classifier, labels)


class ClassifierGuided(Wrapped):
    """A denoiser whose eps is bent by the gradient of a classifier."""

    def __init__(
        self, inner: BaseDenoiser, guidance: ClassifierGuidance, classifier: NoisyClassifier, labels: Tensor
    ) -> None:
        super().__init__(inner)
        self.guidance, self.labels = guidance, labels
        # In a tuple: its weights are not part of this denoiser.
        self._classifier = (classifier,)

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        output, beside = self.parted(self.inner.output(x_t, level, cond))
        low, high = self.guidance.interval
        t, alpha = torch.as_tensor(level.t), torch.as_tensor(level.alpha)
        # At alpha = 0 x_t says nothing of the class, and an output for v says nothing of eps.
        inside = (t >= low) & (t <= high) & (alpha != 0.0)
        if not bool(inside.any()):
            return self.joined(output, beside)
        gradient = self.gradient(x_t, level) * column(inside, x_t)
        # F moves by the change of eps over what F counts for in eps.
        change = scaled(gradient * column(self.guidance.scale, x_t), -level.sigma)
        return self.joined(output + scaled(change, 1.0 / self.coefficients(level, x_t).eps_f), beside)

    def gradient(self, x_t: Tensor, level: Level) -> Tensor:
        """grad log p(label | x_t), (B, C, *spatial)."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_(True)
            log_p = self._classifier[0].log_probabilities(x, level)
            index = self.labels.to(log_p.device).expand(len(x)).unsqueeze(1)
            return torch.autograd.grad(log_p.gather(1, index).sum(), x)[0]
