"""`Evaluation`: samples set beside real pictures in several feature spaces, as records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.metrics.distance import Distance, Splits
from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces.base import Space, features


@dataclass
class Evaluation:
    """Real pictures, spaces and distances; measures any number of sample sets.

    Args:
        reference: the real pictures.
        spaces: where to compare.
        distances: what to compute in each space.
        splits: how distances are set beside their null.
    """

    reference: Reference
    spaces: Sequence[Space]
    distances: Sequence[Distance]
    splits: Splits = field(default_factory=Splits)
    _known: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False)

    def features(self, space: Space, pictures: PictureSet) -> Tensor:
        """Features (N, D) float64; those of real pictures are computed once."""
        real = any(pictures is part for part in vars(self.reference).values())
        key = (space.hash, pictures.hash)
        if key in self._known:
            return self._known[key]
        found = features(space, pictures)
        if real:
            self._known[key] = found
        return found

    def provenance(self, samples: PictureSet, space: Space | None = None, **settings: object) -> Provenance:
        """What a number about these samples depends on."""
        given = {"model": samples.hash, **samples.origin}
        known = {k: given[k] for k in ("model", "weights", "sampling", "seeds", "conditions") if k in given}
        return Provenance(
            **known,
            reference=self.reference.hash,
            extractor="" if space is None else space.hash,
            resizer="none" if space is None else space.resizer,
            quantiser=samples.quantiser,
            settings=settings,
        )

    def measure(self, samples: PictureSet) -> Iterator[MetricRecord]:
        """Every distance in every space, one record each.

        Raises:
            ValueError: samples of another shape, or more of them than half of the pool.
        """
        pool = self.reference.pool
        if samples.spec.shape != pool.spec.shape:
            raise ValueError(f"the samples are {samples.spec.shape}, the real pictures {pool.spec.shape}")
        n = len(samples)
        if n > self.reference.most():
            raise ValueError(
                f"{n} samples are to be set beside two halves of real pictures, but there are {len(pool)} of those; "
                f"measure at most {self.reference.most()}"
            )
        for space in self.spaces:
            together = torch.cat([self.features(space, samples), self.features(space, pool)])
            for distance in self.distances:
                found = self.splits.measure(distance.on(together), n=n, pool=len(pool))
                settings = {**distance.settings(), **self.splits.settings()}
                yield MetricRecord(
                    name=distance.name,
                    value=found.value,
                    stderr=found.stderr,
                    n=n,
                    of=self.provenance(samples, space, **settings),
                    space=space.name,
                    null=found.null,
                    null_stderr=found.null_stderr,
                    better=distance.better,
                )
