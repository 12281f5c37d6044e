"""What training minimises: a weighting of the x0 error, written once, converted to the network's own output.

For a squared loss w |x0 error|^2 = w (sigma / det)^2 |F error|^2, whatever the parameterization. Weights that come from
the variational bound need the density of the times: |dSNR/dt| / (2 p(t)) (Kingma et al. 2021, arXiv 2107.00630, eq.
15).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.couplings import Coupling, Independent, TrainingNoise
from kakusan.denoiser import Denoiser
from kakusan.levels import Level
from kakusan.schedules import NoiseSchedule, expand
from kakusan.specs import register
from kakusan.time_samplers import TimeSampler, Uniform


class Weighting(ABC):
    """Weight of the squared x0 error at t."""

    uses_density: bool = False
    """Whether the weight depends on the density of the times: where not, none is computed."""

    @abstractmethod
    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        """(B,) for times t (B,) drawn with this density (B,); the density is ignored unless `uses_density`."""


@register
@dataclass(frozen=True)
class SimpleX0(Weighting):
    """Equal weight on the x0 error (Ramesh et al. 2022, arXiv 2204.06125, eq. 2): 1."""

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        return torch.ones_like(schedule.log_snr(t))


@register
@dataclass(frozen=True)
class Simple(Weighting):
    """Equal weight on the eps error (Ho et al. 2020, eq. 14): SNR."""

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        return schedule.log_snr(t).exp()


@register
@dataclass(frozen=True)
class SimpleV(Weighting):
    """Equal weight on the v error (Salimans & Ho 2022): ((alpha^2 + sigma^2) / sigma)^2, which is SNR + 1 for VP."""

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return ((alpha**2 + sigma**2) / sigma) ** 2


@register
@dataclass(frozen=True)
class FlowMatching(Weighting):
    """Equal weight on the velocity error (Lipman et al. 2023): (alpha d log-SNR/dt / 2)^2.

    Args:
        most: bound on the weight, for networks that predict x0 itself, whose error does not vanish with the noise: 400
            on the rectified path is what Li & He 2025 (JiT, arXiv 2511.13720) train with, times held above 0.05.
    """

    most: float = math.inf

    def __post_init__(self) -> None:
        if not self.most > 0.0:
            raise ValueError(f"the bound on a weight is positive, got {self.most}")

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        return ((0.5 * schedule.alpha(t) * schedule.log_snr_prime(t)) ** 2).clamp(max=self.most)


@register
@dataclass(frozen=True)
class Elbo(Weighting):
    """The variational bound (Kingma et al. 2021): |dSNR/dt| / (2 p(t))."""

    uses_density = True

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        return -schedule.log_snr_prime(t) * schedule.log_snr(t).exp() / (2.0 * density)


@register
@dataclass(frozen=True)
class ScoreMatching(Weighting):
    """Denoising score matching (Vincent 2011; Song et al. 2021, arXiv 2011.13456, eq. 7): lambda(t) on the score error.

    Args:
        likelihood: lambda = g^2, the diffusion coefficient of the SDE, whose loss bounds the likelihood (Song et al.
            2021, arXiv 2101.09258, theorem 1), in place of lambda = sigma^2, which makes all noise levels equal.
    """

    likelihood: bool = False

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        # The score is -eps / sigma and |eps error|^2 = SNR |x0 error|^2; g^2 = -sigma^2 d log-SNR / dt.
        snr = schedule.log_snr(t).exp()
        return -schedule.log_snr_prime(t) * snr if self.likelihood else snr


@register
@dataclass(frozen=True)
class SigmoidWeight(Weighting):
    """The bound's weight times sigmoid(bias - log-SNR) (Kingma & Gao 2023, arXiv 2303.00848; Hoogeboom et al. 2024)."""

    bias: float = 0.0
    uses_density = True

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        return Elbo().weight(schedule, t, density) * torch.sigmoid(self.bias - schedule.log_snr(t))


@register
@dataclass(frozen=True)
class MinSnr(Weighting):
    """min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556), the same for every parameterization."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if self.gamma <= 0.0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        return schedule.log_snr(t).exp().clamp(max=self.gamma)


@register
@dataclass(frozen=True)
class EdmWeight(Weighting):
    """(u^2 + d^2) / (u d)^2 with u = sigma / alpha, d = sigma_data (Karras et al. 2022, table 1)."""

    sigma_data: float = 0.5

    def weight(self, schedule: NoiseSchedule, t: Tensor, density: Tensor) -> Tensor:
        return schedule.log_snr(t).exp() + self.sigma_data**-2


class Distance(ABC):
    """How an error of the output counts."""

    @abstractmethod
    def __call__(self, error: Tensor) -> Tensor:
        """error (B, C, *spatial) -> (B,), a mean over the elements of each sample."""


@register
@dataclass(frozen=True)
class Squared(Distance):
    """Mean square: the only one for which weights convert exactly between parameterizations."""

    def __call__(self, error: Tensor) -> Tensor:
        return error.square().flatten(1).mean(1)


@register
@dataclass(frozen=True)
class Absolute(Distance):
    """Mean absolute error."""

    def __call__(self, error: Tensor) -> Tensor:
        return error.abs().flatten(1).mean(1)


@register
@dataclass(frozen=True)
class PseudoHuber(Distance):
    """c (sqrt(e^2 + c^2) - c), elementwise: squared / 2 near zero, linear far out (Song & Dhariwal 2023)."""

    c: float = 0.03

    def __call__(self, error: Tensor) -> Tensor:
        return (self.c * ((error.square() + self.c**2).sqrt() - self.c)).flatten(1).mean(1)


@dataclass(frozen=True)
class LossTerms:
    """Per-sample values (B,): the loss, the mean squared x0 error, and the time."""

    loss: Tensor
    x0_error: Tensor
    t: Tensor


@register
@dataclass(frozen=True)
class Objective:
    """`Objective(time_sampler, weighting)(denoiser, x0, cond, noise)` -> per-sample loss (B,).

    Args:
        time_sampler: at which times.
        weighting: of the squared x0 error.
        distance: of the network's output; the weight that a squared distance would get multiplies any of them.
        coupling: which noise is paired with which sample.
    """

    time_sampler: TimeSampler = field(default_factory=Uniform)
    weighting: Weighting = field(default_factory=SimpleV)
    distance: Distance = field(default_factory=Squared)
    coupling: Coupling = field(default_factory=Independent)

    def __call__(self, denoiser: Denoiser, x0: Tensor, cond: Condition | None, noise: TrainingNoise) -> Tensor:
        """Loss (B,) of x0 (B, C, *spatial)."""
        t = self.time_sampler.draw(denoiser.schedule, noise.seed, noise.numbers)
        return self.terms(denoiser, x0, cond, t, self.coupling.eps(x0, noise)).loss

    def terms(self, denoiser: Denoiser, x0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor) -> LossTerms:
        """The loss at chosen times t (B,) and noise (B, C, *spatial), with what logs need."""
        self.check(denoiser)
        return self._evaluate(denoiser, x0, cond, t, eps).terms

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a model that this objective cannot train.

        Raises:
            ValueError: with the reason.
        """
        if denoiser.learned_variance:
            raise ValueError(
                "this objective does not train a learned variance; use Hybrid (Nichol & Dhariwal 2021), or a model "
                "without learned variance"
            )

    def _evaluate(self, denoiser: Denoiser, x0: Tensor, cond: Condition | None, t: Tensor, eps: Tensor) -> _Evaluation:
        schedule = denoiser.schedule
        t = t.to(torch.float64)
        level = Level.of(schedule, t, x0) if t.dim() else Level.of(schedule, t.expand(len(x0)), x0)
        t = t.expand(len(x0))
        x_t = x0 * level.alpha.to(x0) + eps * level.sigma.to(x0)  # type: ignore[union-attr]
        c = denoiser.coefficients(level, x_t)
        assert c.row is not None
        a, b = c.row
        output, beside = denoiser.evaluate(x_t, c, cond), None
        if denoiser.learned_variance:
            output, beside = denoiser.split(output)
        error = output.float() - (expand(a, x0) * x0 + expand(b, x0) * eps).float()
        # |x0 error|^2 = (sigma / det)^2 |F error|^2.
        alpha, sigma = (torch.as_tensor(value).reshape(-1) for value in (level.alpha, level.sigma))
        to_x0 = ((sigma / (alpha * b - sigma * a)) ** 2).to(error)
        density = self.time_sampler.density(schedule, t) if self.weighting.uses_density else torch.ones_like(t)
        weight = self.weighting.weight(schedule, t, density).to(error)
        with torch.no_grad():
            x0_error = error.detach().square().flatten(1).mean(1) * to_x0.detach()
        terms = LossTerms(self.distance(error) * weight * to_x0, x0_error, t)
        return _Evaluation(terms, level, x_t, output, beside)


@dataclass(frozen=True)
class _Evaluation:
    """What an objective computed on the way to its loss, for those that add to it."""

    terms: LossTerms
    level: Level
    x_t: Tensor
    output: Tensor
    beside: Tensor | None


def trivial_floor(schedule: NoiseSchedule, t: Tensor, variance: float) -> Tensor:
    """Mean squared x0 error of the best guess that knows only the data's mean and variance: what a network must
    beat.
    """
    alpha2, sigma2 = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
    return variance * sigma2 / (alpha2 * variance + sigma2)
