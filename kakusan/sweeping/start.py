"""Where a sweep starts: the request of each picture before any axis changes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kakusan.guidance import DynamicThresholding
from kakusan.samplers import DDIM
from kakusan.sweeping.axes import Axis, Subject
from kakusan.sweeping.setups import ModelChoice, Setup
from kakusan.sweeping.ways import FromNoise, FromPicture, SwitchLabel, Way

DEFAULTS: Mapping[str, Any] = {
    "sampler": "dpmpp-2m",
    "grid": "karras",
    "num_steps": 20,
    "seed": 0,
    "guidance_scale": 1.0,
    "rescale": 0.0,
    "rule": "linear",
}


def chosen(axes: Sequence[Axis], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of a sweep, with what its axes need where nothing was asked for, and lines that say so.

    Raises:
        ValueError: an option and an axis both choose the same.
    """
    options, notes = dict(given), []
    swept = {axis.option: axis for axis in axes}
    for name, axis in swept.items():
        if options.get(name) is not None:
            option = name.removeprefix("num_").replace("_", "-")
            raise ValueError(f"--{option} and the axis {axis.name} both choose it; leave one out")
    for axis in axes:
        for name, value in axis.starts.items():
            if options.get(name) is None and name not in swept:
                options[name] = value
                notes.append(f"{axis.name} acts on nothing by default, so {name.replace('_', '-')} is {value} here")
    return {**DEFAULTS, **{name: value for name, value in options.items() if value is not None}}, notes


def bases(
    subject: Subject,
    axes: Sequence[Axis],
    options: Mapping[str, Any],
    *,
    model: ModelChoice,
    labels: Sequence[str] = (),
    num: int | None = None,
    to: str | None = None,
    image: Tensor | None = None,
) -> list[Setup]:
    """One setup for each picture of a place; the k-th has seed + k.

    Args:
        subject: what is swept.
        axes: of the sweep.
        options: of `Pipeline.request`, with `eta` and `threshold` as they stand on the command line.
        model: its weights.
        labels: class names or indices that the pictures are shared out among; where guidance needs classes and none is
            named, the k-th picture shows the k-th class.
        num: pictures.
        to: label that a switch changes to.
        image: (1, C, *size) that the pictures start from.

    Raises:
        ValueError: what the model cannot do, or no picture.
    """
    options = dict(options)
    pipeline, swept = subject.pipeline, {axis.name for axis in axes}
    count = max(1, len(labels)) if num is None else max(num, len(labels))
    if num is not None and num < 1:
        raise ValueError(f"a sweep needs at least one picture, got --num {num}")
    guided = [axis.name for axis in axes if axis.guides]
    if not (pipeline.classes or pipeline.reads_texts) and (guided or labels or "label" in swept):
        what = f"the axis {(guided or ['label'])[0]} has" if guided or "label" in swept else "--label has"
        raise ValueError(f"this model was trained without classes, so {what} nothing to act on; leave it out")
    if "label" in swept and labels:
        raise ValueError("--label and the axis label both choose the classes; leave one of them out")
    names: list[str | int] | None = [labels[i * len(labels) // count] for i in range(count)] if labels else None
    if names is None and (guided or "label" in swept or options["guidance_scale"] not in (0.0, 1.0)):
        names = [k % len(pipeline.classes) for k in range(count)] if pipeline.classes else None
    eta, threshold = options.pop("eta", None), options.pop("threshold", None)
    if eta is not None:
        if options["sampler"] != "ddim":
            raise ValueError(f"eta belongs to the sampler ddim, not to {options['sampler']}; give --sampler ddim")
        options["sampler"] = DDIM(eta=eta)
    if threshold is not None:
        options["thresholding"] = DynamicThresholding(quantile=threshold)
    whole = pipeline.request(labels=names, num=None if names else count, **options)
    way = _way(subject, swept, whole.num_steps, to, image)
    return [Setup(model, whole.part(slice(k, k + 1)), way) for k in range(count)]


def _way(subject: Subject, swept: set[str], steps: int, to: str | None, image: Tensor | None) -> Way:
    """From noise, with a switch of labels, or from a picture."""
    for option, value, axis in (("--to", to, "switch"), ("--image", image, "strength")):
        if (value is None) == (axis in swept):
            raise ValueError(f"{option} and the axis {axis} belong together; give both or neither")
    if to is not None and image is not None:
        raise ValueError("switch and strength are two ways of drawing; take one of these axes")
    if to is not None:
        return SwitchLabel(subject.pipeline.label_index(to), (steps,))
    if image is not None:
        return FromPicture(image, hashlib.sha256(image.numpy().tobytes()).hexdigest())
    return FromNoise()
