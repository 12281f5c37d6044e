"""What a likelihood was measured to be, with everything that decided it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LikelihoodRecord:
    """Mean negative log likelihood of a data set, an upper bound of it where the method is a bound.

    Args:
        nats: mean over the samples, in nats for a whole sample.
        error: standard error of that mean over the samples; the spread of the method's own draws is in it.
        terms: mean of each term, in nats; they add up to `nats`.
        n: samples.
        dims: D, elements of a sample.
        levels: of discrete data; None where the value is a density.
        method: the method with all its settings, plain values.
        schedule: of the model, plain values.
        seed: of the first sample; the k-th has seed + k.
        model: hash of the model.
        weights: an EMA profile, or "raw".
        data: fingerprint of the data.
        source: where they came from.
        conditions: what the model was told ("labels", "null", "none").
    """

    nats: float
    error: float
    terms: Mapping[str, float]
    n: int
    dims: int
    levels: int | None
    method: Mapping[str, Any]
    schedule: Any = None
    seed: int = 0
    model: str = ""
    weights: str = ""
    data: str = ""
    source: str = ""
    conditions: str = "none"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, terms: Mapping[str, Tensor], *, dims: int, **facts: Any) -> LikelihoodRecord:
        """From the terms of every sample, (N,) nats each.

        Raises:
            ValueError: no samples, or a value that is not finite.
        """
        total = torch.stack([value.to(torch.float64) for value in terms.values()]).sum(0)
        if total.numel() == 0:
            raise ValueError("there are no samples to measure the likelihood of")
        if not bool(total.isfinite().all()):
            worst = int((~total.isfinite()).nonzero()[0])
            raise ValueError(
                f"the likelihood of sample {worst} is {float(total[worst])}: the model has diverged, or the data are "
                "far from all it was trained on"
            )
        error = float(total.std() / math.sqrt(len(total))) if len(total) > 1 else math.nan
        means = {name: float(value.to(torch.float64).mean()) for name, value in terms.items()}
        return cls(nats=float(total.mean()), error=error, terms=means, n=len(total), dims=dims, **facts)

    @property
    def bits_per_dim(self) -> float:
        return self.nats / (self.dims * math.log(2.0))

    @property
    def bits_error(self) -> float:
        """Standard error of `bits_per_dim`."""
        return self.error / (self.dims * math.log(2.0))

    @property
    def nats_per_dim(self) -> float:
        return self.nats / self.dims

    def text(self) -> str:
        """For people: each term and the sum, in bits/dim."""
        each = self.dims * math.log(2.0)
        lines = [f"{name:<16}{value / each:>10.4f}" for name, value in self.terms.items()]
        total = f"{'bits/dim':<16}{self.bits_per_dim:>10.4f} +- {self.bits_error:.4f}"
        return "\n".join(
            [
                *lines,
                f"{total}  ({self.nats_per_dim:.4f} nats/dim, {self.n} pictures of {self.dims} elements, "
                f"{self.levels} levels)",
            ]
        )

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "bits_per_dim": self.bits_per_dim,
            "bits_per_dim_error": self.bits_error,
            "nats_per_dim": self.nats_per_dim,
            **asdict(self),
            "terms_bits_per_dim": {k: v / (self.dims * math.log(2.0)) for k, v in self.terms.items()},
        }

    def less(self, other: LikelihoodRecord) -> tuple[float, float]:
        """(bits/dim of this less those of the other, standard error as of independent measurements).

        Raises:
            ValueError: the records are not of the same samples of the same data.
        """
        for name, what in (
            ("data", "data"),
            ("n", "number of samples"),
            ("dims", "size"),
            ("levels", "number of levels (a density is no probability)"),
            ("conditions", "conditions"),
        ):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"these likelihoods cannot be compared: the {what} differ, {mine!r} and {theirs!r}")
        return self.bits_per_dim - other.bits_per_dim, math.hypot(self.bits_error, other.bits_error)
