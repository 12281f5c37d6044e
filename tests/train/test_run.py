"""Runs on every kind of folder, planned in steps or minutes, with what they leave behind."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_runs import settings, start

from kakusan.model_folder import read_facts
from kakusan.pipeline import load
from kakusan.run_folder import RunFolder
from kakusan.train.estimate import duration
from kakusan.train.metrics_log import MetricsLog, read_records, read_table
from kakusan.train.pace import Moments
from kakusan.train.run import TrainingRun


def noise(shape: tuple[int, ...], top: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, shape)


def save(folder: Path, arrays: list[np.ndarray], mode: str) -> Path:
    folder.mkdir()
    for number, array in enumerate(arrays):
        if mode == "npy":
            np.save(folder / f"{number}.npy", array)
        else:
            Image.fromarray(array).save(folder / f"{number}.png")
    return folder


FOLDERS = {
    "one picture": ([noise((8, 8, 3)).astype(np.uint8)], "png", {}, (3, 8, 8)),
    "two pictures": ([noise((8, 8, 3), seed=s).astype(np.uint8) for s in (0, 1)], "png", {}, (3, 8, 8)),
    "gray": ([noise((8, 8), seed=s).astype(np.uint8) for s in range(3)], "png", {}, (1, 8, 8)),
    "gray, 16 bit": ([noise((8, 8), 65536, seed=s).astype(np.uint16) for s in range(3)], "png", {}, (1, 8, 8)),
    "with alpha": ([noise((8, 8, 4), seed=s).astype(np.uint8) for s in range(3)], "png", {}, (4, 8, 8)),
    "five channels": ([noise((8, 8, 5), seed=s).astype(np.uint8) for s in range(3)], "npy", {}, (5, 8, 8)),
    "odd size": ([noise((9, 9, 3), seed=s).astype(np.uint8) for s in range(3)], "png", {}, (3, 9, 9)),
    "not square": ([noise((6, 11, 3), seed=s).astype(np.uint8) for s in range(3)], "png", {}, (3, 6, 11)),
    "many sizes": (
        [noise((10, 7, 3)).astype(np.uint8), noise((5, 16, 3)).astype(np.uint8)],
        "png",
        {"size": 12, "fit": "pad"},
        (3, 12, 12),
    ),
    "one colour": ([np.full((8, 8, 3), 200, np.uint8)] * 2, "png", {}, (3, 8, 8)),
    "tiny": ([noise((1, 1, 3), seed=s).astype(np.uint8) for s in range(3)], "png", {}, (3, 1, 1)),
}


@pytest.mark.filterwarnings("ignore:.*constant.*")
@pytest.mark.parametrize("kind", list(FOLDERS))
def test_every_kind_of_folder_trains_and_samples(tmp_path: Path, kind: str) -> None:
    arrays, mode, data, shape = FOLDERS[kind]
    folder = save(tmp_path / "pictures", arrays, mode)
    previews = int(kind in ("one picture", "gray, 16 bit", "with alpha", "five channels"))
    config = settings(folder, data=data, run={"steps": 2, "measurements": 1, "previews": previews})
    run = start(config, tmp_path / "run", report=bool(previews))
    assert run.spec.shape == shape
    pipeline = load(tmp_path / "run")
    x0 = pipeline.sample_tensor(num=2, num_steps=2)
    assert x0.shape == (2, *shape)
    images = pipeline.sample(num=2, num_steps=2)
    expected = {"gray, 16 bit": "I;16", "with alpha": "RGBA", "five channels": "L"}
    assert images[0].mode == expected.get(kind, "L" if shape[0] == 1 else "RGB")
    assert images[0].size == (shape[2] * (shape[0] if kind == "five channels" else 1), shape[1])
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 2 * previews
    if previews:
        assert "<svg" in (tmp_path / "run" / "report.html").read_text()


def test_what_a_run_leaves_behind(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    length = {"steps": 8, "measurements": 4, "previews": 2, "checkpoints": 4, "spaced": 2}
    start(settings(pictures, data={"held_out": 0.25}, run=length), out, report=True)
    names = {p.name for p in out.iterdir()}
    assert names >= {"config.toml", "env.json", "metrics.jsonl", "metrics.csv", "samples", "report.html", "checkpoints"}
    assert names >= {"latest"}
    records = read_records(out / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(1, 9))
    assert [r["step"] for r in records if r["kind"] == "held-out"] == [2, 4, 6, 8]
    held_out = next(r for r in records if r["kind"] == "held-out")
    assert len(held_out["floor"]) == len(held_out["x0_error"]) == 8
    assert held_out["pictures"] == 6
    table = read_table(out / "metrics.csv")
    assert [float(row["loss"]) for row in table] == [r["loss"] for r in records if r["kind"] == "step"]
    assert sorted(p.name for p in (out / "samples").iterdir()) == [f"step-0000000{i}.png" for i in (0, 4, 8)]
    # The last two, one for each half, and the one with the lowest held-out loss.
    best = min((r for r in records if r["kind"] == "held-out"), key=lambda r: r["loss"])["step"]
    assert set(RunFolder(out).steps()) == {4, 6, 8} | {best}
    environment = json.loads((out / "env.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["runtime"]["threads"] == 1
    facts = read_facts(RunFolder(out).checkpoint(8))["training"]
    assert facts["steps"] == 8
    assert facts["samples"] == 64
    assert facts["pictures"] == 18


def test_two_profiles_are_saved_by_name_and_the_first_is_sampled(pictures: Path, tmp_path: Path) -> None:
    start(settings(pictures, run={"ema": [0.2, 0.05]}), tmp_path / "run")
    assert load(tmp_path / "run").weights == "ema-0.2"
    weights = {name: load(tmp_path / "run", weights=name).model.state_dict() for name in ("ema-0.2", "ema-0.05", "raw")}
    name = "denoiser.backbone.head.weight"
    assert not torch.equal(weights["ema-0.2"][name], weights["ema-0.05"][name])
    assert not torch.equal(weights["ema-0.05"][name], weights["raw"][name])


def test_minutes_are_planned_from_the_measured_speed(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = settings(pictures, run={"minutes": 0.04, "measurements": 4})
    config = dataclasses.replace(config, run=_without_steps(config.run))
    run = start(config, out)
    assert run.trainer.step == run.trainer.steps > 1
    assert run.elapsed() < 0.04 * 60 * 4 + 5
    # The rate has fallen to nearly zero at the end, wherever that came.
    rates = [r["rate"] for r in read_records(out / "metrics.jsonl") if r["kind"] == "step"]
    assert rates[-1] <= max(rates)


def _without_steps(run: object) -> object:
    return dataclasses.replace(run, steps=None)  # type: ignore[type-var]


def test_the_plan_follows_the_clock(pictures: Path, tmp_path: Path) -> None:
    config = settings(pictures)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, steps=None, minutes=10.0))
    run = TrainingRun(config, tmp_path / "run", say=lambda line: None)
    run.trainer.step, run._elapsed_before = 100, 60.0
    run._plan_again()
    # 100 steps a minute, nine minutes left, a little kept for the end.
    assert run.trainer.steps == pytest.approx(100 + 900 * 0.97, abs=2)
    run._elapsed_before = 700.0
    run._plan_again()
    assert run.trainer.steps == 101


@given(st.integers(1, 12), st.lists(st.floats(-0.3, 0.3), min_size=40, max_size=120))
def test_no_moment_is_lost_when_the_length_changes(times: int, swings: list[float]) -> None:
    """However the length is planned again after every step, every moment that is passed is told once."""
    moments, told, step, wobble = Moments(), 0, 0, iter(swings)
    farthest = 0.0
    for swing in wobble:
        step += 1
        steps = max(step, round(len(swings) * (1.0 + swing / times)))
        share = step * times // steps
        now = moments.due("this", times, step, steps)
        assert now == (share > farthest)
        told, farthest = told + now, max(farthest, share)
    moments.due("this", times, step, step)
    assert told + (farthest < times) == times
    assert not moments.due("this", times, step + 1, 2 * step), "none comes twice"
    moments.forget()
    assert moments.due("this", 2, 5, 10)


@pytest.mark.parametrize("length", [40, 41, 37])
def test_moments_of_a_fixed_length_stand_evenly(length: int) -> None:
    moments = Moments()
    found = [step for step in range(length + 1) if moments.due("this", 10, step, length)]
    assert len(found) == 10
    assert found == [-(-length * k // 10) for k in range(1, 11)]


def test_every_checkpoint_is_written_though_the_run_grows_shorter(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measurements, which plan anew, fall on the steps of the checkpoints; a shorter plan must not hide these."""
    config = settings(pictures, run={"measurements": 20, "checkpoints": 10})
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, steps=None, minutes=10.0))
    monkeypatch.setattr("kakusan.train.run.planned_steps", lambda *given: 60)
    run = TrainingRun(config, tmp_path / "run", say=lambda line: None)
    monkeypatch.setattr("kakusan.train.run.steps_again", lambda settings, step, *more: max(step, run.trainer.steps - 1))
    saved, save = [], run.save
    monkeypatch.setattr(run, "save", lambda: (saved.append(run.trainer.step), save()))
    run.run()
    assert run.trainer.step < 50
    # One at the start, ten on the way of which the last is the end.
    assert len(saved) == 11
    assert saved[-1] == run.trainer.step


def test_time_and_memory_are_said_before_the_first_step(pictures: Path, tmp_path: Path) -> None:
    run = TrainingRun(settings(pictures), tmp_path / "run", say=lambda line: None)
    estimate = run.estimate()
    assert estimate.steps == 6
    assert estimate.parameters == sum(p.numel() for p in run.model.parameters())
    assert 0 < estimate.seconds_per_step < 60
    assert estimate.memory_bytes > 2**20
    text = estimate.text(8)
    assert "6 steps: about" in text
    assert "GiB" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7325, "2 h 2 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("section", "values", "match"),
    [
        ("model", {"schedule": "cosin"}, "no schedule 'cosin' .did you mean 'cosine'"),
        ("model", {"parameterization": "epsilon"}, "no parameterization 'epsilon'"),
        ("model", {"blocks": "resnet"}, "no kind of block 'resnet'"),
        ("objective", {"weighting": "minsnr"}, "did you mean 'min-snr'"),
        ("data", {"fit": "cropp"}, "did you mean 'crop'"),
        ("data", {"source": "flowerz"}, "did you mean 'flowers'"),
        ("data", {"num": 5}, "limit_per_class"),
        ("run", {"device": "tpu"}, "no device 'tpu'"),
        ("run", {"precision": "fp8"}, "precision must be"),
        ("run", {"ema": []}, "at least one weight average"),
        ("run", {"ema": [0.5]}, "between 0 and 0.28"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    pictures: Path, tmp_path: Path, section: str, values: dict, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        start(settings(pictures, **{section: values}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_that_an_embedded_set_ignores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'digits' takes no setting classes or limit_per_class"):
        start(settings("digits", data={"classes": ["1"], "limit_per_class": 3}), tmp_path / "run")


def test_a_foreign_folder_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and is not a run"):
        start(settings(tmp_path / "no such data"), tmp_path)


def test_an_impossible_pair_says_why(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="(?i)snr"):
        start(settings(pictures, model={"schedule": "zero-terminal-snr", "parameterization": "eps"}), tmp_path / "run")


class TestMetricsLog:
    def test_what_came_after_the_checkpoint_is_dropped(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        log = MetricsLog(path, step=0, tensorboard=False)
        for step in range(1, 6):
            log.write("step", step, loss=1.0 / step)
            if step == 3:
                log.write("held-out", step, loss=0.5)
        log.close()
        with open(path, "a") as file:
            file.write('{"kind": "step", "st')
        assert len(read_records(path)) == 6
        log = MetricsLog(path, step=3, tensorboard=False)
        log.write("step", 4, loss=0.125)
        log.close()
        assert [(r["kind"], r["step"]) for r in read_records(path)] == [
            ("step", 1),
            ("step", 2),
            ("step", 3),
            ("held-out", 3),
            ("step", 4),
        ]
        assert [row["loss"] for row in read_table(tmp_path / "metrics.csv")] == ["1.0", "0.5", str(1 / 3), "0.125"]

    def test_records_are_there_at_once(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path / "metrics.jsonl", step=0, tensorboard=False)
        log.write("step", 1, loss=0.25)
        assert read_records(tmp_path / "metrics.jsonl") == [{"kind": "step", "step": 1, "loss": 0.25}]
        log.close()

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"3\n", b"null\n", b"[]\n", b'{"a": 1}\n', b"\0\0\0"])
    def test_damaged_files_hold_no_records(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
        assert read_records(tmp_path / "metrics.jsonl") == []
        assert read_records(tmp_path / "missing.jsonl") == []
