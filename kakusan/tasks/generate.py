"""From words to pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kakusan import runtime
from kakusan.encoders.conditioner import TOKENS, TextConditioner
from kakusan.nn.attended import recorded
from kakusan.pipeline import Pipeline, load
from kakusan.request import SampleRequest
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
    weights: str | None = None,
    device: str = "auto",
    **options: Any,
) -> Iterator[str]:
    """`num` pictures of each text, on a sheet under it or as single files; yields lines for people.

    Args:
        words: a .png to show, for the first picture of each text, where the network looked at each word.
    """
    if num < 1:
        raise ValueError(f"num is how many pictures of each text are wanted, at least 1; got {num}")
    check_out(out)
    if words is not None and not one_file(words):
        raise ValueError(f"--words is a .png file; got {words}")
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    pipeline = load(run, weights=weights, device=where)
    request = pipeline.request(prompts=[text for text in prompts for _ in range(num)], **options)
    yield from notes(pipeline, [*prompts, *_negative(request)])
    yield f"{len(request.seeds)} pictures with the weights {pipeline.weights!r} of {pipeline.path}"
    with counted(pipeline) as cost:
        x0 = pipeline.run(request)
    yield cost.said(len(request.seeds))
    yield from write(pipeline, request, pipeline.data.to_pil(x0), out, columns)
    if words is not None:
        firsts = [request.part(slice(place * num, place * num + 1)) for place in range(len(prompts))]
        yield from write_words(pipeline, firsts, words)


def write_words(pipeline: Pipeline, requests: Sequence[SampleRequest], path: Path) -> Iterator[str]:
    """A sheet of maps of attention, a row for each request of one picture; drawn again, and watched."""
    from kakusan.report.png import save_png
    from kakusan.report.words import legend, word_maps, word_sheet

    conditioner = pipeline.model.conditioner
    assert isinstance(conditioner, TextConditioner)
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
    if not isinstance(conditioner, TextConditioner):
        return
    for text in dict.fromkeys(texts):
        shown = f"{text[:60]}…" if len(text) > 60 else text
        if not text.strip():
            yield "an empty text: the model draws whatever it likes"
        for note in conditioner.notes(text):
            yield f"{shown!r}: {note}"


def _negative(request: SampleRequest) -> list[str]:
    return [label for label in request.negative or () if isinstance(label, str)]
