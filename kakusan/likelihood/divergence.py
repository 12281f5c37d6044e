"""The divergence of eps(x_t) that a change of variables needs: exact, or estimated without bias."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.noise import Stream, uniform
from kakusan.specs import register

Field = Callable[[Tensor], Tensor]


class Divergence(ABC):
    """tr(d field / d x) of every sample."""

    exact: bool = False

    @abstractmethod
    def probes(self, seeds: Tensor, like: Tensor) -> Tensor:
        """The directions (P, B or 1, C, *spatial) to differentiate along, fixed for a whole trajectory."""

    def evaluate(self, field: Field, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
        """(field(x) (B, C, *spatial), its divergence (B,)); a sample's field must depend on that sample only."""
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            value = field(point)
            total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            for i, probe in enumerate(probes):
                along = probe.expand_as(value)
                (gradient,) = torch.autograd.grad(value, point, along, retain_graph=i < len(probes) - 1)
                total += (gradient * along).flatten(1).sum(1).to(torch.float64)
        return value.detach(), total / self.norm(len(probes))

    def norm(self, count: int) -> float:
        """What the sum over `count` probes is divided by."""
        return float(count)


@register
@dataclass(frozen=True)
class Exact(Divergence):
    """One derivative for each of the D elements: for small data."""

    exact = True

    def probes(self, seeds: Tensor, like: Tensor) -> Tensor:
        count = like[0].numel()
        return torch.eye(count, dtype=like.dtype, device=like.device).view(count, 1, *like.shape[1:])

    def norm(self, count: int) -> float:
        return 1.0


@register
@dataclass(frozen=True)
class Hutchinson(Divergence):
    """The mean of v' J v over `draws` random sign vectors v, keyed by each sample's seed (Grathwohl et al. 2019, arXiv
    1810.01367, eq. 7). Unbiased; the same v along the whole trajectory.

    Args:
        draws: number of vectors.
    """

    draws: int = 1

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"Hutchinson needs at least one draw, got {self.draws}")

    def probes(self, seeds: Tensor, like: Tensor) -> Tensor:
        signs = [
            uniform(seeds, Stream.PROBE, draw, shape=like.shape[1:], device=like.device).sub_(0.5).sign_()
            for draw in range(self.draws)
        ]
        return torch.stack(signs).to(like.dtype)
