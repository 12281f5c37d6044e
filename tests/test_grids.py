"""Time grids: ends, direction, spacing, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan import grids
from kakusan.schedule_tables import Tabulated
from kakusan.schedule_wrappers import Shifted, ZeroTerminalSnr
from kakusan.schedules import Cosine, Karras, Rectified, Sigmoid, VarianceExploding, VariancePreserving

SCHEDULES = [
    Cosine(),
    Karras(),
    Rectified(),
    Sigmoid(),
    Tabulated.linear(),
    VarianceExploding(),
    VariancePreserving(),
    Shifted(Cosine(), 3.0),
    ZeroTerminalSnr(VariancePreserving()),
]
every_grid = pytest.mark.parametrize("grid", grids.GRIDS.values(), ids=grids.GRIDS)


def noise(schedule, t):
    """sigma / alpha."""
    return schedule.sigma(t) / schedule.alpha(t)


@every_grid
@given(num_steps=st.integers(1, 60), schedule=st.sampled_from(SCHEDULES))
def test_a_grid_falls_from_noise_to_data(grid, num_steps, schedule):
    points = grid(schedule, num_steps)
    assert points.shape == (num_steps + 1,)
    assert points.dtype == torch.float64
    assert bool((points.diff() < 0.0).all())
    assert float(points[-1]) == 0.0
    assert float(points[0]) <= schedule.t_max
    # Every entry but the last is evaluated, so it must lie where networks are.
    assert float(points[:-1].min()) >= schedule.t_min * (1.0 - 1e-9)


@every_grid
@given(
    num_steps=st.integers(1, 60),
    schedule=st.sampled_from(SCHEDULES),
    ends=st.lists(st.floats(0.05, 0.95), min_size=2, max_size=2).filter(lambda e: abs(e[0] - e[1]) > 1e-3),
)
def test_a_grid_between_any_two_times_keeps_them_exactly(grid, num_steps, schedule, ends):
    # Falling to sample, rising to invert.
    if grid is grids.discrete and abs(ends[0] - ends[1]) * 1000 < num_steps:
        with pytest.raises(ValueError, match="of them there"):
            grid(schedule, num_steps, start=ends[0], end=ends[1])
        return
    points = grid(schedule, num_steps, start=ends[0], end=ends[1])
    assert len(points) == num_steps + 1
    assert points[0] == ends[0]
    assert points[-1] == ends[1]
    steps = points.diff()
    assert bool((steps < 0.0).all()) if ends[1] < ends[0] else bool((steps > 0.0).all())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_spacing(schedule):
    span = dict(start=0.9, end=0.1)

    def even(values):
        steps = values.diff()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-6, atol=1e-9)

    even(grids.uniform(schedule, 12, **span))
    even(grids.quadratic(schedule, 12, **span).sqrt())
    even(schedule.log_snr(grids.log_snr(schedule, 12, **span)))
    even(noise(schedule, grids.karras(schedule, 12, rho=5.0, **span)) ** (1.0 / 5.0))


def test_karras_is_the_published_grid_on_its_own_schedule():
    # Karras et al. 2022, eq. 5 with their defaults, read off the schedule sigma(t).
    n, rho, low, high = 18, 7.0, 0.002, 80.0
    wanted = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)] + [
        0.0
    ]
    for schedule in (Karras(), VarianceExploding(sigma_min=0.002, sigma_max=80.0)):
        found = schedule.sigma(grids.karras(schedule, n)).tolist()
        assert found == pytest.approx(wanted, rel=1e-5)


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=9, unique=True), st.booleans())
def test_an_explicit_grid_is_kept(times, rising):
    times = sorted(times, reverse=not rising)
    assert grids.explicit(times).tolist() == times


@pytest.mark.parametrize(
    "times,message",
    [
        ([0.5], "at least two"),
        ([[0.5, 0.1]], "1-D"),
        ([1.2, 0.1], r"lie in \[0, 1\]"),
        ([0.5, math.nan], r"lie in \[0, 1\]"),
        ([0.5, 0.5], "strictly"),
        ([0.9, 0.1, 0.5], "strictly"),
        ([0.0, 0.5], "start a rising grid from schedule.t_min"),
    ],
)
def test_explicit_grids_that_cannot_work_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        grids.explicit(times)


@every_grid
@pytest.mark.parametrize(
    "num_steps,ends,message",
    [
        (0, {}, "at least 1"),
        (5, dict(start=1.5), "must lie in"),
        (5, dict(end=-0.1), "must lie in"),
        (5, dict(start=0.4, end=0.4), "starts where it ends"),
        (5, dict(start=0.0, end=0.4), "says nothing at t = 0"),
    ],
)
def test_impossible_grids_are_refused(grid, num_steps, ends, message):
    with pytest.raises(ValueError, match=message):
        grid(Cosine(), num_steps, **ends)


def test_karras_refuses_a_negative_rho():
    with pytest.raises(ValueError, match="rho must be positive"):
        grids.karras(Cosine(), 5, rho=-1.0)


@pytest.mark.parametrize("num_steps", [1, 7, 250, 999])
def test_discrete_grids_are_sub_sequences_of_the_chain(num_steps):
    schedule = Tabulated.linear()
    grid = grids.discrete(schedule, num_steps)
    index = grid * 1000
    torch.testing.assert_close(index, index.round(), rtol=0.0, atol=1e-9)
    assert len(grid) == num_steps + 1
    assert bool((grid.diff() < 0.0).all())
    assert (float(grid[0]), float(grid[-1])) == (1.0, 0.0)
    # As even as whole numbers allow: no gap differs from the mean by a whole step.
    assert float((-index.diff() - 1000 / num_steps).abs().max()) < 1.0 + 1e-9


def test_a_chain_is_not_longer_than_it_is():
    with pytest.raises(ValueError, match="1000 of them there, 1001"):
        grids.discrete(Tabulated.linear(), 1001)
    assert len(grids.discrete(Tabulated.linear(), 1000)) == 1001


def test_any_sub_sequence_and_no_nonsense():
    assert grids.subsequence([7, 1000, 40]).tolist() == [1.0, 0.04, 0.007, 0.0]
    for bad in ([], [0], [3, 3], [1001]):
        with pytest.raises(ValueError, match="different whole numbers"):
            grids.subsequence(bad)
