"""How the pictures of a sweep come about: from noise, or in another way that a task has.

What an axis changes beside the request (a strength, a switch) is an argument of the way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kakusan.grids import GRIDS
from kakusan.guidance.switch import Switched, switch_points
from kakusan.inversion import Noising, Side, kept_steps
from kakusan.levels import tabulate
from kakusan.request import Asked, SampleRequest
from kakusan.samplers import sample

if TYPE_CHECKING:
    from kakusan.pipeline import Pipeline


class Way(ABC):
    """A frozen dataclass that carries out a request."""

    @abstractmethod
    def run(self, pipeline: Pipeline, request: SampleRequest) -> Tensor:
        """The samples of a request, (B, C, *size), in model units on the CPU."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What identifies the way, as plain values."""

    def alone(self) -> Way:
        """The way without what may differ between the samples of one batch."""
        return self

    def together(self, ways: Sequence[Way]) -> Way:
        """The way of a batch whose samples have these, all equal when `alone`."""
        return self


@dataclass(frozen=True)
class FromNoise(Way):
    """Plain sampling."""

    def run(self, pipeline: Pipeline, request: SampleRequest) -> Tensor:
        return pipeline.run(request)

    def record(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class SwitchLabel(Way):
    """Sampling under the label of the request for some steps, and under another from there on.

    Args:
        to: class index of the other, or a text.
        after: steps under the first, for each sample.
    """

    to: Asked
    after: tuple[int, ...]

    def run(self, pipeline: Pipeline, request: SampleRequest) -> Tensor:
        count = len(request.seeds)
        denoiser, cond = pipeline.guided(request)
        _, second = pipeline.guided(replace(request, labels=(self.to,) * count))
        if cond is None or second is None:
            raise ValueError("this model was trained without classes, so there is no label to switch to")
        grid = GRIDS[request.grid](denoiser.schedule, request.num_steps)
        points = switch_points(tabulate(denoiser.schedule, grid))
        at = torch.tensor([points[k] for k in self.after], dtype=torch.float64, device=pipeline.device)
        x0 = sample(
            Switched(denoiser, at, second),
            request.sampler,
            grid,
            (count, *pipeline.data.shape),
            cond,
            seeds=list(request.seeds),
            device=pipeline.device,
        )
        return x0.cpu()

    def record(self) -> dict[str, Any]:
        return {"switch_to": self.to, "switch_after": list(self.after)}

    def alone(self) -> Way:
        return replace(self, after=())

    def together(self, ways: Sequence[Way]) -> Way:
        return replace(self, after=tuple(k for way in ways if isinstance(way, SwitchLabel) for k in way.after))


@dataclass(frozen=True)
class FromPicture(Way):
    """A given picture under noise, and sampling from there (SDEdit; `kakusan.inversion.Noising`).

    Args:
        x0: (1, C, *size), in model units.
        identity: of the picture: x0 itself is not compared.
        strength: 0 is the picture, 1 a plain sample.
    """

    x0: Tensor = field(compare=False, repr=False)
    identity: str
    strength: float = 0.5

    def run(self, pipeline: Pipeline, request: SampleRequest) -> Tensor:
        denoiser, cond = pipeline.guided(request)
        levels = tabulate(denoiser.schedule, GRIDS[request.grid](denoiser.schedule, request.num_steps))
        x0 = self.x0.to(pipeline.device).expand(len(request.seeds), *pipeline.data.shape)
        side, start = Side(denoiser, cond), request.num_steps - kept_steps(self.strength, request.num_steps)
        return Noising(request.sampler).edit(side, side, x0, levels, start=start, seeds=request.seeds).cpu()

    def record(self) -> dict[str, Any]:
        return {"image": self.identity, "strength": self.strength}
