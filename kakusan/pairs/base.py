"""Pairs: what a picture is made from in training, and what a user brings in its place afterwards.

A pair turns a clean picture x0 into what the network is given beside the noisy one (`Condition.spatial`): a shrunk and
enlarged copy, its gray, its edges, a part of it. The last channel of every spatial condition says where it holds
anything: 1 where it does, 0 where nothing is known. So "no condition" is zeros all through, and a mask needs no place
of its own.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kakusan.noise import Draws


class Pair(ABC):
    """How the picture to start from is made; registered frozen dataclasses."""

    usual_noise: ClassVar[float] = 0.0
    """Most noise that training puts on the condition where the settings leave it open."""
    noisy_itself: ClassVar[bool] = False
    """Whether what a user brings has noise already, so that none is added to it."""
    masks: ClassVar[bool] = False
    """Whether a mask says what of the picture is known."""
    brought: ClassVar[bool] = False
    """Whether the other picture comes with the data and is not made from x0."""

    def check(self, shape: Sequence[int]) -> None:  # noqa: B027 (most fit every shape)
        """Refuse pictures of a shape (C, *size) that this pair cannot be made of.

        Raises:
            ValueError: with the reason.
        """

    @abstractmethod
    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what a user brings for pictures of shape (C, *size)."""

    @abstractmethod
    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """(what a user would bring (B, *expects), where it is known (B, 1, *size) or None for everywhere)."""

    def placed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """What a user brings (B, *expects) in the size of the pictures, (B, channels, *size)."""
        return y

    def fitted(self, x0: Tensor, y: Tensor, known: Tensor | None = None) -> Tensor:
        """The pictures nearest to x0 (B, C, *size) of which exactly `y` (B or 1, *expects) is made.

        Args:
            known: (B or 1, 1, *size), where `y` counts, for pairs with masks.

        Raises:
            ValueError: a pair that does not say which pictures those are.
        """
        raise ValueError(f"{type(self).__name__} does not tell which pictures fit exactly; leave --exact out")

    def channels(self, shape: Sequence[int]) -> int:
        """Channels of the spatial condition of pictures of shape (C, *size), the one that says where included."""
        return self.expects(shape)[0] + 1

    def spatial(self, y: Tensor, shape: Sequence[int], known: Tensor | None = None) -> Tensor:
        """The spatial condition (B, channels, *size) of what a user brings.

        Args:
            y: (B, *expects), in [-1, 1].
            shape: of the pictures, (C, *size).
            known: (B or 1, 1, *size), 1 or True where y counts; everywhere when None.

        Raises:
            ValueError: another shape, or a mask that this pair does not take.
        """
        if tuple(y.shape[1:]) != self.expects(shape):
            raise ValueError(
                f"{type(self).__name__} starts from pictures of shape {self.expects(shape)}; got {tuple(y.shape[1:])}"
            )
        if known is not None and not self.masks:
            raise ValueError(f"{type(self).__name__} takes no mask; only a model trained with --pair masked does")
        if known is None and self.masks:
            raise ValueError("a model trained with --pair masked needs a mask that says what to paint again")
        picture = self.placed(y, shape)
        where = picture.new_ones(()) if known is None else known.to(picture)
        if known is not None and (tuple(known.shape[1:]) != (1, *shape[1:]) or len(known) not in (1, len(y))):
            raise ValueError(f"the mask must be ({len(y)}, 1, *{tuple(shape[1:])}), got {tuple(known.shape)}")
        whole = where.expand(len(picture), 1, *picture.shape[2:])
        return torch.cat([picture * whole, whole], dim=1)

    def __call__(self, x0: Tensor, draws: Draws) -> Tensor:
        """The spatial condition (B, channels, *size) of x0 (B, C, *size)."""
        return self.spatial(*_between(self.made(x0, draws), tuple(x0.shape[1:])))

    def shown(self, spatial: Tensor, shape: Sequence[int]) -> Tensor:
        """A spatial condition as pictures (B, C, *size), for people."""
        picture = spatial[:, :-1]
        if picture.shape[1] == shape[0]:
            return picture
        return picture.mean(1, keepdim=True).expand(len(picture), *shape)


def _between(made: tuple[Tensor, Tensor | None], shape: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...], Any]:
    return made[0], shape, made[1]


@dataclass(frozen=True, eq=False)
class Given:
    """The pictures that samples start from.

    Args:
        spatial: (B, channels, *size), one for each sample (`Pair.spatial`).
        noise: level from 0 to the most of training: how much of each is covered by noise before the network sees it.
    """

    spatial: Tensor
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise <= 1.0 or not math.isfinite(self.noise):
            raise ValueError(f"the noise on the condition lies between 0 and 1, got {self.noise}")

    def __len__(self) -> int:
        return len(self.spatial)

    def part(self, rows: slice) -> Given:
        """Those of some samples."""
        return replace(self, spatial=self.spatial[rows])

    def expand(self, count: int) -> Given:
        """One picture for `count` samples; unchanged when there are that many.

        Raises:
            ValueError: any other number.
        """
        if len(self) == count:
            return self
        if len(self) != 1:
            raise ValueError(f"{len(self)} pictures to start from were given for {count} samples")
        return replace(self, spatial=self.spatial.expand(count, *self.spatial.shape[1:]))

    def record(self) -> dict[str, Any]:
        """What a picture made from these says of them: a hash, not the pictures."""
        plain = self.spatial.detach().to("cpu", torch.float32).contiguous()
        return {"sha256": hashlib.sha256(plain.numpy().tobytes()).hexdigest(), "noise": self.noise}
