"""Planning: lines through measurements, the choice within a limit, and what is said when something fails."""

from collections.abc import Callable

import pytest

from kakusan.config import TrainConfig, merge
from kakusan.train.plan import Plan, Variant, candidates, fit, ladder, make_plan, parse_bytes, table_of
from kakusan.train.probe import Measured, Unmeasured

MIB = 2**20
PLAIN, AGAIN = Variant(None, "fp32", False), Variant(None, "fp32", True)


def config(batch: int = 64) -> TrainConfig:
    return merge(TrainConfig(), {"run": {"batch": batch, "steps": 10}})


def machine(
    *, base: int = 100, each: float = 10.0, beside: int = 0, free: int | None = 10_000 * MIB, most: int | None = None
) -> tuple[Callable[[TrainConfig], Measured], list[TrainConfig]]:
    """A machine whose memory is exactly `base + each n` MiB (half of each with checkpointing), and whose passes take
    1 s and 0.1 s for each sample (a third more with checkpointing)."""
    asked: list[TrainConfig] = []

    def measure(settings: TrainConfig) -> Measured:
        asked.append(settings)
        n, batch = settings.engine.micro_batch or settings.run.batch, settings.run.batch
        again = settings.engine.checkpointing
        if most is not None and n > most:
            raise Unmeasured("out of memory")
        used = int((base + each * n / (1 + again)) * MIB)
        gradient = -(-batch // n) * (1.0 + 0.1 * n) * (4 / 3 if again else 1.0)
        return Measured(
            gradient + 0.5, gradient, used, max(used, beside * MIB), 2.0, 3.0, 5.0, free, "cpu", "fp32", 2, (32, 32)
        )

    return measure, asked


@pytest.mark.parametrize(
    ("batch", "rungs", "choices"),
    [
        (64, [8, 16, 32], [1, 2, 4, 8, 16, 32, 64]),
        (4, [1, 2], [1, 2, 4]),
        (2, [1, 2], [1, 2]),
        (1, [1], [1]),
        (20, [2, 5, 10], [1, 2, 5, 10, 20]),
    ],
)
def test_small_parts_are_measured_and_larger_ones_are_candidates(
    batch: int, rungs: list[int], choices: list[int]
) -> None:
    assert ladder(batch) == rungs
    assert candidates(batch) == choices


def test_a_line_is_found_exactly_and_never_falls() -> None:
    assert fit([(1, 5.0), (3, 9.0), (7, 17.0)]) == pytest.approx((3.0, 2.0))
    assert fit([(1, 5.0), (2, 3.0)]) == (4.0, 0.0)
    assert fit([(4, 6.0)]) == (6.0, 0.0)


def test_predictions_of_a_straight_machine_are_exact() -> None:
    measure, _ = machine()
    found = {n: measure(PLAIN.settings(config(), n, n)) for n in ladder(64)}
    rows = {row.at_once: row for row in table_of(PLAIN, 64, found)}
    assert [n for n, row in rows.items() if row.measured] == [8, 16, 32]
    for n, row in rows.items():
        truth = measure(PLAIN.settings(config(), 64, n))
        assert row.bytes == pytest.approx(truth.bytes, rel=1e-6)
        assert row.seconds == pytest.approx(truth.step_seconds, rel=1e-6)


def test_of_one_point_nothing_larger_is_predicted() -> None:
    measure, _ = machine(most=8)
    plan = make_plan(config(), [PLAIN], measure, None)
    assert max(row.at_once for row in plan.rows) == 8
    assert plan.failed[0] == ("fp32, without checkpointing", "16 at once: out of memory")


@pytest.mark.parametrize(
    ("memory", "picked"),
    [
        (10_000, (64, False)),
        # 740 MiB are needed for all; a prediction leaves a tenth free.
        (800, (32, False)),
        # 420 for 32; checkpointing does it with 260, but slower than 16 without.
        (400, (16, False)),
        # 16 with checkpointing take 180, and 13.9 s in place of the 14.4 s of 8 without.
        (185, (16, True)),
        (170, (8, True)),
    ],
)
def test_the_fastest_that_fits_is_picked_and_measured_whole(memory: int, picked: tuple[int, bool]) -> None:
    measure, asked = machine()
    plan = make_plan(config(), [PLAIN, AGAIN], measure, memory * MIB)
    fitting = [r for r in plan.rows if r.bytes <= memory * MIB * (1.0 if r.measured else 0.9)]
    assert plan.picked is not None
    assert plan.picked.measured
    assert (plan.picked.at_once, plan.picked.variant.checkpointing) == picked
    assert plan.picked.seconds == min(r.seconds for r in fitting)
    assert asked[-1].run.batch == 64
    assert asked[-1].engine.micro_batch == plan.picked.at_once
    # The threads that the first measurement chose are kept.
    assert asked[0].run.threads is None
    assert {c.run.threads for c in asked[1:3]} == {2}


def test_what_measuring_and_drawing_take_counts() -> None:
    measure, _ = machine(beside=900)
    plan = make_plan(config(), [PLAIN], measure, 800 * MIB)
    assert plan.picked is None
    assert min(row.bytes for row in plan.rows) == 900 * MIB


def test_a_prediction_that_proves_wrong_is_given_up_for_less() -> None:
    straight, _ = machine()

    def bent(settings: TrainConfig) -> Measured:
        if settings.run.batch == 64 and settings.engine.micro_batch == 64:
            raise Unmeasured("ended by the system, as it does when memory runs out")
        return straight(settings)

    plan = make_plan(config(), [PLAIN], bent, None)
    assert plan.picked is not None
    assert plan.picked.at_once == 32
    assert "64 at once, the whole batch: ended by the system" in plan.failed[0][1]


def test_only_the_first_size_and_precision_are_picked_from() -> None:
    measure, _ = machine()
    variants = [Variant(16, "fp32", False), Variant(8, "bf16", False)]
    plan: Plan = make_plan(config(), variants, measure, None)
    assert {row.variant for row in plan.rows} == set(variants)
    assert plan.picked is not None
    assert plan.picked.variant == variants[0]


def test_nothing_measured_and_unknown_memory_are_errors() -> None:
    measure, _ = machine(most=0)
    with pytest.raises(ValueError, match="nothing could be measured: fp32, without checkpointing: 8 at once: out of"):
        make_plan(config(), [PLAIN], measure, None)
    measure, _ = machine(free=None)
    with pytest.raises(ValueError, match="how much memory is free on cpu is not known; say it, as in --memory 8G"):
        make_plan(config(), [PLAIN], measure, None)


@pytest.mark.parametrize(
    ("text", "value"), [("8G", 8 * 2**30), ("800M", 800 * MIB), ("7.5 GiB", 15 * 2**29), ("1kb", 1024), ("2T", 2**41)]
)
def test_memory_is_read_as_people_write_it(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["8", "G", "-1G", "0G", "8 GX", ""])
def test_other_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="as in 8G or 800M"):
        parse_bytes(text)
