"""Models that the tests of the codec share: an oracle with known entropy, and tiny networks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.building import build_model
from kakusan.choices import build_objective
from kakusan.conditioning import Condition
from kakusan.config import ModelSettings, ObjectiveSettings
from kakusan.data.spec import DataSpec
from kakusan.levels import Level
from kakusan.model_folder import Model, ModelFacts
from kakusan.oracles import GaussianMixture
from kakusan.pipeline import Pipeline
from kakusan.schedules import Cosine, NoiseSchedule


class Pixels(GaussianMixture):
    """The exact denoiser of pictures whose values are drawn one by one with known probabilities."""

    def __init__(self, probabilities: Sequence[float], schedule: NoiseSchedule) -> None:
        values = torch.linspace(-1.0, 1.0, len(probabilities)).view(-1, 1)
        super().__init__(values, 0.0, torch.tensor(probabilities), schedule=schedule)
        self.unused = nn.Parameter(torch.zeros(()))  # a pipeline asks its parameters where it is

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        return super().output(x_t.reshape(-1, 1), level, None).view(x_t.shape)


def spec(shape: Sequence[int], low: int, high: int, classes: tuple[str, ...] = ()) -> DataSpec:
    channels = shape[0]
    return DataSpec(
        channels=channels,
        size=tuple(shape[1:]),
        mean=(0.0,) * channels,
        std=(0.5,) * channels,
        mode="",
        low=low,
        high=high,
        classes=classes,
    )


def oracle(
    probabilities: Sequence[float], shape: Sequence[int], *, low: int = 0, schedule: NoiseSchedule | None = None
) -> Pipeline:
    data = spec(shape, low, low + len(probabilities) - 1)
    model: Any = Model(Pixels(probabilities, schedule or Cosine()))  # type: ignore[arg-type]
    return Pipeline(model, ModelFacts(data, build_objective(ObjectiveSettings(), data)), weights="raw")


def network(
    shape: Sequence[int] = (1, 8, 8), *, high: int = 16, classes: tuple[str, ...] = (), seed: int = 3, **settings: Any
) -> Pipeline:
    """A tiny network with shaken weights, which predicts nonsense."""
    torch.manual_seed(seed)
    data = spec(shape, 0, high, classes)
    model = build_model(ModelSettings(width=8, depth=1, multipliers=(1, 2), **settings), data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Pipeline(model, ModelFacts(data, build_objective(ObjectiveSettings(), data)), weights="raw")


def draw(count: int, shape: Sequence[int], probabilities: Sequence[float], *, low: int = 0, seed: int = 0) -> Tensor:
    """(count, *shape) uint8 of the oracle's distribution."""
    generator = torch.Generator().manual_seed(seed)
    size = count * int(torch.tensor(shape).prod())
    weights = torch.tensor(probabilities, dtype=torch.float64)
    drawn = torch.multinomial(weights, size, replacement=True, generator=generator)
    return (drawn + low).to(torch.uint8).view(count, *shape)
