"""Methods that replace the measured part of the predicted x0, direction by direction, without differentiating."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, Scalar, blend, scaled
from kakusan.noise import StepNoise
from kakusan.operators import Measurement
from kakusan.posteriors.base import Posterior
from kakusan.samplers import Sampler
from kakusan.samplers.base import State
from kakusan.specs import register


@dataclass(frozen=True)
class _NullSpaceSampler(Sampler):
    measurement: Measurement
    eta: float

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0.0

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
        operator, std = self.measurement.operator, self.measurement.noise_std
        sigma_s, alpha_s = _tensor(level_s.sigma, x_t), _tensor(level_s.alpha, x_t)
        z = operator.rotate(prediction.x0)
        known = self.measurement.placed(x_t) * operator.inverse(x_t)
        # What the measurement's own noise brings along takes the place of fresh noise, as far as there is room.
        brought = alpha_s * std * operator.inverse(x_t)
        room = self.eta * sigma_s if self.eta > 0.0 else sigma_s
        share = torch.where(brought > 0.0, (room / brought.clamp_min(1e-30)).clamp_max(1.0), 1.0) * operator.seen(x_t)
        x0 = operator.unrotate(z + share * (known - z))
        x_s = blend(x0, level_s.alpha, prediction.eps, level_s.sigma * (1.0 - self.eta**2) ** 0.5)
        if self.eta > 0.0:
            fresh = ((self.eta * sigma_s) ** 2 - (share * brought) ** 2).clamp_min(0.0).sqrt()
            x_s = x_s + operator.filtered(noise(), fresh.expand_as(operator.seen(x_t)))
        return x_s, State(state.num_steps, prediction, index=state.index + 1)


@register
@dataclass(frozen=True)
class DDNM(Posterior):
    """Denoising diffusion null-space model (Wang et al. 2022, arXiv 2212.00490; DDNM+ where the measurement is noisy):
    the measured part of x0 is the measurement's own, the rest the network's. One pass a step.

    Args:
        eta: of DDIM. The paper takes 0.85; at 40 steps 1 was better on real pictures.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        _check_share("eta", self.eta)

    def sampler(self, measurement: Measurement) -> Sampler:
        return _NullSpaceSampler(measurement, self.eta)


# Directions whose noise is louder than this many standard deviations of the data tell nothing. Taken for measured, they
# would bring the same noise in at every step (1.5 dB less in deblurring); 1 to 4 are equally good.
_LOUDEST = 2.0


@dataclass(frozen=True)
class _RestorationSampler(Sampler):
    measurement: Measurement
    eta: float
    eta_loud: float
    eta_measured: float
    temperature: float

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.temperature > 0.0

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
        measurement, operator = self.measurement, self.measurement.operator
        # In the paper's variables: x / alpha with noise u = sigma / alpha.
        u_t, u_s = (_tensor(level.sigma, x_t) / _tensor(level.alpha, x_t) for level in (level_t, level_s))
        z0, z_t = operator.rotate(prediction.x0), operator.rotate(scaled(x_t, 1.0 / level_t.alpha))
        known = measurement.placed(x_t) * operator.inverse(x_t)
        own = measurement.noise_std * operator.inverse(x_t)  # noise of the measurement, direction by direction
        seen = (operator.seen(x_t) > 0.0) & (own < _LOUDEST * denoiser.sigma_data)
        loud = seen & (u_s < own)
        clear = seen & (u_s >= own)
        mean = z0 + (1.0 - self.eta**2) ** 0.5 * u_s * (z_t - z0) / u_t
        pull = (1.0 - self.eta_loud**2) ** 0.5 * u_s / own.clamp_min(1e-30)
        mean = torch.where(loud, z0 + pull * (known - z0), mean)
        mean = torch.where(clear, z0 + self.eta_measured * (known - z0), mean)
        fresh = torch.where(loud, self.eta_loud * u_s, self.eta * u_s)
        variance = torch.where(clear, u_s**2 - (self.eta_measured * own) ** 2, fresh**2).clamp_min(0.0)
        if self.temperature > 0.0:
            mean = mean + self.temperature * variance.sqrt() * operator.rotate(noise())
        return scaled(operator.unrotate(mean), level_s.alpha), following


@register
@dataclass(frozen=True)
class DDRM(Posterior):
    """Denoising diffusion restoration models (Kawar et al. 2022, arXiv 2201.11793, eq. 7-8). One pass a step.

    Args:
        eta: fresh noise where nothing is measured. The paper takes 0.85; at 40 steps 1 was better on real pictures.
        eta_loud: fresh noise where the measurement is louder than the level (the paper's eta again). At 1 the
            measurement would be forgotten there.
        eta_measured: weight of the measurement where it is clearer than the level (eta_b of the paper).
        temperature: factor on fresh noise. Below 1 a picture is less of a sample and nearer to the mean of all that may
            have been measured: more PSNR, less spread.
    """

    eta: float = 1.0
    eta_loud: float = 0.85
    eta_measured: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_share("eta", self.eta)
        _check_share("eta_loud", self.eta_loud)
        _check_share("eta_measured", self.eta_measured)
        _check_share("temperature", self.temperature)

    def sampler(self, measurement: Measurement) -> Sampler:
        return _RestorationSampler(measurement, self.eta, self.eta_loud, self.eta_measured, self.temperature)

    def start(self, denoiser: BaseDenoiser, measurement: Measurement, level: Level, noise: Tensor) -> Tensor:
        operator = measurement.operator
        seen = operator.seen(noise)
        # Without a signal at all (alpha = 0) there is nothing to begin from but noise.
        own = (level.alpha * measurement.noise_std * operator.inverse(noise)) ** 2 * seen
        free = level.alpha**2 * denoiser.sigma_data**2 * (1.0 - seen)
        wide = (level.sigma**2 - own + free).clamp_min(0.0).sqrt()
        known = level.alpha * measurement.placed(noise) * operator.inverse(noise)
        return operator.unrotate(known + wide * operator.rotate(noise))


@dataclass(frozen=True)
class _ProximalSampler(Sampler):
    measurement: Measurement
    strength: float
    fresh: float

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.fresh > 0.0

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
        u = _tensor(level_t.sigma, x_t) / _tensor(level_t.alpha, x_t)
        x0 = self.measurement.towards(prediction.x0, self.strength * self.measurement.noise_std**2 / u**2)
        eps = blend(x_t, 1.0 / level_t.sigma, x0, -level_t.alpha / level_t.sigma)
        x_s = blend(x0, level_s.alpha, eps, level_s.sigma * (1.0 - self.fresh) ** 0.5)
        if self.fresh > 0.0:
            x_s = x_s + scaled(noise(), level_s.sigma * self.fresh**0.5)
        return x_s, State(state.num_steps, prediction, index=state.index + 1)


@register
@dataclass(frozen=True)
class DiffPIR(Posterior):
    """Denoising diffusion models for plug-and-play image restoration (Zhu et al. 2023, arXiv 2305.08995, algorithm 1):
    the network's x0 is brought towards the measurement by a proximal step, exactly, then noised again. One pass a step.

    Args:
        strength: lambda of the paper, weight of the network against the measurement. 1 is what a Gaussian around x0 of
            variance (sigma / alpha)^2 gives; the paper's 3 to 25 were worse on real pictures at 40 steps.
        fresh: zeta of the paper, share of the noise that is fresh. The paper takes 0.1 to 0.3 mostly; at 40 steps 1 was
            better on real pictures.
    """

    strength: float = 1.0
    fresh: float = 1.0

    def __post_init__(self) -> None:
        _check_share("fresh", self.fresh)
        if self.strength <= 0.0:
            raise ValueError(f"strength must be positive, got {self.strength}")

    def sampler(self, measurement: Measurement) -> Sampler:
        return _ProximalSampler(measurement, self.strength, self.fresh)


def _tensor(value: Scalar, like: Tensor) -> Tensor:
    return torch.as_tensor(value).to(like)


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is in [0, 1], got {value}")
