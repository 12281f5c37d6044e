"""Restyling: from one condition to another on the way from noise, or on a given picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kakusan.guidance.switch import Switched, switch_points
from kakusan.inversion import EDITS, Inversion, RoundTrip, edited, kept_steps
from kakusan.samplers import SAMPLERS, sample
from kakusan.specs import to_spec
from kakusan.tasks.editing import Bench, check_places, doubts, method_of, sampler_of, write_strip
from kakusan.tasks.own_pictures import counted


def restyle_picture(
    run: Path,
    image: Path,
    out: Path,
    *,
    to_label: str,
    from_label: str | None = None,
    method: str = "edit-friendly",
    strength: float | None = None,
    seed: int = 0,
    fit: str | None = None,
    video: Path | None = None,
    sampler: str = "dpmpp-2m",
    **options: Any,
) -> Iterator[str]:
    """A given picture under another condition; yields lines for people.

    Args:
        to_label: what it is to become.
        from_label: what it is; None for "no condition".
        method: a name of `kakusan.inversion.EDITS`.
        strength: how far it is taken back to noise, 0 to 1; None for a strip of every step.
        sampler: of the method noise.
        options: of `Bench`.
    """
    check_places(out, video)
    kept_steps(strength or 0.0, 1)
    way = method_of(method, EDITS, method_of(sampler, SAMPLERS))
    bench = Bench(run, sampler=sampler_of(way), **options)
    x0 = bench.picture(image, fit)
    source, target = bench.side(from_label, guided=False), bench.side(to_label, guided=True)
    last = bench.steps if strength is None else kept_steps(strength, bench.steps)
    every = strength is None or video is not None
    with counted(bench.pipeline) as cost:
        done = edited(way, source, target, x0, bench.levels, last=last, every=every, seed=seed)
    trip, changed = RoundTrip.between(x0, done.back), RoundTrip.between(x0, done.x[-1:])
    yield f"{image} to {to_label!r} by {method}, taken back {last} of {bench.steps} steps"
    yield trip.said() + ("" if isinstance(way, Inversion) or way.exact else "; noising keeps no code of the picture")
    yield f"the result agrees with the picture to {changed.psnr:.1f} dB"
    yield from doubts(way, bench.source_scale if from_label is not None else None, done.residual)
    yield cost.said(len(done.x))
    record = bench.pipeline.record(
        bench.request(to_label, [seed], guided=True),
        kind="restyle",
        from_label=from_label,
        method=to_spec(way),
        strength=strength,
        source_scale=bench.source_scale,
        round_trip_worst=trip.worst,
    )
    labels = [f"strength\n{count / bench.steps:.2f}" for count in range(last + 1)][-len(done.x) :]
    strip = [bench.pictures(done.x)]
    yield from write_strip(strip, labels, out, record, video=video, last_only=strength is not None)


def restyle_samples(
    run: Path,
    out: Path,
    *,
    to_label: str,
    from_label: str,
    switch: int | None = None,
    num: int = 4,
    seed: int = 0,
    video: Path | None = None,
    **options: Any,
) -> Iterator[str]:
    """Samples begun under one condition and finished under another; yields lines for people.

    Args:
        from_label: of the first steps.
        to_label: of the others.
        switch: how many steps the first has; None for a strip of all of them, 0 ... N.
        num: samples, with one row each.
        options: of `Bench`; every `sampler` will do.
    """
    check_places(out, video)
    if num < 1:
        raise ValueError(f"num is at least 1, got {num}")
    bench = Bench(run, **options)
    pipeline, steps = bench.pipeline, bench.steps
    if switch is not None and not 0 <= switch <= steps:
        raise ValueError(f"--switch lies between 0 and the {steps} steps of the sampler, got {switch}")
    second = bench.side(to_label, guided=False).cond
    if second is None:
        raise ValueError("this model was trained without classes, so there is none to change to")
    # With one switch a video still runs through all up to it.
    places = list(range(steps + 1 if switch is None else switch + 1))
    if switch is not None and video is None:
        places = [switch]
    points = switch_points(bench.levels)
    rows = [(seed + row, points[place]) for row in range(num) for place in places]
    found = []
    with counted(pipeline) as cost:
        size = bench.request(from_label, [seed], guided=True).batch
        for chunk in (rows[start : start + size] for start in range(0, len(rows), size)):
            seeds, at = [number for number, _ in chunk], [point for _, point in chunk]
            request = bench.request(from_label, seeds, guided=True)
            denoiser, cond = pipeline.guided(request)
            switched = Switched(denoiser, torch.tensor(at, dtype=torch.float64), second)
            grid = torch.tensor([level.t for level in bench.levels], dtype=torch.float64)
            shape = (len(chunk), *pipeline.data.shape)
            found.append(
                sample(switched, request.sampler, grid, shape, cond, seeds=seeds, device=pipeline.device).cpu()
            )
    yield f"{num} samples from {from_label!r} to {to_label!r}, switched after {places[0]} to {places[-1]} of {steps}"
    yield cost.said(len(rows))
    pictures = bench.pictures(torch.cat(found))
    record = pipeline.record(
        bench.request(from_label, range(seed, seed + num), guided=True),
        kind="restyle",
        to_label=to_label,
        switch=switch,
    )
    strip = [pictures[row * len(places) : (row + 1) * len(places)] for row in range(num)]
    labels = [f"switch\nafter {place}" for place in places]
    yield from write_strip(strip, labels, out, record, video=video, last_only=switch is not None)
