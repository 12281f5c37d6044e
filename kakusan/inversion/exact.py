"""Exact inversions of the probability flow: steps that can be undone by algebra, whatever the network says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kakusan.inversion.base import WIDE, Code, Inversion, Side
from kakusan.inversion.implicit import DDIMInversion
from kakusan.levels import Level
from kakusan.specs import register


@register
@dataclass(frozen=True)
class EDICT(Inversion):
    """Two coupled states, each moved by the noise predicted of the other (Wallace et al. 2022, arXiv 2211.12446).

    Which one moves first alternates. Mixing (eq. 14-15) keeps the two together on the way to the picture, and so lets
    them grow apart, by 1 / mixing^2 a step, on the way to noise: 1400 times in the paper's 50 steps, 2 million times in
    100. Raise `mixing` for more steps.

    Args:
        mixing: p of the paper, in (0, 1].
    """

    mixing: float = 0.93
    exact = True

    def __post_init__(self) -> None:
        if not 0.0 < self.mixing <= 1.0:
            raise ValueError(f"the mixing of EDICT lies in (0, 1], got {self.mixing}")

    def invert(self, side: Side, x0: Tensor, levels: Sequence[Level], seeds: Sequence[int]) -> list[Code]:
        p = self.mixing
        x = y = x0.to(WIDE)
        codes = [Code(x, y)]
        for index in range(len(levels) - 2, -1, -1):
            kept, gain = _linear(levels[index], levels[index + 1])
            first, second = _ordered(x, y, len(levels) - index)
            second = (second - (1.0 - p) * first) / p
            first = (first - (1.0 - p) * second) / p
            second = (second - gain * side.eps(first, levels[index])) / kept
            first = (first - gain * side.eps(second, levels[index])) / kept
            x, y = _ordered(first, second, len(levels) - index)
            codes.insert(0, Code(x, y))
        return codes

    def fall(self, side: Side, code: Code, levels: Sequence[Level], index: int) -> Code:
        assert code.second is not None
        p, level = self.mixing, levels[index]
        kept, gain = _linear(level, levels[index + 1])
        first, second = _ordered(code.x, code.second, len(levels) - index)
        first = kept * first + gain * side.eps(second, level)
        second = kept * second + gain * side.eps(first, level)
        first = p * first + (1.0 - p) * second
        second = p * second + (1.0 - p) * first
        return Code(*_ordered(first, second, len(levels) - index))


@register
@dataclass(frozen=True)
class BDIA(Inversion):
    """Bi-directional integration (Zhang et al. 2023, arXiv 2307.10829, eq. 19): the next state is the one before the
    last, moved by what DDIM says of both steps around the last.

    Written here for the samples scaled to alpha^2 + sigma^2 = 1, so that only the log-SNRs of the levels count. The
    state next to the picture, which the formula leaves open, is found by a naive DDIM step.

    Args:
        gamma: in (0, 1]; 1 as the paper takes for editing. Lower ones damp the way to the picture and let the way to
            noise grow by 1 / gamma a step.
    """

    gamma: float = 1.0
    exact = True

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma <= 1.0:
            raise ValueError(f"gamma of BDIA lies in (0, 1], got {self.gamma}; 0 would be DDIM, which cannot be undone")

    def invert(self, side: Side, x0: Tensor, levels: Sequence[Level], seeds: Sequence[int]) -> list[Code]:
        last = x0.to(WIDE)
        codes = [Code(last)]
        x = DDIMInversion.rise(side, last, levels[-1], levels[-2])
        codes.insert(0, Code(x, last))
        for index in range(len(levels) - 3, -1, -1):
            above, here, below = levels[index : index + 3]
            noisier, cleaner = self._increments(side, x, above, here, below)
            sum_ = last / _size(below) - (1.0 - self.gamma) * x / _size(here) + self.gamma * noisier - cleaner
            x, last = sum_ / self.gamma * _size(above), x
            codes.insert(0, Code(x, last))
        return codes

    def fall(self, side: Side, code: Code, levels: Sequence[Level], index: int) -> Code:
        assert code.second is not None
        x = code.second
        if index == len(levels) - 2:
            return Code(x)
        above, here, below = levels[index : index + 3]
        noisier, cleaner = self._increments(side, x, above, here, below)
        mean = self.gamma * code.x / _size(above) + (1.0 - self.gamma) * x / _size(here)
        return Code(x, (mean - self.gamma * noisier + cleaner) * _size(below))

    @staticmethod
    def _increments(side: Side, x: Tensor, above: Level, here: Level, below: Level) -> tuple[Tensor, Tensor]:
        """What DDIM adds to the scaled x on the way to the noisier and to the cleaner level."""
        x0 = side.x0(x, here)

        def increment(to: Level) -> Tensor:
            kept = to.sigma / here.sigma
            return (kept * x + (to.alpha - kept * here.alpha) * x0) / _size(to) - x / _size(here)

        return increment(above), increment(below)


def _ordered(x: Tensor, y: Tensor, steps_left: int) -> tuple[Tensor, Tensor]:
    """Counted from the picture, so that the order does not depend on where an edit starts. Its own inverse."""
    return (x, y) if steps_left % 2 == 0 else (y, x)


def _linear(level: Level, to: Level) -> tuple[float, float]:
    """x at `to` = kept * x + gain * eps."""
    kept = float(to.alpha) / float(level.alpha)
    return kept, float(to.sigma) - kept * float(level.sigma)


def _size(level: Level) -> float:
    return math.hypot(float(level.alpha), float(level.sigma))
