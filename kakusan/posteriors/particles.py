"""Sequential Monte Carlo: weighted particles, whose law tends to the posterior's as their number and the steps grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level
from kakusan.noise import StepNoise, as_seeds
from kakusan.operators import Measurement
from kakusan.posteriors.base import Posterior, spread
from kakusan.samplers import Sampler
from kakusan.samplers.base import State, Step, at_data
from kakusan.samplers.particles import resampled
from kakusan.specs import register
from kakusan.transitions import posterior_mean_factors, posterior_variance


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
        variance = torch.as_tensor(spread(denoiser, level_t)).to(x0)
        groups = len(measurement.y)
        promise = measurement.log_likelihood(x0, variance).to(torch.float64).view(groups, -1)
        weights = promise if not state.history else state.history[0][1].view(groups, -1) + promise
        rows, weights = resampled(weights, noise.uniform(groups), self.threshold)
        x_t, x0, promise = x_t[rows], x0[rows], promise.flatten()[rows].view(groups, -1)
        # Given x_t, x0 is taken as normal around the prediction; the measurement then makes it normal again.
        s, std = operator.singular(x0), measurement.noise_std
        left = variance * std**2 / (s * s * variance + std**2)
        kept, gain = (torch.as_tensor(factor).to(x0) for factor in posterior_mean_factors(level_t, level_s))
        own = torch.as_tensor(posterior_variance(level_t, level_s)).to(x0)
        towards = measurement.towards(x0, std**2 / variance)
        wide, narrow = own + gain**2 * variance, own + gain**2 * left
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
        return x_s, State(state.num_steps, prediction, history=((level_s, weights.flatten()),), index=state.index + 1)


@register
@dataclass(frozen=True)
class SMC(Posterior):
    """Sequential Monte Carlo in the manner of the twisted diffusion sampler (Wu et al. 2023, arXiv 2306.17775), with a
    twist in closed form in place of a gradient: given x_t, x0 is taken as normal around the network's prediction, so
    that the measurement, the proposal and the weights are Gaussian formulas of the operator's spectrum, and weights
    repair what is wrong with that. One pass a step. All samples of one measurement are one population: ask for many.

    Args:
        threshold: particles are resampled where their effective number is below this share of them.
        oversampling: particles for each sample that is wanted. Weighted particles are worth fewer exact samples than
            they are many; of twice as many in half the steps, half are nearly as good as exact ones.
    """

    threshold: float = 0.5
    oversampling: int = 2
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
