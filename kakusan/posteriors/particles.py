"""Sequential Monte Carlo: weighted particles, whose law tends to the posterior's as their number and the steps grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, Scalar
from kakusan.noise import StepNoise, as_seeds
from kakusan.operators import Measurement, Operator
from kakusan.posteriors.base import Posterior, spread
from kakusan.samplers import Sampler
from kakusan.samplers.base import State, Step, at_data
from kakusan.samplers.particles import resampled
from kakusan.specs import register
from kakusan.transitions import posterior_mean_factors, posterior_variance

# With this many particles a direction's own variance counts as much as that of all, and with this many numbers in all
# what they say as much as what was believed.
_PRIOR_PARTICLES = 100
# Bounds of the variance, over that of normal data: where modes are tight it is far less, between two of them more.
_LEAST, _MOST = 0.01, 2.0


@dataclass(frozen=True)
class _ParticleSampler(Sampler):
    measurement: Measurement
    threshold: float
    stochastic = True

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
        measurement, operator = self.measurement, self.measurement.operator
        prediction = denoiser(x_t, level_t, cond)
        x0 = prediction.x0
        groups = len(measurement.y)
        usual = torch.as_tensor(spread(denoiser, level_t)).to(x0)
        variance = usual.expand(groups, *[1] * (x0.dim() - 1))
        slope = torch.as_tensor(_slope(denoiser, level_t)).to(x0)
        if state.history:
            _, (_, moved), (before, rest) = state.history
            expected = slope * x_t + usual / torch.as_tensor(spread(denoiser, before)).to(x0) * rest
            variance = _variance(operator, moved, x0 - expected, level_t, variance)
        variance = variance.repeat_interleave(len(x0) // groups, dim=0)
        promise = measurement.log_likelihood(x0, variance).to(torch.float64).view(groups, -1)
        weights = promise if not state.history else state.history[0][1].view(groups, -1) + promise
        # Within a group it is one for all, so that it need not follow the rows.
        rows, weights = resampled(weights, noise.uniform(groups), self.threshold)
        x_t, x0, promise = x_t[rows], x0[rows], promise.flatten()[rows].view(groups, -1)
        # Given x_t, x0 is taken as normal around the prediction; the measurement then makes it normal again.
        s, std = operator.singular(x0), measurement.noise_std
        left = variance * std**2 / (s * s * variance + std**2)
        kept, gain = (torch.as_tensor(factor).to(x0) for factor in posterior_mean_factors(level_t, level_s))
        own = torch.as_tensor(posterior_variance(level_t, level_s)).to(x0)
        towards = measurement.towards(x0, std**2 / variance)
        wide, narrow = own + gain**2 * variance, (own + gain**2 * left).expand_as(x0)
        step = operator.filtered(noise(), narrow.sqrt())
        x_s = kept * x_t + gain * towards + step
        # log p(x_s | x_t) - log q(x_s | x_t), direction by direction.
        free = operator.rotate(step + gain * (towards - x0)).abs().square() / wide
        led = operator.rotate(step).abs().square() / narrow
        ratio = 0.5 * (led - free + (narrow / wide).log()).to(torch.float64).flatten(1).sum(1)
        weights = weights - promise + ratio.view(groups, -1)
        if at_data(level_s):
            weights = weights + measurement.log_likelihood(x_s).to(torch.float64).view(groups, -1)
            rows, weights = resampled(weights, noise.uniform(groups, 1), 1.1)
            x_s = x_s[rows]
        rest = x0 - slope * x_t
        history = ((level_s, weights.flatten()), (level_s, step), (level_t, rest))
        return x_s, State(state.num_steps, prediction, history=history, index=state.index + 1)


def _slope(denoiser: BaseDenoiser, level: Level) -> Scalar:
    """The derivative of x0 by x_t if data were normal with variance sigma_data^2 in every direction."""
    return spread(denoiser, level) * level.alpha / level.sigma**2


def _variance(operator: Operator, moved: Tensor, surprise: Tensor, level: Level, usual: Tensor) -> Tensor:
    """The variance of x0 given x_t, one for each direction of a group's spectrum, (G, *shape).

    Tweedie: it is sigma^2 / alpha times the derivative of the network's x0. The noise `moved` (B, C, *spatial) that
    took the particles here is independent of where they came from, so that its product with the x0 they have now tells
    that derivative (Stein's identity), at no further pass of the network.

    Args:
        operator: whose directions they are.
        moved: the random part of the last step.
        surprise: (B, C, *spatial), x0 less what it would be if data were normal, which `usual` accounts for.
        level: of x_t.
        usual: (G, 1, ...), the variance if data were normal.
    """
    a, b = (operator.rotate(x).view(len(usual), -1, *x.shape[1:]) for x in (moved, surprise))
    together, alone = (a.conj() * b).real.sum(1), a.abs().square().sum(1).clamp_min(1e-30)
    over = tuple(range(1, together.dim()))
    whole = together.sum(over, keepdim=True) / alone.sum(over, keepdim=True)
    particles, numbers = a.shape[1], a.shape[1] * together[0].numel()
    share = particles / (particles + _PRIOR_PARTICLES)
    slope = (share * together / alone + (1.0 - share) * whole) * (numbers / (numbers + _PRIOR_PARTICLES))
    found = usual + slope * (torch.as_tensor(level.sigma) ** 2 / torch.as_tensor(level.alpha)).to(slope)
    return torch.minimum(torch.maximum(found, _LEAST * usual), _MOST * usual)


@register
@dataclass(frozen=True)
class SMC(Posterior):
    """Sequential Monte Carlo in the manner of the twisted diffusion sampler (Wu et al. 2023, arXiv 2306.17775), with a
    twist in closed form in place of a gradient: given x_t, x0 is taken as normal around the network's prediction, so
    that the measurement, the proposal and the weights are Gaussian formulas of the operator's spectrum, and weights
    repair what is wrong with that. How wide it is taken to be in each direction, the particles themselves tell from
    step to step. One pass a step. All samples of one measurement are one population: ask for many.

    Args:
        threshold: particles are resampled where their effective number is below this share of them.
        oversampling: particles for each sample that is wanted. Weighted particles are worth fewer exact samples than
            they are many; of three times as many in a third of the steps, a third are nearly as good as exact ones.
    """

    threshold: float = 0.5
    oversampling: int = 3
    groups = True

    def __post_init__(self) -> None:
        if self.oversampling < 1:
            raise ValueError(f"oversampling must be at least 1, got {self.oversampling}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold is a share in [0, 1], got {self.threshold}")

    def sampler(self, measurement: Measurement) -> Sampler:
        if measurement.noise_std <= 0.0:
            raise ValueError(
                "sequential Monte Carlo weighs samples by the measurement's noise: give a noise_std above 0"
            )
        return _ParticleSampler(measurement, self.threshold)

    def network_calls(self, levels: Sequence[Level], measurement: Measurement) -> int | None:
        return self.oversampling * (len(levels) - 1)

    def sample_iter(
        self,
        denoiser: BaseDenoiser,
        measurement: Measurement,
        grid: Tensor,
        batch: int,
        cond: Condition | None = None,
        *,
        seeds: Sequence[int] | Tensor | int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Iterator[Step]:
        """Yield every step, of all particles; the last one has only the `batch` samples. Arguments as in the base."""
        each = self.oversampling
        numbers = as_seeds(range(seeds, seeds + batch) if isinstance(seeds, int) else seeds)
        if len(numbers) != batch:
            raise ValueError(f"{len(numbers)} seeds were given for {batch} samples")
        numbers = (numbers.unsqueeze(1) * each + torch.arange(each)).flatten()
        if cond is not None and cond.batch == batch:
            cond = cond.map(lambda values: values.repeat_interleave(each, dim=0))
        steps = super().sample_iter(
            denoiser, measurement, grid, each * batch, cond, seeds=numbers, dtype=dtype, device=device
        )
        for step in steps:
            # The last step leaves ancestors in order, so that every k-th of them is a systematic sample again.
            yield replace(step, x_s=step.x_s[::each]) if step.index == len(grid) - 2 else step
