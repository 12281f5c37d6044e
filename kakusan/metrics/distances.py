"""The distances by name."""

from __future__ import annotations

from collections.abc import Callable

from kakusan.metrics.distance import Distance
from kakusan.metrics.frechet import Frechet
from kakusan.metrics.kernel import Kernel
from kakusan.metrics.manifold import Coverage, Density, Precision, Recall, TwoSample
from kakusan.metrics.sliced import Sliced

DISTANCES: dict[str, Callable[[], Distance]] = {
    "frechet": Frechet,
    "kernel": Kernel,
    "sliced": Sliced,
    "precision": Precision,
    "recall": Recall,
    "density": Density,
    "coverage": Coverage,
    "two-sample": TwoSample,
}
"""Name -> the distance with its usual settings."""
