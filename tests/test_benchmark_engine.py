"""The measuring rules of benchmarks/engine.py: times to a mark, gains, and which levers are joined."""

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))
levers = importlib.import_module("engine_levers")
pages = importlib.import_module("engine_page")
engine = importlib.import_module("engine")

SETTINGS = {"seconds": 10.0, "threads": 1, "width": 8, "num": 64, "device": "cpu", "measurements": 5, "pairs": 8}


def power(scale: float, exponent: float, times: list[float]) -> list[tuple[float, float]]:
    return [(t, scale * t**-exponent) for t in times]


def record(curve: list[tuple[float, float]], *, name: str = "plain", seed: int = 0, **more: Any) -> dict[str, Any]:
    """A run as the benchmark keeps it."""
    return {
        "lever": levers.LEVERS[name].text() if name in levers.LEVERS else levers.Lever(name).text(),
        "seed": seed,
        "settings": SETTINGS,
        "curve": [{"seconds": t, "steps": 1, "average": loss} for t, loss in curve],
        "steps": 10,
        "images_per_second": 32.0,
        "setup": 1.0,
        "parameters": 1_000_000,
        "memory": 2**30,
        "load": [1.0, 1.5],
        "machine": {"cpu": "a CPU", "capability": "AVX2", "torch": "2", "device": "cpu"},
        "date": "2026-01-01",
        **more,
    }


class TestTimeToAMark:
    @pytest.mark.parametrize("exponent", [0.1, 0.5, 2.0])
    @pytest.mark.parametrize("at", [1.5, 3.0, 8.9])
    def test_exact_on_power_laws(self, exponent: float, at: float) -> None:
        curve = power(0.7, exponent, [1.0, 2.0, 5.0, 9.0])
        assert pages.time_to(curve, 0.7 * at**-exponent) == pytest.approx(at, rel=1e-12)

    def test_a_point_of_the_curve_is_its_own_time(self) -> None:
        curve = power(0.7, 0.3, [1.0, 2.0, 5.0])
        for t, loss in curve:
            assert pages.time_to(curve, loss) == pytest.approx(t, rel=1e-12)

    def test_the_first_crossing_counts(self) -> None:
        curve = [(1.0, 1.0), (2.0, 0.5), (3.0, 0.9), (4.0, 0.1)]
        assert pages.time_to(curve, 0.5) == 2.0
        assert pages.time_to(curve, 0.4) == pytest.approx(3.0 * (4 / 3) ** (math.log(0.9 / 0.4) / math.log(9)))

    def test_never_and_at_once(self) -> None:
        curve = [(1.0, 1.0), (2.0, 0.5)]
        assert pages.time_to(curve, 0.49) is None
        assert pages.time_to([], 1.0) is None
        assert pages.time_to(curve, 3.0) == 1.0

    def test_losses_that_are_not_finite_are_passed_over(self) -> None:
        curve = [(1.0, math.nan), (2.0, 1.0), (3.0, math.inf), (8.0, 0.25)]
        assert pages.time_to(curve, 0.5) == pytest.approx(4.0)
        assert pages.time_to([(1.0, math.nan)], 0.5) is None

    @pytest.mark.parametrize("curve", [[(0.0, 1.0)], [(1.0, 1.0), (1.0, 0.5)], [(1.0, -1.0)], [(math.inf, 1.0)]])
    def test_nonsense_is_refused(self, curve: list[tuple[float, float]]) -> None:
        with pytest.raises(ValueError, match="positive"):
            pages.time_to(curve, 0.1)

    @pytest.mark.parametrize("mark", [0.0, -1.0, math.nan, math.inf])
    def test_so_is_a_mark_that_is_none(self, mark: float) -> None:
        with pytest.raises(ValueError, match="mark"):
            pages.time_to([(1.0, 1.0)], mark)


class TestGains:
    TIMES = [1.0, 2.0, 4.0, 8.0]

    def test_a_run_k_times_as_fast_gains_k(self) -> None:
        plain = record(power(1.0, 0.4, self.TIMES))
        for k in (1.0, 1.7, 3.0):
            faster = record([(t / k, loss) for t, loss in power(1.0, 0.4, self.TIMES)])
            assert pages.gain(plain, faster) == pytest.approx(k)
        assert pages.gain(plain, record(power(2.0, 0.4, self.TIMES))) is None

    def test_seeds_are_compared_with_themselves(self) -> None:
        records = {
            "plain": {seed: record(power(1.0 + seed, 0.4, self.TIMES), seed=seed) for seed in (0, 1)},
            "fused": {
                seed: record([(t / (2.0 + seed), v) for t, v in power(1.0 + seed, 0.4, self.TIMES)], seed=seed)
                for seed in (0, 1, 5)
            },
        }
        assert pages.gains(records, "fused", levers.LEVERS["fused"]) == pytest.approx([2.0, 3.0])

    def test_the_median_counts_a_run_that_never_arrives(self) -> None:
        assert pages.median_gain([1.0, None, 3.0]) == 1.0
        assert pages.median_gain([None, None, 3.0]) is None
        assert pages.median_gain([]) is None


class TestLevers:
    def test_the_best_of_each_group_joins_when_it_gained(self) -> None:
        gains = {"muon-1e-3": 1.2, "muon-2e-3": 1.5, "adamw-2e-3": 1.4, "fused": 1.01, "patch-2": 3.0, "tuned": 1.3}
        assert levers.winners(gains, network=False) == ["tuned", "muon-2e-3"]
        assert levers.winners(gains, network=True) == ["tuned", "muon-2e-3", "patch-2"]
        assert levers.winners({**gains, "checkpointing": 9.0, "unknown": 9.0}, network=False) == ["tuned", "muon-2e-3"]

    def test_joining_keeps_every_part(self) -> None:
        joined = levers.combined(["tuned-convolution", "sleeping-threads", "muon-2e-3", "batch-16", "decay"], "all")
        assert joined.tuned
        assert joined.fast_convolution
        assert not joined.fused
        assert joined.environment == {"OMP_WAIT_POLICY": "PASSIVE"}
        assert joined.settings["optim"] == {"optimizer": "muon", "rate": 2e-3, "decay": 0.4}
        assert joined.settings["run"] == {"batch": 16}
        assert joined.share == 0.5

    @pytest.mark.parametrize("name", list(levers.LEVERS))
    def test_every_lever_changes_something_and_survives_json(self, name: str) -> None:
        lever = levers.LEVERS[name]
        again = levers.Lever.read(lever.text())
        assert again == lever
        other = dict.fromkeys(["title", "group", "note"], "")
        if name != "plain":
            assert levers.Lever(**{**json.loads(lever.text()), **other}) != levers.Lever("")

    def test_settings_that_do_not_exist_are_a_reason_not_an_error(self) -> None:
        assert engine.refusal(levers.LEVERS["plain"], SETTINGS) is None
        assert "unknown key 'warp'" in engine.refusal(levers.Lever("", {"engine": {"warp": 9}}), SETTINGS)
        assert "no optimizer" in engine.refusal(levers.Lever("", {"optim": {"optimizer": "sgd"}}), SETTINGS)


def test_the_page_says_what_the_runs_say(tmp_path: Path) -> None:
    times = [1.0, 2.0, 4.0, 8.0, 10.0]
    curve = power(1.0, 0.4, times)
    joined = levers.combined(["fused", "muon-2e-3"], "together, on the same network")
    runs = {
        "plain": record(curve),
        "fused": record([(t / 1.25, v) for t, v in curve], name="fused"),
        "muon-2e-3": record(power(2.0, 0.4, times), name="muon-2e-3"),
        "together": record([(t / 4, v) for t, v in curve], lever=joined.text()),
    }
    for name, run in runs.items():
        engine.record_path(tmp_path, name, 0).write_text(json.dumps(run))
    stale = record(curve, lever=levers.Lever("was another lever").text())
    engine.record_path(tmp_path, "tuned", 0).write_text(json.dumps(stale))
    records = engine.read_records(tmp_path)
    assert list(records) == ["plain", "fused", "muon-2e-3", "together"]
    pages.write(tmp_path / "engine.md", records, command="the command", missing={"bf16": "no bfloat16"})
    text = (tmp_path / "engine.md").read_text()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "**1.00**" in rows[levers.LEVERS["plain"].title]
    assert "**1.25**" in rows["fused optimizer"]
    assert "| 8 |" in rows["fused optimizer"]
    assert "not reached" in rows["Muon, rate 0.002"]
    assert "4.00x (bar 3x: met). Made of: fused, muon-2e-3." in text
    assert "bf16 (no bfloat16)" in text
    assert "`the command`" in text
    assert (tmp_path / "engine.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="no plain run"):
        pages.write(tmp_path / "engine.md", {"fused": records["fused"]}, command="", missing={})
