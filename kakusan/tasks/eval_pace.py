"""What training the feature spaces of an evaluation will take, measured from a few steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from kakusan.data.source import ArrayPictures
from kakusan.metrics.classifier import train_classifier
from kakusan.metrics.reference import Reference
from kakusan.metrics.spaces import default_spaces

LEARNT = ("classifier", "self-supervised")
"""Spaces that are trained, each in about as long: measured on the demo's flowers, 28 s of one core either."""
MEASURED, STEPS = 3, 200


def seconds_to_learn(names: Sequence[str], reference: Reference, folder: Path) -> float:
    """Seconds to train what `names` need and `folder` does not keep yet; 0 where nothing is to be trained.

    Args:
        names: of feature spaces. The judge of labelled pictures is trained whatever they are.
        reference: the real pictures.
        folder: where trained networks are kept.
    """
    judged = "classifier" in default_spaces(reference)
    wanted = {*names, "classifier"} if judged else set(names) - {"classifier"}
    missing = [name for name in LEARNT if name in wanted and not list(folder.glob(f"{name}-*.safetensors"))]
    return len(missing) * _training(reference, judged) if missing else 0.0


def _training(reference: Reference, judged: bool) -> float:
    learning = reference.learning
    # Without labels any will do: the time is the same.
    labels = learning.labels if judged else [i % 2 for i in range(len(learning))]
    spec = learning.spec if judged else type(learning.spec).measure(learning.stored.numpy(), classes=("a", "b"))
    pictures = ArrayPictures(spec, learning.stored, labels=labels, fingerprint=learning.hash)
    # The first pass through a network finds its memory and its algorithms.
    train_classifier(pictures, steps=1)
    began = time.perf_counter()
    train_classifier(pictures, steps=MEASURED)
    return (time.perf_counter() - began) * STEPS / MEASURED
