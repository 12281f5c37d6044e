"""The Frechet distance between Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, 1706.08500)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kakusan.metrics.distance import Cloud, Compared


def frechet_of_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2)), float64.

    The last trace is the sum of the singular values of A^(1/2) B^(1/2), which are real and exact to rounding where the
    covariances are singular: no matrix square root that needs a small number added to it.

    Args:
        mean_a: (D,).
        cov_a: (D, D), symmetric and not negative.
        mean_b: (D,).
        cov_b: (D, D).
    """
    cross = torch.linalg.svdvals(_root(cov_a.double()) @ _root(cov_b.double())).sum()
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
    return Frechet().on(torch.cat([a, b]))(torch.arange(len(a)), torch.arange(len(a), len(a) + len(b)))


@dataclass(frozen=True)
class Frechet:
    """The Frechet distance as a `Distance`.

    With centred features X (N, D) and Y (M, D), tr((A B)^(1/2)) is the sum of the singular values of X Y^T divided by
    ((N - 1) (M - 1))^(1/2): a matrix of N by M where samples are fewer than dimensions, and of D by D where not.
    """

    name = "frechet"
    better = "low"
    paired = False

    def settings(self) -> Mapping[str, Any]:
        """Nothing to choose."""
        return {}

    def on(self, features: Tensor | Cloud) -> Compared:
        """Compare rows of (N, D) features, at least two of each."""
        cloud = Cloud.of(features)

        def compare(a: Tensor, b: Tensor) -> float:
            if min(len(a), len(b)) < 2:
                raise ValueError(f"a covariance needs two samples or more, got {len(a)} and {len(b)}")
            x, y = cloud.centred[a], cloud.centred[b]
            shift = (x.mean(0) - y.mean(0)).square().sum()
            x, y = x - x.mean(0), y - y.mean(0)
            spread = x.square().sum() / (len(a) - 1) + y.square().sum() / (len(b) - 1)
            if max(len(a), len(b)) <= cloud.dim:
                both = cloud.products[a][:, b]
                cross = both - both.mean(0) - both.mean(1, keepdim=True) + both.mean()
            else:
                cross = _triangle(x) @ _triangle(y).T
            scale = ((len(a) - 1) * (len(b) - 1)) ** 0.5
            return float(shift + spread - 2.0 * torch.linalg.svdvals(cross).sum() / scale)

        return compare


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    # A value that should be 0 comes out as rounding, whose root is no longer small.
    least = torch.finfo(values.dtype).eps * len(values) * values.abs().max()
    return vectors * values.where(values > least, 0.0).sqrt() @ vectors.T


def _triangle(x: Tensor) -> Tensor:
    """R (K, D) with R^T R = x^T x, of no more rows than x."""
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x
