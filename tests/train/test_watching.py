"""Watching changes nothing but what it adds: the same run with and without, no point twice, the best kept."""

import dataclasses
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import draw_pictures, settings, start

from kakusan.config import RunSettings, TrainConfig
from kakusan.metrics import watching
from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.metrics.watching import Point, Watcher, WatchPlan, one_curve, points_of, scaled, verdict
from kakusan.model_folder import ModelFacts
from kakusan.pipeline import load
from kakusan.report.watching import distance_charts
from kakusan.run_folder import RunFolder, find_model, read_state
from kakusan.train import watching as inside
from kakusan.train.metrics_log import read_records
from kakusan.train.previews import end_report
from kakusan.train.run import TrainingRun
from kakusan.train.watching import SHARE, Watching, how_often, plan_of

SPACES = ["random", "patches"]
RUN = {"steps": 6, "watch": 3, "watch_num": 48, "watch_spaces": SPACES, "measurements": 2, "spaced": 0}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Few distances and few steps: the same paths through the code, in a fraction of the time."""

    def plan(run: RunSettings) -> WatchPlan:
        return dataclasses.replace(plan_of(run), num_steps=2, distances=("frechet", "coverage"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inside, "plan_of", plan)
        # Drawn once below.
        patch.setattr("kakusan.train.run.end_report", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough pictures to watch distances to."""
    return draw_pictures(tmp_path_factory.mktemp("many"), each=80)


def config(source: Path, **run: object) -> TrainConfig:
    # Dropout draws from torch's generator, which watching must leave where it was.
    return settings(source, data={"held_out": 0.25}, model={"dropout": 0.2}, run={**RUN, **run})


@pytest.fixture(scope="module")
def watched(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that was watched, and what it said."""
    out, said = tmp_path_factory.mktemp("watched") / "run", list[str]()
    start(config(source), out, say=said.append)
    return out, said


def points(out: Path) -> list[dict]:
    return [r for r in read_records(out / "metrics.jsonl") if r["kind"] == "watch"]


def model_facts(out: Path) -> ModelFacts:
    return load(out).facts


def curve(out: Path) -> list[tuple[float, ...]]:
    return [
        (r["step"], r["loss"], r["gradient_norm"]) for r in read_records(out / "metrics.jsonl") if r["kind"] == "step"
    ]


def same_weights(one: Path, other: Path) -> bool:
    (a, x, p, _), (b, y, q, _) = (read_state(find_model(out)) for out in (one, other))
    whole = {**a, **x, **{f"{k}/{n}": v for k, part in p.items() for n, v in part.items()}}
    others = {**b, **y, **{f"{k}/{n}": v for k, part in q.items() for n, v in part.items()}}
    return whole.keys() == others.keys() and all(torch.equal(v, others[n]) for n, v in whole.items())


def plain(line: dict) -> list[dict]:
    """Records without what names the checkpoint, whose facts hold the time it took."""
    return [{**r, "of": {**r["of"], "model": ""}} for r in line["records"]]


def test_a_run_is_bit_for_bit_the_same_with_watching_and_without(
    source: Path, watched: tuple[Path, list[str]], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    start(config(source, watch=0), tmp_path / "plain")
    assert torch.equal(torch.rand(2), expected)
    assert curve(tmp_path / "plain") == curve(watched[0])
    assert same_weights(tmp_path / "plain", watched[0])
    held = [
        [r["loss"] for r in read_records(o / "metrics.jsonl") if r["kind"] == "held-out"]
        for o in (tmp_path / "plain", watched[0])
    ]
    assert held[0] == held[1]
    assert points(tmp_path / "plain") == []
    assert not (tmp_path / "plain" / "best").exists()


def test_what_a_point_holds(watched: tuple[Path, list[str]]) -> None:
    out, said = watched
    lines = points(out)
    assert [line["step"] for line in lines] == [2, 4, 6]
    found = points_of(lines)
    plan = inside.plan_of(config(out).run)
    for line, point in zip(lines, found, strict=True):
        assert point.plan == plan.hash
        assert [(r.name, r.space) for r in point.records] == [(d, s) for s in SPACES for d in plan.distances]
        for record, raw in zip(point.records, line["records"], strict=True):
            assert {"value", "stderr", "ratio", "null", "null_stderr", "z", "n", "of"} <= raw.keys()
            assert record.n == 48
            assert record.of.weights == "ema-0.1"
            assert record.of.seeds == "0 to 47"
            assert record.of.sampling["num_steps"] == plan.num_steps
            assert line[f"{record.name} ({record.space})"] == record.value
    # All are of one curve, and differ in nothing but the checkpoint.
    assert one_curve(found) == found
    assert len({point.model for point in found}) == 3
    assert sum("watching: step" in line for line in said) == 3
    assert any("best" in line for line in said)
    page = end_report(RunFolder(out), model_facts(out), drawn=False).read_text()
    assert "Distances to real pictures" in page
    assert "coverage (patches)" not in page
    assert "Coverage: higher is better" in page


def test_the_records_are_of_the_checkpoint_that_is_kept(watched: tuple[Path, list[str]]) -> None:
    out, _ = watched
    last = points_of(points(out))[-1]
    assert last.model == load(out).model_hash
    # The last two and the best.
    found = verdict(points_of(points(out)))
    assert found is not None
    assert {4, 6, found.best.step} <= set(RunFolder(out).steps())
    assert load(out / "best").path == RunFolder(out).checkpoint(found.best.step)
    assert find_model(out / "latest") == RunFolder(out).checkpoint(6)


class Stopped(BaseException):
    """As if the process were gone: nothing that handles errors sees it."""


@pytest.mark.parametrize("where", ["before the point", "after the point"])
def test_a_kill_at_a_point_costs_no_point_and_makes_none_twice(
    source: Path, watched: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    measure = Watching.measure

    def killed(self: Watching) -> None:
        if self.run.trainer.step == 4 and where == "before the point":
            raise Stopped
        measure(self)
        if self.run.trainer.step == 4:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Watching, "measure", killed)
        with pytest.raises(Stopped):
            start(config(source), tmp_path / "run")
    assert [p["step"] for p in points(tmp_path / "run")] == ([2] if where == "before the point" else [2, 4])
    start(config(source), tmp_path / "run")
    assert [p["step"] for p in points(tmp_path / "run")] == [2, 4, 6]
    assert [plain(p) for p in points(tmp_path / "run")] == [plain(p) for p in points(watched[0])]
    assert curve(tmp_path / "run") == curve(watched[0])


def test_a_line_cut_short_is_measured_again(source: Path, watched: tuple[Path, list[str]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(watched[0], out)
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["kind"] == "watch"
    (out / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:200])
    start(config(source), out)
    assert [plain(p) for p in points(out)] == [plain(p) for p in points(watched[0])]


def measured(values: dict[int, float]) -> Callable[..., Point]:
    """In place of `Watcher.measure`: the given values in both spaces, by step."""

    def measure(self: Watcher, samples: object, *, step: int, model: str, began: float | None = None) -> Point:
        records = tuple(record(values[step], space=space, model=model) for space in self.plan.spaces)
        return Point(step, model, self.plan.hash, records, 0.0)

    return measure


def record(
    value: float, *, name: str = "frechet", space: str = "random", model: str = "m", **other: object
) -> MetricRecord:
    given: dict = {"stderr": 0.1, "n": 64, "null": 1.0, "null_stderr": 0.2, **other}
    better = given.pop("better", "low")
    return MetricRecord(name, value, of=Provenance(model=model), space=space, better=better, **given)


def test_the_best_checkpoint_outlives_thinning_and_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "measure", measured({1: 3.0, 2: 1.5, 3: 2.0, 4: 2.5, 5: 2.6, 6: 2.7}))
    said: list[str] = []
    start(config(source, watch=6, measurements=0), tmp_path / "run", say=said.append)
    folder = RunFolder(tmp_path / "run")
    assert folder.steps() == [2, 5, 6]
    assert folder.best() == 2
    assert load(tmp_path / "run" / "best").path == folder.checkpoint(2)
    told = "\n".join(said)
    assert "the best checkpoint by frechet (random) is that of step 2: 1.50 +- 0.10 times real pictures" in told
    assert "the last, step 6, has 2.70 +- 0.10: worse beyond the error" in told
    assert "by frechet (patches), which had no say" in told
    # And it stays so when the run goes on.
    start(config(source, watch=0, steps=9, checkpoints=3, measurements=0), tmp_path / "run")
    assert folder.steps() == [2, 6, 9]


def test_too_few_pictures_end_the_watching_and_not_the_run(pictures: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = start(settings(pictures, run={**RUN, "steps": 4}), tmp_path / "run", say=said.append)
    assert run.trainer.step == 4
    assert sum("watching is off: there are too few pictures" in line for line in said) == 1
    troubles = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "trouble"]
    assert ["watching is off" in r["message"] for r in troubles] == [True]
    assert points(tmp_path / "run") == []


def test_a_failure_inside_is_said_once_and_the_run_ends_as_it_would(
    source: Path, watched: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Watcher, *_: object, **__: object) -> Point:
        torch.manual_seed(99)
        torch.rand(5)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Watcher, "measure", fails)
    said: list[str] = []
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    start(config(source), tmp_path / "run", say=said.append)
    assert torch.equal(torch.rand(2), expected)
    assert [line for line in said if "watching is off" in line] == ["watching is off: a bug; the run goes on"]
    assert curve(tmp_path / "run") == curve(watched[0])
    assert same_weights(tmp_path / "run", watched[0])


def test_memory_that_runs_out_cuts_the_samples_and_not_the_curve(
    source: Path, watched: tuple[Path, list[str]], tmp_path: Path
) -> None:
    sizes: list[int] = []

    def prepare(run: TrainingRun) -> None:
        def check(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            if not torch.is_grad_enabled() and len(arguments[0]) <= 48 and run.trainer.step == 6:
                sizes.append(len(arguments[0]))
                if len(arguments[0]) > 24:
                    raise torch.OutOfMemoryError("CUDA out of memory")

        run.model.denoiser.backbone.register_forward_pre_hook(check)

    start(config(source, watch=1, measurements=0), tmp_path / "run", prepare=prepare)
    assert (sizes[0], set(sizes[1:])) == (48, {24})
    noted = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "memory"]
    assert [(r["what"], r["at_once"]) for r in noted] == [("watching", 24)]
    (cut,), whole = points_of(points(tmp_path / "run")), points_of(points(watched[0]))[-1]
    # Kernels differ by batch, and a pixel may round to its neighbour.
    for a, b in zip(cut.records, whole.records, strict=True):
        assert a.value == pytest.approx(b.value, rel=0.05, abs=0.02)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"watch_spaces": ["randm"]}, "did you mean 'random'"),
        ({"watch_spaces": ["random", "random"]}, "named twice"),
        ({"watch_spaces": []}, "at least one feature space"),
        ({"watch_num": 8}, "at least 48 samples"),
        ({"watch": -1}, "0 or more"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    source: Path, tmp_path: Path, given: dict, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        start(config(source, **given), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_time_it_takes_is_part_of_the_estimate(source: Path, tmp_path: Path) -> None:
    learning = {"watch_spaces": ["self-supervised", "random"]}
    few, many = (
        TrainingRun(config(source, watch=n, **learning), tmp_path / "run", say=lambda line: None).estimate()
        for n in (0, 6)
    )
    assert few.watching is None
    assert many.watching is not None
    assert many.beside >= 6 * many.watching.seconds + many.opening
    assert many.opening > 0
    assert "6 times distances" in many.text(8)
    assert "distances" not in few.text(8)


@given(st.floats(1.0, 1e6), st.floats(0.0, 60.0), st.floats(1e-3, 1e3))
def test_left_open_it_takes_three_percent_of_a_run_at_most(seconds: float, once: float, each: float) -> None:
    found = how_often(seconds, once=once, each=each)
    assert found == 0 or 3 <= found <= 8
    assert found == 0 or once + found * each <= SHARE * seconds * (1 + 1e-9)
    assert found > 0 or once + 3 * each > SHARE * seconds * (1 - 1e-9)


def test_a_short_run_is_not_watched_unless_asked(source: Path, tmp_path: Path) -> None:
    open_ = config(source)
    open_ = dataclasses.replace(open_, run=dataclasses.replace(open_.run, watch=None))
    run = TrainingRun(open_, tmp_path / "run", say=lambda line: None)
    assert run.config.run.watch == 0
    assert RunSettings().watch is None


class TestVerdict:
    def series(self, values: list[float], others: list[float] | None = None, **given: object) -> list[Point]:
        others = values if others is None else others
        return [
            Point(
                10 * (i + 1),
                f"m{i}",
                "p",
                (record(a, model=f"m{i}", **given), record(b, space="patches", model=f"m{i}", **given)),
                1.0,
            )
            for i, (a, b) in enumerate(zip(values, others, strict=True))
        ]

    @given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=8), st.sampled_from(["low", "high"]))
    def test_the_first_space_chooses_alone(self, values: list[float], better: str) -> None:
        shuffled = values[::-1]
        found = verdict(self.series(values, shuffled, better=better))
        assert found is not None
        assert found.choosing.chosen.value == (min if better == "low" else max)(values)
        # The last is never better than the best where one chooses.
        assert found.choosing.difference >= 0
        assert found.best.step == 10 * (values.index(found.choosing.chosen.value) + 1)
        assert [f.chosen.space for f in found.reporting] == ["patches"]
        assert found.lines()

    def test_a_difference_within_the_error_is_none(self) -> None:
        near, far = (verdict(self.series([1.0, 1.0 + d])) for d in (0.2, 0.3))
        assert near is not None
        assert far is not None
        # 1.645 times 0.1 times the root of two is 0.233.
        assert (near.choosing.beyond, far.choosing.beyond) == (False, True)
        assert near.choosing.stderr == pytest.approx(0.1 * math.sqrt(2.0))

    def test_another_plan_begins_another_curve(self) -> None:
        old = [
            dataclasses.replace(p, records=tuple(dataclasses.replace(r, n=32) for r in p.records))
            for p in self.series([0.1])
        ]
        new = [dataclasses.replace(p, step=p.step + 100) for p in self.series([2.0, 3.0])]
        found = verdict([*old, *new])
        assert found is not None
        assert found.best.step == 110
        assert one_curve([*old, *new]) == new

    def test_only_what_is_still_there_can_be_the_best(self) -> None:
        every = self.series([1.0, 2.0, 3.0])
        found = verdict(every, {20, 30})
        assert found is not None
        assert found.best.step == 20
        assert verdict([]) is None

    def test_a_value_that_is_not_finite_is_never_the_best(self) -> None:
        found = verdict(self.series([math.nan, 5.0, 6.0]))
        assert found is not None
        assert found.best.step == 20

    def test_a_chart_for_every_distance(self) -> None:
        assert set(distance_charts(self.series([3.0, 2.0, 1.5]))) == {"frechet"}


def test_the_height_of_a_point_is_one_or_nothing_for_real_pictures() -> None:
    assert scaled(record(1.0, null=1.0)) == (1.0, 0.1, 0.2, True)
    assert scaled(record(3.0, null=2.0, stderr=0.5)) == (1.5, 0.25, 0.1, True)
    # An unbiased distance has a null about zero: nothing is divided by it.
    height, error, band, ratio = scaled(record(0.5, null=0.01, null_stderr=0.1, stderr=0.05))
    assert (ratio, band) == (False, 1.0)
    assert height == pytest.approx(4.9)
    assert error == pytest.approx(0.5)


numbers = st.floats(-1e6, 1e6) | st.just(math.nan)


@given(st.integers(0, 10**6), st.lists(st.tuples(numbers, st.floats(0, 10)), min_size=1, max_size=4), st.floats(0, 1e4))
def test_a_point_is_what_its_line_says(step: int, values: list[tuple[float, float]], seconds: float) -> None:
    records = tuple(record(v, space=f"s{i}", stderr=e) for i, (v, e) in enumerate(values))
    point = Point(step, "m", "p", records, round(seconds, 3))
    line = json.loads(json.dumps({"kind": "watch", "step": step, **point.line()}))
    (found,) = points_of([{"kind": "step", "step": 1}, {"kind": "watch", "step": 1, "records": 3}, line])
    assert repr(found) == repr(point)


def test_large_pictures_are_read_in_smaller_numbers(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kakusan.train.sources import open_parts

    parts = open_parts(config(source).data, seed=0)
    whole = watching.deal(*parts)
    assert (len(whole.learning), len(whole.pool), len(whole.training)) == (60, 100, 0)
    monkeypatch.setattr(watching, "POOL", 96)
    plan = WatchPlan(num=1000, spaces=("patches",), distances=("frechet",))
    watcher = Watcher(*parts, plan)
    assert (len(watcher.reference.pool), watcher.num, len(watcher.reference.learning)) == (96, 48, 0)
    labels = watcher.labels()
    assert labels is not None
    assert torch.bincount(labels).sum() == 48


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    state = random.getstate()
    yield
    assert random.getstate() == state
