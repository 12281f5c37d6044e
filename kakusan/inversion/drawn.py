"""Editing with fresh noise: edit-friendly noise maps, noising (SDEdit), and FlowEdit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.inversion.base import WIDE, Code, Edit, Inversion, Side
from kakusan.levels import Level
from kakusan.noise import Stream, normal
from kakusan.samplers import DPMSolverPP, Sampler, sample
from kakusan.specs import register
from kakusan.transitions import posterior_mean_factors, posterior_variance


@register
@dataclass(frozen=True)
class EditFriendly(Inversion):
    """The edit-friendly noise space of DDPM (Huberman-Spiegelglas et al. 2023, arXiv 2304.06140, algorithm 1).

    Every level gets the picture under noise of its own, and the noise that ancestral sampling needs to go through all
    of them is read off. It is far from standard normal, and holds the layout of the picture. The last step, which
    draws no noise, gets a remainder in its place, so that the picture comes back exactly.
    """

    exact = True
    random = True

    def invert(self, side: Side, x0: Tensor, levels: Sequence[Level], seeds: Sequence[int]) -> list[Code]:
        wide, steps = x0.to(WIDE), len(levels) - 1
        drawn = [_draw(x0, seeds, 16 * (steps - index)) for index in range(steps)]
        path = [level.alpha * wide + level.sigma * noise for level, noise in zip(levels[:-1], drawn, strict=True)]
        path.append(wide)
        maps = torch.empty((len(x0), steps, *x0.shape[1:]), dtype=WIDE, device=x0.device)
        for index in range(steps):
            mean, spread = _ancestral(side, path[index], levels, index)
            maps[:, index] = (path[index + 1] - mean) / spread
        return [Code(x, maps=maps) for x in path]

    def fall(self, side: Side, code: Code, levels: Sequence[Level], index: int) -> Code:
        assert code.maps is not None
        # Counted from the picture: an inversion that began lower has fewer maps.
        mean, spread = _ancestral(side, code.x, levels, index)
        return Code(mean + spread * code.maps[:, index - len(levels) + 1], maps=code.maps)


def _ancestral(side: Side, x: Tensor, levels: Sequence[Level], index: int) -> tuple[Tensor, float]:
    """Mean and standard deviation of one step; 1 in place of 0."""
    level, to = levels[index], levels[index + 1]
    kept, gain = posterior_mean_factors(level, to)
    variance = float(posterior_variance(level, to))
    return kept * x + gain * side.x0(x, level), variance**0.5 if variance > 0.0 else 1.0


@register
@dataclass(frozen=True)
class Noising(Edit):
    """SDEdit (Meng et al. 2021, arXiv 2108.01073): noise upon the picture, and sampling from there.

    All the way up, nothing is left of the picture: the result is the plain sample of the seed.

    Args:
        sampler: how to come back.
    """

    sampler: Sampler = field(default_factory=lambda: DPMSolverPP(order=2))
    random = True

    def edit(
        self, source: Side, target: Side, x0: Tensor, levels: Sequence[Level], *, start: int, seeds: Sequence[int]
    ) -> Tensor:
        self.check(target.denoiser, levels)
        if start == len(levels) - 1:
            return x0
        x = None if start == 0 else noised(x0, levels[start], seeds)
        grid = torch.tensor([level.t for level in levels[start:]], dtype=torch.float64)
        return sample(
            target.denoiser,
            self.sampler,
            grid,
            tuple(x0.shape),
            target.cond,
            seeds=list(seeds),
            x_start=x,
            dtype=target.dtype,
            device=x0.device,
        )


def noised(x0: Tensor, level: Level, seeds: Sequence[int]) -> Tensor:
    """x0 (B, C, *spatial) under the start noise of each seed."""
    noise = normal(list(seeds), Stream.START, shape=x0.shape[1:], dtype=x0.dtype, device=x0.device)
    return x0 * level.alpha + noise * level.sigma


@register
@dataclass(frozen=True)
class FlowEdit(Edit):
    """FlowEdit (Kulikov et al. 2024, arXiv 2412.08629, algorithm 1) on any path: no inversion, but the flow of the
    difference between the two conditions, under noise that is fresh at every step.

    The difference d of the two states moves as DDIM's do: d_s = (sigma_s / sigma_t) d + (alpha_s - alpha_t sigma_s /
    sigma_t) (x0_target - x0_source), which on the rectified path is Euler's step of the paper.

    Args:
        averages: draws of the noise that each step averages over.
    """

    averages: int = 1
    exact = True
    random = True

    def __post_init__(self) -> None:
        if not 1 <= self.averages <= 16:
            raise ValueError(f"FlowEdit averages over 1 to 16 draws, got {self.averages}")

    @torch.no_grad()
    def edit(
        self, source: Side, target: Side, x0: Tensor, levels: Sequence[Level], *, start: int, seeds: Sequence[int]
    ) -> Tensor:
        self.check(target.denoiser, levels)
        source.denoiser.forget()
        target.denoiser.forget()
        wide = x0.to(WIDE)
        difference = torch.zeros_like(wide)
        for index in range(start, len(levels) - 1):
            level, to = levels[index], levels[index + 1]
            change = torch.zeros_like(wide)
            for turn in range(self.averages):
                # Counted from the picture, so that a step has the same noise at any strength.
                noise = _draw(x0, seeds, 16 * (len(levels) - 1 - index) + turn)
                x = level.alpha * wide + level.sigma * noise
                change += (target.x0(x + difference, level) - source.x0(x, level)) / self.averages
            kept = to.sigma / level.sigma
            difference = kept * difference + (to.alpha - kept * level.alpha) * change
        return x0 if start == len(levels) - 1 else wide + difference


def _draw(like: Tensor, seeds: Sequence[int], number: int) -> Tensor:
    return normal(list(seeds), Stream.STEP, number, shape=like.shape[1:], dtype=like.dtype, device=like.device).to(WIDE)
