"""The posterior of a picture with noise upon it, which the reverse process draws from as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.grids import karras
from kakusan.levels import Level
from kakusan.operators import Identity, Measurement
from kakusan.posteriors.base import Posterior
from kakusan.samplers import DDPM, Sampler, Step
from kakusan.samplers.base import sample_iter
from kakusan.schedules import NoiseSchedule
from kakusan.specs import register


@register
@dataclass(frozen=True)
class Reverse(Posterior):
    """Denoising exactly: a picture with noise of standard deviation u is x_t at sigma / alpha = u (times alpha), so the
    reverse process from there draws from p(x0 | y) itself, as well as the network knows it (Sohl-Dickstein et al. 2015,
    arXiv 1503.03585, section 2). One pass a step, and all steps are spent below the noise of the picture.

    Args:
        steps: a stochastic sampler. A deterministic one gives the same picture for every seed, which is no draw.
    """

    steps: Sampler = field(default_factory=DDPM)

    def sampler(self, measurement: Measurement) -> Sampler:
        if not isinstance(measurement.operator, Identity):
            raise ValueError(
                f"the reverse process draws from noisy pictures alone and cannot undo a "
                f"{type(measurement.operator).__name__}; use another posterior"
            )
        if measurement.noise_std <= 0.0:
            raise ValueError("a picture without noise needs no denoising: give a noise_std above 0")
        return self.steps

    def network_calls(self, levels: Sequence[Level], measurement: Measurement) -> int | None:
        return self.sampler(measurement).network_calls(levels)

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
        """Yield every step; of the grid, only the number of steps is kept."""
        sampler = self.sampler(measurement)
        below = falling(denoiser.schedule, measurement.noise_std, len(grid) - 1)
        first = Level.of(denoiser.schedule, float(below[0]))
        like = torch.empty(batch, *measurement.operator.shape, dtype=dtype, device=device)
        start = measurement.rows(like) * first.alpha
        yield from sample_iter(
            denoiser, sampler, below, like.shape, cond, seeds=seeds, x_start=start, dtype=dtype, device=device
        )


def falling(schedule: NoiseSchedule, noise: float, num_steps: int) -> Tensor:
    """Times from sigma / alpha = `noise` to data, spaced as `grids.karras` spaces them.

    Raises:
        ValueError: noise beyond what the schedule has.
    """
    if -2.0 * math.log(noise) < float(schedule.log_snr(torch.tensor(schedule.t_max, dtype=torch.float64))):
        raise ValueError(f"noise of {noise:.3g} is more than this model was ever shown; it cannot begin there")
    return karras(schedule, num_steps, start=float(schedule.time(torch.tensor(-2.0 * math.log(noise)).double())))
