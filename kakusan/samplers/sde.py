"""Solvers of the reverse-time SDE.

With fresh noise of any level l the process

    dx = [f x - (1 + l^2) / 2 g^2 score] dt + l g dw        (in falling t)

has the marginals of the forward one (Song et al. 2021, arXiv 2011.13456, eq. 6 for l = 1, eq. 13 for l = 0; Zhang &
Chen 2022, arXiv 2204.13902, eq. 6, for the family). At l = 0 it is the probability flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, Scalar, add_scaled, blend, exp, expm1, root, scaled
from kakusan.noise import StepNoise
from kakusan.samplers.base import Sampler, State, at_data, level_at_log_snr, standing
from kakusan.samplers.weights import as_array, exponential_moments, from_array
from kakusan.schedules import MAX_LOG_SNR, NoiseSchedule, remembered
from kakusan.sde import drift, squared_diffusion
from kakusan.specs import register


@dataclass(frozen=True)
class _ReverseSde(Sampler):
    """Shared by the solvers.

    Args:
        noise_level: l above; 1 is the reverse of the forward SDE, 0 the probability flow, deterministic.
    """

    noise_level: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise_level < float("inf"):
            raise ValueError(f"noise_level must not be negative, got {self.noise_level}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.noise_level > 0.0


@register
@dataclass(frozen=True)
class EulerMaruyama(_ReverseSde):
    """Euler-Maruyama in t, weak order 1, one evaluation a step. The step that reaches data returns the predicted x0.

    f and g are frozen at the beginning of a step, so a step that is longer than the time in which log-SNR changes by
    about one is unstable. On paths whose log-SNR is steep in t near their noisy end (cosine, rectified), uniform steps
    are such steps whatever their number: take a grid even in log-SNR there, or `SEEDS`, which has no such limit.
    """

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
        prediction = denoiser(x_t, level_t, cond)
        following = State(state.num_steps, prediction, index=state.index + 1)
        if at_data(level_s):
            return scaled(prediction.x0, level_s.alpha), following
        f, squared_g = _rates(denoiser.schedule, level_t)
        h, level = level_t.t - level_s.t, self.noise_level
        towards = -h * 0.5 * (1.0 + level**2) * squared_g / level_t.sigma
        x_s = blend(x_t, 1.0 - h * f, prediction.eps, towards)
        if level > 0.0:
            add_scaled(x_s, noise(), level * root(h * squared_g))
        return x_s, following


def _rates(schedule: NoiseSchedule, level: Level) -> tuple[Scalar, Scalar]:
    """(f, g^2) at a level."""
    if not isinstance(level.t, Tensor):
        return _rates_at(schedule, level.t)
    t = level.t.detach().to("cpu", torch.float64).reshape(-1)
    f, squared_g = drift(schedule, t), squared_diffusion(schedule, t)
    _refuse_infinite(schedule, f, t)
    return tuple(rate.view(level.t.shape).to(level.t.device) for rate in (f, squared_g))  # type: ignore[return-value]


@remembered(4096)
def _rates_at(schedule: NoiseSchedule, t: float) -> tuple[float, float]:
    time = torch.tensor(t, dtype=torch.float64)
    f, squared_g = drift(schedule, time), squared_diffusion(schedule, time)
    _refuse_infinite(schedule, f, time)
    return float(f), float(squared_g)


def _refuse_infinite(schedule: NoiseSchedule, f: Tensor, t: Tensor) -> None:
    if not bool(f.isfinite().all()):
        worst = float(t.reshape(-1)[int((~f.isfinite()).reshape(-1).nonzero()[0])])
        raise ValueError(
            f"{type(schedule).__name__} has no signal left at t = {worst:.6g}, where the drift of its SDE is infinite; "
            "start EulerMaruyama below it, or use SEEDS or DDPM"
        )


def _finite(log_snr: Scalar) -> Scalar:
    """Where no signal is left (zero terminal SNR) a log-SNR that is as good as none: e^-20 of x_t is kept."""
    lowest = -2.0 * MAX_LOG_SNR
    return log_snr.clamp_min(lowest) if isinstance(log_snr, Tensor) else max(log_snr, lowest)


@register
@dataclass(frozen=True)
class SEEDS(_ReverseSde):
    """A two-stage stochastic exponential solver: weak order 2, two evaluations a step (one for the step to data).

    With lam = log(alpha / sigma) and y = x / sigma the SDE has a linear part with a known solution and additive noise:

        dy = -l^2 y dlam + (1 + l^2) e^lam x0 dlam + sqrt(2) l dw

    As in the solvers of Gonzalez et al. 2023 (SEEDS, arXiv 2305.14267) both are solved exactly, and x0 is a line in lam
    through its values at the start and at a middle point of the step; the stage at the middle sees the very noise that
    the whole step then contains (two draws with the exact joint covariance of the two stochastic integrals), which is
    what second order needs and what SDE multistep solvers lack. With additive noise that gives weak order 2 for any
    place of the middle point. The form is that of data prediction and the weights are the exact integrals of the line.

    Args:
        middle: where in log-SNR the second evaluation stands, in (0, 1]; 1 is a stochastic Heun step.
    """

    middle: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.middle <= 1.0:
            raise ValueError(f"middle must lie in (0, 1], got {self.middle}")

    def network_calls(self, levels: Sequence[Level]) -> int:
        return 2 * (len(levels) - 1) - int(at_data(levels[-1]))

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
        first = denoiser(x_t, level_t, cond)
        following = State(state.num_steps, first, index=state.index + 1)
        if at_data(level_s):
            return scaled(first.x0, level_s.alpha), following
        damping, rate = self.noise_level**2, 1.0 + self.noise_level**2
        start = _finite(level_t.log_snr)
        h = 0.5 * (level_s.log_snr - start)
        early, late = self.middle * h, (1.0 - self.middle) * h

        level_m = level_at_log_snr(denoiser.schedule, start + 2.0 * early, x_t)
        kept = level_m.sigma / level_t.sigma * exp(-damping * early)
        x_m = blend(x_t, kept, first.x0, level_m.alpha * -expm1(-rate * early))
        if damping > 0.0:
            # The stochastic integrals of the two parts, in units of sigma: that of the whole is made of both.
            begun, rest = root(-expm1(-2.0 * damping * early)), root(-expm1(-2.0 * damping * late))
            begun_noise = noise(0)
            add_scaled(x_m, begun_noise, level_m.sigma * begun)
        second = denoiser(x_m, level_m, cond)

        whole, slope = (from_array(m, level_t.log_snr) for m in exponential_moments(as_array(h), 2, rate))
        slope = slope / self.middle
        x_s = blend(x_t, level_s.sigma / level_t.sigma * exp(-damping * h), first.x0, level_s.alpha * (whole - slope))
        add_scaled(x_s, second.x0, level_s.alpha * slope)
        if damping > 0.0:
            add_scaled(x_s, begun_noise, level_s.sigma * begun * exp(-damping * late))
            if self.middle < 1.0:
                add_scaled(x_s, noise(1), level_s.sigma * rest)
        return x_s, following
