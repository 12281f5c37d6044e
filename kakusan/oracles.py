"""Denoisers known in closed form: what tests, docs and `doctor` measure against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser, Coefficients
from kakusan.levels import Level, Scalar
from kakusan.schedules import NoiseSchedule


class Oracle(BaseDenoiser):
    """A denoiser whose output is E[x0 | x_t] itself."""

    def __init__(self, schedule: NoiseSchedule, *, sigma_data: float) -> None:
        super().__init__()
        self.schedule = schedule
        self.sigma_data = sigma_data

    def coefficients(self, level: Level, x_t: Tensor) -> Coefficients:
        inverse = 1.0 / level.sigma
        return Coefficients(1.0, torch.zeros(1), 0.0, 1.0, inverse, -level.alpha * inverse)

    def with_schedule(self, schedule: NoiseSchedule) -> Oracle:
        """The same distribution on another path."""
        raise NotImplementedError


class GaussianMixture(Oracle):
    """The exact denoiser of a mixture of isotropic or diagonal Gaussians, on any schedule and any shape of sample.

    Args:
        means: (K, *shape).
        std: standard deviation of each component: a number, (K,) or (K, *shape).
        weights: (K,), positive; equal by default.
        schedule: the path.

    Conditions: a `Condition` whose `vector` (B, K) holds log-weights added to the components' own makes it
    class-conditional.
    """

    def __init__(
        self,
        means: Tensor,
        std: Tensor | float,
        weights: Tensor | None = None,
        *,
        schedule: NoiseSchedule,
    ) -> None:
        means = means.to(torch.float64)
        count = len(means)
        spread = torch.as_tensor(std, dtype=torch.float64)
        if spread.dim() <= 1:
            spread = spread.reshape(-1, *[1] * (means.dim() - 1))
        variance = (spread**2).expand_as(means)
        weight = torch.full((count,), 1.0 / count) if weights is None else weights
        weight = weight.to(torch.float64)
        if weight.shape != (count,) or bool((weight <= 0.0).any()) or bool((variance < 0.0).any()):
            raise ValueError("a mixture needs one positive weight for each mean, and no negative variance")
        weight = weight / weight.sum()
        flat = (means**2 + variance).flatten(1).mean(1)
        super().__init__(schedule, sigma_data=math.sqrt(float((weight * flat).sum())))
        self.means, self.variance, self.log_weights = means, variance, weight.log()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.means.shape[1:])

    def with_schedule(self, schedule: NoiseSchedule) -> GaussianMixture:
        return GaussianMixture(self.means, self.variance.sqrt(), self.log_weights.exp(), schedule=schedule)

    def _components(self, x_t: Tensor, alpha: Scalar, sigma: Scalar, cond: Condition | None) -> tuple[Tensor, ...]:
        """(log-joint (B, K), variance of x_t (B or 1, K, D), offset x_t - alpha mean (B, K, D))."""
        x = x_t.to(torch.float64).flatten(1).unsqueeze(1)
        a, s = (_column(value) for value in (alpha, sigma))
        variance = a**2 * self.variance.flatten(1) + s**2
        offset = x - a * self.means.flatten(1)
        log_joint = -0.5 * (offset**2 / variance + (2.0 * math.pi * variance).log()).sum(-1) + self.log_weights
        if cond is not None and cond.vector is not None:
            log_joint = log_joint + cond.vector.to(torch.float64)
        return log_joint, variance, offset

    def log_prob(self, x_t: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """log density of x_t at t, (B,), in nats."""
        level = Level.of(self.schedule, t, x_t)
        return self._components(x_t, level.alpha, level.sigma, None)[0].logsumexp(1)

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        log_joint, variance, offset = self._components(x_t, level.alpha, level.sigma, cond)
        gain = _column(level.alpha) * self.variance.flatten(1) / variance
        posterior = self.means.flatten(1) + gain * offset
        x0 = (log_joint.softmax(1).unsqueeze(-1) * posterior).sum(1)
        return x0.view(x_t.shape).to(x_t.dtype)

    def draw(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Exact samples from uniforms (B,) and standard normals (B, *shape)."""
        index = torch.bucketize(uniform.to(torch.float64).contiguous(), self.log_weights.exp().cumsum(0)).clamp(
            max=len(self.means) - 1
        )
        return self.means[index] + self.variance.sqrt()[index] * normal.to(torch.float64)


class DataSet(Oracle):
    """The exact denoiser of a finite set of samples: E[x0 | x_t] is their softmax-weighted mean.

    A model that fits its training set perfectly is this denoiser, and sampling it returns training pictures: through
    the same sampler it tells the sampler's faults from the network's.

    Args:
        samples: (N, *shape).
        labels: (N,), for the conditional denoiser: `Condition(vector=(B, 1))` holds the wanted label, below 0 for any.
    """

    def __init__(self, samples: Tensor, labels: Tensor | None = None, *, schedule: NoiseSchedule) -> None:
        flat = samples.to(torch.float32).flatten(1)
        super().__init__(schedule, sigma_data=max(float(flat.square().mean().sqrt()), 1e-6))
        self.samples, self.labels, self.energy = flat, labels, flat.square().sum(1)

    def with_schedule(self, schedule: NoiseSchedule) -> DataSet:
        return DataSet(self.samples, self.labels, schedule=schedule)

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        a, s = (_column(v).squeeze(-1).to(torch.float64) for v in (level.alpha, level.sigma))
        flat = x_t.flatten(1)
        cross = (flat @ self.samples.to(flat.dtype).T).to(torch.float64)
        logits = (a * cross - 0.5 * a**2 * self.energy.to(torch.float64)) / s**2
        if cond is not None and cond.vector is not None and self.labels is not None:
            wanted = cond.vector.long()
            logits = logits.masked_fill((wanted >= 0) & (wanted != self.labels.unsqueeze(0)), -torch.inf)
        weights = logits.softmax(1).to(flat.dtype)
        return (weights @ self.samples.to(flat.dtype)).view(x_t.shape)


def _column(value: Scalar) -> Tensor:
    """A level's value as (B or 1, 1, 1)."""
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1)
