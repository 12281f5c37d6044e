"""From a request to the denoiser that carries out its guidance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.conditioning import Condition, Conditioner
from kakusan.denoiser import BaseDenoiser
from kakusan.grids import GRIDS
from kakusan.guidance import ClassifierFree, Conditioned, NoisyClassifier, Rule
from kakusan.levels import tabulate
from kakusan.request import Asked, SampleRequest

if TYPE_CHECKING:
    from kakusan.pipeline import Pipeline


def guided(pipeline: Pipeline, request: SampleRequest) -> tuple[BaseDenoiser, Condition | None]:
    """The denoiser with the guidance of a request, and the condition to follow.

    Order: guides that act on the network itself, classifier-free guidance, the other guides, thresholding.

    Raises:
        ValueError: the model cannot do what is asked.
    """
    around = _Around(pipeline, request)
    denoiser = pipeline.denoiser
    for guide in request.guides:
        if guide.inside:
            denoiser = guide.bind(denoiser, around)
    with torch.no_grad():
        cond = _condition(pipeline, request)
        denoiser = _classifier_free(pipeline, request, denoiser)
        for guide in request.guides:
            if not guide.inside:
                denoiser = guide.bind(denoiser, around)
    return denoiser if request.thresholding is None else request.thresholding(denoiser), cond


def _condition(pipeline: Pipeline, request: SampleRequest) -> Condition | None:
    conditioner = pipeline.model.conditioner
    if conditioner is None:
        if request.given is not None:
            raise ValueError("this model was not trained on pairs, so it cannot start from a picture")
        led = request.labels is None or request.led_by_labels
        if not led or request.negative is not None or request.guidance_scale != 1.0:
            raise ValueError("this model was trained without classes; sample it without labels and guidance")
        return None
    if request.labels is None and request.given is None:
        return conditioner.null(len(request.seeds))
    if request.labels is not None and request.given is not None and not conditioner.follows_both:
        raise ValueError("this model draws what one CLIP vector says: give it a text or a vector, not both")
    return _of_labels(pipeline, conditioner, request, request.labels)


def _of_labels(
    pipeline: Pipeline, conditioner: Conditioner, request: SampleRequest, labels: Sequence[Asked] | None
) -> Condition:
    """Of the labels and of the pictures to start from, where there are any; one label counts for all."""
    if labels is None:
        assert request.given is not None
        return conditioner.start(request.given, None, torch.tensor(request.seeds))
    if request.given is None:
        return conditioner(conditioner.asked(labels).to(pipeline.device))
    each = list(labels) * len(request.seeds) if len(labels) == 1 else labels
    return conditioner.start(request.given, conditioner.asked(each).to(pipeline.device), torch.tensor(request.seeds))


def _classifier_free(pipeline: Pipeline, request: SampleRequest, denoiser: BaseDenoiser) -> BaseDenoiser:
    conditioner = pipeline.model.conditioner
    if conditioner is None or (request.labels is None and request.negative is None and request.given is None):
        return denoiser
    guidance = ClassifierFree(
        _value(request.guidance_scale), _value(request.rescale), request.interval, _rule_of(pipeline, request)
    )
    if guidance.off and not request.mixture:
        return denoiser
    mixture = [(weight, _of_labels(pipeline, conditioner, request, [label])) for label, weight in request.mixture]
    if request.negative is not None:
        null = _of_labels(pipeline, conditioner, request, request.negative)
    elif guidance.off:
        # Mixing conditions needs no unconditional model, which there may not be.
        null = _of_labels(pipeline, conditioner, request, request.labels[:1] if request.labels else [0])
    elif request.given is not None and request.labels is not None and conditioner.reads_texts:
        # Towards the text, the picture staying what it is (Nichol et al. 2021, GLIDE, arXiv 2112.10741, section 2.3).
        null = _of_labels(pipeline, conditioner, request, [""])
    else:
        null = conditioner.null()
    return guidance(denoiser, null, mixture=mixture)


def _rule_of(pipeline: Pipeline, request: SampleRequest) -> Rule:
    schedule = pipeline.denoiser.schedule
    return request.rule.on(tabulate(schedule, GRIDS[request.grid](schedule, request.num_steps)))


def _value(values: float | tuple[float, ...]) -> float | Tensor:
    return torch.tensor(values, dtype=torch.float64) if isinstance(values, tuple) else values


class _Around:
    """What the guides of a request may ask for."""

    def __init__(self, pipeline: Pipeline, request: SampleRequest) -> None:
        self.pipeline, self.request = pipeline, request

    @property
    def labels(self) -> Tensor | None:
        labels = self.request.labels
        if labels is None:
            return None
        # A classifier reads the classes of the data, whatever the model itself is asked with.
        return torch.tensor([int(label) for label in labels], device=self.pipeline.device)

    def weaker(self, model: str, weights: str | None) -> BaseDenoiser:
        other = self.pipeline.companion(Path(model), weights)
        if other.data.shape != self.pipeline.data.shape:
            raise ValueError(f"the weaker model draws {other.data.shape}, this one {self.pipeline.data.shape}")
        if self.request.labels is not None and other.classes and other.classes != self.pipeline.named_classes:
            raise ValueError("the weaker model knows other classes than this one; take one of the same data")
        return Conditioned(other.denoiser, _condition(other, _plain(self.request, other)))

    def classifier(self, path: str) -> NoisyClassifier:
        return self.pipeline.noisy_classifier(Path(path)).network


def _plain(request: SampleRequest, other: Pipeline) -> SampleRequest:
    """The request without guidance, and without labels where the other model has none."""
    labels = request.labels if other.classes or other.reads_texts else None
    return SampleRequest(seeds=request.seeds, labels=labels)
