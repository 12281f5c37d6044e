"""Nearest training neighbours of samples beside those of held-out pictures: does a model copy?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassNeighbours:
    """One class: the low percentile of the samples' and of the held-out pictures' distances, and how many there are.

    Of n distances the 5th percentile is about the (n / 20)-th smallest, so below a hundred it says little alone.
    """

    label: int
    generated_low: float
    held_out_low: float
    generated: int
    held_out: int

    @property
    def ratio(self) -> float:
        """Above 1 the samples are no nearer to the training pictures than new pictures are."""
        return self.generated_low / max(self.held_out_low, 1e-12)


@dataclass(frozen=True)
class NeighbourReport:
    """Distances to the nearest training picture of the same class.

    Args:
        generated: one for each sample.
        held_out: one for each held-out picture.
        percentile: the low end that is compared; copies show there first.
        by_class: the same for each class of the samples.
    """

    generated: tuple[float, ...]
    held_out: tuple[float, ...]
    percentile: float
    by_class: tuple[ClassNeighbours, ...]

    @property
    def generated_low(self) -> float:
        """The percentile of the samples' distances, over all classes."""
        return _quantile(self.generated, self.percentile)

    @property
    def held_out_low(self) -> float:
        """The percentile of the held-out pictures' distances, over all classes."""
        return _quantile(self.held_out, self.percentile)

    @property
    def ratio(self) -> float:
        """Above 1 the samples are no nearer to the training pictures than new pictures are."""
        return self.generated_low / max(self.held_out_low, 1e-12)


def nearest_by_class(
    generated: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    training: tuple[Tensor, Tensor],
    *,
    percentile: float = 5.0,
) -> NeighbourReport:
    """Compare features (N, D), each set given with its labels (N,).

    Raises:
        ValueError: a class of the samples that the training or held-out set does not have.
    """
    found: list[tuple[float, ...]] = [(), ()]
    by_class = []
    for label in torch.unique(generated[1]).tolist():
        known = training[0][training[1] == label]
        lows, counts = [], []
        for i, (features, labels) in enumerate((generated, held_out)):
            mine = features[labels == label]
            if len(known) == 0 or len(mine) == 0:
                raise ValueError(f"class {label} has no pictures in one of the sets; neighbours are compared per class")
            nearest = tuple(torch.cdist(mine, known).min(1).values.tolist())
            found[i] += nearest
            lows.append(_quantile(nearest, percentile))
            counts.append(len(nearest))
        by_class.append(ClassNeighbours(int(label), lows[0], lows[1], counts[0], counts[1]))
    return NeighbourReport(found[0], found[1], percentile, tuple(by_class))


def _quantile(values: tuple[float, ...], percentile: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(percentile / 100.0))
