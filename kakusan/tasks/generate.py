"""From words to pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kakusan import runtime
from kakusan.designed import Designed
from kakusan.encoders.conditioner import TOKENS, TextConditioner
from kakusan.encoders.vectors import ImageVectors
from kakusan.nn.attended import recorded
from kakusan.pipeline import Pipeline
from kakusan.prior import PriorSampling
from kakusan.request import SampleRequest
from kakusan.tasks.cascade import size_of
from kakusan.tasks.own_pictures import counted
from kakusan.tasks.picture_files import check_out, one_file, write


def generate(
    run: Path,
    prompts: Sequence[str],
    out: Path,
    *,
    num: int,
    columns: int = 8,
    words: Path | None = None,
    prior: Path | None = None,
    prior_sampling: PriorSampling | None = None,
    upscalers: Sequence[Path] = (),
    weights: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    **options: Any,
) -> Iterator[str]:
    """`num` pictures of each text, on a sheet under it or as single files; yields lines for people.

    Args:
        words: a .png to show, for the first picture of each text, where the network looked at each word.
        prior: draws the CLIP vectors that the pictures are of, in place of the bridge of a model of such vectors.
        prior_sampling: how.
        upscalers: models that enlarge what `run` draws, one after the other; those that read texts read them too.
        options: of the request. `run` may also be the folder of a design, which names its own models.
    """
    if num < 1:
        raise ValueError(f"num is how many pictures of each text are wanted, at least 1; got {num}")
    check_out(out)
    if words is not None and not one_file(words):
        raise ValueError(f"--words is a .png file; got {words}")
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    models = Designed.open(run, upscalers=upscalers, prior=prior, weights=weights, device=where)
    for stage in models.stages:
        stage.with_precision(precision)
    pipeline = models.base
    request = models.request(prompts=[text for text in prompts for _ in range(num)], **options)
    yield from notes(pipeline, [*prompts, *_negative(request)])
    if models.prior is not None:
        with counted(models.prior.pipeline) as cost:
            request = models.with_vectors(request, prior_sampling)
        yield f"the prior {models.prior.pipeline.path}: {cost.said(len(request.seeds)).replace('picture', 'vector')}"
    yield f"{len(request.seeds)} pictures with the weights {pipeline.weights!r} of {pipeline.path}"
    x0, last = None, request
    for place, stage in enumerate(models.stages):
        asked = models.of_stage(place, request, x0)
        with counted(stage) as cost:
            x0 = stage.run(asked)
        last = asked if place else request
        yield (f"{size_of(stage, asked)}: " if models.upscalers else "") + cost.said(len(request.seeds))
    assert x0 is not None
    yield from write(models.stages[-1], last, models.stages[-1].data.to_pil(x0), out, columns)
    if words is not None:
        firsts = [request.part(slice(place * num, place * num + 1)) for place in range(len(prompts))]
        yield from write_words(pipeline, firsts, words)


def write_words(pipeline: Pipeline, requests: Sequence[SampleRequest], path: Path) -> Iterator[str]:
    """A sheet of maps of attention, a row for each request of one picture; drawn again, and watched."""
    from kakusan.report.png import save_png
    from kakusan.report.words import legend, word_maps, word_sheet

    assert pipeline.model.conditioner is not None
    conditioner = pipeline.model.conditioner.asking
    if not isinstance(conditioner, TextConditioner):
        raise ValueError("this model looks at a text as a whole, not at its words; leave --words out")
    pictures, maps, texts = [], [], []
    for request in requests:
        text = str((request.labels or ("",))[0])
        if not conditioner.words(text):
            yield "an empty text has no words to show"
            continue
        with recorded(pipeline.model.denoiser.backbone, rows=slice(1)) as record:
            x0 = pipeline.run(request)
        found = enlarged(record.of(TOKENS)[0], pipeline.data.pictured.size)
        pictures += pipeline.data.to_pil(x0)
        maps.append(word_maps(found, conditioner.words(text)))
        texts.append(text)
        yield from legend(maps[-1])
    if pictures:
        save_png(word_sheet(pictures, maps, texts=texts), path, pipeline.record(requests[0], kind="words"))
        yield f"wrote {path}"


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (L, H, W) at the size of the pictures, which may be larger than that of latents."""
    return F.interpolate(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def notes(pipeline: Pipeline, texts: Sequence[str]) -> Iterator[str]:
    """What happened to texts on their way to the model, as far as it is worth saying."""
    conditioner = pipeline.model.conditioner
    conditioner = None if conditioner is None else conditioner.asking
    if not isinstance(conditioner, TextConditioner | ImageVectors):
        return
    for text in dict.fromkeys(texts):
        shown = f"{text[:60]}…" if len(text) > 60 else text
        if not text.strip():
            yield "an empty text: the model draws whatever it likes"
        for note in conditioner.notes(text):
            yield f"{shown!r}: {note}"


def _negative(request: SampleRequest) -> list[str]:
    return [label for label in request.negative or () if isinstance(label, str)]
