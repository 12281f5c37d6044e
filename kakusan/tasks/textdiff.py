"""A picture led from what one text says to what another says, by the difference of both in the space of a CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kakusan.encoders.clip import BRIDGES
from kakusan.encoders.vectors import ImageVectors, along_texts
from kakusan.inversion import INVERSIONS, RoundTrip
from kakusan.specs import suggestion, to_spec
from kakusan.tasks.editing import Bench, check_places, doubts, method_of, sampler_of, write_strip
from kakusan.tasks.generate import notes
from kakusan.tasks.own_pictures import counted


def textdiff(
    run: Path,
    image: Path,
    texts: tuple[str, str],
    out: Path,
    *,
    most: float = 0.5,
    frames: int = 6,
    method: str = "fixed-point",
    bridge: str | None = None,
    seed: int = 0,
    fit: str | None = None,
    video: Path | None = None,
    **options: Any,
) -> Iterator[str]:
    """One picture, further and further towards the second text; yields lines for people.

    The noise of the picture is found under its own CLIP vector, and kept for every frame (Ramesh et al. 2022, arXiv
    2204.06125, section 3.3). Without guidance the first frame is the picture itself.

    Args:
        texts: what it shows, and what it is to show.
        most: share of the arc to the direction of the difference at the last frame.
        frames: of the strip and the video.
        method: an inversion.
        bridge: how the texts are carried over to where pictures are before the difference is taken; the model's own
            when None, and none is the paper's.
        options: of `Bench`; guidance acts on the way back.
    """
    check_places(out, video)
    if not 0.0 < most <= 1.0 or frames < 2:
        raise ValueError(f"--most lies in (0, 1] and there are at least two frames; got {most} and {frames}")
    if bridge is not None and bridge not in BRIDGES:
        raise ValueError(f"no bridge {bridge!r}{suggestion(bridge, list(BRIDGES))}; there are {', '.join(BRIDGES)}")
    way = method_of(method, INVERSIONS)
    bench = Bench(run, sampler=sampler_of(way), **options)
    x0 = bench.picture(image, fit)
    vector = bench.vector(x0)
    conditioner = bench.pipeline.model.conditioner
    assert isinstance(conditioner, ImageVectors)
    led = partial(along_texts, conditioner.clip, vector, texts, bridge=bridge or conditioner.bridge)
    shares = [most * place / (frames - 1) for place in range(frames)]
    asked = [led(share) for share in shares]
    yield from notes(bench.pipeline, texts)
    with counted(bench.pipeline) as cost:
        source = bench.under(vector, guided=False)
        codes = way.codes(source, x0, bench.levels, seeds=[seed])
        back = way.replay(source, codes[0], bench.levels)
        found = torch.cat([way.replay(bench.under(e, guided=True), codes[0], bench.levels) for e in asked])
    yield f"{image} from {texts[0]!r} to {texts[1]!r} by {method} in {frames} pictures"
    yield RoundTrip.between(x0, back).said()
    reached = (bench.vector(found.float()) * torch.cat(asked)).sum(1)
    cosines = " ".join(f"{cosine:.2f}" for cosine in reached.tolist())
    yield f"cosine of each picture's CLIP vector with the one asked for: {cosines}"
    yield from doubts(way, None, max(code.residual for code in codes))
    yield cost.said(frames)
    record = bench.pipeline.record(
        bench.of_vector(asked[-1], [seed], guided=True),
        kind="text difference",
        method=to_spec(way),
        texts=list(texts),
        most=most,
        bridge=bridge or conditioner.bridge,
        frames=frames,
    )
    labels = [f"{share:.2f}" for share in shares]
    yield from write_strip([bench.pictures(found)], labels, out, record, video=video, loop=True)
