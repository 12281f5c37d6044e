"""The same pictures under every value of one or two settings: a sheet, a video and a table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kakusan import runtime
from kakusan.pipeline import Pipeline, load
from kakusan.sweeping import Batch, ModelChoice, Subject, SweepFolder, batches, every_cell, read_axes, run, sharing
from kakusan.sweeping.cells import check
from kakusan.sweeping.publish import Published, video_suffix
from kakusan.sweeping.reading import named
from kakusan.sweeping.start import bases, chosen
from kakusan.sweeping.store import Drawn
from kakusan.sweeping.ways import FromNoise
from kakusan.tasks.own_pictures import Cost, counted, read_own

LINES = 12
"""Lines on how far it has come, at most about so many."""


def sweep(
    model: Path,
    axes: Sequence[str],
    out: Path,
    *,
    labels: Sequence[str] = (),
    num: int | None = None,
    weights: str | None = None,
    batch: int = 32,
    device: str = "auto",
    video: str = "gif",
    to: str | None = None,
    image: Path | None = None,
    fit: str | None = None,
    **options: Any,
) -> Iterator[str]:
    """Draw a sweep into a folder, or go on with one; yields lines for people.

    Args:
        model: a run, checkpoint or model folder.
        axes: one or two of `name=values`, as in guidance-scale=-10:10:41.
        out: the folder.
        labels: classes of the pictures.
        num: pictures of each place; 1 for each label when None.
        weights: an EMA profile, or raw.
        batch: pictures computed at once.
        device: auto, cpu, cuda.
        video: gif, webp, mp4 or none.
        to: label that the axis switch changes to.
        image: picture that the axis strength starts from.
        fit: crop, pad or stretch, for an image of another size.
        options: of `Pipeline.request`; None is the default.

    Raises:
        ValueError: axes or options that do not go together or that the model cannot follow, a sheet that would be too
            large, or a folder of another sweep.
    """
    found, suffix = named(axes), video_suffix(video)
    full, notes = chosen([axis for axis, _ in found], {**options, "weights": weights})
    full = {**full, "batch": batch}
    full.pop("weights", None)
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    pipeline = load(model, weights=weights, device=where)
    assert pipeline.path is not None
    subject, choice = Subject(model, pipeline), ModelChoice(pipeline.path, pipeline.weights)
    x0 = None if image is None else read_own(image, pipeline.data, fit=fit)
    starts = bases(
        subject, [axis for axis, _ in found], full, model=choice, labels=labels, num=num, to=to, image=x0
    )  # fmt: skip
    read = read_axes(axes, subject)
    cells = every_cell(read, starts, subject)
    check(pipeline, [part for part in batches(cells, len(cells)) if part.cells[0].setup.model == choice])
    published = Published(subject=subject, axes=read, bases=starts, cells=cells)
    published.check(Image.new("RGB", (pipeline.data.size[-1], pipeline.data.size[0])))
    told = published.told()
    folder = SweepFolder(out)
    with folder.claim(told):
        yield from notes
        yield f"{len(cells)} pictures of {pipeline.path}, weights {pipeline.weights!r}"
        drawn = {cell: folder.drawn(cell) for cell in cells}
        left = batches([cell for cell, there in drawn.items() if there is None], batch)
        if there := sum(each is not None for each in drawn.values()):
            yield f"{there} of them are in {out} already"
        began, opened, every = time.perf_counter(), {choice: pipeline}, max(1, len(left) // LINES)
        for number, part in enumerate(left):
            wanted = part.cells[0].setup.model
            if wanted not in opened:
                opened = {wanted: wanted.open(where)}
            drawn.update(zip(part.cells, draw(opened[wanted], part, folder), strict=True))
            if number % every == 0 or number == len(left) - 1:
                taken = time.perf_counter() - began
                ahead = taken / (number + 1) * (len(left) - number - 1)
                yield f"batch {number + 1} of {len(left)}: {taken:.0f} s, about {ahead:.0f} s to go"
        every_drawn = [each for each in drawn.values() if each is not None]
        yield said(every_drawn)
        if strange := sum(not each.finite for each in every_drawn):
            yield f"{strange} pictures are not finite numbers and are shown as gray; see finite in sweep.json"
        for name in published.write(every_drawn, out, told, suffix):
            yield f"wrote {out / name}"


def draw(pipeline: Pipeline, batch: Batch, folder: SweepFolder) -> list[Drawn]:
    """Draw a batch and write its pictures."""
    with counted(pipeline) as cost:
        x0, setup = run(sharing(pipeline), batch)
    finite = x0.flatten(1).isfinite().all(1).tolist()
    pictures = pipeline.data.to_pil(torch.nan_to_num(x0, nan=0.0))
    shares = {name: getattr(cost, name) / len(batch.cells) for name in ("passes", "evaluations", "seconds")}
    # Only plain sampling of stored weights can be drawn again from the record alone.
    plain = setup.way == FromNoise() and setup.model.ema_width is None
    for index, (cell, picture) in enumerate(zip(batch.cells, pictures, strict=True)):
        kind = "single" if plain else "sweep"
        record = pipeline.record(setup.request, kind=kind, index=index, finite=finite[index])
        folder.keep(cell, picture, shares, record)
    return [Drawn(picture, shares, number) for picture, number in zip(pictures, finite, strict=True)]


def said(drawn: Sequence[Drawn]) -> str:
    """What all pictures took, for people."""
    total = {name: sum(each.cost[name] for each in drawn) for name in ("passes", "evaluations", "seconds")}
    return Cost(round(total["passes"]), round(total["evaluations"]), total["seconds"]).said(len(drawn))
