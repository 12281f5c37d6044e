"""Making pictures from a picture with a model that was trained on pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kakusan import runtime
from kakusan.data.reading import read_picture
from kakusan.data.spec import DataSpec, picture_mode
from kakusan.metrics.noise_level import noise_of_patches
from kakusan.noise import Draws
from kakusan.pairs import Pair
from kakusan.pairs.kinds import gray
from kakusan.pipeline import Pipeline, load
from kakusan.specs import to_spec
from kakusan.tasks.own_pictures import counted, read_mask, read_own
from kakusan.tasks.picture_files import check_out
from kakusan.tasks.restore_report import scores, write_restored

if TYPE_CHECKING:
    from PIL.Image import Image


def transform(
    run: Path,
    image: Path,
    out: Path,
    *,
    original: bool = False,
    mask: Path | None = None,
    num: int = 4,
    noise: float | None = None,
    cover: float = 0.0,
    exact: bool = False,
    label: str | None = None,
    guidance_scale: float | None = None,
    sampler: str = "dpmpp-2m",
    grid: str = "karras",
    num_steps: int = 20,
    fit: str | None = None,
    seed: int = 0,
    batch: int = 32,
    weights: str | None = None,
    device: str = "auto",
) -> Iterator[str]:
    """Draw pictures that fit a given one; yields lines for people.

    Args:
        run: a run, checkpoint or model folder trained with `--pair`.
        image: what to start from: a small picture, a gray one, edges, and so on; with `original` a picture of which
            that is made.
        out: a .png for one sheet, or a folder for single files.
        mask: white where the picture is to be painted again, for models trained with masks.
        noise: of the picture, as a share of the range from black to white, for models that take it away; found from the
            picture when None.
        cover: level of the noise that covers what is given, from 0 to the most of training.
        exact: bring the results to what was given, where the pair is linear: nothing else of them changes.
    """
    check_out(out)
    if num < 1:
        raise ValueError(f"num is at least 1, got {num}")
    where = runtime.pick_device(device)
    runtime.tune(device=where)
    pipeline = load(run, weights=weights, device=where)
    data, pair = pipeline.data, pipeline.pair
    if noise is not None and not pair.noisy_itself:
        raise ValueError("--noise is of models trained with --pair noisy; what others start from is covered by --cover")
    if cover and pair.noisy_itself:
        raise ValueError("--cover adds noise to what is given, and this model takes noise away; give --noise")
    truth = read_own(image, data, fit=fit) if original else None
    y, known = _started(pair, data, image, truth, mask, fit, seed)
    if pair.noisy_itself:
        std, y = _noisy(y, truth, noise, seed)
        yield f"the noise in the picture is {std / 2.0:.4f} of the range" + (" (found)" if noise is None else "")
        # What the model was trained on is the picture under noise, brought back to the size of a picture.
        cover = std / math.sqrt(1.0 + std * std)
        y = y * math.sqrt(1.0 - cover * cover)
    given = pipeline.given(y, known=known, noise=cover)
    request = pipeline.request(
        labels=None if label is None else [label] * num,
        num=num,
        seed=seed,
        guidance_scale=guidance_scale,
        sampler=sampler,
        grid=grid,
        num_steps=num_steps,
        batch=batch,
        given=given,
    )
    yield f"{type(pair).__name__.lower()}, weights {pipeline.weights!r} of {pipeline.path}"
    with counted(pipeline) as cost:
        x0 = pipeline.run(request)
    x0 = data.snap(pair.fitted(x0, y, known) if exact and known is None else x0)
    if known is not None:
        x0 = pair.fitted(x0, y, known)
    yield cost.said(num)
    yield from _closing(pipeline, pair, x0, y, labelled=label is not None)
    if truth is not None:
        yield from scores(x0, x0.mean(0, keepdim=True), truth).values()
    record = pipeline.record(
        request, kind="transform", pair=to_spec(pair), image=image.name, original=original, exact=exact
    )
    shown = _picture(pair, data, given.spatial, y)
    yield from write_restored(data, shown, x0, truth, out, record, num=num)


def read_brought(path: Path, pair: Pair, data: DataSpec, *, fit: str | None = None) -> Tensor:
    """What a user brings for a model trained on `pair`, (1, *expects) in [-1, 1]; of colour its gray, where one channel
    is wanted.

    Raises:
        ValueError: no picture there, another size without `fit`, or another number of channels.
    """
    channels, *size = pair.expects(data.shape)
    if channels == data.channels:
        return read_own(path, data, fit=fit, size=size)
    if channels == 1 and path.is_file() and read_picture(path.read_bytes(), str(path)).values.shape[2] == data.channels:
        return gray(read_own(path, data, fit=fit, size=size))
    flat = (0.0,) * channels
    plain = replace(data, channels=channels, mode=picture_mode(channels, data.bits), mean=flat, std=flat)
    return read_own(path, plain, fit=fit, size=size)


def _started(
    pair: Pair, data: DataSpec, image: Path, truth: Tensor | None, mask: Path | None, fit: str | None, seed: int
) -> tuple[Tensor, Tensor | None]:
    """(what the samples start from, where it is known or None)."""
    known = None
    if mask is not None:
        if not pair.masks:
            raise ValueError("--mask is of models trained with --pair masked")
        known = read_mask(mask, data.size, fit=fit).unsqueeze(1).to(torch.float32)
    if truth is not None:
        y, random = pair.made(truth, Draws(torch.tensor([seed]), torch.tensor([0])))
        return y, random if known is None else known
    if pair.masks and known is None:
        raise ValueError("give a --mask whose white is to be painted again, or --original for a random one")
    return read_brought(image, pair, data, fit=fit), known


def _noisy(y: Tensor, truth: Tensor | None, noise: float | None, seed: int) -> tuple[float, Tensor]:
    """(standard deviation in model units, the noisy picture): given, found, or put on a clean one."""
    if truth is not None:
        std = 2.0 * (0.1 if noise is None else noise)
        return std, y + std * Draws(torch.tensor([seed]), torch.tensor([0])).normal(0, y)
    return (noise_of_patches(y) if noise is None else 2.0 * noise), y


def _closing(pipeline: Pipeline, pair: Pair, x0: Tensor, y: Tensor, *, labelled: bool) -> Iterator[str]:
    """How well the results fit, and what could not be done."""
    draws = Draws(torch.zeros(len(x0), dtype=torch.int64), torch.zeros(len(x0), dtype=torch.int64))
    if pair.masks:
        yield "known pixels are bit-equal to those of the picture"
    elif not pair.brought and not pair.noisy_itself:
        again = pair.made(x0, draws)[0]
        error = float((again - y).square().mean().sqrt()) / 2.0
        yield f"made from the results, what was given comes back within {error:.4f} of the range (root mean square)"
    if pipeline.classes and not labelled:
        yield f"note: no --label was given; naming one of the {len(pipeline.classes)} classes makes the model surer"


def _picture(pair: Pair, data: DataSpec, spatial: Tensor, y: Tensor) -> Image:
    """What was given, for people: as it was brought where it has the channels of the pictures, else in their size."""
    if pair.masks:
        from PIL import Image as Pillow

        picture = data.to_pil(y.clamp(-1.0, 1.0))[0]
        if picture.mode in ("L", "RGB"):
            # Transparent where nothing is known: a sheet lays a checkerboard under it.
            opacity = np.where(spatial[0, -1].numpy() > 0.0, 255, 0).astype(np.uint8)
            picture.putalpha(Pillow.fromarray(opacity))
        return picture
    if y.shape[1] == data.channels:
        return replace(data, size=tuple(y.shape[2:])).to_pil(y.clamp(-1.0, 1.0))[0]
    return data.to_pil(pair.shown(spatial, data.shape).clamp(-1.0, 1.0))[0]
