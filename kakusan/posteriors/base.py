"""What all posterior samplers share: a trained prior, a measurement, and samples of what may have been measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, Scalar
from kakusan.noise import Stream, as_seeds, normal
from kakusan.operators import Measurement
from kakusan.samplers.base import Sampler, Step, sample_iter


class Posterior(ABC):
    """A frozen dataclass of a method's settings; `sample_iter` draws from p(x0 | y) as well as the method can."""

    groups: bool = False
    """Whether the samples of one measurement depend on each other."""

    @abstractmethod
    def sampler(self, measurement: Measurement) -> Sampler:
        """The sampler that takes the measurement into account, or runs a denoiser that does."""

    def guide(self, denoiser: BaseDenoiser, measurement: Measurement) -> BaseDenoiser:
        """The denoiser that the sampler runs."""
        return denoiser

    def start(self, denoiser: BaseDenoiser, measurement: Measurement, level: Level, noise: Tensor) -> Tensor:
        """Samples at the first level of the grid, from standard normal noise (B, C, *spatial)."""
        return noise * (level.alpha**2 * denoiser.sigma_data**2 + level.sigma**2) ** 0.5

    def network_calls(self, levels: Sequence[Level], measurement: Measurement) -> int | None:
        """Passes through the network for each sample, forward and backward each counted as one."""
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
        """Yield every step.

        Args:
            denoiser: the prior, with guidance where it is wanted.
            measurement: of G groups.
            grid: falling times.
            batch: B samples, B / G for each group.
            cond: a condition that the prior takes.
            seeds: one for each sample, or the first of B consecutive ones.
            dtype: of the samples.
            device: where to compute.

        Raises:
            ValueError: shapes or seeds do not fit.
        """
        shape = (batch, *measurement.operator.shape)
        numbers = as_seeds(range(seeds, seeds + batch) if isinstance(seeds, int) else seeds)
        first = Level.of(denoiser.schedule, float(grid[0]))
        noise = normal(numbers, Stream.START, shape=shape[1:], dtype=dtype, device=device)
        start = self.start(denoiser, measurement, first, noise)
        yield from sample_iter(
            self.guide(denoiser, measurement),
            self.sampler(measurement),
            grid,
            shape,
            cond,
            seeds=numbers,
            x_start=start,
            dtype=dtype,
            device=device,
        )

    def sample(
        self, denoiser: BaseDenoiser, measurement: Measurement, grid: Tensor, batch: int, **options: object
    ) -> Tensor:
        """The samples at the end of the grid, (B, C, *spatial); arguments as in `sample_iter`."""
        with torch.no_grad():
            for step in self.sample_iter(denoiser, measurement, grid, batch, **options):  # type: ignore[arg-type]
                last = step.x_s
        return last


def spread(denoiser: BaseDenoiser, level: Level) -> Scalar:
    """The variance of x0 given x_t if data were normal with variance sigma_data^2 in every direction: what a method
    assumes that does not ask the network. Song et al. 2023 (PiGDM) take it with sigma_data = 1.
    """
    squared = denoiser.sigma_data**2
    return squared * level.sigma**2 / (level.alpha**2 * squared + level.sigma**2)
