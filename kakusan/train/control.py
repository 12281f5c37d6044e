"""A model that holds a trained one, frozen, and a branch beside it that learns to follow a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kakusan import model_folder
from kakusan.conditioning import ClassLabels
from kakusan.config import TrainConfig, merge
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser
from kakusan.model_folder import Model
from kakusan.nn.control import controlled
from kakusan.pairs import Pair, PairConditioner
from kakusan.run_folder import find_model
from kakusan.train.optim import OptimSettings


def control_model(base: str | Path, pair: Pair, spec: DataSpec, *, dropout: float = 0.1) -> Model:
    """The model of `base` with its averaged weights, frozen, and a fresh branch.

    Args:
        base: a run, checkpoint or model folder.
        pair: how the picture that the branch follows is made.
        spec: of the data.
        dropout: how often picture and class are dropped in training.

    Raises:
        ValueError: data of another shape or other classes, or a model that a branch cannot be made of.
    """
    model, facts, _ = model_folder.read(find_model(base))
    if facts.data.shape != spec.shape:
        raise ValueError(f"{base} draws pictures of {facts.data.shape}, the data are {spec.shape}")
    labels = model.conditioner
    if labels is not None and not isinstance(labels, ClassLabels):
        raise ValueError(f"{base} starts from a picture already; a control branch goes beside a model that does not")
    if labels is not None and spec.classes and spec.classes != labels.classes:
        raise ValueError(f"{base} knows other classes than the data; take data with the same classes, or without any")
    old = model.denoiser
    denoiser = Denoiser(
        controlled(old.backbone, pair.channels(spec.shape)),
        old.trained_schedule,
        old.parameterization,
        sigma_data=old.sigma_data,
        noise_map=old.noise_map,
        independent_noise=old.independent_noise,
        learned_variance=old.learned_variance,
    )
    width = 0
    if labels is not None:
        labels.requires_grad_(False)
        width = labels.table.weight.shape[1]
    conditioner = PairConditioner(pair=pair, shape=spec.shape, labels=labels, width=width, dropout=dropout)
    return Model(denoiser, conditioner)


def control_settings(base: str | Path, changes: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
    """Settings of a run that trains a branch beside `base`: its data and objective, and `changes`.

    Raises:
        ValueError: a model that does not say how it was trained, or settings that do not exist.
    """
    _, facts, _ = model_folder.read(find_model(base))
    if "config" not in facts.training:
        raise ValueError(f"{base} does not say what it was trained on, so a branch beside it has no data")
    stored = merge(TrainConfig(), facts.training["config"], str(base))
    run = dataclasses.replace(TrainConfig().run, steps=None, minutes=None, batch=stored.run.batch)
    # Convolutions that start at zero want small, even steps: AdamW, whatever the base was trained with.
    config = dataclasses.replace(stored, run=run, optim=OptimSettings(warmup=50))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, control=str(base)))
    return merge(config, changes, "the options")
