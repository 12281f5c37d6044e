"""Predictor-corrector sampling: steps of annealed Langevin dynamics between the steps of another sampler."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, Scalar, add_scaled, blend
from kakusan.noise import StepNoise
from kakusan.samplers.ancestral import DDPM
from kakusan.samplers.base import Sampler, State, at_data, standing
from kakusan.samplers.multistep import Multistep
from kakusan.specs import register

# Draws of a step below this one are the predictor's.
_FIRST_DRAW = 2
MOST_CORRECTIONS = 16 - _FIRST_DRAW


class StepSize(ABC):
    """How far a Langevin step goes; a frozen dataclass."""

    @abstractmethod
    def __call__(self, snr: float, level: Level, score: Tensor, noise: Tensor) -> Scalar:
        """The step size at `level`: a number, or a tensor (B, 1, ...) with one for each sample."""


@register
@dataclass(frozen=True)
class NoiseScale(StepSize):
    """2 (snr sigma)^2: the rule below with the norms that score and noise have on average where sigma dominates.

    It depends on the level alone, so Langevin dynamics keep p_t up to the error of a finite step, for samples of any
    size. (The annealed Langevin corrector of the code of Song et al. 2021.)
    """

    def __call__(self, snr: float, level: Level, score: Tensor, noise: Tensor) -> Scalar:
        return 2.0 * (snr * level.sigma) ** 2


@register
@dataclass(frozen=True)
class NormRatio(StepSize):
    """2 (snr |noise| / |score|)^2 (Song et al. 2021, arXiv 2011.13456, algorithms 4 and 5 with their factor alpha_i,
    which is near one, left out).

    The norms are each sample's own, where the paper's code takes means over the batch, so that a sample does not depend
    on its batch. Meant for pictures: where a sample has few numbers its norms vary, and a step that depends on where
    it starts does not keep p_t; use `NoiseScale` there.
    """

    def __call__(self, snr: float, level: Level, score: Tensor, noise: Tensor) -> Scalar:
        column = (-1, *[1] * (score.dim() - 1))
        top, bottom = (value.double().flatten(1).square().sum(1).view(column) for value in (noise, score))
        return 2.0 * snr**2 * top / bottom.clamp_min(1e-30)


@register
@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A step of `predictor`, then Langevin steps at the level it reached (Song et al. 2021, algorithms 4 and 5).

        x <- x + e score + sqrt(2 e) z,        e from the signal-to-noise ratio `snr`

    Every correction is one more evaluation; none is made at data. It has no order of convergence: a Langevin step of
    fixed `snr` has an error that more steps of the grid do not lower. On a Gaussian of variance V, steps of size e come
    to rest at V / (1 - e / 2V), at most V / (1 - snr^2) with `NoiseScale` and, where a sample has many numbers,
    (1 + snr^2) V with `NormRatio`.

    Args:
        predictor: a sampler without memory of earlier steps.
        corrector_steps: Langevin steps after each step of the predictor.
        snr: size of a Langevin step; 0.16 in most of the paper.
        step_size: the rule that makes a step of it.

    Raises:
        ValueError: a multistep predictor (its past evaluations lie on another path once a correction has moved the
            sample), a nested predictor-corrector, or numbers out of range.
    """

    predictor: Sampler = field(default_factory=DDPM)
    corrector_steps: int = 1
    snr: float = 0.16
    step_size: StepSize = field(default_factory=NoiseScale)
    stochastic = True

    def __post_init__(self) -> None:
        if isinstance(self.predictor, (Multistep, PredictorCorrector)):
            raise ValueError(
                f"{type(self.predictor).__name__} cannot be a predictor: it goes on from past evaluations or corrects "
                "by itself; use a sampler of single steps, such as DDPM, DDIM, Heun, EulerMaruyama or SEEDS"
            )
        if not 1 <= self.corrector_steps <= MOST_CORRECTIONS:
            raise ValueError(f"corrector_steps must lie in 1 to {MOST_CORRECTIONS}, got {self.corrector_steps}")
        if not 0.0 < self.snr < 1.0:
            raise ValueError(f"snr must lie strictly between 0 and 1, got {self.snr}")

    def network_calls(self, levels: Sequence[Level]) -> int | None:
        predicted = self.predictor.network_calls(levels)
        corrected = len(levels) - 1 - int(at_data(levels[-1]))
        return None if predicted is None else predicted + self.corrector_steps * corrected

    def step(
        self,
        denoiser: BaseDenoiser,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        cond: Condition | None,
        state: State,
        noise: StepNoise,
    ) -> tuple[Tensor, State]:
        if standing(level_t, level_s):
            return x_t, state
        x_s, following = self.predictor.step(denoiser, x_t, level_t, level_s, cond, state, noise)
        if not at_data(level_s):
            for k in range(self.corrector_steps):
                x_s = self.correct(denoiser, x_s, level_s, cond, noise(_FIRST_DRAW + k))
        return x_s, following

    def correct(self, denoiser: BaseDenoiser, x: Tensor, level: Level, cond: Condition | None, noise: Tensor) -> Tensor:
        """One Langevin step of x (B, C, *spatial) at `level`, with `noise` of its shape."""
        score = denoiser(x, level, cond).score
        size = self.step_size(self.snr, level, score, noise)
        return add_scaled(blend(x, 1.0, score, size), noise, (2.0 * size) ** 0.5)
