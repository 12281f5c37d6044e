import json
from pathlib import Path

import pytest
from PIL import Image

from kakusan.cli import main
from kakusan.encoders import load

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
