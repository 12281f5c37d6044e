"""Pictures near a given one, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kakusan.inversion import EDITS, DDIMInversion, RoundTrip, kept_steps, variations
from kakusan.samplers import SAMPLERS
from kakusan.specs import to_spec
from kakusan.tasks.editing import Bench, check_places, doubts, method_of, sampler_of, write_cells
from kakusan.tasks.own_pictures import counted

WAYS = {name: way for name, way in EDITS.items() if name == "noise" or isinstance(way, DDIMInversion)}


def vary(
    run: Path,
    image: Path,
    out: Path,
    *,
    strength: float = 0.5,
    num: int = 8,
    label: str | None = None,
    method: str = "noise",
    seed: int = 0,
    fit: str | None = None,
    sampler: str = "dpmpp-2m",
    **options: Any,
) -> Iterator[str]:
    """Several pictures near a given one; yields lines for people.

    Args:
        strength: 0 gives the picture itself, 1 samples that know nothing of it.
        num: pictures.
        label: what it shows; None for "no condition", or for the picture's own CLIP vector in models of such vectors.
        method: noise (upon the picture), or an inversion whose noise is turned towards that of other seeds.
        options: of `Bench`.
    """
    from kakusan.report.editing import spread

    check_places(out, None)
    kept_steps(strength, 1)
    if num < 1:
        raise ValueError(f"num is at least 1, got {num}")
    way = method_of(method, WAYS, method_of(sampler, SAMPLERS))
    bench = Bench(run, sampler=sampler_of(way), **options)
    x0 = bench.picture(image, fit)
    seeds = list(range(seed, seed + num))
    if label is None and bench.by_vectors:
        vector = bench.vector(x0)
        source, target = bench.under(vector, guided=False), bench.under(vector, guided=True)
        request = bench.of_vector(vector, seeds, guided=True)
    else:
        source, target = bench.side(label, guided=False), bench.side(label, guided=True)
        request = bench.request(label, seeds, guided=True)
    with counted(bench.pipeline) as cost:
        done = variations(way, source, target, x0, bench.levels, strength=strength, seeds=seeds, batch=request.batch)
    yield f"{num} variations of {image} by {method} at strength {strength:g}"
    if isinstance(way, DDIMInversion):
        yield RoundTrip.between(x0, done.back).said()
    near = [RoundTrip.between(x0, row).psnr for row in done.x.split(1)]
    if label is None and bench.by_vectors:
        kept = (bench.vector(done.x.float()) @ vector.T).mean()
        yield f"under the picture's own CLIP vector; cosine of theirs with it {float(kept):.3f} on average"
    picture, white = spread(done.x)
    yield f"they agree with the picture to {min(near):.1f} to {max(near):.1f} dB; largest spread of a pixel {white:.2g}"
    yield from doubts(way, bench.source_scale if label is not None else None, done.residual)
    yield cost.said(num)
    record = bench.pipeline.record(
        request,
        kind="variations",
        method=to_spec(way),
        strength=strength,
        source_scale=bench.source_scale,
    )
    cells = [*bench.pictures(x0), picture, *bench.pictures(done.x)]
    title = f"picture, spread (up to {white:.2g}), variations"
    yield from write_cells(cells, title, out, record)
