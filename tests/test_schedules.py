"""Schedules: their ends, their inverse, their derivatives, and the closed forms of the literature."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan import specs
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
    expand,
)

SCHEDULES = [
    Cosine(),
    Karras(),
    Rectified(),
    Sigmoid(),
    Sigmoid(start=0.0, end=3.0, tau=0.7),
    SubVariancePreserving(),
    Tabulated.linear(),
    Tabulated.scaled_linear(200),
    Tabulated.squared_cosine(50),
    VarianceExploding(),
    VariancePreserving(),
    VariancePreserving(beta_min=3.0, beta_max=3.0),
    Shifted(Cosine(), 2.0),
    Shifted(Rectified(), 3.0),
    ZeroTerminalSnr(VariancePreserving()),
    ZeroTerminalSnr(Tabulated.linear()),
]
FUNCTIONS = ["alpha", "sigma", "log_snr", "alpha_prime", "sigma_prime", "log_snr_prime"]
each = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: str(specs.to_spec(s))[:60])


def fp64(value: object) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def inside(schedule, count: int = 401) -> torch.Tensor:
    return torch.linspace(schedule.t_min, schedule.t_max, count, dtype=torch.float64)


@each
def test_starts_at_data(schedule):
    zero = fp64(0.0)
    assert float(schedule.alpha(zero)) == pytest.approx(1.0, abs=1e-15)
    assert float(schedule.sigma(zero)) == 0.0
    assert float(schedule.log_snr(zero)) == math.inf
    assert float(schedule.time(fp64(math.inf))) == pytest.approx(0.0, abs=1e-12)


@each
def test_log_snr_is_that_of_the_scales_and_falls(schedule):
    t = inside(schedule)
    log_snr = schedule.log_snr(t)
    assert bool((log_snr.diff() < 0.0).all())
    t = t[:-1]  # at a zero-terminal end both are -infinity
    ratio = 2.0 * (schedule.alpha(t).log() - schedule.sigma(t).log())
    torch.testing.assert_close(log_snr[:-1], ratio, rtol=1e-9, atol=1e-9)


@each
def test_bounds_keep_log_snr_within_twenty(schedule):
    assert 0.0 < schedule.t_min < schedule.t_max <= 1.0
    assert float(schedule.log_snr(fp64(schedule.t_min))) <= 20.0 + 1e-6
    if not isinstance(schedule, ZeroTerminalSnr):
        assert float(schedule.log_snr(fp64(schedule.t_max))) >= -20.0 - 1e-6


@each
def test_time_inverts_log_snr_both_ways(schedule):
    t = inside(schedule)[1:-1]
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-7, atol=1e-10)
    low, high = (float(schedule.log_snr(fp64(end))) for end in (schedule.t_max, schedule.t_min))
    log_snr = torch.linspace(max(low, -18.0), min(high, 18.0), 101, dtype=torch.float64)[1:-1]
    torch.testing.assert_close(schedule.log_snr(schedule.time(log_snr)), log_snr, rtol=0.0, atol=1e-6)


@each
@pytest.mark.parametrize("name", ["alpha", "sigma", "log_snr"])
def test_derivatives_agree_with_central_differences(schedule, name):
    # Between the knots of a table, where the rate jumps.
    steps = len(schedule.betas) if isinstance(schedule, Tabulated) else 1000
    t = (torch.linspace(0.05, 0.95, 19, dtype=torch.float64) * steps).floor() / steps + 0.4 / steps
    h = 1e-5
    function = getattr(schedule, name)
    difference = (function(t + h) - function(t - h)) / (2.0 * h)
    torch.testing.assert_close(getattr(schedule, name + "_prime")(t), difference, rtol=1e-5, atol=1e-7)


@each
@pytest.mark.parametrize("name", ["alpha", "sigma", "log_snr"])
def test_derivatives_agree_with_autograd(schedule, name):
    t = fp64([0.2104, 0.6104]).requires_grad_(True)
    value = getattr(schedule, name)(t)
    expected = torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(t)
    torch.testing.assert_close(getattr(schedule, name + "_prime")(t.detach()), expected, rtol=1e-10, atol=1e-12)


@each
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept(schedule, name, dtype):
    function = getattr(schedule, name)
    several = torch.tensor([0.2, 0.5, 0.7], dtype=dtype)
    values = function(several)
    assert values.shape == (3,)
    assert values.dtype == dtype
    one = function(several[1])
    assert one.shape == ()
    assert one.dtype == dtype
    torch.testing.assert_close(one, values[1])


@each
def test_single_precision_agrees_with_double(schedule):
    t = inside(schedule, 41)[1:-1]
    for name in ("alpha", "sigma"):
        wide, narrow = getattr(schedule, name)(t), getattr(schedule, name)(t.float())
        torch.testing.assert_close(narrow.double(), wide, rtol=2e-4, atol=2e-6)


@each
def test_stored_and_built_again(schedule):
    again = specs.from_spec(specs.to_spec(schedule), type(schedule))
    assert again == schedule
    t = inside(schedule, 11)
    assert torch.equal(again.sigma(t), schedule.sigma(t))


@pytest.mark.parametrize(
    "schedule",
    [s for s in SCHEDULES if isinstance(s, (VariancePreserving, Cosine, Sigmoid, Tabulated, ZeroTerminalSnr))],
    ids=lambda s: str(specs.to_spec(s))[:60],
)
def test_variance_preserving(schedule):
    t = inside(schedule)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("beta_min,beta_max", [(0.1, 20.0), (0.5, 7.0)])
def test_rate_schedules_solve_their_equations(beta_min, beta_max):
    # d log alpha / dt = -beta / 2, by the midpoint rule on a fine grid, not by closed forms.
    t = torch.linspace(0.0, 1.0, 100_001, dtype=torch.float64)
    beta = beta_min + (beta_max - beta_min) * 0.5 * (t[1:] + t[:-1])
    integral = torch.cat([t.new_zeros(1), (beta * t.diff()).cumsum(0)])
    alpha = (-0.5 * integral).exp()
    for schedule in (VariancePreserving(beta_min, beta_max), SubVariancePreserving(beta_min, beta_max)):
        torch.testing.assert_close(schedule.alpha(t), alpha, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        VariancePreserving(beta_min, beta_max).sigma(t), (1.0 - alpha**2).sqrt(), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        SubVariancePreserving(beta_min, beta_max).sigma(t), 1.0 - alpha**2, rtol=1e-8, atol=1e-10
    )


def test_variance_exploding_adds_the_noise_of_its_sde():
    # d sigma^2 / dt = g^2 with g = sigma_min (sigma_max / sigma_min)^t sqrt(2 log(sigma_max / sigma_min)).
    schedule = VarianceExploding(0.02, 30.0)
    t = torch.linspace(0.0, 1.0, 200_001, dtype=torch.float64)
    middle = 0.5 * (t[1:] + t[:-1])
    g = 0.02 * (30.0 / 0.02) ** middle * math.sqrt(2.0 * math.log(30.0 / 0.02))
    variance = torch.cat([t.new_zeros(1), (g**2 * t.diff()).cumsum(0)])
    torch.testing.assert_close(schedule.sigma(t) ** 2, variance, rtol=1e-7, atol=1e-12)


@given(st.lists(st.floats(1e-5, 0.9), min_size=1, max_size=40))
def test_a_table_gives_its_cumulative_products_at_the_steps(betas):
    schedule = Tabulated.from_betas(betas)
    steps = len(betas)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    product = (1.0 - fp64(betas)).cumprod(0)
    torch.testing.assert_close(schedule.alpha(t) ** 2, product, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(schedule.sigma(t) ** 2, 1.0 - product, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("steps", [1000, 250, 4000])
def test_tables_of_the_literature(steps):
    # At 1000 steps the products end at 4.04e-5 and 4.66e-3; other lengths keep the total noise nearly.
    ends = {"linear": -10.12, "scaled_linear": -5.36}
    for name, log_snr in ends.items():
        assert float(getattr(Tabulated, name)(steps).log_snr(fp64(1.0))) == pytest.approx(
            log_snr, abs=0.02 if steps == 1000 else 0.35
        )
    table = Tabulated.squared_cosine(steps)
    for t in (0.2, 0.48, 0.8):
        f = math.cos(0.5 * math.pi * (t + 0.008) / 1.008) ** 2 / math.cos(0.5 * math.pi * 0.008 / 1.008) ** 2
        assert float(table.alpha(fp64(t))) ** 2 == pytest.approx(f, rel=1e-6)


def test_no_signal_is_left_at_the_end_of_a_zero_terminal_schedule():
    for inner in (VariancePreserving(), Tabulated.linear(), Sigmoid(start=-1.0, end=1.0)):
        schedule = ZeroTerminalSnr(inner)
        assert float(schedule.alpha(fp64(1.0))) == 0.0
        assert float(schedule.sigma(fp64(1.0))) == pytest.approx(1.0, abs=1e-14)
        assert schedule.t_max == 1.0
    with pytest.raises(ValueError, match="variance preserving"):
        ZeroTerminalSnr(Rectified())


@given(st.floats(0.2, 5.0), st.sampled_from([Cosine(), Rectified(), VariancePreserving(), Karras()]))
def test_a_shift_moves_log_snr_and_nothing_else(shift, inner):
    schedule = Shifted(inner, shift)
    t = torch.linspace(0.05, 0.95, 13, dtype=torch.float64)
    torch.testing.assert_close(schedule.log_snr(t), inner.log_snr(t) - 2.0 * math.log(shift), rtol=1e-9, atol=1e-9)
    # The same path: at equal log-SNR the scales are the inner ones.
    same = inner.time(schedule.log_snr(t))
    torch.testing.assert_close(schedule.alpha(t), inner.alpha(same), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(schedule.sigma(t), inner.sigma(same), rtol=1e-8, atol=1e-10)


def test_the_shift_of_the_rectified_path_is_the_published_one():
    t = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    torch.testing.assert_close(Shifted(Rectified(), 3.0).sigma(t), 3.0 * t / (1.0 + 2.0 * t))


@pytest.mark.parametrize(
    "make",
    [
        lambda: VariancePreserving(0.0, 20.0),
        lambda: VariancePreserving(5.0, 1.0),
        lambda: SubVariancePreserving(-1.0, 1.0),
        lambda: VarianceExploding(1.0, 0.5),
        lambda: Karras(0.0, 80.0),
        lambda: Sigmoid(3.0, -3.0),
        lambda: Tabulated(()),
        lambda: Tabulated((0.1, 1.0)),
        lambda: Shifted(Cosine(), 0.0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError, match=r"expected|must|needs"):
        make()


@given(st.integers(1, 4), st.integers(1, 3))
def test_expand_broadcasts_or_refuses(batch, rank):
    x = torch.zeros(batch, 2, *[3] * rank)
    assert expand(torch.tensor(0.5), x).shape == ()
    assert expand(torch.arange(batch), x).shape == (batch, *[1] * (rank + 1))
    for wrong in (torch.zeros(batch + 1), torch.zeros(batch, 1)):
        with pytest.raises(ValueError, match="t has shape"):
            expand(wrong, x)


@pytest.mark.parametrize("table", [Tabulated.linear, Tabulated.scaled_linear])
def test_a_table_too_short_for_its_noise_says_how_long_it_must_be(table):
    with pytest.raises(ValueError, match="at least (\\d+) steps") as caught:
        table(5)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert len(table(least).betas) == least
    with pytest.raises(ValueError, match="at least"):
        table(least - 1)
