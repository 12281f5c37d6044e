"""Samples as files: sheets, single pictures with the record that makes each again, and their way from noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kakusan.pipeline import Pipeline
from kakusan.request import Asked, SampleRequest

ANIMATIONS = (".gif", ".webp", ".mp4")
OTHER_PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mp4")


def write(
    pipeline: Pipeline,
    request: SampleRequest,
    pictures: Sequence[Any],
    out: Path,
    columns: int | None,
    scale: int | None = None,
) -> Iterator[str]:
    """One sheet or single files, each with its record; `scale` as in `report.grids.grid`."""
    from kakusan.report.grids import grid
    from kakusan.report.png import save_png
    from kakusan.report.prompts import prompt_sheet

    if one_file(out):
        if len(pictures) == 1:
            save_png(pictures[0], out, pipeline.record(request, kind="single", index=0))
        else:
            rows = columns or max(1, round(len(pictures) ** 0.5))
            names = None
            if pipeline.reads_texts and request.labels is not None:
                sheet = prompt_sheet(_by_text(request.labels, pictures), columns=rows, scale=scale)
            else:
                names = _row_names(pipeline, request, rows)
                sheet = grid(pictures, columns=rows, row_labels=names, scale=scale)
            save_png(sheet, out, pipeline.record(request, kind="sheet", columns=rows, rows=names, scale=scale))
        yield f"wrote {out}"
        return
    place = 0
    for chunk in request.chunks():
        for index, seed in enumerate(chunk.seeds):
            label = "" if chunk.labels is None else f"-{plain_name(pipeline.label_name(chunk.labels[index]))}"
            record = pipeline.record(chunk, kind="single", index=index)
            save_png(pictures[place], out / f"{place:05d}{label}-seed{seed}.png", record)
            place += 1
    yield f"wrote {place} files to {out}"


def one_file(out: Path) -> bool:
    return out.suffix.lower() == ".png" and not out.is_dir()


def check_out(out: Path) -> None:
    """Refuse a place that cannot be written to, before anything slow begins."""
    if out.is_dir() or one_file(out):
        return
    if out.exists() or out.suffix.lower() in OTHER_PICTURES:
        raise ValueError(f"--out is a .png file, which can carry the record of how it was made, or a folder; got {out}")


def plain_name(name: str) -> str:
    """A class name as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60]


def _by_text(labels: Sequence[Asked], pictures: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Each text with its pictures; equal ones stand together where they follow each other."""
    pairs = itertools.groupby(zip(labels, pictures, strict=True), key=lambda pair: str(pair[0]))
    return [(text, [picture for _, picture in group]) for text, group in pairs]


def _row_names(pipeline: Pipeline, request: SampleRequest, columns: int) -> list[str] | None:
    """Names of the rows, when every row holds one class."""
    if request.labels is None or len(request.labels) % columns:
        return None
    rows = [set(request.labels[i : i + columns]) for i in range(0, len(request.labels), columns)]
    if any(len(row) > 1 for row in rows):
        return None
    return [pipeline.label_name(row.pop()) for row in rows]


def write_trajectory(pipeline: Pipeline, request: SampleRequest, path: Path) -> str:
    """The way of the first pictures from noise as an animation; returns a line for people."""
    from kakusan.report.animation import save_animation
    from kakusan.report.reverse import trajectory_frames

    first = replace(request.chunks()[0], batch=min(request.batch, 16))
    first = first.chunks()[0]
    noisy, clean, times = [], [], []
    for step in pipeline.steps(first):
        noisy.append(shown(pipeline, step.x_t))
        predicted = step.prediction.x0 if step.prediction is not None else step.x_s
        clean.append(pipeline.data.to_pil(predicted.cpu()))
        times.append(float(step.level.t))
    noisy.append(pipeline.data.to_pil(step.x_s.cpu()))
    clean.append(noisy[-1])
    times.append(float(step.next_level.t))
    save_animation(trajectory_frames(noisy, clean, times), path, fps=8, hold=1.5)
    return f"wrote {path}"


def shown(pipeline: Pipeline, x_t: torch.Tensor) -> list[Any]:
    """x_t as pictures, scaled to the range of the picture: noise has no natural one."""
    scale = x_t.flatten(1).std(1).clamp_min(0.5).view(-1, *[1] * (x_t.dim() - 1)) * 2.0
    return pipeline.data.to_pil((x_t / scale).cpu())
