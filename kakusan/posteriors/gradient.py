"""Methods that differentiate the network: the score of the measurement is passed back through the predicted x0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.guidance import Wrapped
from kakusan.guidance.rules import Reading
from kakusan.levels import Level, scaled
from kakusan.noise import StepNoise
from kakusan.operators import Measurement
from kakusan.posteriors.base import Posterior, spread
from kakusan.samplers import DDIM, DDPM, Sampler
from kakusan.samplers.base import State
from kakusan.specs import register

Pullback = Callable[[Tensor], Tensor]

_PAPER_STEPS = 1000
_PAPER_ELEMENTS = 3 * 256 * 256


def with_pullback(
    denoiser: BaseDenoiser, x_t: Tensor, level: Level, cond: Condition | None
) -> tuple[Tensor, Tensor, Pullback]:
    """(x0, the raw output, v -> J^T v), with J = d x0 / d x_t; each call of the last is one backward pass."""
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        output = denoiser.output(x, level, cond)
        useful = denoiser.split(output)[0] if denoiser.learned_variance else output
        x0 = Reading(x, level, denoiser.coefficients(level, x), denoiser.schedule).x0(useful)

    def pullback(v: Tensor) -> Tensor:
        return torch.autograd.grad(x0, x, v, retain_graph=True)[0].detach()

    return x0.detach(), output.detach(), pullback


class _Corrected(Wrapped):
    """A denoiser whose x0 is E[x0 | x_t, y] by Tweedie's formula: x0 + sigma^2 / alpha * grad log p(y | x_t)."""

    def __init__(self, inner: BaseDenoiser, measurement: Measurement) -> None:
        super().__init__(inner)
        self.measurement = measurement

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        x0, output, pullback = with_pullback(self.inner, x_t, level, cond)
        _, beside = self.parted(output)
        corrected = x0 + self.change(x0, level, pullback)
        reading = Reading(x_t, level, self.coefficients(level, x_t), self.schedule)
        return self.joined(reading.from_x0(corrected), beside)

    def change(self, x0: Tensor, level: Level, pullback: Pullback) -> Tensor:
        """What is added to x0 (B, C, *spatial)."""
        raise NotImplementedError


class _PseudoInverse(_Corrected):
    def __init__(self, inner: BaseDenoiser, measurement: Measurement, limit: float | None) -> None:
        super().__init__(inner, measurement)
        self.limit = limit

    def change(self, x0: Tensor, level: Level, pullback: Pullback) -> Tensor:
        score, variance = isotropic_score(self.inner, self.measurement, x0, level)
        if self.limit is not None and not isinstance(level.sigma, Tensor) and level.sigma > self.limit * level.alpha:
            return score * variance
        return scaled(pullback(score), level.sigma**2 / level.alpha)


def isotropic_score(
    denoiser: BaseDenoiser, measurement: Measurement, x0: Tensor, level: Level
) -> tuple[Tensor, Tensor]:
    """(gradient in x0 of log p(y | x0), variance) for x0 with one variance in every direction (`spread`)."""
    operator = measurement.operator
    s = operator.singular(x0)
    variance = torch.as_tensor(spread(denoiser, level)).to(x0)
    total = (s * s * variance + measurement.noise_std**2).clamp_min(1e-30)
    error = measurement.placed(x0) - s * operator.rotate(x0)
    return operator.unrotate(torch.where(s > 0.0, s / total, torch.zeros_like(s)) * error), variance


@register
@dataclass(frozen=True)
class PiGDM(Posterior):
    """Pseudoinverse-guided diffusion (Song et al. 2023, ICLR, "Pseudoinverse-guided diffusion models for inverse
    problems"): p(x0 | x_t) is taken as normal with one variance for every direction. One forward and one backward pass
    a step. The correction is the score of that Gaussian itself, without the paper's further weights.

    Args:
        steps: the sampler that is run; DDIM with eta 1 as in the paper by default.
        limit: above this sigma / alpha the derivative of the same normal distribution takes the place of the network's,
            which is tiny there and mostly error, and is multiplied by sigma^2 / alpha. None never does so.
    """

    steps: Sampler = field(default_factory=lambda: DDIM(eta=1.0))
    limit: float | None = 3.0

    def sampler(self, measurement: Measurement) -> Sampler:
        return self.steps

    def guide(self, denoiser: BaseDenoiser, measurement: Measurement) -> BaseDenoiser:
        return _PseudoInverse(denoiser, measurement, self.limit)

    def network_calls(self, levels: Sequence[Level], measurement: Measurement) -> int | None:
        return _times(self.steps.network_calls(levels), 2)


class _MomentMatched(_Corrected):
    def __init__(self, inner: BaseDenoiser, measurement: Measurement, iterations: int) -> None:
        super().__init__(inner, measurement)
        self.iterations = iterations

    def change(self, x0: Tensor, level: Level, pullback: Pullback) -> Tensor:
        operator, noise = self.measurement.operator, self.measurement.noise_std**2
        factor = level.sigma**2 / level.alpha

        def covariance(v: Tensor) -> Tensor:
            # Tweedie: Cov[x0 | x_t] = sigma^2 / alpha * J, which is symmetric.
            return scaled(pullback(v), factor)

        def measured(w: Tensor) -> Tensor:
            return noise * w + operator(covariance(operator.adjoint(w)))

        before = self.measurement.residual(x0)
        change = covariance(operator.adjoint(conjugate_gradients(measured, before, self.iterations)))
        # The mean given y fits y better than the mean without it. Where noise is loudest a network's derivative is
        # small and far from symmetric, and the solution may be anything: those samples get the plain Gaussian's.
        over = tuple(range(1, before.dim()))
        after = self.measurement.residual(x0 + change)
        worse = ~(after.square().sum(over) <= before.square().sum(over))
        if bool(worse.any()):
            score, variance = isotropic_score(self.inner, self.measurement, x0, level)
            change = torch.where(worse.view(-1, *[1] * (x0.dim() - 1)), score * variance, change)
        return change


@register
@dataclass(frozen=True)
class MMPS(Posterior):
    """Moment-matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712): p(x0 | x_t) is taken as normal with the
    covariance that the network's own derivative says (Tweedie), and the linear system is solved by conjugate gradients.
    Exact for Gaussian data. Two passes a step and one more for each iteration.

    Args:
        iterations: of conjugate gradients.
        steps: the sampler that is run.
    """

    iterations: int = 3
    steps: Sampler = field(default_factory=lambda: DDIM(eta=1.0))

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"conjugate gradients need at least 1 iteration, got {self.iterations}")

    def sampler(self, measurement: Measurement) -> Sampler:
        return self.steps

    def guide(self, denoiser: BaseDenoiser, measurement: Measurement) -> BaseDenoiser:
        return _MomentMatched(denoiser, measurement, self.iterations)

    def network_calls(self, levels: Sequence[Level], measurement: Measurement) -> int | None:
        return _times(self.steps.network_calls(levels), 2 + self.iterations)


def conjugate_gradients(apply: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """w with apply(w) = right (B, *measured), each sample by itself; `apply` is symmetric and should be positive.

    A network's derivative is only nearly so: a direction of no or negative curvature ends the search of its sample.
    """
    over = tuple(range(1, right.dim()))
    w, rest = torch.zeros_like(right), right
    direction, size = rest, rest.square().sum(over, keepdim=True)
    tiny = 1e-20 * size.clamp_min(1e-30)
    for _ in range(iterations):
        image = apply(direction)
        curvature = (direction * image).sum(over, keepdim=True)
        going = (curvature > 0.0) & (size > tiny)
        step = torch.where(going, size / curvature.clamp_min(1e-30), torch.zeros_like(size))
        w, rest = w + step * direction, rest - step * image
        following = rest.square().sum(over, keepdim=True)
        turn = torch.where(going, following / size.clamp_min(1e-30), torch.zeros_like(size))
        direction, size = torch.where(going, rest + turn * direction, torch.zeros_like(rest)), following
    return w


@dataclass(frozen=True)
class _DescendingSampler(Sampler):
    measurement: Measurement
    scale: float
    inner: DDPM
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
        with torch.enable_grad():
            x = x_t.detach().requires_grad_(True)
            x_s, following = self.inner.step(denoiser, x, level_t, level_s, cond, state, noise)
            assert following.prediction is not None
            distance = self.measurement.residual(following.prediction.x0).flatten(1).norm(dim=1)
            gradient = torch.autograd.grad(distance.sum(), x)[0]
        # The paper's x_t has variance 1 throughout; elsewhere a step of it is as long as x_t is.
        size = ((level_t.alpha**2 + level_t.sigma**2) * (level_s.alpha**2 + level_s.sigma**2)) ** 0.5
        # The gradient of a distance is no longer than the operator is strong, whatever the distance: all steps together
        # have to reach as far as pictures of this many elements lie apart.
        whole = _PAPER_STEPS / state.num_steps * (x_t[0].numel() / _PAPER_ELEMENTS) ** 0.5
        return x_s.detach() - scaled(gradient, self.scale * whole / self.measurement.operator.norm * size), following

    def network_calls(self, levels: Sequence[Level]) -> int | None:
        return 2 * (len(levels) - 1)


@register
@dataclass(frozen=True)
class DPS(Posterior):
    """Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, algorithm 1): after each ancestral step, one
    step of gradient descent on |y - A x0(x_t)|. One forward and one backward pass a step. Popular, not calibrated: its
    spread depends on the scale and on the number of steps.

    Args:
        scale: length of a step (zeta of the paper, whose released code takes 0.3 to 1) at the paper's 1000 steps,
            pictures of 256 x 256 x 3 and an operator of norm 1. Fewer steps are longer in proportion, those of smaller
            pictures shorter by the root of their elements, those of weaker operators longer by their norm.
    """

    scale: float = 1.0

    def sampler(self, measurement: Measurement) -> Sampler:
        return _DescendingSampler(measurement, self.scale, DDPM())


def _times(calls: int | None, factor: int) -> int | None:
    return None if calls is None else factor * calls
