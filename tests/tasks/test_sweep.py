"""`kakusan sweep` as people use it: files, what they say, going on after a stop, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import settings, start

from kakusan.cli import main
from kakusan.pipeline import Pipeline, load
from kakusan.report.png import read_record
from kakusan.sweeping.cells import Batch
from kakusan.sweeping.store import SweepFolder
from kakusan.tasks import sweep as task
from kakusan.tasks.again import again


def swept(run: Path, out: Path, *argv: object, code: int = 0) -> None:
    steps = [] if any(str(a).startswith(("steps=", "--steps")) for a in argv) else ["--steps", 3]
    words = ["sweep", run, "--out", out, "--device", "cpu", *steps, *argv]
    assert main([str(word) for word in words]) == code


def complaint(capsys: pytest.CaptureFixture[str], run: Path, out: Path, *argv: object) -> str:
    swept(run, out, *argv, code=1)
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


def table(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "sweep.json").read_text("utf-8"))
    return found


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def one(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that tests may read."""
    out = tmp_path_factory.mktemp("sweeps") / "one"
    swept(
        trained, out, "--axis", "guidance-scale=-2:4:4", "--axis", "phi=0,1", "--label", "red", "--num", 2, "--seed", 5
    )
    return out


class TestFiles:
    def test_what_is_there(self, one: Path) -> None:
        assert {path.name for path in one.iterdir()} == {
            ".lock", "cells", "settings.json", "sheet.png", "sweep.gif", "sweep.json"
        }  # fmt: skip
        assert len(list((one / "cells").iterdir())) == 16
        with Image.open(one / "sweep.gif") as video:
            assert video.n_frames == 4
        assert read_record(one / "sheet.png")["axes"] == {
            "guidance-scale": [-2.0, 0.0, 2.0, 4.0],
            "rescale": [0.0, 1.0],
        }

    def test_the_table_says_what_the_pictures_are(self, one: Path, trained: Path) -> None:
        found = table(one)
        assert found["reference"] == {"guidance-scale": 0.0, "rescale": 0.0}
        assert len(found["cells"]) == 16
        assert len(found["places"]) == 8
        pipeline = load(trained)
        for cell in found["cells"]:
            picture = pixels(one / cell["file"]).astype(float) / 255.0
            assert cell["mean"] == pytest.approx(picture.mean(), abs=1e-12)
            assert cell["deviation"] == pytest.approx(picture.std(), abs=1e-12)
            assert cell["saturated"] == pytest.approx(((picture == 0) | (picture == 1)).mean(), abs=1e-12)
            values = cell["values"]
            alone = pipeline.sample(
                labels=["red"],
                seed=cell["seed"],
                guidance_scale=values["guidance-scale"],
                rescale=values["rescale"],
                num_steps=3,
            )
            assert np.abs(np.asarray(alone[0]).astype(int) - pixels(one / cell["file"])).max() <= 1
            if values == found["reference"]:
                assert cell["distance"] == 0.0
        assert {cell["seed"] for cell in found["cells"]} == {5, 6}
        assert {cell["label"] for cell in found["cells"]} == {"red"}

    def test_the_cost_is_that_of_the_network(self, one: Path) -> None:
        # 16 pictures, three steps, with and without the label; in the first step two pictures of noise only.
        assert table(one)["cost"]["evaluations"] == pytest.approx(2 * 2 + 2 * 16 * 2)
        assert table(one)["cost"]["passes"] == pytest.approx(3)

    def test_a_picture_of_it_is_drawn_again(self, one: Path, tmp_path: Path) -> None:
        lines = list(again(one / "cells" / "002-001-001.png", tmp_path / "again.png", device="cpu"))
        assert "every pixel" in lines[-1] or "at most 1" in lines[-1]

    @pytest.mark.parametrize("kind", ["webp", "none"])
    def test_other_videos_or_none(self, trained: Path, tmp_path: Path, kind: str) -> None:
        swept(trained, tmp_path / "s", "--axis", "seed=1:3:3", "--video", kind)
        assert (tmp_path / "s" / "sweep.webp").is_file() == (kind == "webp")
        assert not (tmp_path / "s" / "sweep.gif").exists()


class TestEveryAxis:
    @pytest.mark.parametrize(
        "argv",
        [
            ("--axis", "checkpoint=all", "--axis", "weights=all", "--label", "red"),
            ("--axis", "ema-width=0.05,0.15"),
            ("--axis", "label=all", "--axis", "steps=1,2,4"),
            ("--axis", "sampler=ddim,ddpm", "--axis", "guidance-scale=0,2"),
            ("--axis", "eta=0,1", "--axis", "threshold=none,0.9"),
            ("--axis", "rule=linear,apg", "--axis", "interval-high=0.4,1"),
        ],
        ids=lambda argv: argv[1],
    )
    def test_draws(self, trained: Path, tmp_path: Path, argv: Sequence[str]) -> None:
        swept(trained, tmp_path / "s", *argv)
        cells = table(tmp_path / "s")["cells"]
        assert len({pixels(tmp_path / "s" / cell["file"]).tobytes() for cell in cells}) > 1
        assert (tmp_path / "s" / "sheet.png").is_file()

    def test_a_switch_goes_from_one_label_to_the_other(self, trained: Path, tmp_path: Path) -> None:
        swept(trained, tmp_path / "s", "--axis", "switch=0:3:4", "--label", "red", "--to", "blue", "--seed", 2)
        pipeline = load(trained)
        for file, label in (("000-000.png", "blue"), ("003-000.png", "red")):
            plain = np.asarray(pipeline.sample(labels=[label], seed=2, num_steps=3)[0]).astype(int)
            assert np.abs(plain - pixels(tmp_path / "s" / "cells" / file)).max() <= 1
        # All go one way until they part: 1 + 2 + 3 further rows in the three steps.
        assert table(tmp_path / "s")["cost"]["evaluations"] == pytest.approx(2 + 3 + 4)

    def test_strength_goes_from_the_picture_to_a_plain_sample(
        self, trained: Path, pictures: Path, tmp_path: Path
    ) -> None:
        image = next((pictures / "red").glob("*.png"))
        argv = ("--axis", "strength=0,0.5,1", "--label", "blue", "--image", image, "--seed", 2)
        swept(trained, tmp_path / "s", *argv)
        assert np.array_equal(pixels(image), pixels(tmp_path / "s" / "cells" / "000-000.png"))
        plain = np.asarray(load(trained).sample(labels=["blue"], seed=2, num_steps=3)[0]).astype(int)
        assert np.abs(plain - pixels(tmp_path / "s" / "cells" / "002-000.png")).max() <= 1

    def test_a_model_without_classes(self, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = tmp_path / "run"
        start(settings(pictures, model={"conditional": False}, run={"steps": 3, "checkpoints": 1}), run)
        swept(run, tmp_path / "s", "--axis", "steps=1,2", "--axis", "seed=1,2")
        assert {cell["label"] for cell in table(tmp_path / "s")["cells"]} == {None}
        capsys.readouterr()
        for argv in (("--axis", "scale=0,1"), ("--axis", "label=all"), ("--axis", "seed=1", "--label", "red")):
            assert "trained without classes" in complaint(capsys, run, tmp_path / "t", *argv)


class TestGoingOn:
    AXES = ("--axis", "guidance-scale=0:3:4", "--label", "red", "--num", 2, "--batch", 3)

    def test_a_stopped_sweep_goes_on_and_loses_a_batch_at_most(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole, out = tmp_path / "whole", tmp_path / "out"
        swept(trained, whole, *self.AXES)
        drawn: list[int] = []
        true = task.draw

        def stopped(pipeline: Pipeline, batch: Batch, folder: SweepFolder) -> Any:
            if len(drawn) == 1:
                raise KeyboardInterrupt
            drawn.append(len(batch.cells))
            return true(pipeline, batch, folder)

        monkeypatch.setattr(task, "draw", stopped)
        swept(trained, out, *self.AXES, code=130)
        assert not (out / "sheet.png").exists()
        monkeypatch.setattr(task, "draw", true)
        capsys.readouterr()
        swept(trained, out, *self.AXES)
        assert f"{drawn[0]} of them are in {out} already" in capsys.readouterr().out
        for name in ("sheet.png", *(f"cells/{path.name}" for path in (whole / "cells").iterdir())):
            assert np.abs(pixels(whole / name).astype(int) - pixels(out / name)).max() <= 1, name

    def test_what_is_done_is_not_drawn_again(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        swept(trained, out, *self.AXES)
        before = table(out)
        cell = out / "cells" / "001-000.png"
        changed = {"cut": cell.read_bytes()[:60], "foreign": (out / "cells" / "002-001.png").read_bytes()}
        drawn: list[str] = []
        true = task.draw

        def watched(pipeline: Pipeline, batch: Batch, folder: SweepFolder) -> Any:
            drawn.extend(part.file for part in batch.cells)
            return true(pipeline, batch, folder)

        monkeypatch.setattr(task, "draw", watched)
        swept(trained, out, *self.AXES, "--video", "none")
        assert drawn == []
        assert table(out) == before
        for content in changed.values():
            cell.write_bytes(content)
            swept(trained, out, *self.AXES)
            assert drawn == [cell.name]
            drawn.clear()

    def test_another_command_in_the_folder_is_refused_with_the_difference(
        self, trained: Path, one: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        same = ("--axis", "phi=0,1", "--label", "red", "--num", 2)
        err = complaint(capsys, trained, one, "--axis", "guidance-scale=-2:5:4", *same, "--seed", 5)
        assert "(axis guidance-scale was [-2.0, 0.0, 2.0, 4.0], now [-2.0, " in err
        err = complaint(capsys, trained, one, "--axis", "guidance-scale=-2:4:4", *same, "--seed", 6)
        assert "other settings (seeds was [5, 6], now [6, 7]); give those again" in err
        err = complaint(capsys, trained, one, "--axis", "seed=1:20:20")
        assert "axes was" in err
        assert "axis seed was absent, now [1, 2, 3, ... 20] (20 values)" in err
        (tmp_path / "file").write_text("x")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "letter.txt").write_text("mine")
        assert "is a file" in complaint(capsys, trained, tmp_path / "file", "--axis", "seed=1")
        assert "holds no sweep" in complaint(capsys, trained, tmp_path / "other", "--axis", "seed=1")
        assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter.txt"]
        (one / "settings.json").rename(one / "kept")
        (one / "settings.json").write_text("{")
        assert "is damaged" in complaint(capsys, trained, one, "--axis", "seed=1")
        (one / "kept").replace(one / "settings.json")


class TestRefused:
    @pytest.mark.parametrize(
        ("argv", "match"),
        [
            (("--axis", "guidance-scale"), "has no values"),
            (("--axis", "guidance-scale=1,x"), "not a number"),
            (("--axis", "guidense-scale=1"), "did you mean 'guidance-scale'?"),
            (("--axis", "seed=1", "--axis", "seed=2"), "named twice"),
            (("--axis", "seed=1", "--label", "violet"), "no class 'violet'"),
            (("--axis", "label=red,violet"), "no class 'violet'"),
            (("--axis", "seed=1", "--num", "0"), "at least one picture"),
            (("--axis", "seed=1", "--batch", "0"), "batch must be at least 1"),
            (("--axis", "seed=1", "--video", "avi"), "--video is one of gif"),
            (("--axis", "seed=1", "--seed", "3"), "--seed and the axis seed both"),
            (("--axis", "switch=0,1", "--label", "red"), "--to and the axis switch belong together"),
            (("--axis", "switch=0,9", "--label", "red", "--to", "blue"), "after the last of 3 steps"),
            (("--axis", "strength=0,1"), "--image and the axis strength belong together"),
            (("--axis", "sampler=heun", "--eta", "1"), "eta belongs to the sampler ddim"),
            (("--axis", "seed=1:999:999", "--axis", "scale=0:1:999", "--num", "99"), "fit on one sheet"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_before_anything_is_drawn(
        self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: Sequence[str], match: str
    ) -> None:
        assert match in complaint(capsys, trained, tmp_path / "s", *argv)
        assert not (tmp_path / "s").exists()

    def test_guidance_of_a_model_that_never_saw_no_condition(
        self, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        start(settings(pictures, model={"condition_dropout": 0.0}, run={"steps": 3, "checkpoints": 1}), run)
        assert "without condition dropout" in complaint(capsys, run, tmp_path / "s", "--axis", "scale=0,1")
        swept(run, tmp_path / "t", "--axis", "label=all")

    def test_samples_that_are_no_numbers_are_said(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        true = Pipeline.run

        def broken(self: Pipeline, request: Any) -> torch.Tensor:
            x0 = true(self, request)
            x0[0] = float("nan")
            return x0

        monkeypatch.setattr(Pipeline, "run", broken)
        swept(trained, tmp_path / "s", "--axis", "seed=1,2")
        assert "1 pictures are not finite numbers" in capsys.readouterr().out
        assert [cell["finite"] for cell in table(tmp_path / "s")["cells"]] == [False, True]
