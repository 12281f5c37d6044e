"""The Frechet distance between Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, 1706.08500)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kakusan.metrics.distance import Compared


def frechet_of_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2)), float64.

    By symmetric eigenvalues, which stay real where the covariances are singular: no matrix square root that needs a
    small number added to it.

    Args:
        mean_a: (D,).
        cov_a: (D, D), symmetric and not negative.
        mean_b: (D,).
        cov_b: (D, D).
    """
    values, vectors = torch.linalg.eigh(cov_a.double())
    root = vectors * values.clamp_min(0.0).sqrt() @ vectors.T
    inner = root @ cov_b.double() @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0.0).sqrt().sum()
    shift = (mean_a.double() - mean_b.double()).square().sum()
    return float(shift + cov_a.double().trace() + cov_b.double().trace() - 2.0 * cross)


def frechet(a: Tensor, b: Tensor) -> float:
    """The distance between features a (N, D) and b (M, D), covariances with N - 1.

    Biased upwards where there are few samples, the more the larger D is: never compare it across n.

    Raises:
        ValueError: fewer than two samples or unequal D.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected features (N, D) and (M, D) of at least two, got {tuple(a.shape)}, {tuple(b.shape)}")
    moments = [
        (x.mean(0), torch.cov(x.T, correction=1).reshape(x.shape[1], x.shape[1])) for x in (a.double(), b.double())
    ]
    return frechet_of_moments(*moments[0], *moments[1])


@dataclass(frozen=True)
class Frechet:
    """The Frechet distance as a `Distance`."""

    name = "frechet"
    better = "low"

    def settings(self) -> Mapping[str, Any]:
        """Nothing to choose."""
        return {}

    def on(self, features: Tensor) -> Compared:
        """Compare rows of (N, D) features."""
        return lambda a, b: frechet(features[a], features[b])
