"""The narrow waist: what the network sees, what `with_schedule` keeps, and laws 1, 7 and 8 on it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.conditioning import Condition
from kakusan.denoiser import Denoiser, LogSnrMap, TimeMap
from kakusan.levels import Level
from kakusan.oracles import GaussianMixture
from kakusan.parameterizations import X0, Edm, Eps, Score, V, Velocity
from kakusan.schedule_tables import Tabulated
from kakusan.schedule_wrappers import Shifted, ZeroTerminalSnr
from kakusan.schedules import Cosine, Karras, Rectified, VarianceExploding, VariancePreserving

ROWS = [X0(), Eps(), V(), Velocity(), Score(), Edm()]
PATHS = [
    Cosine(),
    Karras(),
    Rectified(),
    Tabulated.linear(100),
    VarianceExploding(),
    VariancePreserving(),
    Shifted(Cosine(), 2.0),
]
names = dict(ids=lambda value: type(value).__name__)


class Spy(torch.nn.Module):
    """A smooth nonlinear backbone that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, c_noise, cond):
        self.seen.append((x, c_noise, cond))
        bias = 0.0 if cond is None else cond.vector.mean(1).to(x).view(-1, *[1] * (x.dim() - 1))
        return torch.tanh(1.3 * x) + 0.2 * torch.sin(c_noise.to(x)).view(-1, *[1] * (x.dim() - 1)) + bias


@pytest.mark.parametrize("row", ROWS, **names)
@settings(max_examples=25)
@given(
    trained=st.sampled_from(PATHS),
    other=st.sampled_from([*PATHS, ZeroTerminalSnr(VariancePreserving())]),
    log_snr=st.lists(st.floats(-4.0, 8.0), min_size=2, max_size=2),
    rank=st.integers(1, 3),
)
def test_another_schedule_at_equal_log_snr_changes_nothing(row, trained, other, log_snr, rank):
    spy = Spy()
    denoiser = Denoiser(spy, trained, row, sigma_data=0.7)
    moved = denoiser.with_schedule(other)
    wanted = torch.tensor(log_snr, dtype=torch.float64)
    wide = (-1, *[1] * (rank + 1))
    t, s = trained.time(wanted), other.time(wanted)
    x0, eps = torch.randn(2, 2, 2, *[3] * rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    here = denoiser(trained.alpha(t).view(wide) * x0 + trained.sigma(t).view(wide) * eps, t)
    there = moved(other.alpha(s).view(wide) * x0 + other.sigma(s).view(wide) * eps, s)
    torch.testing.assert_close(there.x0, here.x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(there.eps, here.eps, rtol=1e-6, atol=1e-6)
    # The network itself was shown the same input and the same level.
    torch.testing.assert_close(spy.seen[1][0], spy.seen[0][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(spy.seen[1][1], spy.seen[0][1], rtol=1e-5, atol=1e-5)


def test_with_schedule_shares_the_network_and_leaves_the_old_one():
    class Linear(torch.nn.Conv1d):
        def forward(self, x, c_noise, cond):
            return super().forward(x)

    denoiser = Denoiser(Linear(2, 2, 1), Cosine(), V())
    moved = denoiser.with_schedule(Rectified())
    assert moved.backbone is denoiser.backbone
    assert isinstance(denoiser.schedule, Cosine)
    assert isinstance(moved.schedule, Rectified)
    assert isinstance(moved.with_schedule(Karras()).trained_schedule, Cosine)
    with torch.no_grad():
        denoiser.backbone.weight.add_(1.0)
    x = torch.randn(1, 2, 5)
    # Back to where it was trained, on the same path: the same function.
    torch.testing.assert_close(moved.with_schedule(Cosine())(x, 0.3).x0, denoiser(x, 0.3).x0)


@pytest.mark.parametrize("schedule", PATHS, **names)
def test_the_network_is_shown_unit_variance_and_a_small_number(schedule):
    spy = Spy()
    sigma_data = 0.4
    denoiser = Denoiser(spy, schedule, V(), sigma_data=sigma_data)
    x0, eps = torch.randn(2, 1, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for t in torch.linspace(schedule.t_min, schedule.t_max, 7, dtype=torch.float64):
        denoiser(schedule.alpha(t) * sigma_data * x0 + schedule.sigma(t) * eps, t)
        shown, level, _ = spy.seen[-1]
        assert float(shown.std()) == pytest.approx(1.0, abs=0.03)  # five standard errors of 20000 draws
        assert level.shape == (1,)
        assert level.dtype == torch.float32
        assert abs(float(level)) <= 5.0


def test_noise_maps():
    log_snr = torch.linspace(-30.0, 30.0, 61, dtype=torch.float64)
    told = LogSnrMap()(log_snr)
    assert bool((told.diff() >= 0.0).all())
    assert float(told.abs().max()) == 5.0
    schedule = VariancePreserving()
    t = torch.linspace(0.01, 1.0, 9, dtype=torch.float64)
    torch.testing.assert_close(TimeMap(schedule)(schedule.log_snr(t)), 1000.0 * t)


@pytest.mark.parametrize("row", ROWS, **names)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_law_7_one_time_or_one_for_each_sample(row, rank):
    denoiser = Denoiser(Spy(), Cosine(), row)
    x = torch.randn(3, 2, *[4] * rank)
    times = torch.tensor([0.2, 0.55, 0.9])
    together = denoiser(x, times)
    for i, t in enumerate(times.tolist()):
        for alone in (
            denoiser(x[i : i + 1], t),
            denoiser(x[i : i + 1], times[i]),
            denoiser(x[i : i + 1], times[i : i + 1]),
        ):
            for name in ("x0", "eps", "v", "score", "velocity"):
                torch.testing.assert_close(
                    getattr(together, name)[i : i + 1], getattr(alone, name), rtol=1e-4, atol=1e-4
                )
    with pytest.raises(ValueError, match="t has shape"):
        denoiser(x, torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match="t has shape"):
        denoiser(x, torch.full((3, 1), 0.5))


def test_a_number_is_as_exact_as_a_tensor():
    # A float is a double: it must not pass through single precision on its way to the schedule.
    t = 0.1 + 1e-12
    assert Level.of(Cosine(), t).t == t
    assert Level.of(Cosine(), t) == Level.of(Cosine(), torch.tensor(t, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_of_the_samples_is_kept(dtype):
    prediction = Denoiser(Spy(), Karras(), Edm())(torch.randn(2, 1, 4, dtype=dtype), torch.tensor([0.3, 0.5]))
    for name in ("x0", "eps", "v", "score", "velocity"):
        assert getattr(prediction, name).dtype == dtype


@given(t=st.floats(0.01, 0.99), row=st.sampled_from(ROWS))
def test_x0_and_eps_make_up_x_t(t, row):
    schedule = Cosine()
    x = torch.randn(2, 3, dtype=torch.float64)
    prediction = Denoiser(Spy(), schedule, row)(x, t)
    at = torch.tensor(t, dtype=torch.float64)
    torch.testing.assert_close(
        schedule.alpha(at) * prediction.x0 + schedule.sigma(at) * prediction.eps, x, rtol=1e-8, atol=1e-8
    )


def test_the_score_is_refused_where_noise_and_data_are_coupled():
    prediction = Denoiser(Spy(), Rectified(), Velocity(), independent_noise=False)(torch.randn(2, 3), 0.5)
    assert prediction.velocity.shape == (2, 3)
    with pytest.raises(ValueError, match="coupled"):
        prediction.score


def test_law_8_the_condition_reaches_the_network_and_changes_the_output():
    x = torch.randn(3, 2)
    denoiser = Denoiser(Spy(), Cosine(), V())
    first, second = (denoiser(x, 0.5, Condition(vector=torch.full((3, 4), value))).x0 for value in (0.0, 1.0))
    assert bool((first != second).all())
    oracle = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.3, schedule=Cosine())
    plain = oracle(x, 0.5).x0
    for k in (0, 1):
        chosen = torch.where(torch.arange(2) == k, 0.0, -torch.inf).expand(3, 2)
        only = GaussianMixture(oracle.means[k : k + 1], 0.3, schedule=Cosine())
        found = oracle(x, 0.5, Condition(vector=chosen)).x0
        torch.testing.assert_close(found, only(x, 0.5).x0)
        assert bool((found != plain).any(1).all())


def test_a_nonsense_scale_is_refused():
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        Denoiser(Spy(), Cosine(), V(), sigma_data=0.0)


@pytest.mark.parametrize("t", [-0.01, 1.01, float("nan"), torch.tensor([0.2, 1.5])])
def test_a_time_outside_the_path_is_refused(t):
    denoiser = Denoiser(Spy(), Cosine(), V())
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        denoiser(torch.zeros(2, 1, 4, 4), t)


def test_a_schedule_whose_noise_does_not_grow_all_the_way_is_refused():
    class Wavy(Cosine):
        def log_snr(self, t):
            return super().log_snr(t) + 3.0 * (12.0 * t).sin()

    with pytest.raises(ValueError, match="log-SNR of Wavy must fall"):
        Denoiser(Spy(), Wavy(), V())
