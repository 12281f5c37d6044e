"""The kernel distance: unbiased squared maximum mean discrepancy (Gretton et al. 2012; Binkowski et al. 1801.01401)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kakusan.metrics.distance import Cloud, Compared


class KernelFunction(Protocol):
    """A positive kernel on features."""

    def settings(self) -> Mapping[str, Any]:
        """Its numbers; plain values."""
        ...

    def matrix(self, cloud: Cloud) -> Tensor:
        """Values (N, N) between all pairs."""
        ...


@dataclass(frozen=True)
class Polynomial:
    """(x . y / D + offset)^degree: the kernel of KID with 3 and 1. It sees moments up to its degree and nothing else.

    Args:
        degree: at least 1.
        offset: what is added; at least 0.
    """

    degree: int = 3
    offset: float = 1.0

    def __post_init__(self) -> None:
        if self.degree < 1 or self.offset < 0.0:
            raise ValueError(f"expected a degree of at least 1 and an offset of at least 0, got {self}")

    def settings(self) -> Mapping[str, Any]:
        """For the record."""
        return {"kernel": "polynomial", "degree": self.degree, "offset": self.offset}

    def matrix(self, cloud: Cloud) -> Tensor:
        """Values (N, N)."""
        return (cloud.features @ cloud.features.T).div_(cloud.dim).add_(self.offset).pow_(self.degree)


@dataclass(frozen=True)
class Gaussian:
    """Mean of exp(-|x - y|^2 / (2 bandwidth^2)) over bandwidths: it sees every difference between two laws.

    Args:
        bandwidths: in units of the features. Fix them before the samples are seen: chosen from the samples they make
            records of different models unlike.
    """

    bandwidths: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.bandwidths or not min(self.bandwidths) > 0.0:
            raise ValueError(f"expected bandwidths above 0, got {self.bandwidths}")

    def settings(self) -> Mapping[str, Any]:
        """For the record."""
        return {"kernel": "gaussian", "bandwidths": list(self.bandwidths)}

    def matrix(self, cloud: Cloud) -> Tensor:
        """Values (N, N)."""
        squares = cloud.squares()
        return torch.stack([(squares / (-2.0 * h * h)).exp_() for h in self.bandwidths]).mean(0)


_CUBIC = Polynomial()


@dataclass(frozen=True)
class Kernel:
    """MMD^2 without bias, from all pairs of all samples, with no subsets: its mean over equal laws is exactly 0.

    It may come out below 0. Where classes are dealt out evenly, as `Splits` deals labelled pictures, it does so a
    little in the mean: such sets are more alike than independent ones, and samples and null share that. The ratio to
    the null means nothing; `MetricRecord.z` does. Its size follows the features' units (a polynomial kernel is not
    invariant to their scale), so it compares within one space only.

    Args:
        kernel: cubic polynomial by default.
    """

    kernel: KernelFunction = _CUBIC

    name = "kernel"
    better = "low"
    paired = False

    def settings(self) -> Mapping[str, Any]:
        """The kernel's."""
        return self.kernel.settings()

    def on(self, features: Tensor | Cloud) -> Compared:
        """Compare rows of (N, D) features, at least two of each."""
        values = self.kernel.matrix(Cloud.of(features))
        diagonal = values.diagonal()

        def compare(a: Tensor, b: Tensor) -> float:
            if min(len(a), len(b)) < 2:
                raise ValueError(f"pairs need two samples or more, got {len(a)} and {len(b)}")
            # Sums over rows first: they lie in one piece of memory.
            of_a, of_b = values[a].sum(0), values[b].sum(0)
            within_a = (of_a[a].sum() - diagonal[a].sum()) / (len(a) * (len(a) - 1))
            within_b = (of_b[b].sum() - diagonal[b].sum()) / (len(b) * (len(b) - 1))
            return float(within_a + within_b - 2.0 * of_a[b].sum() / (len(a) * len(b)))

        return compare


def kernel_distance(a: Tensor, b: Tensor, kernel: KernelFunction = _CUBIC) -> float:
    """Unbiased MMD^2 between features a (N, D) and b (M, D).

    Raises:
        ValueError: fewer than two samples or unequal D.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    return Kernel(kernel).on(torch.cat([a, b]))(torch.arange(len(a)), torch.arange(len(a), len(a) + len(b)))
