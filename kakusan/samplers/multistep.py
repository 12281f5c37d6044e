"""Multistep samplers: one evaluation a step, high order from those already made.

Two forms of the probability flow are exact integrals of the network's prediction (Lu et al. 2022, arXiv 2211.01095):

    data form   d(x / sigma) / d(alpha / sigma) = x0        noise form   d(x / alpha) / d(sigma / alpha) = eps

A method puts a polynomial through past predictions and integrates it. A multistep method of order p needs a start of
order p - 1: where fewer evaluations are at hand than that takes, the first steps are Runge-Kutta steps
(`warm_start=False` raises the order step by step instead, as most codes do, and spends exactly one call a step).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser, Prediction
from kakusan.levels import Level, Scalar, add_scaled, exp, expm1, root, scaled
from kakusan.noise import StepNoise
from kakusan.samplers.base import Entry, Sampler, State, at_data, level_at_log_snr, standing
from kakusan.samplers.weights import (
    Array,
    as_array,
    exponential_moments,
    from_array,
    polynomial_moments,
    solve,
)
from kakusan.schedules import NoiseSchedule
from kakusan.specs import register


class DataForm:
    """x0 against log(alpha / sigma)."""

    @staticmethod
    def value(prediction: Prediction) -> Tensor:
        return prediction.x0

    @staticmethod
    def runge_kutta_scales(level: Level) -> tuple[Scalar, Scalar]:
        """(the divisor of x, the independent variable)."""
        return level.sigma, level.alpha / level.sigma

    @staticmethod
    def log_snr(variable: Scalar) -> Tensor:
        return 2.0 * torch.as_tensor(variable, dtype=torch.float64).log()


class NoiseForm:
    """eps against sigma / alpha."""

    @staticmethod
    def value(prediction: Prediction) -> Tensor:
        return prediction.eps

    @staticmethod
    def runge_kutta_scales(level: Level) -> tuple[Scalar, Scalar]:
        return level.alpha, level.sigma / level.alpha

    @staticmethod
    def log_snr(variable: Scalar) -> Tensor:
        return -2.0 * torch.as_tensor(variable, dtype=torch.float64).log()


# Nodes and weights of explicit Runge-Kutta methods of order 2 (midpoint) and 3 (Heun's third-order rule); each stage
# depends on the one before it only.
_STAGES: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    2: ((0.5,), (0.0, 1.0)),
    3: ((1.0 / 3.0, 2.0 / 3.0), (0.25, 0.0, 0.75)),
}


@dataclass(frozen=True)
class Multistep(Sampler):
    """Shared loop of multistep methods."""

    order: int = 2
    warm_start: bool = True
    form: ClassVar[type[DataForm] | type[NoiseForm]] = DataForm
    highest_order = 3

    def __post_init__(self) -> None:
        if not 1 <= self.order <= self.highest_order:
            raise ValueError(f"{type(self).__name__} has orders 1 to {self.highest_order}, got {self.order}")

    def network_calls(self, levels: Sequence[Level]) -> int:
        steps = len(levels) - 1
        starts = [self._start_order(i) for i in range(steps) if not at_data(levels[i + 1])]
        return steps + sum(order - 1 for order in starts if order)

    def _start_order(self, index: int) -> int:
        """Order of the Runge-Kutta step taken at this step, 0 for none: evaluations at hand must reach order - 1."""
        short = self.warm_start and index + 1 < self.order - 1
        return self.order - 1 if short else 0

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
            return x_t, state  # a second evaluation at one place would leave no polynomial to put through them
        prediction = denoiser(x_t, level_t, cond)
        history = ((level_t, self.form.value(prediction)), *state.history)[: self.order]
        start = self._start_order(state.index)
        if start and not at_data(level_s) and not self.stochastic:
            x_s = self._runge_kutta(denoiser, x_t, level_t, level_s, cond, history[0][1], start)
        else:
            x_s = self.advance(denoiser.schedule, x_t, level_t, level_s, history, noise)
        return x_s, State(state.num_steps, prediction, history, index=state.index + 1)

    @abstractmethod
    def advance(
        self,
        schedule: NoiseSchedule,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        history: Sequence[Entry],
        noise: StepNoise,
    ) -> Tensor:
        """x_s from the evaluations at hand, the newest (at `level_t`) first."""

    def _runge_kutta(
        self,
        denoiser: BaseDenoiser,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        cond: Condition | None,
        first: Tensor,
        order: int,
    ) -> Tensor:
        unit, w = self.form.runge_kutta_scales(level_t)
        unit_s, w_s = self.form.runge_kutta_scales(level_s)
        y, h = scaled(x_t, 1.0 / unit), w_s - w
        stages = [first]
        nodes, weights = _STAGES[order]
        for node in nodes:
            level = level_at_log_snr(denoiser.schedule, self.form.log_snr(w + node * h), x_t)
            middle = scaled(add_scaled(y.clone(), stages[-1], node * h), self.form.runge_kutta_scales(level)[0])
            stages.append(self.form.value(denoiser(middle, level, cond)))
        for stage, weight in zip(stages, weights, strict=True):
            if weight:
                y = add_scaled(y, stage, weight * h)
        return scaled(y, unit_s)


def data_step(x_t: Tensor, level_t: Level, level_s: Level, terms: Sequence[tuple[Scalar, Tensor]]) -> Tensor:
    """(sigma_s / sigma_t) x_t + alpha_s * (sum of weight * x0)."""
    x_s = scaled(x_t, level_s.sigma / level_t.sigma)
    for weight, value in terms:
        add_scaled(x_s, value, level_s.alpha * weight)
    return x_s


def exponential_weights(level_t: Level, level_s: Level, nodes: Sequence[Level], *, rate: float = 1.0) -> list[Scalar]:
    """Weights of x0 at `nodes` that integrate their polynomial in log(alpha / sigma) exactly against the kernel."""
    start = 0.5 * as_array(level_t.log_snr)
    h = 0.5 * as_array(level_s.log_snr) - start
    places = [(0.5 * as_array(node.log_snr) - start) / h for node in nodes]
    weights = solve(places, exponential_moments(h, len(nodes), rate))
    return [from_array(weight, level_t.log_snr) for weight in weights]


@register
@dataclass(frozen=True)
class DPMSolverPP(Multistep):
    """DPM-Solver++ multistep (Lu et al. 2022, arXiv 2211.01095): data prediction, order 1 (DDIM), 2 ("2M") or 3 ("3M").

    `sde=True` solves the reverse-time SDE instead (SDE-DPM-Solver++, eq. 18 there), with fresh noise in every step. On
    a Gaussian its moments converge with order 1, 2 and 2: the noise inside a step is not resolved, which a third
    evaluation cannot mend.
    """

    order: int = 2
    sde: bool = False

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.sde

    def network_calls(self, levels: Sequence[Level]) -> int:
        return len(levels) - 1 if self.sde else super().network_calls(levels)

    def advance(
        self,
        schedule: NoiseSchedule,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        history: Sequence[Entry],
        noise: StepNoise,
    ) -> Tensor:
        if at_data(level_s):
            return scaled(history[0][1], level_s.alpha)
        h = 0.5 * (level_s.log_snr - level_t.log_snr)
        rate = 2.0 if self.sde else 1.0
        total = -expm1(-rate * h)
        if len(history) == 1:
            terms = [(total, history[0][1])]
        elif len(history) == 2:
            # The paper's rule for two evaluations: extrapolate to the middle of the step.
            before = 0.5 * (level_t.log_snr - history[1][0].log_snr)
            half = 0.5 * h / before
            terms = [(total * (1.0 + half), history[0][1]), (-total * half, history[1][1])]
        else:
            weights = exponential_weights(level_t, level_s, [level for level, _ in history], rate=rate)
            terms = [(weight, value) for weight, (_, value) in zip(weights, history, strict=True)]
        if not self.sde:
            return data_step(x_t, level_t, level_s, terms)
        x_s = data_step(scaled(x_t, exp(-h)), level_t, level_s, terms)
        return add_scaled(x_s, noise(), level_s.sigma * root(-expm1(-2.0 * h)))


@dataclass(frozen=True)
class _AdamsBashforth(Multistep):
    """Noise form: x / alpha advances by a weighted sum of past eps."""

    form = NoiseForm
    highest_order = 4

    def advance(
        self,
        schedule: NoiseSchedule,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        history: Sequence[Entry],
        noise: StepNoise,
    ) -> Tensor:
        levels = [level for level, _ in history]
        x_s = scaled(x_t, level_s.alpha / level_t.alpha)
        for weight, (_, value) in zip(self.weights(schedule, level_t, level_s, levels), history, strict=True):
            add_scaled(x_s, value, level_s.alpha * weight)
        return x_s

    @abstractmethod
    def weights(self, schedule: NoiseSchedule, level_t: Level, level_s: Level, nodes: Sequence[Level]) -> list[Scalar]:
        """Integrals over the step, in sigma / alpha, of the basis polynomials at `nodes`."""


@register
@dataclass(frozen=True)
class IPNDM(_AdamsBashforth):
    """Improved PNDM (Zhang & Chen 2022, arXiv 2204.13902, after Liu et al. 2022): Adams-Bashforth of order 1 to 4.

    The coefficients are those of the actual, unequal steps in sigma / alpha.
    """

    order: int = 4

    def weights(self, schedule: NoiseSchedule, level_t: Level, level_s: Level, nodes: Sequence[Level]) -> list[Scalar]:
        start = as_array(level_t.noise_to_signal())
        h = as_array(level_s.noise_to_signal()) - start
        places = [(as_array(node.noise_to_signal()) - start) / h for node in nodes]
        found = solve(places, polynomial_moments(len(nodes)))
        return [from_array(weight * h, level_t.log_snr) for weight in found]


@register
@dataclass(frozen=True)
class DEIS(_AdamsBashforth):
    """DEIS, time-polynomial form (tAB; Zhang & Chen 2022, arXiv 2204.13902): eps is a polynomial in t, order 1 to 4."""

    order: int = 3

    def weights(self, schedule: NoiseSchedule, level_t: Level, level_s: Level, nodes: Sequence[Level]) -> list[Scalar]:
        if isinstance(level_t.t, Tensor) or schedule.learnable:
            columns = [[as_array(level.t) for level in (level_t, level_s, *nodes)]]
            found = _time_polynomial_weights(schedule, *columns)
            return [from_array(weight, level_t.log_snr) for weight in found]
        return list(_tabulated_weights(schedule, tuple(level.t for level in (level_t, level_s, *nodes))))


_POINTS, _QUADRATURE = np.polynomial.legendre.leggauss(32)


@lru_cache(maxsize=4096)
def _tabulated_weights(schedule: NoiseSchedule, times: tuple[float, ...]) -> tuple[float, ...]:
    found = _time_polynomial_weights(schedule, [np.array([t]) for t in times])
    return tuple(float(weight[0]) for weight in found)


def _time_polynomial_weights(schedule: NoiseSchedule, times: Sequence[Array]) -> list[Array]:
    """Integrals of t-polynomials against d(sigma / alpha), by Gauss-Legendre quadrature in sigma / alpha."""
    start, end, nodes = times[0], times[1], times[2:]
    first, last = (_noise_at(schedule, t)[:, None] for t in (start, end))
    noise = first + (last - first) * 0.5 * (_POINTS + 1.0)
    with np.errstate(divide="ignore"):
        log_snr = -2.0 * np.log(noise)
    t = schedule.time(torch.from_numpy(log_snr)).detach().numpy()
    x = (t - start[:, None]) / (end - start)[:, None]
    scale = 0.5 * _QUADRATURE * (last - first)
    moments = [(scale * x**k).sum(-1) for k in range(len(nodes))]
    return solve([(node - start) / (end - start) for node in nodes], moments)


def _noise_at(schedule: NoiseSchedule, t: Array) -> Array:
    value = (-0.5 * schedule.log_snr(torch.from_numpy(t))).exp()
    return value.detach().numpy()


@register
@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC (Zhao et al. 2023, arXiv 2302.04867): predictor of order p, corrected once the next evaluation is there.

    The corrector reuses that evaluation, so a step still costs one call and the order is p + 1. The systems are solved
    in full, where the choice of the paper's B(h) cancels. `corrector=False` leaves the predictor (order p) alone.
    """

    order: int = 2
    corrector: bool = True

    @property
    def claimed_order(self) -> int:
        """Order of convergence between two finite log-SNRs."""
        return self.order + int(self.corrector)

    def _start_order(self, index: int) -> int:
        reached = index + 1 + int(self.corrector)
        needed = self.claimed_order - 1
        return needed if self.warm_start and reached < needed else 0

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
            return x_t, state  # a second evaluation at one place would leave no polynomial to put through them
        prediction = denoiser(x_t, level_t, cond)
        entry = (level_t, prediction.x0)
        if self.corrector and state.anchor is not None:
            origin, before = state.anchor
            x_t = self._through(before, origin, level_t, (entry, *state.history))
        history = (entry, *state.history)[: self.order]
        start = self._start_order(state.index)
        anchor: Entry | None = (level_t, x_t)
        if start and not at_data(level_s):
            x_s = self._runge_kutta(denoiser, x_t, level_t, level_s, cond, prediction.x0, start)
            anchor = None  # already of the order that a correction would give
        else:
            x_s = self.advance(denoiser.schedule, x_t, level_t, level_s, history, noise)
        return x_s, State(state.num_steps, prediction, history, anchor, state.index + 1)

    def advance(
        self,
        schedule: NoiseSchedule,
        x_t: Tensor,
        level_t: Level,
        level_s: Level,
        history: Sequence[Entry],
        noise: StepNoise,
    ) -> Tensor:
        if at_data(level_s):
            return scaled(history[0][1], level_s.alpha)
        return self._through(x_t, level_t, level_s, history)

    @staticmethod
    def _through(x_t: Tensor, level_t: Level, level_s: Level, entries: Sequence[Entry]) -> Tensor:
        weights = exponential_weights(level_t, level_s, [level for level, _ in entries])
        return data_step(
            x_t, level_t, level_s, [(weight, value) for weight, (_, value) in zip(weights, entries, strict=True)]
        )
