from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from kakusan import grids
from kakusan.learned_schedule import LearnedSchedule
from kakusan.levels import blend, tabulate
from kakusan.schedule_tables import Tabulated
from kakusan.schedules import Cosine, Karras, NoiseSchedule, Rectified

GRID = torch.tensor([0.9, 0.5, 0.25, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("schedule", [Cosine(), Rectified(), Karras(), Tabulated.linear(), LearnedSchedule()])
def test_a_table_holds_the_levels_of_its_times(schedule: NoiseSchedule) -> None:
    first = tabulate(schedule, GRID)
    for level, t in zip(first, GRID, strict=True):
        assert (level.t, level.alpha) == (float(t), pytest.approx(float(schedule.alpha(t).detach()), rel=1e-12))
        assert level.sigma == pytest.approx(float(schedule.sigma(t).detach()), rel=1e-12)
    assert tabulate(schedule, GRID.clone()) == first
    assert tabulate(schedule, GRID[:2]) == first[:2]


def test_equal_grids_of_unequal_schedules_are_kept_apart() -> None:
    one, other = (tabulate(Karras(sigma_max=top), GRID) for top in (80.0, 40.0))
    assert other[0].sigma == pytest.approx(0.5 * float(one[0].sigma))
    assert tabulate(Karras(sigma_max=80.0), GRID) == one


class _Path(NoiseSchedule):
    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)


@dataclass
class Changeable(_Path):
    top: float = 1.0

    def sigma(self, t: Tensor) -> Tensor:
        return self.top * t


@dataclass(frozen=True)
class WithoutHash(_Path):
    tops: list[float] = field(default_factory=lambda: [1.0])

    def sigma(self, t: Tensor) -> Tensor:
        return self.tops[0] * t


def test_a_schedule_that_can_change_is_tabulated_anew() -> None:
    schedule, learned, listed = Changeable(), LearnedSchedule(), WithoutHash()
    before = [tabulate(s, GRID)[1] for s in (schedule, learned, listed)]
    schedule.top = 2.0
    learned.high.data += 1.0
    listed.tops[0] = 2.0
    for s, old in zip((schedule, learned, listed), before, strict=True):
        assert tabulate(s, GRID)[1].sigma == pytest.approx(float(s.sigma(GRID[1]).detach()))
        assert tabulate(s, GRID)[1].sigma != old.sigma


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_and_tensors_blend_alike(dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 3, 4, 5, dtype=torch.float64).to(dtype), torch.randn(3, 4, 5, dtype=torch.float64).to(dtype)
    kept = x.clone()
    wide = 0.7 * x.double() - 1.3 * y.double()
    for a in (0.7, torch.full((3, 1, 1), 0.7, dtype=torch.float64)):
        for b in (-1.3, torch.full((3, 1, 1), -1.3, dtype=torch.float64)):
            found = blend(x, a, y.expand_as(x), b)
            assert found.dtype == dtype
            assert torch.allclose(found.double(), wide, rtol=0.0, atol=16.0 * torch.finfo(dtype).eps)
    assert torch.equal(x, kept)


def test_a_grid_of_the_package_is_tabulated_to_its_exact_end() -> None:
    level = tabulate(Cosine(), grids.uniform(Cosine(), 5))[-1]
    assert (level.t, level.alpha, level.sigma, level.log_snr) == (0.0, 1.0, 0.0, float("inf"))
