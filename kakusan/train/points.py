"""Models of two-dimensional point sets, trained in a minute on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kakusan.couplings import TrainingNoise
from kakusan.data.order import order
from kakusan.data.toys import Toy
from kakusan.denoiser import Denoiser
from kakusan.nn import MLP
from kakusan.objectives import Objective
from kakusan.parameterizations import Parameterization
from kakusan.schedules import NoiseSchedule
from kakusan.train.ema import Ema, EmaProfile
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import TrainingDiverged, seeded

# Batches whose points are drawn at once: a draw of a few points costs about as much as one of many.
DRAWN_AT_ONCE = 64
OPTIM = OptimSettings(rate=3e-3, warmup=100, decay=0.6)
EMA = EmaProfile(0.05)


@dataclass(frozen=True)
class ToyStep:
    """A finished step: how many there were, the share of the run that is over, in (0, 1], and the mean loss."""

    step: int
    share: float
    loss: Tensor


def sigma_data(points: Toy | Tensor) -> float:
    """Root mean square of a coordinate; of a toy within 0.5 %, from 2^16 points, and a function of the toy alone."""
    points = points.sample(1 << 16, seed=0) if isinstance(points, Toy) else points
    return float(points.double().square().mean().sqrt())


def batches(points: Toy | Tensor, seed: int, batch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(x0 (batch, D) float32, their places in the set) without end: a function of the arguments alone.

    Of a toy every point is fresh and has no place. Its keys lie above 2^64, so that `Toy.sample` with a seed of 64 bits
    draws none of them. A finite set (N, D) is run through in a new order each time.
    """
    step = 0
    while True:
        if isinstance(points, Toy):
            key = ((seed % 2**62 + 1) << 64) + step
            yield from ((x0, None) for x0 in points.sample(DRAWN_AT_ONCE * batch, key).float().split(batch))
        else:
            places = torch.from_numpy(order(seed % 2**64, step * batch, batch, len(points)))
            yield points[places].float(), places
        step += 1


def toy_steps(
    denoiser: Denoiser,
    ema: Ema,
    points: Toy | Tensor,
    objective: Objective,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    batch: int = 512,
    optim: OptimSettings = OPTIM,
) -> Iterator[ToyStep]:
    """Train a denoiser of points (B, D) in place, one step for each turn, `steps` of them or for `seconds`.

    The run is a function of its arguments when `steps` is given; `seconds` end it by the clock.

    Raises:
        ValueError: not exactly one of `steps` and `seconds`, or not positive.
        TrainingDiverged: the loss is not finite.
    """
    if (steps is None) == (seconds is None) or (steps or seconds or 0) <= 0 or batch < 1:
        raise ValueError(
            f"give a positive `steps` or `seconds`, not both, and a positive batch; got {steps=}, {seconds=}, {batch=}"
        )
    parameters = list(denoiser.parameters())
    optimizers = optim.build(parameters)
    began, share = time.perf_counter(), 0.0
    for step, (x0, places) in enumerate(batches(points, seed, batch)):
        warm = min(1.0, (step + 1) / (optim.warmup + 1))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = optim.rate * warm * min(1.0, (1.0 - share) / max(optim.decay, 1e-9))
        noise = TrainingNoise(seed, torch.arange(step * batch, (step + 1) * batch), indices=places)
        loss = objective(denoiser, x0, None, noise).mean()
        denoiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, optim.clip or float("inf"))
        if not bool(norm.isfinite()):
            raise TrainingDiverged(f"the loss or its gradient is not finite at step {step}; lower the learning rate")
        for optimizer in optimizers:
            optimizer.step()
        ema.update()
        share = (step + 1) / steps if steps is not None else (time.perf_counter() - began) / (seconds or 1.0)
        yield ToyStep(step + 1, min(share, 1.0), loss.detach())
        if share >= 1.0:
            return


def train_toy(
    toy: Toy | Tensor,
    *,
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    objective: Objective,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    width: int = 128,
    depth: int = 3,
    learned_variance: bool = False,
    batch: int = 512,
    optim: OptimSettings = OPTIM,
    ema: EmaProfile = EMA,
    say: Callable[[str], None] | None = None,
) -> Denoiser:
    """A denoiser of points (B, D) in their own units, with the averaged weights, in evaluation mode.

    Points are not standardised: c_in does that with the measured `sigma_data`, and a log density needs no correction.
    The weights are a function of the arguments when `steps` is given (and of the machine, in the last digits).

    Args:
        toy: fresh points of a toy at every step, or a finite set (N, D), for couplings that keep a partner for each.
        steps: of training; or else `seconds`.
        seed: of the first weights, the points, the times and the noise.
        width: of the `MLP`.
        depth: of the `MLP`.
        learned_variance: the network also says the variance of a reverse step.
        ema: what the weights are averaged by.
        say: gets about ten lines on the progress.

    Raises:
        ValueError: points of another shape, or as `toy_steps` does.
    """
    dim = 2 if isinstance(toy, Toy) else int(toy[0].numel())
    if isinstance(toy, Tensor) and toy.dim() != 2:
        raise ValueError(f"points are (N, D), got {tuple(toy.shape)}")
    with seeded(seed % 2**63):
        backbone = MLP(dim=dim, out_channels=dim * (1 + learned_variance), width=width, depth=depth)
    denoiser = Denoiser(
        backbone,
        schedule,
        parameterization,
        sigma_data=sigma_data(toy),
        learned_variance=learned_variance,
        independent_noise=objective.coupling.independent,
    )
    average = Ema(denoiser, {"ema": ema})
    said, mean = 0, torch.zeros(())
    for taken in toy_steps(
        denoiser, average, toy, objective, steps=steps, seconds=seconds, seed=seed, batch=batch, optim=optim
    ):
        mean = mean.lerp(taken.loss, max(1.0 / taken.step, 0.01))
        if say is not None and int(10 * taken.share) > said:
            said = int(10 * taken.share)
            say(f"step {taken.step}, {taken.share:.0%}: loss {float(mean):.5f}")
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            parameter.copy_(average.averages["ema"][name])
    return denoiser.eval()
