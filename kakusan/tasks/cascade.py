"""Small pictures by one model, enlarged by the next: a cascade (Ho et al. 2021, arXiv 2106.15282)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kakusan import runtime
from kakusan.pairs import PairConditioner
from kakusan.pairs.kinds import Shrunk
from kakusan.pipeline import Pipeline, load
from kakusan.tasks.own_pictures import counted, write_results
from kakusan.tasks.picture_files import check_out

if TYPE_CHECKING:
    from PIL.Image import Image


def cascade(
    base: Path,
    upscalers: Sequence[Path],
    out: Path,
    *,
    labels: Sequence[str] = (),
    num: int = 8,
    cover: Sequence[float] = (),
    guidance_scale: float | None = None,
    sampler: str = "dpmpp-2m",
    grid: str = "karras",
    num_steps: int = 20,
    seed: int = 0,
    batch: int = 32,
    weights: str | None = None,
    device: str = "auto",
) -> Iterator[str]:
    """Draw with `base` and enlarge with each of `upscalers` in turn; yields lines for people.

    Args:
        base: a run, checkpoint or model folder that starts from noise.
        upscalers: those trained with `--pair upscale-2` or `upscale-4`, from small to large.
        out: a .png for one sheet with a row for each stage, or a folder for single files of the last.
        labels: class names, shared out among the pictures.
        num: pictures.
        cover: level of the noise on what each upscaler starts from, one for each or one for all; half of the most that
            it was trained with when not given.
    """
    check_out(out)
    if not upscalers:
        raise ValueError("a cascade has at least one upscaler; name a run trained with --pair upscale-2 or upscale-4")
    if num < 1:
        raise ValueError(f"num is at least 1, got {num}")
    if len(cover) not in (0, 1, len(upscalers)):
        raise ValueError(f"{len(cover)} levels of --cover were given for {len(upscalers)} upscalers; give one for each")
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    stages = [load(path, weights=weights, device=where) for path in (base, *upscalers)]
    check_stages(stages)
    names = [labels[k * len(labels) // num] for k in range(num)] if labels else None
    rows: list[list[Image]] = []
    records: list[dict[str, Any]] = []
    x0: Tensor | None = None
    for place, pipeline in enumerate(stages):
        known = None if names is None or not pipeline.classes else names
        if names is not None and known is None:
            yield f"note: {pipeline.path} knows no classes, so it goes by the picture alone"
        options: dict[str, Any] = {}
        if x0 is not None:
            options["given"] = pipeline.given(x0, noise=_cover(pipeline, cover, place - 1))
        scale = guidance_scale if known is not None else None
        request = pipeline.request(
            labels=known,
            num=num,
            seed=seed,
            guidance_scale=scale,
            sampler=sampler,
            grid=grid,
            num_steps=num_steps,
            batch=batch,
            **options,
        )
        with counted(pipeline) as cost:
            x0 = pipeline.data.snap(pipeline.run(request))
        size = " x ".join(map(str, pipeline.data.size))
        covered = f", covered by {options['given'].noise:g}" if options else ""
        yield f"{size}{covered}: {cost.said(num)}"
        rows.append(pipeline.data.to_pil(x0))
        records.append(pipeline.record(request))
    yield _written(rows, stages, out, {"kind": "cascade", "stages": records})


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
            drawn = _shape(before.data.shape)
            raise ValueError(f"{after.path} enlarges pictures of {_shape(expects)}, but {before.path} draws {drawn}")
        if before.data.bits != after.data.bits:
            raise ValueError(f"{before.path} draws {before.data.bits} bits a channel, {after.path} {after.data.bits}")
        if before.classes and after.classes and before.classes != after.classes:
            raise ValueError(f"{before.path} and {after.path} know different classes; train both on the same data")


def _cover(pipeline: Pipeline, cover: Sequence[float], place: int) -> float:
    conditioner = pipeline.model.conditioner
    assert isinstance(conditioner, PairConditioner)
    if not cover:
        return 0.5 * conditioner.noise
    return cover[place % len(cover)]


def _shape(shape: Sequence[int]) -> str:
    return f"{' x '.join(map(str, shape[1:]))} with {shape[0]} channel{'s' * (shape[0] != 1)}"


def _written(rows: Sequence[Sequence[Image]], stages: Sequence[Pipeline], out: Path, record: dict[str, Any]) -> str:
    """A sheet of all stages, each pixel as large as it is, or single files of the last stage."""
    from kakusan.report.pictures import show
    from kakusan.tasks.picture_files import one_file

    if not one_file(out):
        return write_results(rows[-1], out, record)
    side = max(stage.data.size[-1] for stage in stages)
    shown = [show(picture, max(1, side // picture.width)) for row in rows for picture in row]
    names = [" x ".join(map(str, stage.data.size)) for stage in stages]
    return write_results(shown, out, record, columns=len(rows[0]), row_labels=names)
