"""A small network in place of the exact denoiser."""

from __future__ import annotations

from collections.abc import Callable

from kakusan.data.toys import Toy
from kakusan.denoiser import Denoiser
from kakusan.objectives import EdmWeight, Objective
from kakusan.parameterizations import Edm
from kakusan.schedules import NoiseSchedule
from kakusan.time_samplers import LogNormalSigma
from kakusan.train.points import sigma_data, train_toy


def learnt(toy: Toy, schedule: NoiseSchedule, seconds: float, seed: int, say: Callable[[str], None]) -> Denoiser:
    """A small network that learns the set for so many seconds, as EDM trains it, on any schedule."""
    data = sigma_data(toy)
    # Where the sets have their detail: sigma / alpha from 0.02 to 1.
    objective = Objective(LogNormalSigma(-1.8, 1.4), EdmWeight(data))
    return train_toy(
        toy, schedule=schedule, parameterization=Edm(data), objective=objective, seconds=seconds, seed=seed, say=say
    )
