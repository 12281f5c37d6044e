"""`PictureSet`: pictures as they are measured. Samples are brought to stored integers first, as a user's files are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one spec, in memory.

    Args:
        stored: (N, C, *size), the integers of `spec.dtype`.
        spec: what they are.
        labels: (N,) int64, what each one shows or was asked to show; None without classes.
        origin: where they are from, plain values; for samples the fields of `Provenance` that a model decides (model,
            weights, sampling, seeds, conditions).

    Raises:
        ValueError: pictures that the spec does not describe, or as many labels as there are not pictures.
    """

    stored: Tensor
    spec: DataSpec
    labels: Tensor | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spec.check(self.stored)
        if self.labels is not None and len(self.labels) != len(self.stored):
            raise ValueError(f"{len(self.stored)} pictures have {len(self.labels)} labels")

    @classmethod
    def read(cls, pictures: Pictures, rows: Sequence[int] | np.ndarray | None = None) -> PictureSet:
        """Some pictures of a data set (all by default)."""
        rows = np.arange(len(pictures)) if rows is None else np.asarray(rows, np.int64)
        labels = None if pictures.labels is None else pictures.labels[torch.from_numpy(rows)]
        # An empty set still has a shape.
        stored = pictures.read(rows) if len(rows) else torch.empty(0, *pictures.spec.shape, dtype=pictures.spec.dtype)
        return cls(stored, pictures.spec, labels, {"source": pictures.fingerprint})

    @classmethod
    def sampled(
        cls, x0: Tensor, spec: DataSpec, labels: Tensor | None = None, origin: Mapping[str, Any] | None = None
    ) -> PictureSet:
        """Samples (N, C, *size) in model units, clamped and rounded half to even as `spec.to_stored` does.

        Raises:
            ValueError: NaN among them.
        """
        return cls(spec.to_stored(x0).cpu(), spec.pictured, labels, origin or {})

    @property
    def quantiser(self) -> str:
        """How samples became integers, for the record."""
        return f"clamped, half to even, {self.spec.bits} bits"

    @cached_property
    def hash(self) -> str:
        """Identity of the content: pixels, order and labels."""
        found = hashlib.sha256(repr((tuple(self.stored.shape), str(self.stored.dtype))).encode())
        found.update(np.ascontiguousarray(self.stored.numpy()).data)
        if self.labels is not None:
            found.update(self.labels.numpy().tobytes())
        return found.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.stored)

    def x(self, rows: Tensor | slice | None = None) -> Tensor:
        """Model units (n, C, *size), float32 in [-1, 1]."""
        return self.spec.to_model(self.stored if rows is None else self.stored[rows])

    def take(self, rows: Tensor | Sequence[int]) -> PictureSet:
        """Some of the pictures, in that order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return replace(self, stored=self.stored[index], labels=None if self.labels is None else self.labels[index])

    def join(self, other: PictureSet) -> PictureSet:
        """These and then the others."""
        if other.spec.shape != self.spec.shape or other.spec.bits != self.spec.bits:
            raise ValueError(f"pictures of {self.spec.shape} and of {other.spec.shape} do not make one set")
        both = None if self.labels is None or other.labels is None else torch.cat([self.labels, other.labels])
        return replace(self, stored=torch.cat([self.stored, other.stored]), labels=both)
