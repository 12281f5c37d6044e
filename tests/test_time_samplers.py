"""Densities of t: they integrate to one, their quantiles match, and stratified times cover evenly."""

from dataclasses import dataclass

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan import specs
from kakusan.schedule_tables import Tabulated
from kakusan.schedules import Cosine, Karras, NoiseSchedule, Rectified, VarianceExploding, VariancePreserving
from kakusan.time_samplers import (
    Antithetic,
    Discrete,
    LogitNormal,
    LogNormalSigma,
    Stratified,
    TimeSampler,
    Uniform,
    UniformLogSnr,
)

SCHEDULES = [Cosine(), Karras(), Rectified(), VarianceExploding(), VariancePreserving()]
SAMPLERS = [
    Uniform(),
    LogitNormal(),
    LogitNormal(mean=0.8, std=0.5),
    LogNormalSigma(),
    LogNormalSigma(mean=0.5, std=2.0),
    Stratified(),
    Stratified(LogNormalSigma()),
    UniformLogSnr(),
    Antithetic(group=16),
    Antithetic(UniformLogSnr()),
]
pairs = [
    pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__),
    pytest.mark.parametrize("sampler", SAMPLERS, ids=str),
]


def over(marks):
    def apply(function):
        for mark in marks:
            function = mark(function)
        return function

    return apply


def fine(schedule):
    """Times from t_min to t_max, dense at both ends and in log-SNR."""
    x = torch.linspace(-1.0, 1.0, 200_001, dtype=torch.float64)
    place = 0.5 * (1.0 + (1.5707963267948966 * x).sin())
    ends = schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).tolist()
    even = schedule.time(torch.linspace(*ends, 20_001, dtype=torch.float64)).clamp(schedule.t_min, schedule.t_max)
    return torch.cat([schedule.t_min + (schedule.t_max - schedule.t_min) * place, even]).unique()


@over(pairs)
def test_the_density_integrates_to_one_and_the_quantile_inverts_it(schedule, sampler):
    t = fine(schedule)[1:-1]
    density = sampler.density(schedule, t)
    assert bool((density >= 0.0).all())
    total = torch.cumulative_trapezoid(density, t)
    assert float(total[-1]) == pytest.approx(1.0, abs=2e-4)
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    quantiles = sampler.quantile(schedule, u)
    assert bool((quantiles.diff() > 0.0).all())
    index = torch.searchsorted(t, quantiles).clamp(1, len(t) - 1)
    torch.testing.assert_close(total[index - 1], u, rtol=0.0, atol=1e-3)


@over(pairs)
def test_draws_have_the_density_and_stay_inside(schedule, sampler):
    t = sampler.draw(schedule, 5, torch.arange(4000))
    assert t.shape == (4000,)
    assert t.dtype == torch.float64
    assert schedule.t_min <= float(t.min())
    assert float(t.max()) <= schedule.t_max
    # Pulled back through the quantile the times are uniform (a fresh seed would fail with a chance of 1e-6).
    u = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    grid = sampler.quantile(schedule, u)
    assert scipy.stats.kstest(torch.searchsorted(grid, t).double().numpy() / 1000.0, "uniform").pvalue > 1e-6


@over(pairs)
def test_a_time_depends_on_the_sample_s_own_number_only(schedule, sampler):
    numbers = torch.tensor([17, 3, 2**40, 4])
    together = sampler.draw(schedule, 9, numbers)
    for i in range(4):
        assert float(sampler.draw(schedule, 9, numbers[i : i + 1])) == float(together[i])
    assert bool((together != sampler.draw(schedule, 10, numbers)).all())


@given(start=st.integers(0, 2**45), count=st.integers(1, 3000), seed=st.integers(0, 2**40))
def test_stratified_times_cover_any_window_evenly(start, count, seed):
    schedule = Rectified()
    t = Stratified().draw(schedule, seed, start + torch.arange(count))
    u = ((t - schedule.t_min) / (schedule.t_max - schedule.t_min)).sort().values
    # The golden rotation's discrepancy falls as log(n) / n; that of independent draws as 1 / sqrt(n).
    rank = torch.arange(1, count + 1, dtype=torch.float64) / count
    discrepancy = float(torch.maximum((rank - u).abs(), (u - rank + 1.0 / count).abs()).max())
    assert discrepancy <= (3.0 + torch.tensor(float(count)).log().item()) / count
    # Three-gap theorem for the golden ratio: neighbours are never much more than 1 / n apart.
    if count > 1:
        assert float(u.diff().max()) * count < 2.7


def test_independent_times_do_not():
    t = Uniform().draw(Rectified(), 1, torch.arange(3000)).sort().values
    assert float(t.diff().max()) * 3000 > 4.0


@given(group=st.integers(1, 300), place=st.integers(0, 2**30), seed=st.integers(0, 2**40))
def test_antithetic_times_are_evenly_spaced_within_a_group(group, place, seed):
    t = Antithetic(group=group).draw(Rectified(), seed, place * group + torch.arange(group)).sort().values
    width = Rectified().t_max - Rectified().t_min
    torch.testing.assert_close(
        t.diff(), torch.full((group - 1,), width / group, dtype=torch.float64), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_uniform_log_snr_is_uniform_in_log_snr(schedule):
    t = UniformLogSnr().quantile(schedule, torch.linspace(0.0, 1.0, 11, dtype=torch.float64))
    gaps = schedule.log_snr(t).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(10), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_discrete_times_are_those_of_the_chain_each_as_often(steps):
    schedule = Tabulated.linear(1000)
    per = 20
    u = (torch.arange(steps * per, dtype=torch.float64) + 0.5) / (steps * per)
    t = Discrete(steps).quantile(schedule, u)
    index, count = (t * steps).round().unique(return_counts=True)
    torch.testing.assert_close(index, torch.arange(1, steps + 1, dtype=torch.float64))
    assert bool((count == per).all())
    torch.testing.assert_close(t * steps, (t * steps).round(), rtol=0.0, atol=1e-9)


def test_a_chain_with_no_step_where_networks_are_evaluated_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        Discrete(0)
    # Cosine's last step stands where no signal is left, so a chain of one step has nothing to evaluate.
    with pytest.raises(ValueError, match="Cosine"):
        Discrete(1).draw(Cosine(), 0, torch.arange(3))


@pytest.mark.parametrize("sampler", [*SAMPLERS, Discrete(50)], ids=str)
def test_stored_and_built_again(sampler):
    assert specs.from_spec(specs.to_spec(sampler), TimeSampler) == sampler


@dataclass
class Changeable(NoiseSchedule):
    """A rectified path of any noise, which has no hash and may change."""

    top: float = 1.0

    def alpha(self, t):
        return 1.0 - t

    def sigma(self, t):
        return self.top * t

    def time(self, log_snr):
        u = torch.exp(-0.5 * log_snr)
        return u / (self.top + u)


def test_a_schedule_that_can_change_is_asked_anew():
    sampler, schedule, u = LogNormalSigma(), Changeable(), torch.tensor([0.001, 0.3, 0.9], dtype=torch.float64)
    before = sampler.quantile(schedule, u)
    schedule.top = 5.0
    fresh = sampler.quantile(Changeable(5.0), u)
    assert torch.equal(sampler.quantile(schedule, u), fresh)
    assert not torch.equal(before, fresh)
