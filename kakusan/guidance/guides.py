"""Guidance as a request names it: plain values that fit into a picture's record, bound to models when it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self

from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser, Denoiser
from kakusan.guidance.auto import AutoGuidance, PerturbedAttention
from kakusan.guidance.base import Wrapped
from kakusan.guidance.classifier import ClassifierGuidance, NoisyClassifier
from kakusan.levels import Level
from kakusan.specs import register


class Around(Protocol):
    """What a guide may ask for when it is bound."""

    @property
    def labels(self) -> Tensor | None:
        """Class indices (B,) of the samples; None where they have none."""
        ...

    def weaker(self, model: str, weights: str | None) -> BaseDenoiser:
        """The denoiser of another model, which brings its own condition for the same samples."""
        ...

    def classifier(self, path: str) -> NoisyClassifier:
        """A classifier of noisy samples."""
        ...


class Guide(ABC):
    """A frozen, registered dataclass."""

    inside: bool = False
    """Whether classifier-free guidance is applied to the guided denoiser, and not the other way round."""
    led_by_labels: bool = False
    """Whether it needs the samples' classes, also of a model that was trained without them."""

    def evaluations(self, inner: int) -> int:
        """Evaluations of networks with this guide where there were `inner`; a classifier's gradient is not one."""
        return inner

    def companions(self) -> tuple[str, ...]:
        """Folders of other models that it asks."""
        return ()

    def moved(self, places: Mapping[str, str]) -> Self:
        """The same guide where some of those folders are elsewhere now."""
        return self

    @abstractmethod
    def bind(self, denoiser: BaseDenoiser, around: Around) -> BaseDenoiser:
        """Guide `denoiser`."""


@register
@dataclass(frozen=True)
class Weaker(Guide):
    """Autoguidance by another model or checkpoint (`AutoGuidance`).

    Args:
        model: a run, checkpoint or model folder.
        weights: an EMA profile of it, or raw.
        scale: 1 is off.
        interval: of t in which it acts.
    """

    model: str
    weights: str | None = None
    scale: float = 2.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        AutoGuidance(self.scale, interval=self.interval)

    def evaluations(self, inner: int) -> int:
        return {0.0: 1, 1.0: inner}.get(self.scale, inner + 1)

    def companions(self) -> tuple[str, ...]:
        return (self.model,)

    def moved(self, places: Mapping[str, str]) -> Self:
        return replace(self, model=places.get(self.model, self.model))

    def bind(self, denoiser: BaseDenoiser, around: Around) -> BaseDenoiser:
        return AutoGuidance(self.scale, interval=self.interval)(denoiser, around.weaker(self.model, self.weights))


@register
@dataclass(frozen=True)
class WithoutAttention(Guide):
    """Perturbed-attention guidance (`PerturbedAttention`).

    Args:
        scale: 1 is off; 1 more than the paper's s.
        layers: which self-attention layers; all by default.
        interval: of t in which it acts.
    """

    scale: float = 2.0
    layers: tuple[int, ...] | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    inside = True

    def __post_init__(self) -> None:
        PerturbedAttention(self.scale, interval=self.interval)

    def evaluations(self, inner: int) -> int:
        return inner if self.scale in (0.0, 1.0) else 2 * inner

    def bind(self, denoiser: BaseDenoiser, around: Around) -> BaseDenoiser:
        if not isinstance(denoiser, Denoiser):
            raise ValueError("perturbed-attention guidance acts on the network itself; name it once, and first")
        return PerturbedAttention(self.scale, interval=self.interval, layers=self.layers)(denoiser)


@register
@dataclass(frozen=True)
class ByClassifier(Guide):
    """Classifier guidance (`ClassifierGuidance`).

    Args:
        path: of a trained noisy classifier.
        scale: 0 is off.
        interval: of t in which it acts.
    """

    path: str
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    led_by_labels = True

    def __post_init__(self) -> None:
        ClassifierGuidance(self.scale, self.interval)

    def companions(self) -> tuple[str, ...]:
        return (self.path,)

    def moved(self, places: Mapping[str, str]) -> Self:
        return replace(self, path=places.get(self.path, self.path))

    def bind(self, denoiser: BaseDenoiser, around: Around) -> BaseDenoiser:
        if around.labels is None:
            raise ValueError("classifier guidance needs labels to guide towards")
        return ClassifierGuidance(self.scale, self.interval)(denoiser, around.classifier(self.path), around.labels)


class Conditioned(Wrapped):
    """A denoiser that follows its own condition, whatever it is given: that of another model means nothing to it."""

    def __init__(self, inner: BaseDenoiser, cond: Condition | None) -> None:
        super().__init__(inner)
        self.cond = cond

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        return self.inner.output(x_t, level, None if self.cond is None else self.cond.expand(len(x_t)))
