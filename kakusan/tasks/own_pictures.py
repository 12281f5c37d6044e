"""Pictures and masks that a user brings to a trained model, what it cost to work on them, and where results go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kakusan.data.fit import FITS
from kakusan.data.reading import read_picture
from kakusan.data.spec import DataSpec
from kakusan.pipeline import Pipeline
from kakusan.specs import suggestion
from kakusan.tasks.picture_files import one_file

if TYPE_CHECKING:
    from PIL.Image import Image


def read_own(path: Path, data: DataSpec, *, fit: str | None = None, size: Sequence[int] | None = None) -> Tensor:
    """A picture as the model sees it, (1, C, *size) in [-1, 1].

    Args:
        path: of a picture file.
        data: of the model.
        fit: crop, pad or stretch, for a picture of another size; None refuses it.
        size: expected in place of the model's own, for small pictures that are to be enlarged.

    Raises:
        ValueError: no picture there, another size without `fit`, another number of channels or bits.
    """
    spec, data = data, data.pictured
    wanted = tuple(data.size if size is None else size)
    values = _read(path)
    if values.shape[2] != data.channels:
        raise ValueError(
            f"{path} has {values.shape[2]} channel{'s' * (values.shape[2] != 1)} and the model draws {data.channels} "
            f"({data.mode or 'channels'}); convert the picture first"
        )
    if np.iinfo(values.dtype).bits != data.bits:
        raise ValueError(f"{path} has {np.iinfo(values.dtype).bits} bits a channel, the model's pictures {data.bits}")
    values = _fitted(values, wanted, fit, path, alpha=data.mode in ("LA", "RGBA"))
    stored = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))).unsqueeze(0)
    if int(stored.to(torch.int32).max()) > data.high or int(stored.to(torch.int32).min()) < data.low:
        raise ValueError(f"{path} has values outside {data.low:g} to {data.high:g}, the range of the model's pictures")
    return spec.to_model(stored)


def read_mask(path: Path, size: Sequence[int], *, fit: str | None = None) -> Tensor:
    """Where a picture is known, (1, *size) bool, from a mask whose white is to be painted again and black is kept.

    Raises:
        ValueError: no picture there, another size without `fit`, or nothing to repaint.
    """
    values = _read(path)
    top = float(np.iinfo(values.dtype).max)
    # Colour only: an opacity beside it says nothing about what to repaint.
    colours = values[..., : values.shape[2] - 1] if values.shape[2] in (2, 4) else values
    colours = _fitted(colours, tuple(size), fit, path)
    repaint = torch.from_numpy(np.ascontiguousarray(colours.astype(np.float64).mean(2) / top)) > 0.5
    if not bool(repaint.any()):
        raise ValueError(f"{path} has no white pixel, so there is nothing to repaint (white = repaint, black = keep)")
    return ~repaint.unsqueeze(0)


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"there is no picture at {path}")
    return read_picture(path.read_bytes(), str(path)).values


def _fitted(
    values: np.ndarray, size: tuple[int, ...], fit: str | None, path: Path, *, alpha: bool = False
) -> np.ndarray:
    if tuple(values.shape[:2]) == size:
        return values
    here, there = (f"{side[1]} x {side[0]}" for side in (values.shape, size))
    if fit is None:
        raise ValueError(
            f"{path} is {here} pixels (width x height), expected are {there}; give --fit crop, pad or stretch to have "
            "it brought there"
        )
    if fit not in FITS:
        raise ValueError(f"no fit {fit!r}{suggestion(fit, list(FITS))}; there are {', '.join(FITS)}")
    return FITS[fit].apply(values, size, alpha=alpha)


@dataclass
class Cost:
    """What a task took.

    Args:
        passes: calls of the network, whatever their batch.
        evaluations: samples that went through it.
        seconds: of the wall clock.
    """

    passes: int = 0
    evaluations: int = 0
    seconds: float = 0.0

    def said(self, pictures: int) -> str:
        """One sentence for people."""
        each = self.evaluations / max(pictures, 1)
        return (
            f"{self.passes} passes of the network, {each:.0f} evaluations for each of {pictures} "
            f"picture{'s' * (pictures != 1)}, {self.seconds:.1f} s"
        )


@contextmanager
def counted(pipeline: Pipeline) -> Iterator[Cost]:
    """Count what goes forward through the network of `pipeline`, and of models that guide it, and the time."""
    cost = Cost()

    def count(samples: int) -> None:
        cost.passes += 1
        cost.evaluations += samples

    began = time.perf_counter()
    with pipeline.watched(count):
        try:
            yield cost
        finally:
            cost.seconds = time.perf_counter() - began


def write_results(
    pictures: Sequence[Image],
    out: Path,
    record: Mapping[str, Any],
    *,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """One picture or a labelled sheet where `out` ends in .png, single files in the folder `out` otherwise.

    Args:
        pictures: row by row.
        out: a .png file, or a folder.
        record: what is written into each file beside its place.
        columns: of the sheet.
        row_labels: of the sheet.
        column_labels: of the sheet.
        names: of the single files, without suffix.

    Returns:
        A line for people.
    """
    from kakusan.report.grids import grid
    from kakusan.report.png import save_png

    if one_file(out):
        wide = columns or max(1, round(len(pictures) ** 0.5))
        single = len(pictures) == 1
        sheet = (
            pictures[0] if single else grid(pictures, columns=wide, row_labels=row_labels, column_labels=column_labels)
        )
        save_png(sheet, out, {**record, "index": 0} if single else {**record, "columns": wide})
        return f"wrote {out}"
    called = names or [f"{index:05d}" for index in range(len(pictures))]
    for index, (picture, name) in enumerate(zip(pictures, called, strict=True)):
        save_png(picture, out / f"{name}.png", {**record, "index": index})
    return f"wrote {len(pictures)} files to {out}"
