"""DDIM inversion: naive, and as the solution of the implicit equation that the way back obeys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kakusan.inversion.base import WIDE, Code, Inversion, Side
from kakusan.levels import Level
from kakusan.samplers.base import at_data
from kakusan.specs import register


@register
@dataclass(frozen=True)
class DDIMInversion(Inversion):
    """DDIM run on the rising grid (Song et al. 2021, arXiv 2010.02502, section 5.4): first order, one call a step.

    Each step asks the network at the level it comes from, the way back at the level it goes to; the difference is the
    error, which guidance multiplies.
    """

    naive = True

    def invert(self, side: Side, x0: Tensor, levels: Sequence[Level], seeds: Sequence[int]) -> list[Code]:
        x = x0.to(WIDE)
        codes = [Code(x)]
        for index in range(len(levels) - 2, -1, -1):
            x = self.rise(side, x, levels[index + 1], levels[index])
            codes.insert(0, Code(x))
        return codes

    @staticmethod
    def rise(side: Side, x: Tensor, level: Level, to: Level) -> Tensor:
        """From `level` to the noisier `to`. A network says nothing of data themselves: it is asked at t_min there."""
        if at_data(level):
            lowest = Level.of(side.denoiser.schedule, side.denoiser.schedule.t_min)
            return to.alpha * x + to.sigma * side.eps(lowest.alpha * x, lowest)
        return side.ddim(x, level, to)

    def fall(self, side: Side, code: Code, levels: Sequence[Level], index: int) -> Code:
        return Code(side.ddim(code.x, levels[index], levels[index + 1]))


@register
@dataclass(frozen=True)
class FixedPoint(DDIMInversion):
    """DDIM inversion by the implicit step, solved (AIDI, Pan et al. 2023, arXiv 2309.04907; ReNoise, 2403.14602).

    The code x_i is the one that DDIM takes to x_{i+1}: x_i = (alpha_i / alpha_{i+1}) (x_{i+1} - sigma_{i+1} e) +
    sigma_i e with e = eps(x_i). In this form the iteration contracts wherever the denoiser's derivative lies between 0
    and 1, however large the step; Anderson's acceleration (1965) and, after it, small steps help elsewhere. For every
    exact denoiser there is one solution, because its DDIM step is the gradient of a strongly convex function; under
    guidance there may be several, or none.

    Args:
        tolerance: relative root mean square of the residual at which a sample is done.
        iterations: network calls after which acceleration gives up; a step that is stuck gets four times more.
        memory: earlier iterates that the acceleration uses; 0 for plain iteration.
    """

    tolerance: float = 1e-6
    iterations: int = 30
    memory: int = 4
    naive = False

    def __post_init__(self) -> None:
        if self.tolerance <= 0.0 or self.iterations < 1 or self.memory < 0:
            raise ValueError(
                "the fixed point needs a positive tolerance, at least one iteration and no negative memory; got "
                f"{self.tolerance}, {self.iterations} and {self.memory}"
            )

    def invert(self, side: Side, x0: Tensor, levels: Sequence[Level], seeds: Sequence[int]) -> list[Code]:
        x, eps = x0.to(WIDE), torch.zeros_like(x0, dtype=WIDE)
        codes = [Code(x)]
        for index in range(len(levels) - 2, -1, -1):
            here, there = levels[index], levels[index + 1]
            kept = here.alpha / there.alpha
            step = Implicit(side, here, kept * x, here.sigma - kept * there.sigma)
            # The noise hardly changes from level to level: the last step's is a start that costs nothing.
            x, residual = solve(step, step.base + step.gain * eps, self.tolerance, self.iterations, self.memory)
            eps = (x - step.base) / step.gain
            codes.insert(0, Code(x, residual=float(residual.max())))
        return codes


@dataclass(frozen=True)
class Implicit:
    """x -> base + gain * eps(x)."""

    side: Side
    level: Level
    base: Tensor
    gain: float | Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.base + self.gain * self.side.eps(x, self.level)


def solve(
    function: Callable[[Tensor], Tensor], x: Tensor, tolerance: float, iterations: int, memory: int
) -> tuple[Tensor, Tensor]:
    """(x with x = function(x) as nearly as was found, its relative residual (B,)), sample by sample."""
    best, least = _accelerated(function, x, tolerance, iterations, memory)
    # Rounding is left where it is.
    stuck = least > 30.0 * tolerance
    if not bool(stuck.any()):
        return best, least
    # Where acceleration goes round in circles, as under strong guidance, small plain steps come near a solution.
    x = best
    for _ in range(3 * iterations):
        residual = function(x) - x
        moving = stuck & (_relative(residual, x) >= 0.1 * least)
        if not bool(moving.any()):
            break
        x = torch.where(_column(moving, x), x + 0.3 * residual, x)
    found, size = _accelerated(function, x, tolerance, iterations, memory)
    better = stuck & (size < least)
    return torch.where(_column(better, x), found, best), torch.where(better, size, least)


def _accelerated(
    function: Callable[[Tensor], Tensor], x: Tensor, tolerance: float, iterations: int, memory: int
) -> tuple[Tensor, Tensor]:
    """Anderson's mixing: the next iterate is the combination of the last ones whose residual is least. A sample that is
    done stays as it is, so that it does not depend on the others.
    """
    best, least = x, x.new_full((len(x),), torch.inf)
    points: list[Tensor] = []
    residuals: list[Tensor] = []
    idle = 0
    for _ in range(iterations):
        residual = function(x) - x
        size = _relative(residual, x)
        better = size < least
        best = torch.where(_column(better, x), x, best)
        # Where rounding is all that is left, nothing gets better any more.
        idle = 0 if bool((better & (size < 0.5 * least) & (least > tolerance)).any()) else idle + 1
        least = torch.minimum(size, least)
        done = least <= tolerance
        if bool(done.all()) or idle >= 6:
            break
        points, residuals = [*points, x][-memory - 1 :], [*residuals, residual][-memory - 1 :]
        x = torch.where(_column(done, x), best, _mixed(points, residuals))
    return best, least


def _relative(residual: Tensor, x: Tensor) -> Tensor:
    """Root mean square of the residual over that of x, (B,)."""
    over = x.flatten(1).square().mean(1).sqrt().clamp_min(1e-12)
    return residual.flatten(1).square().mean(1).sqrt() / over


def _mixed(points: list[Tensor], residuals: list[Tensor]) -> Tensor:
    """The next iterate from the last ones, the newest last."""
    x, residual = points[-1], residuals[-1]
    if len(points) == 1:
        return x + residual
    steps = torch.stack([(b - a).flatten(1) for a, b in pairwise(points)], 1)
    turns = torch.stack([(b - a).flatten(1) for a, b in pairwise(residuals)], 1)
    gram = turns @ turns.mT
    ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-300)
    gram = gram + ridge.view(-1, 1, 1) * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    share = torch.linalg.solve(gram, turns @ residual.flatten(1).unsqueeze(-1))
    return x + residual - ((steps + turns).mT @ share).view(x.shape)


def _column(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.dim() - 1))
