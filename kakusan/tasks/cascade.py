"""Small pictures by one model, enlarged by the next: a cascade (Ho et al. 2021, arXiv 2106.15282)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kakusan import runtime
from kakusan.designed import asks, check_stages, enlarging
from kakusan.pipeline import Pipeline, load
from kakusan.request import SampleRequest
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
        labels: class names, or texts for models of texts, shared out among the pictures.
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
        if names is not None and not asks(pipeline):
            yield f"note: {pipeline.path} knows no classes and reads no texts, so it goes by the picture alone"
        wanted: dict[str, Any] = {"sampler": sampler, "grid": grid, "num_steps": num_steps, "batch": batch}
        wanted |= {"seed": seed, "num": num}
        if x0 is None:
            known = names if asks(pipeline) else None
            scale = guidance_scale if known is not None else None
            request = pipeline.request(labels=known, guidance_scale=scale, **wanted)
        else:
            level = _each(cover, place - 1)
            wanted |= {"names": names, "guidance_scale": guidance_scale, "cover": level}
            request = enlarging(pipeline, x0, **wanted)
        with counted(pipeline) as cost:
            x0 = pipeline.data.snap(pipeline.run(request))
        yield f"{size_of(pipeline, request)}: {cost.said(num)}"
        rows.append(pipeline.data.to_pil(x0))
        records.append(pipeline.record(request))
    yield _written(rows, stages, out, {"kind": "cascade", "stages": records})


def size_of(pipeline: Pipeline, request: SampleRequest) -> str:
    """The size of the pictures, and how far what they start from is covered by noise."""
    level = 0.0 if request.given is None else request.given.noise
    covered = f", covered by {level:g}" if level else ""
    return " x ".join(map(str, pipeline.data.size)) + covered


def _each(values: Sequence[float], place: int) -> float | None:
    return values[place % len(values)] if values else None


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
