"""Switching conditions on the way: the ends are plain samples, and every sample may switch at its own time."""

import pytest
import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.grids import karras
from kakusan.guidance import ClassifierFree
from kakusan.guidance.switch import Switched, switch_points
from kakusan.levels import Level, tabulate
from kakusan.oracles import GaussianMixture
from kakusan.samplers import DDIM, DDPM, DPMSolverPP, Sampler, sample
from kakusan.schedules import Cosine

MODEL = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).view(2, 1, 2), 0.3, schedule=Cosine())
FIRST = Condition(vector=torch.tensor([[0.0, -40.0]]))
SECOND = Condition(vector=torch.tensor([[-40.0, 0.0]]))
GRID = karras(Cosine(), 8)


def drawn(denoiser: object, cond: Condition, sampler: Sampler, count: int = 1) -> Tensor:
    return sample(denoiser, sampler, GRID, (count, 1, 2), cond, seeds=[5] * count)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolverPP(order=2), DDPM()], ids=lambda s: type(s).__name__)
def test_the_ends_are_the_plain_samples(sampler: Sampler) -> None:
    points = switch_points(tabulate(Cosine(), GRID))
    assert len(points) == len(GRID)
    assert torch.equal(drawn(Switched(MODEL, points[0], SECOND), FIRST, sampler), drawn(MODEL, SECOND, sampler))
    assert torch.equal(drawn(Switched(MODEL, points[-1], SECOND), FIRST, sampler), drawn(MODEL, FIRST, sampler))


def test_each_sample_may_switch_at_its_own_time() -> None:
    points = switch_points(tabulate(Cosine(), GRID))
    together = drawn(Switched(MODEL, torch.tensor(points, dtype=torch.float64), SECOND), FIRST, DDIM(), len(points))
    for point, row in zip(points, together, strict=True):
        alone = drawn(Switched(MODEL, point, SECOND), FIRST, DDIM())
        assert torch.allclose(alone[0], row, atol=1e-6)
    # The later the switch, the more of the first component is left.
    assert float(together[0, 0, 0]) > 0.5
    assert float(together[-1, 0, 0]) < -0.5


def test_the_condition_is_the_first_below_the_switch_and_the_second_from_there() -> None:
    seen: list[Condition | None] = []

    class Watched(GaussianMixture):
        def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
            seen.append(cond)
            return super().output(x_t, level, cond)

    model = Watched(MODEL.means, MODEL.variance.sqrt(), schedule=Cosine())
    points = switch_points(tabulate(Cosine(), GRID))
    drawn(Switched(model, points[3], SECOND), FIRST, DDIM())
    kinds = [torch.equal(cond.vector, SECOND.vector) for cond in seen if cond is not None and cond.vector is not None]  # type: ignore[arg-type]
    assert kinds == [False] * 3 + [True] * 5


def test_guidance_goes_with_it() -> None:
    null = Condition(vector=torch.zeros(1, 2))
    guided = ClassifierFree(scale=2.0)(MODEL, null)
    switched = Switched(guided, -torch.inf, SECOND)
    assert torch.equal(drawn(switched, FIRST, DDIM()), drawn(guided, SECOND, DDIM()))


def test_samples_at_different_levels_switch_by_their_own() -> None:
    x = torch.zeros(2, 1, 2)
    level = Level.of(Cosine(), torch.tensor([0.9, 0.1]), x)
    found = Switched(MODEL, 0.0, SECOND)(x, level, FIRST).x0
    assert torch.allclose(found[0], MODEL(x, level, FIRST).x0[0])
    assert torch.allclose(found[1], MODEL(x, level, SECOND).x0[1])


def test_a_switch_needs_a_condition_to_start_from() -> None:
    with pytest.raises(ValueError, match="starts from a condition"):
        Switched(MODEL, 0.0, SECOND)(torch.zeros(1, 1, 2), 0.5, None)
