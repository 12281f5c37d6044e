"""From one picture to another, or from one condition or seed to another, as a strip and a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kakusan.inversion import (
    INVERSIONS,
    Inversion,
    Noising,
    RoundTrip,
    Side,
    between_conditions,
    between_levels,
    between_noises,
    kept_steps,
    slerp,
)
from kakusan.noise import Stream, normal
from kakusan.samplers import SAMPLERS, sample
from kakusan.specs import to_spec
from kakusan.tasks.editing import Bench, check_places, doubts, method_of, sampler_of, write_strip
from kakusan.tasks.own_pictures import counted

WAYS: dict[str, Inversion | Noising] = {**INVERSIONS, "noise": Noising()}


def between_pictures(
    run: Path,
    images: Sequence[Path],
    out: Path,
    *,
    from_label: str | None = None,
    to_label: str | None = None,
    method: str = "fixed-point",
    strength: float = 0.6,
    frames: int = 11,
    seed: int = 0,
    fit: str | None = None,
    video: Path | None = None,
    sampler: str = "dpmpp-2m",
    **options: Any,
) -> Iterator[str]:
    """From one given picture to another; yields lines for people.

    Args:
        images: two.
        from_label: of the first; None for "no condition", or for the CLIP vectors of both in models of such vectors.
        to_label: of the second.
        method: an inversion, whose codes are mixed on the arc, or noise: both under noise that is strongest halfway.
        strength: of noise, halfway.
        frames: of the strip and the video, both ends among them.
        options: of `Bench`; guidance acts on all sides.
    """
    check_places(out, video)
    kept_steps(strength, 1)
    shares = _shares(frames)
    way = method_of(method, WAYS, method_of(sampler, SAMPLERS))
    bench = Bench(run, sampler=sampler_of(way), **options)
    x0 = torch.cat([bench.picture(image, fit) for image in images])
    along: Callable[[float], Side] | None = None
    if bench.by_vectors and from_label is None and to_label is None:
        first, second = bench.vector(x0).split(1)
        along = partial(_under, bench, first, second)
        ends, request = (along(0.0), along(1.0)), bench.of_vector(first, [seed], guided=True)
    else:
        ends = bench.side(from_label, guided=True), bench.side(to_label, guided=True)
        request = bench.request(from_label, [seed], guided=True)
    with counted(bench.pipeline) as cost:
        if isinstance(way, Noising):
            found = between_levels(
                way, ends, x0, bench.levels, strength=strength, shares=shares, seed=seed, along=along
            )
            back, residual = found[[0, -1]], 0.0
        else:
            done = between_noises(way, ends, x0, bench.levels, shares=shares, seed=seed, along=along)
            found, back, residual = done.x, done.back, done.residual
    yield f"{images[0]} to {images[1]} by {method} in {frames} pictures"
    yield "the ends: " + RoundTrip.between(x0, back).said()
    scale = request.guidance_scale if from_label is not None else None
    yield from doubts(way, scale, residual)
    yield cost.said(frames)
    record = bench.pipeline.record(
        request, kind="interpolation", to_label=to_label, method=to_spec(way), strength=strength, frames=frames
    )
    labels = [f"{share:.2f}" for share in shares]
    yield from write_strip([bench.pictures(found)], labels, out, record, video=video, loop=True)


def _under(bench: Bench, first: Tensor, second: Tensor, share: float) -> Side:
    """The side of pictures whose CLIP vector lies on the arc between two (Ramesh et al. 2022, section 3.2)."""
    return bench.under(slerp(first, second, share), guided=True)


def between_samples(
    run: Path,
    out: Path,
    *,
    from_label: str | None = None,
    to_label: str | None = None,
    to_seed: int | None = None,
    num: int = 4,
    frames: int = 11,
    seed: int = 0,
    video: Path | None = None,
    **options: Any,
) -> Iterator[str]:
    """From samples of one condition to those of another with the same noise, or from seed to seed, or both at once.

    Args:
        from_label: of the first picture of each row.
        to_label: of the last one; conditions between are mixed on the line. As `from_label` when None.
        to_seed: of the last picture of the first row; noises between lie on the arc. As `seed` when None.
        num: rows, each with the next seeds.
        options: of `Bench`; samplers that draw noise keep that of the first seed.
    """
    check_places(out, video)
    if num < 1:
        raise ValueError(f"num is at least 1, got {num}")
    if to_label is None and to_seed is None:
        raise ValueError("name what to go to: two pictures, --to-label or --to-seed")
    shares = _shares(frames)
    bench = Bench(run, **options)
    pipeline, level = bench.pipeline, bench.levels[0]
    goal = bench.side(from_label if to_label is None else to_label, guided=True).cond
    grid = torch.tensor([float(here.t) for here in bench.levels], dtype=torch.float64)
    sigma_data = pipeline.denoiser.sigma_data
    size = (float(level.alpha) ** 2 * sigma_data**2 + float(level.sigma) ** 2) ** 0.5
    rows = []
    with counted(pipeline) as cost:
        for row in range(num):
            ends = [seed + row, (seed if to_seed is None else to_seed) + row]
            request = bench.request(from_label, [ends[0]] * frames, guided=True)
            denoiser, cond = pipeline.guided(request)
            if cond is not None and goal is not None:
                first = cond.map(lambda values: values[:1])
                mixed = [between_conditions(first, goal, share) for share in shares]
                cond = mixed[0]
                for other in mixed[1:]:
                    cond = cond.cat(other)
            noise = normal(ends, Stream.START, shape=pipeline.data.shape, device=pipeline.device) * size
            start = torch.cat([slerp(noise[:1], noise[1:], share) for share in shares])
            rows.append(
                sample(
                    denoiser,
                    request.sampler,
                    grid,
                    tuple(start.shape),
                    cond,
                    seeds=request.seeds,
                    x_start=start,
                    device=pipeline.device,
                ).cpu()
            )
    yield f"{num} rows from {_end(from_label, seed)} to {_end(to_label or from_label, to_seed or seed)}"
    yield cost.said(num * frames)
    request = bench.request(from_label, range(seed, seed + num), guided=True)
    record = pipeline.record(request, kind="interpolation", to_label=to_label, to_seed=to_seed, frames=frames)
    strip = [bench.pictures(row) for row in rows]
    yield from write_strip(strip, [f"{share:.2f}" for share in shares], out, record, video=video, loop=True)


def _shares(frames: int) -> list[float]:
    if frames < 2:
        raise ValueError(f"an interpolation has at least 2 pictures, its ends; got {frames}")
    return [place / (frames - 1) for place in range(frames)]


def _end(label: str | None, seed: int) -> str:
    return f"seed {seed}" if label is None else f"{label!r} with seed {seed}"
