import dataclasses
import json
import os
import signal
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from kakusan.cli import main
from kakusan.config import merge, read_toml
from kakusan.encoders import load
from kakusan.train.clip import ClipRun, ClipTraining, TrainedClip
from kakusan.train.clip_model import ClipSizes
from kakusan.train.clip_settings import ClipConfig

TINY = ["--width", "4", "--features", "8", "--text-width", "8", "--text-depth", "1", "--vocabulary", "400"]
QUICK = ["--steps", "3", "--batch", "8", "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "made"
    assert (
        main(["train-clip", "--data", "flowers", "--num", "48", "--size", "16", "--out", str(out), *TINY, *QUICK]) == 0
    )
    return out


def test_the_folder_holds_model_report_and_map(trained: Path) -> None:
    stored = load(trained)
    assert stored.clip.embed_texts(["a red rose", "赤いバラ"]).shape == (2, 8)
    assert stored.data.shape == (3, 16, 16)
    figures = stored.training["figures"]
    assert set(figures) == {"en", "ja"}
    assert figures["en"]["image_to_text"]["R@5"]["count"] == 64
    assert figures["en"]["zero_shot"]["chance"] == pytest.approx(1 / 16)
    assert figures["en"]["gap"]["shift"]["distance"] >= 0.0
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "map-data" in page
    assert "text to picture" in page
    with Image.open(trained / "map.png") as sheet:
        assert sheet.size == (1500, 1100)
        assert "map of a CLIP" in str(sheet.text)  # type: ignore[attr-defined]


def test_the_settings_stay_with_it_and_are_those_of_the_classes_that_use_them(trained: Path) -> None:
    stored = merge(ClipConfig(), read_toml(trained / "config.toml"))
    assert (stored.data.source, stored.size.text_width, stored.run.steps) == ("flowers", 8, 3)
    assert load(trained).training["how"] == dataclasses.asdict(ClipTraining(**stored.run.plan()))
    # Sections and classes share names and defaults, so that neither can be changed alone.
    assert ClipTraining(**ClipConfig().run.plan()) == ClipTraining()
    assert ClipSizes(**vars(ClipConfig().size)) == ClipSizes()


def test_settings_of_a_file_captions_included(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[data]\ncaptioned_only = true\n[size]\nloss = 'sigmoid'\n[run]\nminutes = 2\n")
    argv = ["train-clip", "--out", str(tmp_path / "x"), "--config", str(file)]
    assert main([*argv, "--steps", "7", "--templates", "a {class}", "--print-config"]) == 0
    found = merge(ClipConfig(), tomllib.loads(capsys.readouterr().out))
    assert (found.data.captioned_only, found.data.templates, found.size.loss) == (True, ("a {class}",), "sigmoid")
    assert (found.run.steps, found.run.minutes) == (7, None)
    file.write_text("[size]\ntowr = 'vit'\n")
    assert main(argv) == 1
    assert "unknown key 'towr' (did you mean 'tower'" in capsys.readouterr().err
    # Another verb's folder is not gone on with.
    assert main(["train", "--out", str(trained)]) == 1
    assert "taken by a training of another kind (its config.toml has [size])" in capsys.readouterr().err


def test_a_taken_folder_is_left_alone(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "model.json").read_bytes()
    assert main(["train-clip", "--data", "flowers", "--out", str(trained)]) == 1
    assert "taken" in capsys.readouterr().err
    assert (trained / "model.json").read_bytes() == before


def test_pictures_without_captions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    for k in range(4):
        Image.new("RGB", (8, 8), (60 * k, 0, 90)).save(tmp_path / "data" / f"{k}.png")
    assert main(["train-clip", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "clip"), *QUICK]) == 1
    assert "captions" in capsys.readouterr().err
    assert not (tmp_path / "clip").exists()


def test_a_folder_with_captions_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with open(data / "metadata.jsonl", "w", encoding="utf-8") as file:
        for k in range(6):
            Image.new("RGB", (8, 8), (40 * k, 0, 90)).save(data / f"{k}.png")
            words = "a square " * (40 if k == 1 else 1)
            file.write(json.dumps({"file_name": f"{k}.png", "caption": "" if k == 0 else words + str(k)}) + "\n")
    out = tmp_path / "clip"
    assert main(["train-clip", "--data", str(data), "--out", str(out), "--length", "12", *TINY, *QUICK]) == 0
    said = capsys.readouterr().out
    assert "5 pictures with 5 captions" in said
    assert "1 of 6 pictures have no caption" in said
    assert "1 of 5 captions looked at are too long" in said
    assert "zero_shot" not in load(out).training["figures"]["first caption"]


def test_a_training_that_was_stopped_goes_on_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["train-clip", "--data", "flowers", "--num", "48", "--size", "16", *TINY, *QUICK[2:], "--batch", "8"]
    curves: dict[str, list[dict[str, float]]] = {}
    finished = ClipRun.finished

    def kept(self: ClipRun) -> TrainedClip:
        curves[out.name] = [dict(record) for record in self.history]
        return finished(self)

    monkeypatch.setattr(ClipRun, "finished", kept)
    whole, out = tmp_path / "whole", tmp_path / "whole"
    assert main([*argv, "--steps", "6", "--out", str(whole)]) == 0
    take, out = ClipRun._take, tmp_path / "cut"

    def stopping(self: ClipRun, *given: object) -> None:
        take(self, *given)  # type: ignore[arg-type]
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ClipRun, "_take", stopping)
    assert main([*argv, "--steps", "6", "--out", str(out)]) == 0
    assert "stopped by SIGTERM at step 4; the same command goes on" in capsys.readouterr().out
    monkeypatch.setattr(ClipRun, "_take", take)
    assert main([*argv, "--steps", "6", "--seed", "3", "--out", str(out)]) == 1
    assert "other settings (seed)" in capsys.readouterr().err
    assert main([*argv, "--steps", "6", "--out", str(out)]) == 0
    assert "from step 4" in capsys.readouterr().out
    assert curves["cut"] == curves["whole"]
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()} >= {"model.json", "report.html"}
    # Names of files, tensors and every number: the weights are one file, bit for bit.
    assert (out / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
