"""Whole runs by every way to the data: a folder, its cache, shards, resumed with another way."""

import tarfile
from pathlib import Path

import pytest
import torch
from small_runs import draw_pictures, settings, start

from kakusan.cli import main
from kakusan.config import DataSettings
from kakusan.data.packed import PackedPictures
from kakusan.run_folder import RunFolder, read_state
from kakusan.train.continuing import check_continues
from kakusan.train.metrics_log import read_records
from kakusan.train.sources import open_parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


def weights(out: Path) -> dict[str, torch.Tensor]:
    latest = RunFolder(out).latest()
    assert latest is not None
    return dict(read_state(latest)[0])


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_may_go_on_with_or_without_the_cache(folder: Path, tmp_path: Path) -> None:
    plain = settings(folder, data={"cache": "off", "flip": True})
    cached = settings(folder, data={"cache": str(tmp_path / "cache"), "flip": True})
    check_continues(plain, cached, tmp_path)
    run = start(cached, tmp_path / "halves", stop_at=3)
    assert isinstance(run.training._whole, PackedPictures)  # type: ignore[attr-defined]
    start(plain, tmp_path / "halves")
    start(plain, tmp_path / "whole")
    assert same(tmp_path / "halves", tmp_path / "whole")
    steps = [r for r in read_records(tmp_path / "whole" / "metrics.jsonl") if r["kind"] == "step"]
    assert len(steps) == 6
    assert all(r["wait"] >= 0.0 and r["seconds"] > 0.0 for r in steps)


def test_training_on_shards(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    for part in range(2):
        (tmp_path / "shards").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "shards" / f"{part}.tar", "w") as archive:
            for path in files[part::2]:
                stem = f"{path.parent.name}-{path.stem}"
                archive.add(path, f"{stem}.png")
                (tmp_path / "label").write_text(path.parent.name)
                archive.add(tmp_path / "label", f"{stem}.cls")
    config = settings(tmp_path / "shards")
    run = start(config, tmp_path / "run")
    assert run.spec.classes == ("blue", "red")
    assert len(run.training) + len(run.held_out) == 24
    start(config, tmp_path / "halves", stop_at=2)
    start(config, tmp_path / "halves")
    assert same(tmp_path / "run", tmp_path / "halves")


def test_embedded_sets_and_their_settings_are_as_before() -> None:
    training, _ = open_parts(DataSettings(source="flowers", num=32, size=8), seed=0)
    assert len(training) == 32


def test_the_cache_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path))
    home = tmp_path / "pictures"
    assert main(["data", "cache"]) == 0
    assert "no decoded pictures" in capsys.readouterr().out
    assert main(["data", "speed", str(folder), "--seconds", "0.01", "--cache", str(home), "--device", "cpu"]) == 0
    assert "decoded once into" in capsys.readouterr().out
    next(home.glob("*.pack")).with_name("f" * 40 + ".pack").write_bytes(b"junk")
    assert main(["data", "cache"]) == 0
    listed = capsys.readouterr().out
    assert f"24 pictures 3 x 8 x 8 of {folder}" in listed
    assert "damaged" in listed
    assert main(["data", "cache", "--clear"]) == 0
    assert capsys.readouterr().out.startswith("removed ")
    assert list(home.iterdir()) == []
    assert main(["data", "speed", str(tmp_path / "none")]) == 1
