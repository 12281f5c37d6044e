"""`Rival`: a generative model that is not diffusion, behind one face for training, sampling and likelihood."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.noise import Stream, as_seeds, uniform
from kakusan.train.ema import EmaProfile
from kakusan.train.feed import Batch
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import Group

LikelihoodKind = Literal["exact", "bound", "none"]


class Rival(nn.Module, ABC):
    """A generative model of the pictures of one spec, conditional on their class where they have classes.

    A subclass is decorated with `kakusan.specs.register`, takes keyword arguments of plain values, and passes `spec`
    and `proportions` on. It implements `for_data`, `groups`, `_sample` and, where it has one, `_log_prob`. All its
    randomness comes from `kakusan.noise`, keyed by a sample's seed or by its number in the training.

    Args:
        spec: of the pictures.
        proportions: share of each class in the training data; empty for a model without classes.

    Raises:
        ValueError: proportions that do not fit the classes.
    """

    kind: ClassVar[str]
    likelihood_kind: ClassVar[LikelihoodKind] = "none"
    """Of what `log_likelihood` states: "exact", "bound" (the true bits are at most that), or "none"."""

    spec: DataSpec
    proportions: tuple[float, ...]

    def __init__(self, *, spec: DataSpec, proportions: Sequence[float] = ()) -> None:
        super().__init__()
        self.spec, self.proportions = spec, tuple(float(share) for share in proportions)
        if self.proportions and (
            len(self.proportions) != len(spec.classes)
            or min(self.proportions) < 0.0
            or not math.isclose(sum(self.proportions), 1.0, abs_tol=1e-6)
        ):
            raise ValueError(
                f"proportions holds one share for each of the {len(spec.classes)} classes, in all 1; "
                f"got {self.proportions}"
            )

    @classmethod
    @abstractmethod
    def for_data(cls, pictures: Pictures, **options: Any) -> Self:
        """The usual model for these pictures, with fresh weights from torch's generator (seeded by the caller).

        Args:
            pictures: the training data.
            options: arguments of the constructor in place of the usual ones.

        Raises:
            ValueError: pictures of a size or kind that it cannot model.
        """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes it can be asked for; empty when it has none."""
        return self.spec.classes if self.proportions else ()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def start(self, batch: Batch) -> None:
        """Look at the first batch once, before training, where the model's weights are set from data."""

    @abstractmethod
    def groups(self, *, seed: int, settings: OptimSettings | None = None) -> list[Group]:
        """What the trainer trains: parameters with their loss per sample, one group for each optimizer.

        Args:
            seed: of the run; randomness is keyed by it and `batch.numbers`.
            settings: of the optimizers, in place of the rival's own.
        """

    def profiles(self) -> Mapping[str, EmaProfile]:
        """Averages of the weights that are kept, the default first."""
        return {f"ema-{width:g}": EmaProfile(width) for width in (0.1, 0.05)}

    @torch.no_grad()
    def sample(self, seeds: Sequence[int] | Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples (B, C, *size) in model units, within [-1, 1].

        Args:
            seeds: (B,); sample k depends on its own seed and label only, whatever the batch.
            labels: (B,) class indices; None draws each by the proportions of the training data.

        Raises:
            ValueError: labels that do not fit.
        """
        numbers = as_seeds(seeds)
        if labels is None and self.classes:
            labels = self.drawn_labels(numbers)
        labels = self._checked(labels, len(numbers))
        return self._sample(numbers, labels).clamp(-1.0, 1.0)

    @torch.no_grad()
    def log_likelihood(
        self, stored: Tensor, labels: Tensor | None = None, *, seeds: Sequence[int] | Tensor
    ) -> Tensor | None:
        """-log2 P of stored pictures for each of their dimensions, (B,) float64; None where the model has none.

        By `likelihood_kind` it is exact or an upper bound. Where the model has classes and no labels are given, P is
        the mixture over the classes by their proportions, at the cost of as many evaluations.

        Args:
            stored: (B, C, *size), integers of `spec.dtype`.
            labels: (B,) class indices.
            seeds: (B,), of whatever is drawn.

        Raises:
            ValueError: pictures, labels or seeds that do not fit.
        """
        if self.likelihood_kind == "none":
            return None
        self.spec.check(stored)
        numbers = as_seeds(seeds)
        if len(numbers) != len(stored):
            raise ValueError(f"{len(numbers)} seeds were given for {len(stored)} pictures")
        stored = stored.to(self.device)
        if labels is None and self.classes:
            nats = self._marginal(stored, numbers)
        else:
            nats = self._log_prob(stored, self._checked(labels, len(stored)), numbers)
        return nats.to(torch.float64) / (-math.log(2.0) * math.prod(self.spec.shape))

    def drawn_labels(self, seeds: Tensor) -> Tensor:
        """(B,) class indices by the proportions of the training data, each keyed by its seed."""
        u = uniform(seeds, Stream.LABEL).contiguous()
        edges = torch.tensor(self.proportions, dtype=torch.float64).cumsum(0)
        # Rounding may leave the last edge a little below 1.
        return torch.searchsorted(edges, u, right=True).clamp_max(len(edges) - 1)

    def _marginal(self, stored: Tensor, seeds: Tensor) -> Tensor:
        parts = [
            self._log_prob(stored, torch.full((len(stored),), label, device=self.device), seeds).to(torch.float64)
            + math.log(share)
            for label, share in enumerate(self.proportions)
            if share > 0.0
        ]
        return torch.stack(parts).logsumexp(0)

    def _checked(self, labels: Tensor | None, count: int) -> Tensor | None:
        """Labels that fit, on the device of the weights."""
        if labels is None:
            return None
        if not self.classes:
            raise ValueError("this model was trained without classes; use it without labels")
        if labels.shape != (count,) or labels.is_floating_point():
            raise ValueError(f"labels is one class index for each of {count}, got {tuple(labels.shape)} {labels.dtype}")
        self.spec.check_labels(labels)
        return labels.to(self.device, torch.int64)

    @abstractmethod
    def _sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Samples (B, C, *size) of seeds (B,); labels (B,) are given exactly when there are classes."""

    def _log_prob(self, stored: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """log P(stored | labels) in nats, or a lower bound, (B,); labels are given exactly when there are classes."""
        raise NotImplementedError


def class_proportions(pictures: Pictures) -> tuple[float, ...]:
    """Share of each class; empty for pictures without labels or classes, whose model is unconditional."""
    if pictures.labels is None or not pictures.spec.classes:
        return ()
    counts = torch.bincount(pictures.labels, minlength=len(pictures.spec.classes)).double()
    return tuple((counts / counts.sum()).tolist())
