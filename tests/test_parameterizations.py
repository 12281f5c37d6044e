"""Law 1: rows invert, and pairs that say nothing are refused with the reason."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan import specs
from kakusan.denoiser import Denoiser
from kakusan.parameterizations import X0, Edm, Eps, Parameterization, Score, V, Velocity
from kakusan.schedule_tables import Tabulated
from kakusan.schedule_wrappers import Shifted, ZeroTerminalSnr
from kakusan.schedules import (
    Cosine,
    Karras,
    Rectified,
    Sigmoid,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)

ROWS = [X0(), Eps(), V(), Velocity(), Score(), Edm(), Edm(sigma_data=1.7)]
SCHEDULES = [
    Cosine(),
    Karras(),
    Rectified(),
    Sigmoid(),
    SubVariancePreserving(),
    Tabulated.linear(100),
    VarianceExploding(),
    VariancePreserving(),
    Shifted(Rectified(), 2.0),
    ZeroTerminalSnr(VariancePreserving()),
]
names = dict(ids=lambda value: type(value).__name__)
rows = pytest.mark.parametrize("row", ROWS, **names)
schedules = pytest.mark.parametrize("schedule", SCHEDULES, **names)


class Known(torch.nn.Module):
    """A backbone that gives the exact F = a x0 + b eps of a known pair, so every reading of it must find that pair."""

    def __init__(self, row, schedule, x0, eps, t):
        super().__init__()
        a, b = row.row(schedule, t)
        wide = (-1, *[1] * (x0.dim() - 1))
        self.answer = a.view(wide) * x0 + b.view(wide) * eps

    def forward(self, x, c_noise, cond):
        return self.answer


@rows
@schedules
@settings(max_examples=6)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 3), place=st.floats(0.02, 0.98))
def test_rows_invert(row, schedule, seed, rank, place):
    if isinstance(schedule, ZeroTerminalSnr) and isinstance(row, (Eps, Score)):
        return
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 2, *[3] * rank)
    x0, eps = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    t = schedule.t_min + (schedule.t_max - schedule.t_min) * torch.tensor(
        [place, 0.5, 1.0 - place], dtype=torch.float64
    )
    # Where the log-SNR is finite but beyond 12, digits are lost in x_t itself, not in the row.
    t = t.clamp(*sorted(schedule.time(torch.tensor([12.0, -12.0], dtype=torch.float64)).tolist()))
    wide = (-1, *[1] * (rank + 1))
    x_t = schedule.alpha(t).view(wide) * x0 + schedule.sigma(t).view(wide) * eps
    prediction = Denoiser(Known(row, schedule, x0, eps, t), schedule, row)(x_t, t)
    torch.testing.assert_close(prediction.x0, x0, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(prediction.eps, eps, rtol=1e-7, atol=1e-7)
    # The same facts in the three derived forms.
    torch.testing.assert_close(prediction.score * schedule.sigma(t).view(wide), -eps, rtol=1e-7, atol=1e-7)
    v = schedule.alpha(t).view(wide) * eps - schedule.sigma(t).view(wide) * x0
    torch.testing.assert_close(prediction.v, v, rtol=1e-7, atol=1e-7 * float(schedule.sigma(t).max()) + 1e-7)


@schedules
def test_the_velocity_is_the_speed_along_the_path(schedule):
    t, h = torch.linspace(0.213, 0.783, 5, dtype=torch.float64), 1e-6
    x0, eps = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def path(time):
        return schedule.alpha(time).view(-1, 1) * x0 + schedule.sigma(time).view(-1, 1) * eps

    prediction = Denoiser(Known(X0(), schedule, x0, eps, t), schedule, X0())(path(t), t)
    difference = (path(t + h) - path(t - h)) / (2.0 * h)
    torch.testing.assert_close(prediction.velocity, difference, rtol=1e-4, atol=1e-6)


@rows
@schedules
def test_row_has_the_shape_of_t(row, schedule):
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for part, one in zip(row.row(schedule, t), row.row(schedule, t[1]), strict=True):
        assert part.shape == (2,)
        assert one.shape == ()
        torch.testing.assert_close(one, part[1])


@given(st.floats(0.05, 0.95), st.floats(0.2, 3.0), st.sampled_from(SCHEDULES))
def test_edm_gives_unit_variance_targets(t, sigma_data, schedule):
    # EDM's two demands: for data of variance sigma_data^2 the target has variance 1, and covariance 0 with x_t.
    t = torch.tensor(t, dtype=torch.float64)
    a, b = Edm(sigma_data).row(schedule, t)
    assert float(a**2 * sigma_data**2 + b**2) == pytest.approx(1.0)
    covariance = schedule.alpha(t) * a * sigma_data**2 + schedule.sigma(t) * b
    assert float(covariance) == pytest.approx(0.0, abs=1e-12 * float(1.0 + schedule.sigma(t)))


@pytest.mark.parametrize("row", [Eps(), Score()], **names)
def test_eps_where_no_signal_is_left_is_refused_with_the_reason(row):
    with pytest.raises(ValueError, match=r"no signal is left .*alpha = 0.*use V"):
        Denoiser(torch.nn.Identity(), ZeroTerminalSnr(VariancePreserving()), row)


@rows
def test_the_other_rows_work_where_no_signal_is_left(row):
    schedule = ZeroTerminalSnr(VariancePreserving())
    if not isinstance(row, (Eps, Score)):
        row.check(schedule)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if not isinstance(s, ZeroTerminalSnr)], **names)
@rows
def test_every_other_pair_is_possible(row, schedule):
    row.check(schedule)


@pytest.mark.parametrize("row", [X0(), V(), Velocity(), Edm(), Eps(), Score()], **names)
@schedules
def test_evaluation_at_data_gives_the_truth_or_is_refused(row, schedule):
    # At t = 0, x0 = x_t is known. A row with det = 0 (or infinite) there says nothing and must say so.
    if isinstance(schedule, ZeroTerminalSnr) and isinstance(row, (Eps, Score)):
        return
    x = torch.randn(2, 3, dtype=torch.float64)

    class Constant(torch.nn.Module):
        def forward(self, x, c_noise, cond):
            return torch.ones_like(x)

    denoiser = Denoiser(Constant(), schedule, row)
    at = torch.tensor(0.0, dtype=torch.float64)
    determinant = float(row.determinant(schedule, at))
    if determinant != 0.0 and abs(determinant) < float("inf"):
        torch.testing.assert_close(denoiser(x, 0.0).x0, x)
    else:
        with pytest.raises(ValueError, match="undefined at t = 0"):
            denoiser(x, 0.0)
        with pytest.raises(ValueError, match="undefined at t = 0"):
            denoiser(x, torch.tensor([0.5, 0.0]))


def test_x0_prediction_at_data_is_refused():
    with pytest.raises(ValueError, match="there is no noise"):
        Denoiser(torch.nn.Identity(), Cosine(), X0())(torch.zeros(1, 2), 0.0)


def test_a_new_prediction_type_is_one_row():
    class Difference(Parameterization):
        """eps - x0: the straight path's velocity on any schedule."""

        def row(self, schedule, t):
            return -torch.ones_like(t), torch.ones_like(t)

    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    x0, eps = torch.randn(2, 2, 4, dtype=torch.float64)
    schedule = Cosine()
    x_t = schedule.alpha(t).view(-1, 1) * x0 + schedule.sigma(t).view(-1, 1) * eps
    torch.testing.assert_close(
        Denoiser(Known(Difference(), schedule, x0, eps, t), schedule, Difference())(x_t, t).x0, x0
    )


@rows
def test_stored_and_built_again(row):
    assert specs.from_spec(specs.to_spec(row), Parameterization) == row


def test_edm_refuses_a_nonsense_scale():
    with pytest.raises(ValueError, match="positive"):
        Edm(sigma_data=0.0)
