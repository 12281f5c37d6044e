"""`Evaluation`: samples set beside real pictures in several feature spaces, as records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.metrics.distance import Cloud, Distance, Splits
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
        return self.once(space.hash, pictures, lambda: features(space, pictures))

    def once(self, what: str, pictures: PictureSet, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` returns, kept where the pictures are a part of the reference.

        Args:
            what: names the computation with all it depends on beside the pictures.
            pictures: which it is about.
            compute: called unless the answer is known.
        """
        key = (what, pictures.hash)
        if key not in self._known:
            found = compute()
            if not any(pictures is part for part in vars(self.reference).values()):
                return found
            self._known[key] = found
        return self._known[key]

    def provenance(self, samples: PictureSet, space: Space | None = None, **settings: object) -> Provenance:
        """What a number about these samples depends on."""
        given = {"model": samples.hash, **samples.origin}
        # Pictures of another tool may have been brought to the size of the real ones first.
        resized, own = str(given.get("resizer", "none")), "none" if space is None else space.resizer
        known = {k: given[k] for k in ("model", "weights", "sampling", "seeds", "conditions") if k in given}
        return Provenance(
            **known,
            reference=self.reference.hash,
            extractor="" if space is None else space.hash,
            resizer=" then ".join(r for r in (resized, own) if r != "none") or "none",
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
            together = Cloud(torch.cat([self.features(space, samples), self.features(space, pool)]))
            for distance in self.distances:
                found = self.splits.measure(
                    distance.on(together),
                    n=n,
                    pool=len(pool),
                    labels=samples.labels,
                    pool_labels=pool.labels,
                    paired=distance.paired,
                )
                by_class = samples.labels is not None and pool.labels is not None
                settings = {**distance.settings(), **self.splits.settings(), "cut_by_class": by_class}
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
