"""`Reference`: the real pictures of an evaluation, each part used for one thing only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kakusan.data.source import Pictures
from kakusan.metrics.record import digest
from kakusan.metrics.sets import PictureSet

FEWEST = 64
"""Real pictures below which nothing can be said."""


@dataclass(frozen=True)
class Reference:
    """Real pictures.

    An extractor knows the pictures it was trained on better than new ones: distances between those would be smaller
    than between pictures it has not seen, and real pictures would look faulty. So a part is kept for training judges,
    and distances are taken to the rest, the pool; its halves are the null.

    Args:
        learning: what extractors and judges are trained on, and on nothing else.
        pool: what samples are compared with; no picture of `learning` is in it.
        training: what the model was trained on, for memorisation.
        held_out: what the model has not seen; may be empty.
    """

    learning: PictureSet
    pool: PictureSet
    training: PictureSet
    held_out: PictureSet

    @classmethod
    def of(
        cls, training: Pictures, held_out: Pictures, *, seed: int = 0, most: int = 4000, most_training: int = 20_000
    ) -> Reference:
        """Deal the pictures out: half of the training pictures to the judges, the others and the held-out to the pool.

        Args:
            training: what the model was trained on.
            held_out: what it was not trained on.
            seed: of the dealing.
            most: pictures in either part; the rest of a large set is not read.
            most_training: pictures that copies are searched among.

        Raises:
            ValueError: fewer than 64 pictures.
        """
        if len(training) + len(held_out) < FEWEST:
            raise ValueError(
                f"an evaluation needs at least {FEWEST} real pictures, these are {len(training)} and {len(held_out)}; "
                "give it more, or a data set with --data"
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(training), generator=generator)
        half = min(most, len(order) // 2)
        drawn = None if len(held_out) <= most else torch.randperm(len(held_out), generator=generator)[:most].numpy()
        kept = PictureSet.read(held_out, drawn)
        pool = PictureSet.read(training, order[half : half + max(0, most - len(kept))].numpy()).join(kept)
        searched = order[:most_training].sort().values
        return cls(
            PictureSet.read(training, order[:half].sort().values.numpy()),
            pool,
            PictureSet.read(training, searched.numpy()),
            kept,
        )

    @cached_property
    def hash(self) -> str:
        """Identity of the pool, which distances are to."""
        return self.pool.hash

    @cached_property
    def learning_hash(self) -> str:
        """Identity of what judges learnt from."""
        return digest([self.learning.hash, list(self.learning.spec.classes)])

    def most(self) -> int:
        """The largest n at which two halves of the pool stand side by side."""
        return len(self.pool) // 2

    def proportions(self, n: int) -> Tensor | None:
        """Labels (n,) of as many samples in the proportions of the pool, class by class; None without classes."""
        labels = self.pool.labels
        if labels is None or not self.pool.spec.classes:
            return None
        counts = torch.bincount(labels, minlength=len(self.pool.spec.classes)).double()
        exact = counts * (n / counts.sum())
        whole = exact.floor()
        # Largest remainders get what is left; the earlier class where they are equal.
        left = int(n - whole.sum())
        whole[(exact - whole).argsort(descending=True, stable=True)[:left]] += 1
        return torch.repeat_interleave(torch.arange(len(counts)), whole.long())
