"""Several models that draw as one: a prior, a base model, and those that enlarge what it draws."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kakusan.guidance import DynamicThresholding
from kakusan.pairs import PairConditioner
from kakusan.pairs.kinds import Shrunk
from kakusan.pipeline import Pipeline, load
from kakusan.prior import Prior, PriorSampling
from kakusan.recipes.designs import Drawing, read_drawing
from kakusan.request import SampleRequest

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Designed:
    """A base model, and what stands before and behind it.

    Args:
        base: draws from noise.
        upscalers: enlarge what is drawn, one after the other; those that read texts are led by them too.
        prior: draws the CLIP vectors that `base` makes pictures of.
        drawing: usual guidance and thresholding.

    Raises:
        ValueError: models that do not fit each other.
    """

    base: Pipeline
    upscalers: tuple[Pipeline, ...] = ()
    prior: Prior | None = None
    drawing: Drawing = field(default_factory=lambda: Drawing("base"))

    def __post_init__(self) -> None:
        check_stages([self.base, *self.upscalers])
        if self.prior is not None:
            self.prior.check_fits(self.base)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        upscalers: Sequence[str | Path] = (),
        prior: str | Path | None = None,
        weights: str | None = None,
        device: torch.device | str = "cpu",
    ) -> Designed:
        """The design in a folder (`kakusan design`), or a run by itself.

        Args:
            upscalers: runs, in place of those of the design.
            prior: a run, in place of the design's.
            weights: of the base model and of those that enlarge: an EMA profile or "raw".

        Raises:
            ValueError: no such models, or some that do not fit each other.
        """
        path, drawing = Path(folder), read_drawing(Path(folder))
        base: Path = path
        if drawing is not None:
            base = path / drawing.base
            upscalers = upscalers or [path / name for name in drawing.upscalers]
            prior = prior or (path / drawing.prior if drawing.prior else None)
        return cls(
            load(base, weights=weights, device=device),
            tuple(load(each, weights=weights, device=device) for each in upscalers),
            None if prior is None else Prior.open(prior, device=device),
            drawing or Drawing("base"),
        )

    @property
    def stages(self) -> tuple[Pipeline, ...]:
        """The models that draw pictures, in their order."""
        return (self.base, *self.upscalers)

    def request(self, **arguments: Any) -> SampleRequest:
        """The request of the base model; arguments as of `Pipeline.sample`.

        Guidance and thresholding are the design's when not given.
        """
        if arguments.get("guidance_scale") is None:
            arguments["guidance_scale"] = self.drawing.guidance
        quantile = self.drawing.threshold
        if quantile is not None and arguments.get("thresholding") is None:
            arguments["thresholding"] = DynamicThresholding(quantile)
        return self.base.request(**arguments)

    def with_vectors(self, request: SampleRequest, how: PriorSampling | None = None) -> SampleRequest:
        """The request with the CLIP vectors that the prior draws for its texts; unchanged where there is no prior."""
        if self.prior is None:
            return request
        found = self.prior.sample(list(map(str, request.labels or ())), request.seeds, how or PriorSampling())
        return replace(request, given=found)

    def of_stage(self, place: int, request: SampleRequest, before: Tensor | None) -> SampleRequest:
        """What the model at `place` is asked for.

        Args:
            request: of the base model, with its vectors.
            before: (B, C, *size), what the stage before drew; None for the base model.
        """
        if before is None:
            return request if self.prior is None else replace(request, labels=None)
        names = list(map(str, request.labels or ()))
        return enlarging(
            self.stages[place],
            self.stages[place - 1].data.snap(before),
            names=names or None,
            guidance_scale=self.drawing.upscaler_guidance,
            seeds=request.seeds,
            sampler=request.sampler,
            grid=request.grid,
            num_steps=request.num_steps,
            batch=request.batch,
            thresholding=request.thresholding,
        )

    def sample(self, **arguments: Any) -> list[Image]:
        """Pictures by all models together; arguments as of `request`."""
        request, x0 = self.with_vectors(self.request(**arguments)), None
        for place, pipeline in enumerate(self.stages):
            x0 = pipeline.run(self.of_stage(place, request, x0))
        assert x0 is not None
        return self.stages[-1].data.to_pil(x0)


def enlarging(
    pipeline: Pipeline,
    before: Tensor,
    *,
    names: Sequence[str] | None,
    guidance_scale: float | None,
    cover: float | None = None,
    **options: Any,
) -> SampleRequest:
    """The request to a model that enlarges pictures (B, C, *size).

    Args:
        names: classes or texts, one for each picture, where the model can be told.
        guidance_scale: towards them.
        cover: level of the noise on `before`; half of the most that it was trained with when None.
    """
    conditioner = pipeline.model.conditioner
    assert isinstance(conditioner, PairConditioner)
    level = 0.5 * conditioner.noise if cover is None else cover
    known = names if asks(pipeline) else None
    scale = guidance_scale if known is not None else None
    return pipeline.request(labels=known, guidance_scale=scale, given=pipeline.given(before, noise=level), **options)


def asks(pipeline: Pipeline) -> bool:
    """Whether a model can be told what to draw."""
    return bool(pipeline.classes) or pipeline.reads_texts


def check_stages(stages: Sequence[Pipeline]) -> None:
    """Refuse models of which one cannot take what the one before draws.

    Raises:
        ValueError: naming both, and what does not fit.
    """
    for before, after in itertools.pairwise(stages):
        conditioner = after.model.conditioner
        if not isinstance(conditioner, PairConditioner) or not isinstance(conditioner.pair, Shrunk):
            raise ValueError(f"{after.path} does not enlarge; train it with --pair upscale-2 or upscale-4")
        expects = conditioner.pair.expects(after.data.shape)
        if expects != before.data.shape:
            raise ValueError(
                f"{after.path} enlarges pictures of {_shape(expects)}, but {before.path} draws "
                f"{_shape(before.data.shape)}"
            )
        if before.data.bits != after.data.bits:
            raise ValueError(f"{before.path} draws {before.data.bits} bits a channel, {after.path} {after.data.bits}")
        if before.classes and after.classes and before.classes != after.classes:
            raise ValueError(f"{before.path} and {after.path} know different classes; train both on the same data")


def _shape(shape: Sequence[int]) -> str:
    return f"{' x '.join(map(str, shape[1:]))} with {shape[0]} channel{'s' * (shape[0] != 1)}"
