"""Inversion on exact denoisers: what is called exact is, the fixed point is one, and naive DDIM errs as it should."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.grids import GRIDS
from kakusan.inversion import (
    BDIA,
    EDICT,
    EDITS,
    INVERSIONS,
    Code,
    DDIMInversion,
    EditFriendly,
    FixedPoint,
    FlowEdit,
    Noising,
    RoundTrip,
    Side,
    between_codes,
    between_conditions,
    kept_steps,
    read_code,
    slerp,
    write_code,
)
from kakusan.levels import Level, tabulate
from kakusan.noise import Stream, normal, uniform
from kakusan.oracles import GaussianMixture
from kakusan.samplers import DDIM, sample
from kakusan.schedules import Cosine, Karras, NoiseSchedule, Rectified

SCHEDULES = [Cosine(), Rectified(), Karras()]
SEEDS = list(range(6))


def mixture(schedule: NoiseSchedule) -> GaussianMixture:
    """Three unequal components on small pictures (2, 3, 3)."""
    means = normal([7], Stream.RESERVED_FOR_TESTS, shape=(3, 2, 3, 3), dtype=torch.float64)[0] * 0.7
    return GaussianMixture(means, torch.tensor([0.2, 0.3, 0.25]), torch.tensor([0.5, 0.3, 0.2]), schedule=schedule)


def pictures(model: GaussianMixture, count: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = list(range(100, 100 + count))
    index = uniform(numbers, Stream.RESERVED_FOR_TESTS)
    return model.draw(index, normal(numbers, Stream.START, shape=model.shape, dtype=torch.float64)).to(dtype)


def grid(schedule: NoiseSchedule, steps: int) -> tuple[Level, ...]:
    return tabulate(schedule, GRIDS["karras"](schedule, steps))


def towards(component: int, count: int = 6) -> Condition:
    """Log-weights that leave one component of the mixture."""
    return Condition(vector=torch.full((count, 3), -60.0).index_fill(1, torch.tensor([component]), 0.0))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", [name for name, method in INVERSIONS.items() if method.exact])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_exact_inversions_are_exact(schedule: NoiseSchedule, name: str, steps: int) -> None:
    model, method = mixture(schedule), INVERSIONS[name]
    for dtype, bar in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        x0 = pictures(model, dtype=dtype)
        side = Side(model, dtype=dtype)
        codes = method.codes(side, x0, grid(schedule, steps), seeds=SEEDS)
        assert len(codes) == steps + 1
        for start, code in enumerate(codes):
            back = method.replay(side, code, grid(schedule, steps), start=start)
            assert float((back - x0).abs().max()) <= bar, (dtype, start)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_fixed_point_is_one_and_beats_naive_inversion_by_20_db(schedule: NoiseSchedule) -> None:
    model, levels = mixture(schedule), grid(schedule, 20)
    for dtype, bar in ((torch.float64, 1e-5), (torch.float32, 1e-4)):
        x0, side = pictures(model, dtype=dtype), Side(model, dtype=dtype)
        codes = FixedPoint().codes(side, x0, levels)
        assert max(code.residual for code in codes) <= 1e-6
        for index, (code, below) in enumerate(pairwise(codes)):
            # The step of the way back, from a code found here, lands on the one it was found for.
            landed = side.ddim(code.x, levels[index], levels[index + 1])
            assert float((landed - below.x).abs().max()) <= bar * float(code.x.abs().max())
        solved = RoundTrip.between(x0, FixedPoint().replay(side, codes[0], levels))
        naive = DDIMInversion()
        plain = RoundTrip.between(x0, naive.replay(side, naive.codes(side, x0, levels)[0], levels))
        assert solved.psnr >= plain.psnr + 20.0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_naive_inversion_errs_with_first_order(schedule: NoiseSchedule) -> None:
    model = mixture(schedule)
    first, last = schedule.time(torch.tensor([-5.0, 4.0], dtype=torch.float64)).tolist()
    x0, side, method = pictures(model), Side(model, dtype=torch.float64), DDIMInversion()
    errors, counts = [], (48, 96, 192)
    for count in counts:
        levels = tabulate(schedule, GRIDS["log-snr"](schedule, count, start=first, end=last))  # type: ignore[call-arg]
        back = method.replay(side, method.codes(side, x0, levels)[0], levels)
        errors.append(float((back - x0).abs().mean()))
    slopes = [torch.log2(torch.tensor(a / b)).item() for a, b in pairwise(errors)]
    assert all(abs(s - 1.0) < 0.1 for s in slopes), slopes


def test_deterministic_inversions_follow_the_flow() -> None:
    """With more steps, the code comes to where a fine inversion takes the picture."""
    schedule = Cosine()
    model = mixture(schedule)
    first, last = schedule.time(torch.tensor([-5.0, 4.0], dtype=torch.float64)).tolist()
    x0, side = pictures(model), Side(model, dtype=torch.float64)

    def code(method: str, count: int) -> Tensor:
        levels = tabulate(schedule, GRIDS["log-snr"](schedule, count, start=first, end=last))  # type: ignore[call-arg]
        # EDICT's two states grow apart by a factor a step: here the whole factor is that of 50 steps.
        ways = {**INVERSIONS, "edict": EDICT(mixing=0.93 ** (50 / count))}
        return ways[method].codes(side, x0, levels)[0].x

    # Backwards and forwards Euler err by about the same in opposite directions.
    exact = 0.5 * (code("ddim", 400) + code("fixed-point", 400))
    for name in ("ddim", "fixed-point", "edict", "bdia"):
        errors = [float((code(name, count) - exact).abs().mean()) for count in (24, 96)]
        assert errors[1] < 0.4 * errors[0], name
        assert errors[1] < 0.04, name


@pytest.mark.parametrize("name", list(EDITS))
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    model = mixture(Cosine())
    x0, levels = pictures(model), grid(Cosine(), 6)
    source, target = Side(model, towards(0), torch.float64), Side(model, towards(1), torch.float64)
    together = EDITS[name].edit(source, target, x0, levels, start=1, seeds=SEEDS)
    one = Side(model, towards(0, 1), torch.float64), Side(model, towards(1, 1), torch.float64)
    alone = EDITS[name].edit(*one, x0[4:5], levels, start=1, seeds=SEEDS[4:5])
    assert torch.allclose(together[4:5], alone, atol=1e-5)


@pytest.mark.parametrize("name", list(EDITS))
def test_a_sweep_is_every_strength_of_its_own(name: str) -> None:
    model, method = mixture(Cosine()), EDITS[name]
    x0, levels = pictures(model, 1), grid(Cosine(), 5)
    source, target = Side(model, towards(0, 1), torch.float64), Side(model, towards(1, 1), torch.float64)
    for last in (0, 3, 5):
        found = method.sweep(source, target, x0, levels, last=last, seeds=[3])
        assert len(found) == last + 1
        assert torch.equal(found[0], x0[0])
        for count in range(last + 1):
            alone = method.edit(source, target, x0, levels, start=5 - count, seeds=[3])
            assert torch.allclose(found[count : count + 1], alone, atol=2e-6), count


@pytest.mark.parametrize("name", list(EDITS))
def test_full_strength_brings_a_picture_to_the_other_condition(name: str) -> None:
    """Far from the source component and as near to the target one as its own samples are."""
    model = mixture(Cosine())
    x0 = model.means[0] + 0.2 * normal(SEEDS, Stream.RESERVED_FOR_TESTS, 3, shape=model.shape, dtype=torch.float64)
    source, target = Side(model, towards(0), torch.float64), Side(model, towards(1), torch.float64)
    # Two-state methods keep their first state's partner, so they need finer steps than the rest.
    edited = EDITS[name].edit(source, target, x0, grid(Cosine(), 60), start=0, seeds=SEEDS).to(torch.float64)
    spread = (edited - model.means[1]).square().mean().sqrt()
    assert 0.15 < float(spread) < 0.5
    assert float((edited - model.means[0]).square().mean().sqrt()) > 2.0 * float(spread)


def test_editing_keeps_what_the_conditions_share() -> None:
    """Between two Gaussians that differ in their mean, the deterministic ways move the picture by just that."""
    schedule = Rectified()
    step = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    step[1, 0] = 1.0
    model = GaussianMixture(step, 0.4, schedule=schedule)
    numbers = [1, 2, 3]
    x0 = 0.4 * normal(numbers, Stream.START, shape=model.shape, dtype=torch.float64)

    def side(component: int) -> Side:
        weights = torch.full((1, 2), -60.0)
        weights[0, component] = 0.0
        return Side(model, Condition(vector=weights), torch.float64)

    for method in (FixedPoint(), EDICT(mixing=0.99), FlowEdit(), DDIMInversion()):
        found = method.edit(side(0), side(1), x0, grid(schedule, 100), start=0, seeds=numbers)
        assert float((found - x0 - step[1]).abs().max()) < 0.1, method
    few = FlowEdit().edit(side(0), side(1), x0, grid(schedule, 5), start=0, seeds=numbers)
    # Here FlowEdit is exact at any number of steps, up to the signal at the first level.
    assert float((few - x0 - step[1]).abs().max()) < 0.02


def test_flow_edit_and_the_inversions_change_nothing_between_equal_sides() -> None:
    model = mixture(Rectified())
    x0, side = pictures(model), Side(model, towards(1), torch.float64)
    for method in (FlowEdit(), FlowEdit(averages=3), EditFriendly(), EDICT(), BDIA()):
        assert torch.allclose(method.edit(side, side, x0, grid(Rectified(), 8), start=2, seeds=SEEDS), x0, atol=1e-9)


def test_strength_one_of_noising_is_the_plain_sample() -> None:
    model = mixture(Cosine())
    x0, levels = pictures(model, dtype=torch.float32), grid(Cosine(), 6)
    method = Noising(sampler=DDIM())
    found = method.edit(Side(model), Side(model, towards(2)), x0, levels, start=0, seeds=SEEDS)
    times = GRIDS["karras"](Cosine(), 6)
    assert torch.equal(found, sample(model, DDIM(), times, x0.shape, towards(2), seeds=SEEDS))
    assert method.edit(Side(model), Side(model), x0, levels, start=6, seeds=SEEDS) is x0


def test_noise_maps_are_larger_than_standard_noise() -> None:
    """The paper's observation: independent levels make maps of more than unit variance that hold the picture."""
    model = mixture(Cosine())
    maps = (
        EditFriendly().codes(Side(model, dtype=torch.float64), pictures(model), grid(Cosine(), 20), seeds=SEEDS)[0].maps
    )
    assert maps is not None
    assert float(maps[:, :-1].square().mean()) > 1.5


class Coupled(GaussianMixture):
    independent_noise = False


@pytest.mark.parametrize("name", list(EDITS))
def test_coupled_models_take_no_fresh_noise(name: str) -> None:
    plain = mixture(Rectified())
    model = Coupled(plain.means, plain.variance.sqrt(), schedule=Rectified())
    x0, levels, method = pictures(plain), grid(Rectified(), 4), EDITS[name]
    run: Callable[[], Tensor] = lambda: method.edit(Side(model), Side(model), x0, levels, start=1, seeds=SEEDS)  # noqa: E731
    if method.random:
        with pytest.raises(ValueError, match="coupled pairs"):
            run()
    else:
        assert run().shape == x0.shape


def test_what_cannot_be_inverted_is_refused() -> None:
    model = mixture(Cosine())
    with pytest.raises(ValueError, match="falling grid"):
        FixedPoint().codes(Side(model), pictures(model), grid(Cosine(), 4)[::-1])
    with pytest.raises(ValueError, match="seeds"):
        EditFriendly().codes(Side(model), pictures(model), grid(Cosine(), 4), seeds=[1])
    for wrong in (lambda: EDICT(mixing=0.0), lambda: BDIA(gamma=0.0), lambda: FlowEdit(averages=0)):
        with pytest.raises(ValueError):
            wrong()


@given(st.floats(0.0, 1.0), st.integers(1, 200))
def test_strength_counts_steps(strength: float, steps: int) -> None:
    kept = kept_steps(strength, steps)
    assert 0 <= kept <= steps
    assert (kept == 0) == (strength == 0.0)
    assert abs(kept - strength * steps) <= 0.5 or kept == 1
    assert kept_steps(1.0, steps) == steps


@given(st.one_of(st.floats(max_value=-1e-9), st.floats(min_value=1.0 + 1e-9), st.just(float("nan"))))
def test_no_other_strength(strength: float) -> None:
    with pytest.raises(ValueError, match="strength lies between"):
        kept_steps(strength, 10)


@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_slerp_runs_along_the_arc(seed: int, share: float) -> None:
    a, b = normal([seed, seed + 1], Stream.START, shape=(2, 5, 5), dtype=torch.float64).split(1)
    found = slerp(a, b, share)

    def angle(x: Tensor, y: Tensor) -> float:
        return float(((x * y).sum() / (x.norm() * y.norm())).clamp(-1.0, 1.0).arccos())

    assert angle(a, found) == pytest.approx(share * angle(a, b), abs=1e-6)
    assert float(found.norm()) == pytest.approx((1.0 - share) * float(a.norm()) + share * float(b.norm()), rel=1e-9)
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    assert torch.allclose(slerp(a, a, share), a)
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, -a, 0.5)


def test_codes_and_conditions_mix_with_exact_ends() -> None:
    model = mixture(Cosine())
    x0, levels, side = pictures(model, 2), grid(Cosine(), 6), Side(model, dtype=torch.float64)
    for name, method in INVERSIONS.items():
        a, b = (method.codes(side, x0[i : i + 1], levels, seeds=[i])[0] for i in (0, 1))
        for share, wanted in ((0.0, a), (1.0, b)):
            code = between_codes(a, b, share)
            back, plain = method.replay(side, code, levels), method.replay(side, wanted, levels)
            assert torch.equal(back, plain), name
    first, second = towards(0, 1), towards(1, 1)
    assert between_conditions(first, second, 0.0) is first
    assert between_conditions(first, second, 1.0) is second
    middle = between_conditions(first, second, 0.25).vector
    assert middle is not None
    assert first.vector is not None
    assert second.vector is not None
    assert torch.allclose(middle, 0.75 * first.vector + 0.25 * second.vector)


@pytest.mark.parametrize("name", list(INVERSIONS))
def test_codes_come_back_from_files(tmp_path: Path, name: str) -> None:
    model, method = mixture(Cosine()), INVERSIONS[name]
    x0, levels, side = pictures(model, 2), grid(Cosine(), 5), Side(model, dtype=torch.float64)
    code = method.codes(side, x0, levels, seeds=[0, 1])[0]
    write_code(code, tmp_path / "noise.safetensors", {"method": name})
    again, record = read_code(tmp_path / "noise.safetensors")
    assert record == {"method": name}
    assert again.residual == code.residual
    assert torch.equal(method.replay(side, again, levels), method.replay(side, code, levels))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no noise"):
        read_code(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not a tensor")
    with pytest.raises(ValueError, match="holds no noise"):
        read_code(tmp_path / "text.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no noise"):
        read_code(tmp_path / "other.safetensors")


def test_the_round_trip_is_measured() -> None:
    x = torch.zeros(2, 1, 2, 2)
    assert RoundTrip.between(x, x).psnr == float("inf")
    assert RoundTrip.between(x, x + 0.02) == RoundTrip(pytest.approx(0.02), pytest.approx(40.0))
    assert RoundTrip.between(x, x / 0.0).worst == float("inf")
    assert "dB" in RoundTrip.between(x, x + 0.02).said()


def test_options_of_a_method_are_plain_values() -> None:
    assert replace(FixedPoint(), iterations=3).iterations == 3
    assert Code(torch.zeros(1)).second is None
