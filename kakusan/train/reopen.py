"""The training data of a run, opened again from what its checkpoint says."""

from __future__ import annotations

import dataclasses

from kakusan.config import TrainConfig, merge
from kakusan.data.source import Pictures
from kakusan.pipeline import Pipeline
from kakusan.train.sources import open_parts


def reopen(pipeline: Pipeline, source: str | None = None) -> Pictures:
    """The pictures the model was trained on (without those held out).

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
    pictures = open_parts(data, seed=config.run.seed)[0]
    if pictures.spec.shape != pipeline.data.shape:
        raise ValueError(
            f"the pictures of {data.source} are {pictures.spec.shape}, the model was trained on {pipeline.data.shape}"
        )
    if pictures.spec.classes != pipeline.data.classes or pictures.spec.bits != pipeline.data.bits:
        raise ValueError(
            f"the pictures of {data.source} have other classes or another depth than those of the training"
        )
    return pictures
