"""A rival of two numbers, for tests of what surrounds rivals; registered under the kind "toy" by a fixture."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kakusan.noise import Stream, normal
from kakusan.objectives import LossTerms
from kakusan.rivals.base import LikelihoodKind, Rival, class_proportions
from kakusan.specs import register
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import Group


@register
class ToyRival(Rival):
    """Normal pixels; two groups, as a GAN has. From `bad_after` on its loss is NaN."""

    kind: ClassVar[str] = "toy"
    likelihood_kind: ClassVar[LikelihoodKind] = "bound"

    def __init__(self, *, spec: Any, proportions: Any = (), bad_after: float = math.inf) -> None:
        super().__init__(spec=spec, proportions=proportions)
        self.mean, self.log_std = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.bad_after = bad_after
        self.started = False

    @classmethod
    def for_data(cls, pictures: Any, **options: Any) -> "ToyRival":
        return cls(spec=pictures.spec, proportions=class_proportions(pictures), **options)

    def start(self, batch: Any) -> None:
        self.started = True

    def groups(self, *, seed: int, settings: Any = None) -> list[Group]:
        chosen = settings or OptimSettings(rate=0.01, warmup=2)

        def loss(batch: Any) -> LossTerms:
            assert self.started
            each = self._nats(batch.x0)
            each = each.masked_fill(batch.numbers >= self.bad_after, math.nan)
            return LossTerms(each, each.detach(), each.detach())

        return [Group([self.mean], loss, chosen), Group([self.log_std], loss, chosen)]

    def _nats(self, x: Tensor) -> Tensor:
        error = (x - self.mean) * (-self.log_std).exp()
        return (0.5 * error.square() + self.log_std).flatten(1).mean(1)

    def _log_prob(self, stored: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        return -self._nats(self.spec.to_model(stored)) * stored[0].numel()

    def _sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        return self.mean + self.log_std.exp() * normal(seeds, Stream.START, shape=self.spec.shape)
