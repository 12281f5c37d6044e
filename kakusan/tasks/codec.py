"""Pictures to one small file and back."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kakusan import codec, runtime
from kakusan.codec.usual import image, others
from kakusan.data.source import Pictures, open_data
from kakusan.files import whole_file
from kakusan.pipeline import Pipeline, load
from kakusan.report.png import save_png
from kakusan.tasks.picture_files import plain_name


def compress(
    run: Path,
    data: str,
    out: Path,
    *,
    steps: int = 100,
    batch: int = 32,
    bins: int = 4,
    labels: bool = False,
    check: bool = True,
    weights: str | None = None,
    device: str = "cpu",
) -> Iterator[str]:
    """Compress a data set into `out`; yields lines for people."""
    pipeline = _load(run, weights, device)
    stored, kinds = read(pipeline, data, labels=labels)
    yield f"{len(stored)} pictures with the weights {pipeline.weights!r} of {pipeline.path}, {steps} steps"
    began = time.perf_counter()
    file = codec.compress(pipeline, stored, kinds, steps=steps, batch=batch, bins=bins)
    seconds = time.perf_counter() - began
    if check and not torch.equal(codec.decompress(pipeline, file), stored):
        raise RuntimeError("the file does not decode to the same pictures; nothing was written")
    with whole_file(out) as temporary:
        temporary.write_bytes(file)
    found, values = codec.summary(pipeline, file), stored.numel()
    bound = codec.bound(pipeline, file, stored, kinds).total / (math.log(2.0) * found.values)
    error = float(bound.std()) / len(bound) ** 0.5 if len(bound) > 1 else math.nan
    yield f"wrote {out}: {len(file)} bytes, {seconds / len(stored):.3f} s a picture{', checked' if check else ''}"
    yield f"  bits/dim       {found.rate:.4f}, all told: {8.0 / found.rate:.2f} times smaller than bytes"
    yield (
        f"  of the model   {found.rate_without_start:.4f}, without header, labels and the first {found.plain} "
        f"pictures; its bound is {float(bound.mean()):.4f} ± {error:.4f}"
    )
    for name, size in others(stored).items():
        yield f"  {name:<14} {8.0 * size / values:.4f} bits/dim, {size} bytes"


def decompress(run: Path, file: Path, out: Path, *, weights: str | None = None, device: str = "cpu") -> Iterator[str]:
    """Write the pictures of a file as PNG; classes, where the file has them, become folders."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out is an empty or new folder, so that nothing is mixed or lost; got {out}")
    pipeline = _load(run, weights, device)
    decoded = codec.decode(pipeline, file.read_bytes())
    for index, picture in enumerate(decoded.pictures):
        kind = None if decoded.labels is None else plain_name(pipeline.classes[int(decoded.labels[index])])
        save_png(image(picture), (out if kind is None else out / kind) / f"{index:05d}.png")
    yield f"wrote {len(decoded.pictures)} pictures to {out}, their pixels checked"


def read(pipeline: Pipeline, data: str, *, labels: bool = False) -> tuple[Tensor, Tensor | None]:
    """(pictures (N, C, H, W), class indices of the model or None) of a data set, in the model's size.

    Raises:
        ValueError: pictures that the model cannot hold, or labels it does not know.
    """
    embedded = data.split(":")[0] == "digits"
    found = open_data(data) if embedded else open_data(data, size=(pipeline.data.size[0], pipeline.data.size[-1]))
    stored = found.read(np.arange(len(found)))
    pipeline.data.check(stored)
    return stored, _labels(pipeline, found) if labels else None


def _labels(pipeline: Pipeline, found: Pictures) -> Tensor:
    if found.labels is None or not pipeline.classes:
        whose = "data have" if found.labels is None else "model knows"
        raise ValueError(f"the {whose} no classes; leave --labels out")
    index = torch.tensor([pipeline.label_index(name) for name in found.spec.classes])
    return index[found.labels]


def _load(run: Path, weights: str | None, device: str) -> Pipeline:
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    pipeline = load(run, weights=weights, device=where)
    pipeline.need_pixels("a lossless code")
    return pipeline
