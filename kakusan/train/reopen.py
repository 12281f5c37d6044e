"""The data of a run, opened again from what its checkpoint says: to train on, and to measure on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from kakusan.conditioning import Condition
from kakusan.config import TrainConfig, merge
from kakusan.data.source import Pictures, open_data
from kakusan.data.spec import DataSpec
from kakusan.pipeline import Pipeline
from kakusan.train.sources import open_parts

HELD_OUT = "held-out"


def reopen(pipeline: Pipeline, source: str | None = None) -> Pictures:
    """The pictures the model was trained on (without those held out).

    Args:
        source: where they are now, when they have moved.

    Raises:
        ValueError: they are not there, or not the same shape.
    """
    return reopen_parts(pipeline, source)[0]


def reopen_parts(pipeline: Pipeline, source: str | None = None) -> tuple[Pictures, Pictures]:
    """(the pictures the model was trained on, those held out of it), opened once.

    Args:
        source: where they are now, when they have moved.

    Raises:
        ValueError: they are not there, or not the same shape.
    """
    training = pipeline.facts.training
    if "config" not in training:
        raise ValueError("this model does not say what it was trained on, so its data cannot be opened")
    config = merge(TrainConfig(), training["config"], "the checkpoint")
    data = config.data if source is None else dataclasses.replace(config.data, source=source)
    pictures, held_out = open_parts(data, seed=config.run.seed)
    expected = pipeline.data.pictured.shape
    if pictures.spec.shape != expected:
        raise ValueError(
            f"the pictures of {data.source} are {pictures.spec.shape}, the model was trained on {expected}"
        )
    if pictures.spec.classes != pipeline.data.classes or pictures.spec.bits != pipeline.data.bits:
        raise ValueError(
            f"the pictures of {data.source} have other classes or another depth than those of the training"
        )
    return pictures, held_out


def pictures_to_measure(pipeline: Pipeline, source: str = HELD_OUT) -> Pictures:
    """The pictures to measure: the run's own held-out part, or a folder, zip file or embedded set as it is.

    Raises:
        ValueError: pictures that do not fit the model: another size, number of channels, depth or range.
    """
    pipeline.need_pixels("a likelihood")
    spec = pipeline.data
    if source != HELD_OUT:
        pictures = open_data(source)
    else:
        training = pipeline.facts.training
        if "config" not in training:
            raise ValueError("this model does not say what it was trained on; give the pictures with --data")
        config = merge(TrainConfig(), training["config"], "the checkpoint")
        pictures = open_parts(config.data, seed=config.run.seed)[1]
        if len(pictures) == 0:
            raise ValueError("this run held no pictures out; give others with --data")
    found = pictures.spec
    if found.shape != spec.shape or found.bits != spec.bits:
        raise ValueError(
            f"the pictures of {source} are {_shape(found)}, the model was trained on {_shape(spec)}; a likelihood is "
            "of pictures as they are, so bring them to that form first"
        )
    return pictures


def _shape(spec: DataSpec) -> str:
    return " x ".join(map(str, spec.shape)) + f" of {spec.bits} bits"


def conditioning(pipeline: Pipeline, pictures: Pictures) -> tuple[Callable[[list[int]], Condition | None], str]:
    """(the condition of some of the pictures, what it is): their labels when the classes are the model's, else null."""
    conditioner = pipeline.model.conditioner
    if conditioner is None:
        return lambda rows: None, "none"
    labels = pictures.labels
    if labels is not None and pictures.spec.classes == pipeline.classes:
        return lambda rows: conditioner(labels[rows].to(pipeline.device)), "labels"
    if conditioner.dropout == 0.0:
        raise ValueError(
            "this model always follows a class and these pictures have not its classes, so it has no likelihood of "
            f"them; give pictures in folders named {', '.join(pipeline.classes[:6])} ..."
        )
    return lambda rows: conditioner.null(len(rows)), "null"
