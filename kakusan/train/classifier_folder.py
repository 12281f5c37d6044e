"""The folder of a noisy classifier: `model.json` with every fact and safetensors, as other models have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kakusan import model_folder
from kakusan.data.spec import DataSpec
from kakusan.nn.noisy_classifier import NoisyConvNet
from kakusan.specs import to_spec
from kakusan.stored_part import read_part
from kakusan.train.noisy_classifier import TrainedClassifier

PART = "noisy_classifier"


def save(folder: Path, trained: TrainedClassifier, data: DataSpec, training: Mapping[str, Any]) -> str:
    """Write a classifier into the existing, empty `folder`: `model.json` and safetensors; returns its hash.

    Args:
        data: what its samples are, with the names of the classes.
        training: what it was trained on and how, plain values.
    """
    from kakusan import __version__

    description = {
        "format": model_folder.FORMAT,
        "kakusan": __version__,
        PART: to_spec(trained.network),
        "data": to_spec(data),
        "training": {**to_spec(training), **trained.record()},
        "ema": [],
    }
    return model_folder.write_described(folder, trained.network, description, {})


@dataclass(frozen=True)
class StoredClassifier:
    """A classifier from a folder.

    Args:
        network: it satisfies `kakusan.guidance.NoisyClassifier`.
        data: what its samples are.
        training: its record.
        model_hash: its identity.
    """

    network: NoisyConvNet
    data: DataSpec
    training: Mapping[str, Any]
    model_hash: str

    def check_fits(self, data: DataSpec, classes: Sequence[str]) -> None:
        """Refuse a model whose samples this classifier was not trained to tell apart.

        Raises:
            ValueError: samples of another shape, or other classes.
        """
        if self.data.shape != data.shape:
            raise ValueError(
                f"this classifier was trained on {_sides(self.data)}, the model draws {_sides(data)}; train one for "
                "this model with: kakusan train-classifier RUN"
            )
        if self.data.classes != tuple(classes):
            raise ValueError(
                f"this classifier tells {_names(self.data.classes)} apart, the model has {_names(classes)}; train one "
                "for this model with: kakusan train-classifier RUN"
            )


def load(folder: Path, *, device: torch.device | str = "cpu") -> StoredClassifier:
    """A classifier that `save` wrote.

    Raises:
        ValueError: no classifier there, or a damaged one.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no classifier at {folder}; train one with: kakusan train-classifier RUN")
    found = read_part(folder, PART, NoisyConvNet, device=device)
    return StoredClassifier(found.network, found.data, found.training, found.model_hash)


def _sides(data: DataSpec) -> str:
    return " x ".join(map(str, data.shape))


def _names(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
    return f"{len(classes)} classes ({shown})" if classes else "no classes"
