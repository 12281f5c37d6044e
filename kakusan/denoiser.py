"""The narrow waist: `denoiser(x_t, t, cond) -> Prediction(x0, eps)`.

A denoiser owns its schedule and the meaning of its output. The network sees c_in x_t and a map of the log-SNR and
nothing else of the process, so the schedule can be replaced after training (`with_schedule`).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.levels import Level, Scalar, blend, scaled
from kakusan.parameterizations import Parameterization
from kakusan.schedules import MAX_LOG_SNR, NoiseSchedule, check_monotone, expand
from kakusan.specs import register
from kakusan.transitions import log_variance_between


class Backbone(Protocol):
    """`(x, c_noise, cond) -> tensor`: x (B, C, *spatial), c_noise (B,) or (1,), the output shaped like x."""

    def __call__(self, x: Tensor, c_noise: Tensor, cond: Condition | None) -> Tensor: ...


class NoiseMap:
    """How a network is told the noise level: a function of the log-SNR."""

    def __call__(self, log_snr: Tensor) -> Tensor:
        raise NotImplementedError


@register
@dataclass(frozen=True)
class LogSnrMap(NoiseMap):
    """scale * log-SNR, clamped to the range that networks are evaluated in. 1 / 4 gives EDM's -log(sigma) / 2."""

    scale: float = 0.25

    def __call__(self, log_snr: Tensor) -> Tensor:
        return self.scale * log_snr.clamp(-MAX_LOG_SNR, MAX_LOG_SNR)


@register
@dataclass(frozen=True)
class TimeMap(NoiseMap):
    """scale * t of a named schedule, as networks trained on discrete steps expect (scale = 1000)."""

    schedule: NoiseSchedule
    scale: float = 1000.0

    def __call__(self, log_snr: Tensor) -> Tensor:
        return self.scale * self.schedule.time(log_snr)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Everything a denoiser multiplies by at one level: x0 = x0_x x_t + x0_f F, eps = eps_x x_t + eps_f F.

    `row` is the (a, b) they come from, fp64, where the level has several times: training needs it too.
    """

    c_in: Scalar
    c_noise: Tensor
    x0_x: Scalar
    x0_f: Scalar
    eps_x: Scalar
    eps_f: Scalar
    row: tuple[Tensor, Tensor] | None = None


class Prediction:
    """What a denoiser says of x_t: x0 and eps with alpha x0 + sigma eps = x_t, the rest derived when asked for."""

    __slots__ = ("_beside", "_coefficients", "_eps", "_output", "_x0", "_x_t", "denoiser", "level")

    def __init__(
        self, denoiser: BaseDenoiser, level: Level, x_t: Tensor, output: Tensor, coefficients: Coefficients
    ) -> None:
        self.denoiser, self.level = denoiser, level
        self._beside: Tensor | None = None
        if denoiser.learned_variance:
            output, self._beside = denoiser.split(output)
        self._x_t, self._output, self._coefficients = x_t, output, coefficients
        self._x0: Tensor | None = None
        self._eps: Tensor | None = None

    @property
    def x0(self) -> Tensor:
        """The expected clean sample (B, C, *spatial)."""
        if self._x0 is None:
            c = self._coefficients
            self._x0 = blend(self._x_t, c.x0_x, self._output, c.x0_f)
        return self._x0

    def towards_x0(self, x_factor: Scalar, x0_factor: Scalar) -> Tensor:
        """x_factor * x_t + x0_factor * x0 (B, C, *spatial), straight from the output: a step need not form x0 first."""
        c = self._coefficients
        return blend(self._x_t, x_factor + x0_factor * c.x0_x, self._output, x0_factor * c.x0_f)

    @property
    def eps(self) -> Tensor:
        """The expected noise (B, C, *spatial)."""
        if self._eps is None:
            c = self._coefficients
            self._eps = blend(self._x_t, c.eps_x, self._output, c.eps_f)
        return self._eps

    def step_log_variance(self, level_s: Level, lowest: Scalar | None = None) -> Tensor | None:
        """log of the learned variance of x_s given x_t (B, C, *spatial); None when the model has none.

        `lowest` stands in for the posterior's variance where x_s is data (`transitions.log_variance_between`).
        """
        if self._beside is None:
            return None
        return log_variance_between(variance_fraction(self._beside), self.level, level_s, lowest)

    @property
    def v(self) -> Tensor:
        """alpha eps - sigma x0."""
        return blend(self.eps, self.level.alpha, self.x0, -self.level.sigma)

    @property
    def score(self) -> Tensor:
        """grad log p_t = -eps / sigma.

        Raises:
            ValueError: the model was trained on a coupling in which noise and data depend on each other.
        """
        if not self.denoiser.independent_noise:
            raise ValueError(
                "this model was trained on coupled pairs of noise and data, where eps is not -sigma * score; "
                "use .velocity and a deterministic sampler"
            )
        return scaled(self.eps, -1.0 / self.level.sigma)

    @property
    def velocity(self) -> Tensor:
        """d x_t / dt = alpha' x0 + sigma' eps."""
        t = torch.as_tensor(self.level.t, dtype=torch.float64).reshape(-1)
        schedule = self.denoiser.schedule
        alpha_prime, sigma_prime = (
            expand(rate, self._x_t) for rate in (schedule.alpha_prime(t), schedule.sigma_prime(t))
        )
        return alpha_prime * self.x0 + sigma_prime * self.eps


def variance_fraction(output: Tensor) -> Tensor:
    """Where between posterior variance (0) and beta (1) an output stands; a fresh network, which says 0, halfway."""
    return (0.5 * (output + 1.0)).clamp(0.0, 1.0)


class BaseDenoiser(nn.Module):
    """What samplers, guidance and oracles rely on."""

    schedule: NoiseSchedule
    sigma_data: float
    independent_noise: bool = True
    learned_variance: bool = False

    def forward(self, x_t: Tensor, t: Level | Tensor | float, cond: Condition | None = None) -> Prediction:
        """Predict from x_t (B, C, *spatial) at t: a `Level`, a number, () or (B,).

        Raises:
            ValueError: the network is undefined at t, or t has another batch than x_t.
        """
        level = t if isinstance(t, Level) else Level.of(self.schedule, t, x_t)
        return Prediction(self, level, x_t, self.output(x_t, level, cond), self.coefficients(level, x_t))

    @abstractmethod
    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        """The raw output F (B, C, *spatial), which guidance mixes; twice the channels with learned variance."""

    def forget(self) -> None:
        """A new sampling run begins: what guidance remembers of the last one is dropped."""

    @staticmethod
    def split(output: Tensor) -> tuple[Tensor, Tensor]:
        """The output of a model with learned variance (B, 2 C, *spatial): F and what says the variance."""
        first, second = output.chunk(2, dim=1)
        return first, second

    @abstractmethod
    def coefficients(self, level: Level, x_t: Tensor) -> Coefficients:
        """How F is read at this level."""


class Denoiser(BaseDenoiser):
    """A network with its schedule and the meaning of its output.

    Args:
        backbone: `(x, c_noise, cond) -> tensor`.
        schedule: the path it is trained on.
        parameterization: the row of its output.
        sigma_data: root mean square of the data, for c_in = 1 / sqrt(alpha^2 sigma_data^2 + sigma^2).
        noise_map: how the network is told the log-SNR.
        independent_noise: False when training pairs noise with data (`.score` and stochastic samplers then refuse).
        learned_variance: the backbone has twice the channels of x, the second half for the variance of a reverse step
            (Nichol & Dhariwal 2021).

    Raises:
        ValueError: the output would say nothing at an end of the schedule (eps on a zero-terminal-SNR schedule), or the
            schedule's log-SNR does not fall.
    """

    def __init__(
        self,
        backbone: nn.Module,
        schedule: NoiseSchedule,
        parameterization: Parameterization,
        *,
        sigma_data: float = 0.5,
        noise_map: NoiseMap | None = None,
        independent_noise: bool = True,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        if sigma_data <= 0.0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        check_monotone(schedule)
        parameterization.check(schedule)
        self.backbone = backbone
        self.schedule = schedule
        # In a tuple, so that a learnable schedule is not registered as a second module with the same parameters.
        self._trained = (schedule,)
        self.parameterization = parameterization
        self.sigma_data = sigma_data
        self.noise_map = noise_map if noise_map is not None else LogSnrMap()
        self.independent_noise = independent_noise
        self.learned_variance = learned_variance
        self._table: dict[tuple[float, torch.device, torch.dtype], Coefficients] = {}

    @property
    def trained_schedule(self) -> NoiseSchedule:
        """The path the network was trained on, whatever path it is sampled on."""
        return self._trained[0]

    def forward(self, x_t: Tensor, t: Level | Tensor | float, cond: Condition | None = None) -> Prediction:
        # As the base does it, but the coefficients are looked up once.
        level = t if isinstance(t, Level) else Level.of(self.schedule, t, x_t)
        c = self.coefficients(level, x_t)
        return Prediction(self, level, x_t, self.evaluate(x_t, c, cond), c)

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        return self.evaluate(x_t, self.coefficients(level, x_t), cond)

    def evaluate(self, x_t: Tensor, c: Coefficients, cond: Condition | None) -> Tensor:
        """The raw output at a level whose coefficients are known."""
        output = self.backbone(x_t * c.c_in, c.c_noise, cond)
        return output if output.dtype == x_t.dtype else output.to(x_t.dtype)

    def coefficients(self, level: Level, x_t: Tensor) -> Coefficients:
        if isinstance(level.t, Tensor):
            return self._coefficients(level, x_t)
        key = (level.t, x_t.device, x_t.dtype)
        found = self._table.get(key)
        if found is None:
            found = self._coefficients(level, x_t)
            # What training changes is never kept.
            if not (self.schedule.learnable or self.trained_schedule.learnable):
                if len(self._table) > 4096:
                    self._table.clear()
                self._table[key] = found
        return found

    def _coefficients(self, level: Level, x_t: Tensor) -> Coefficients:
        t = torch.as_tensor(level.t, dtype=torch.float64).reshape(-1)
        # A level is one of this denoiser's own schedule: what it holds is not computed again.
        alpha, sigma, log_snr = (
            torch.as_tensor(value, dtype=torch.float64).reshape(-1)
            for value in (level.alpha, level.sigma, level.log_snr)
        )
        scale = torch.ones_like(t)
        if self.schedule is not self.trained_schedule:
            # Equal log-SNR, x rescaled: the network sees exactly what it was trained on.
            t = self.trained_schedule.time(log_snr)
            trained = self.trained_schedule.alpha(t), self.trained_schedule.sigma(t)
            scale = ((trained[0] ** 2 + trained[1] ** 2) / (alpha**2 + sigma**2)).sqrt()
            alpha, sigma = trained
        a, b = self.parameterization.row(self.trained_schedule, t)
        det = alpha * b - sigma * a
        if not bool(((det != 0.0) & det.isfinite()).all()):
            worst = int(((det == 0.0) | ~det.isfinite()).nonzero()[0])
            raise ValueError(self.parameterization.refusal(self.trained_schedule, float(t[worst].detach())))
        c_in = scale / (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()
        values = (c_in, scale * b / det, -sigma / det, -scale * a / det, alpha / det)
        several = isinstance(level.t, Tensor)
        numbers: list[Scalar] = [expand(value, x_t) if several else float(value.detach()) for value in values]
        if not several and x_t.dtype in (torch.float32, torch.float64):
            # torch multiplies by a 0-d tensor of the same dtype twice as fast as by a Python number.
            numbers[0] = torch.tensor(numbers[0], dtype=x_t.dtype)
        c_noise = self.noise_map(log_snr).to(device=x_t.device, dtype=torch.float32)
        seen, x0_x, x0_f, eps_x, eps_f = numbers
        return Coefficients(seen, c_noise, x0_x, x0_f, eps_x, eps_f, (a, b) if several else None)

    def with_schedule(self, schedule: NoiseSchedule) -> Denoiser:
        """The same network, sampled on another path: at equal log-SNR nothing changes but the scale of x_t."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.schedule = schedule
        other._table = {}
        return other
