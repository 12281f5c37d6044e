"""Shards are the same by any number of processes, resumable, and never mixed with those of other settings."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from kakusan.pipeline import load
from kakusan.tasks.shards import draw_shards

SAMPLING = {"num": 7, "size": 3, "device": "cpu", "sampler": "ddim", "num_steps": 2, "batch": 2, "seed": 5}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def draw(run: Path, out: Path, **options: object) -> list[str]:
    return list(draw_shards(run, out, **{**SAMPLING, **options}))


def content(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}


@pytest.fixture(scope="module")
def one(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "one"
    draw(trained, out, labels=["red", "blue"])
    return out


def test_any_number_of_processes_makes_the_same_files(
    one: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        assert not (tmp_path / "two" / "manifest.jsonl").exists()
        draw(trained, tmp_path / "two", labels=["red", "blue"])
    assert content(tmp_path / "two") == content(one)


def test_the_manifest_names_every_picture(one: Path, trained: Path) -> None:
    lines = [json.loads(line) for line in (one / "manifest.jsonl").read_text().splitlines()]
    assert [(line["first"], line["count"]) for line in lines] == [(0, 3), (3, 3), (6, 1)]
    pictures = [picture for line in lines for picture in line["pictures"]]
    assert [picture["seed"] for picture in pictures] == list(range(5, 12))
    drawn = load(trained).sample(
        labels=["red"] * 4 + ["blue"] * 3, seed=5, num_steps=2, sampler="ddim", batch=2, grid="karras"
    )
    from PIL import Image, ImageChops

    for line in lines:
        assert hashlib.sha256((one / line["shard"]).read_bytes()).hexdigest() == line["sha256"]
        with tarfile.open(one / line["shard"]) as tar:
            for picture in line["pictures"]:
                file = tar.extractfile(f"{picture['name']}.png")
                assert file is not None
                place = int(picture["name"])
                difference = ImageChops.difference(Image.open(file), drawn[place])
                # Batches are cut otherwise here: the last bits of a network differ with the batch.
                assert max(high for _, high in difference.getextrema()) <= 1
                label = tar.extractfile(f"{picture['name']}.cls")
                assert label is not None
                assert (
                    int(label.read()) == picture["label"] == load(trained).label_index("red" if place < 4 else "blue")
                )


def test_unfinished_and_damaged_shards_are_made_again(one: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    draw(trained, out, labels=["red", "blue"])
    kept = (out / "pictures-00001.tar").stat().st_mtime_ns
    (out / "pictures-00000.json").unlink()
    with open(out / "pictures-00002.tar", "r+b") as file:
        file.write(b"damaged")
    said = draw(trained, out, labels=["red", "blue"])
    assert [line for line in said if line.startswith("wrote")] == [
        f"wrote {out / name}" for name in ("pictures-00000.tar", "pictures-00002.tar")
    ]
    assert (out / "pictures-00001.tar").stat().st_mtime_ns == kept
    assert content(out) == content(one)


def test_other_settings_and_other_folders_are_refused(one: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"begun with other settings \(num_steps was 2, now 3\)"):
        draw(trained, one, labels=["red", "blue"], num_steps=3)
    with pytest.raises(ValueError, match="seeds_and_labels was"):
        draw(trained, one, labels=["blue", "red"])
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no shards"):
        draw(trained, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        draw(trained, tmp_path / "mine.txt")
    with pytest.raises(ValueError, match="at least one picture"):
        draw(trained, tmp_path / "new", size=0)
