"""What every way of editing a given picture shares: the two sides of an edit, codes, strength and the round trip.

Levels fall: `levels[0]` has the most noise and `levels[-1]` is the picture's own, usually data. Step i goes from level
i to level i + 1. States are kept in fp64 while the network sees its own precision: an exact inversion is then exact to
far below what the network resolves, because the network is asked the same question again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level

WIDE = torch.float64


@dataclass(frozen=True)
class Side:
    """A denoiser, guided or not, and the condition it follows.

    Args:
        denoiser: of x_t.
        cond: for the batch, or for one sample and shared.
        dtype: in which the network is asked.
    """

    denoiser: BaseDenoiser
    cond: Condition | None = None
    dtype: torch.dtype = torch.float32

    def eps(self, x: Tensor, level: Level) -> Tensor:
        """The predicted noise of x (B, C, *spatial), fp64."""
        return self.denoiser(x.to(self.dtype), level, self._cond(x)).eps.to(WIDE)

    def x0(self, x: Tensor, level: Level) -> Tensor:
        """The predicted clean sample of x (B, C, *spatial), fp64."""
        return self.denoiser(x.to(self.dtype), level, self._cond(x)).x0.to(WIDE)

    def ddim(self, x: Tensor, level: Level, to: Level) -> Tensor:
        """The deterministic DDIM step from `level` to `to`, with less noise or more."""
        kept = to.sigma / level.sigma
        return kept * x + (to.alpha - kept * level.alpha) * self.x0(x, level)

    def _cond(self, x: Tensor) -> Condition | None:
        return None if self.cond is None else self.cond.expand(len(x))


@dataclass(frozen=True)
class Code:
    """What stands for a picture at one level, with leading B.

    Args:
        x: (B, C, *spatial), fp64, in the schedule's own scale.
        second: the partner of methods that need two states.
        maps: (B, N, C, *spatial), the noise of every step, for methods that draw it.
        residual: the worst relative residual of the equations solved on the way here.
    """

    x: Tensor
    second: Tensor | None = None
    maps: Tensor | None = None
    residual: float = 0.0

    def cat(self, other: Code) -> Code:
        """Both along the batch. Maps are those of one picture and shared."""
        second = None if self.second is None or other.second is None else torch.cat([self.second, other.second])
        return Code(torch.cat([self.x, other.x]), second, self.maps, max(self.residual, other.residual))


@dataclass(frozen=True)
class RoundTrip:
    """How far a picture came back from the way to noise and back.

    Args:
        worst: largest difference of a value, in model units of [-1, 1].
        psnr: peak signal-to-noise ratio in dB, for a range of 2; infinite where nothing differs.
    """

    worst: float
    psnr: float

    @classmethod
    def between(cls, before: Tensor, after: Tensor) -> RoundTrip:
        """Of two batches of the same shape."""
        difference = after.to(WIDE).cpu() - before.to(WIDE).cpu()
        mean = float(difference.square().mean())
        if not math.isfinite(mean):
            return cls(math.inf, -math.inf)
        return cls(float(difference.abs().max()), math.inf if mean == 0.0 else 10.0 * math.log10(4.0 / mean))

    def said(self) -> str:
        """For people."""
        return f"round trip: largest error {self.worst:.2g} (of a range of 2), PSNR {self.psnr:.1f} dB"


class Edit(ABC):
    """A frozen, registered dataclass that leads a given picture from one condition to another."""

    exact: bool = False
    """Whether the picture comes back exactly where nothing is changed."""
    random: bool = False
    """Whether fresh noise is drawn, which asks for a model trained on independent noise."""
    naive: bool = False
    """Whether guidance breaks the way back."""

    @abstractmethod
    def edit(
        self, source: Side, target: Side, x0: Tensor, levels: Sequence[Level], *, start: int, seeds: Sequence[int]
    ) -> Tensor:
        """The edited pictures (B, C, *spatial).

        Args:
            source: what the picture is.
            target: what it is to become.
            x0: (B, C, *spatial), at the last level.
            levels: falling.
            start: the index of the level up to which the picture is taken back to noise; 0 all the way, N not at all.
            seeds: one for each sample.
        """

    @torch.no_grad()
    def sweep(
        self, source: Side, target: Side, x0: Tensor, levels: Sequence[Level], *, last: int, seeds: Sequence[int]
    ) -> Tensor:
        """One picture (1, C, *spatial) edited with 0, 1, ... `last` steps, (last + 1, C, *spatial)."""
        steps = len(levels) - 1
        found = [
            self.edit(source, target, x0, levels, start=steps - count, seeds=seeds).to(WIDE)
            for count in range(last + 1)
        ]
        return torch.cat(found)

    def check(self, denoiser: BaseDenoiser, levels: Sequence[Level]) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: a model trained on coupled noise under a method that draws its own, or a level without signal.
        """
        if self.random and not denoiser.independent_noise:
            raise ValueError(
                f"{type(self).__name__} adds fresh noise to the picture, but this model was trained on coupled pairs "
                "of noise and data; use a deterministic inversion (fixed-point, edict, bdia, ddim)"
            )
        if any(float(level.alpha) <= 0.0 for level in levels):
            raise ValueError("the grid starts where nothing is left of the picture (alpha = 0); start it lower")
        if len(levels) < 2 or any(a.log_snr >= b.log_snr for a, b in pairwise(levels)):
            raise ValueError("an inversion needs a falling grid of at least one step")


class Inversion(Edit):
    """A way to noise, and the way back along it."""

    @abstractmethod
    def invert(self, side: Side, x0: Tensor, levels: Sequence[Level], seeds: Sequence[int]) -> list[Code]:
        """The code of x0 (B, C, *spatial) at every level: entry k falls back to x0 in the steps k, k + 1, ..."""

    @abstractmethod
    def fall(self, side: Side, code: Code, levels: Sequence[Level], index: int) -> Code:
        """One step towards the picture: the code at level `index` -> that at the next."""

    @torch.no_grad()
    def codes(self, side: Side, x0: Tensor, levels: Sequence[Level], *, seeds: Sequence[int] = (0,)) -> list[Code]:
        """As `invert`, after `check`.

        Raises:
            ValueError: see `check`; or seeds that do not fit.
        """
        self.check(side.denoiser, levels)
        if self.random and len(seeds) != len(x0):
            raise ValueError(f"{len(seeds)} seeds were given for {len(x0)} pictures")
        side.denoiser.forget()
        return self.invert(side, x0, levels, seeds)

    @torch.no_grad()
    def replay(self, side: Side, code: Code, levels: Sequence[Level], *, start: int = 0) -> Tensor:
        """The pictures (B, C, *spatial), fp64, that a code of level `start` falls to."""
        side.denoiser.forget()
        for index in range(start, len(levels) - 1):
            code = self.fall(side, code, levels, index)
        return code.x

    def edit(
        self, source: Side, target: Side, x0: Tensor, levels: Sequence[Level], *, start: int, seeds: Sequence[int]
    ) -> Tensor:
        if start == len(levels) - 1:
            return x0
        codes = self.codes(source, x0, levels[start:], seeds=seeds)
        return self.replay(target, codes[0], levels[start:])

    @torch.no_grad()
    def sweep(
        self, source: Side, target: Side, x0: Tensor, levels: Sequence[Level], *, last: int, seeds: Sequence[int]
    ) -> Tensor:
        steps = len(levels) - 1
        if last == 0:
            return x0.to(WIDE)
        # One inversion serves every strength; a row joins at its own level.
        part = levels[steps - last :]
        return self.fan(target, self.codes(source, x0, part, seeds=seeds), part)

    @torch.no_grad()
    def fan(self, side: Side, codes: Sequence[Code], levels: Sequence[Level]) -> Tensor:
        """One picture's codes, each let fall from its own level: (N + 1, C, *spatial), the last level's first."""
        side.denoiser.forget()
        rows = codes[0]
        for index in range(len(levels) - 1):
            rows = codes[index].cat(rows) if index else rows
            rows = self.fall(side, rows, levels, index)
        return torch.cat([codes[-1].x, rows.x])


@dataclass(frozen=True)
class Edited:
    """What became of one picture.

    Args:
        x: (K, C, *spatial): the result, or those of 0, 1, ... steps.
        back: the picture (1, C, *spatial), taken to noise and back with nothing changed.
        residual: the worst of the equations solved.
    """

    x: Tensor
    back: Tensor
    residual: float = 0.0


def edited(
    way: Edit, source: Side, target: Side, x0: Tensor, levels: Sequence[Level], *, last: int, every: bool, seed: int
) -> Edited:
    """One picture (1, C, *spatial) edited over its `last` steps, or with `every` number of them up to `last`, and its
    round trip. An inversion is computed once for all of it.
    """
    start = len(levels) - 1 - last
    if isinstance(way, Inversion) and last > 0:
        part = levels[start:]
        codes = way.codes(source, x0, part, seeds=[seed])
        found = way.fan(target, codes, part) if every else way.replay(target, codes[0], part)
        return Edited(found, way.replay(source, codes[0], part), max(code.residual for code in codes))
    back = way.edit(source, source, x0, levels, start=start, seeds=[seed])
    if every:
        return Edited(way.sweep(source, target, x0, levels, last=last, seeds=[seed]), back)
    return Edited(way.edit(source, target, x0, levels, start=start, seeds=[seed]), back)


def kept_steps(strength: float, num_steps: int) -> int:
    """How many of the steps nearest to the picture an edit of this strength takes: 0 for none, all for 1.

    Raises:
        ValueError: a strength outside [0, 1].
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength lies between 0 (the picture itself) and 1 (nothing is kept), got {strength}")
    return 0 if strength == 0.0 else max(1, round(strength * num_steps))
