"""Pictures to files and back: what a PNG says is what makes it again, bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import settings, start

from kakusan.model_folder import CorruptModel
from kakusan.pipeline import load
from kakusan.report.png import read_record, save_png
from kakusan.run_folder import RunFolder
from kakusan.tasks.again import again
from kakusan.tasks.sampling import draw


def drawn(run: Path, out: Path, **options: Any) -> list[str]:
    values: dict[str, Any] = {
        "sampler": "dpmpp-2m",
        "grid": "karras",
        "num_steps": 4,
        "seed": 3,
        "batch": 3,
        "device": "cpu",
    }
    return list(draw(run, out, **{**values, **options}))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_sheet_is_drawn_again_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    lines = drawn(trained, tmp_path / "sheet.png", labels=["red", "blue"], num=6, guidance_scale=2.0)
    assert read_record(tmp_path / "sheet.png")["rows"] == ["red", "blue"]
    assert "6 pictures with the weights 'ema-0.1'" in lines[0]
    lines = list(again(tmp_path / "sheet.png", tmp_path / "again.png", device="cpu"))
    assert lines[-1] == "every pixel is equal to the first"
    assert np.array_equal(pixels(tmp_path / "sheet.png"), pixels(tmp_path / "again.png"))
    assert read_record(tmp_path / "sheet.png") == read_record(tmp_path / "again.png")


def test_a_sheet_in_bfloat16_is_drawn_again_in_bfloat16(trained: Path, tmp_path: Path) -> None:
    for name in ("fp32", "bf16"):
        drawn(trained, tmp_path / f"{name}.png", labels=["red", "blue"], num=6, precision=name)
    assert read_record(tmp_path / "bf16.png")["dtype"] == "bfloat16"
    assert read_record(tmp_path / "fp32.png")["dtype"] == "float32"
    exact, rounded = (pixels(tmp_path / f"{name}.png").astype(int) for name in ("fp32", "bf16"))
    assert 0 < np.abs(exact - rounded).max() <= 16
    lines = list(again(tmp_path / "bf16.png", tmp_path / "again.png", device="cpu"))
    assert lines[-1] == "every pixel is equal to the first"


def test_a_sheet_drawn_larger_is_drawn_again_as_large(trained: Path, tmp_path: Path) -> None:
    from kakusan.report.grids import grid

    pipeline = load(trained)
    request = pipeline.request(labels=["red", "red", "blue", "blue"], seed=1, num_steps=3)
    sheet = grid(
        pipeline.sample(labels=[1, 1, 0, 0], seed=1, num_steps=3), columns=2, row_labels=["red", "blue"], scale=5
    )
    save_png(sheet, tmp_path / "a.png", pipeline.record(request, kind="sheet", columns=2, scale=5))
    assert "every pixel is equal" in list(again(tmp_path / "a.png", tmp_path / "b.png", device="cpu"))[-1]


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp-2m", "heun"])
def test_single_files_are_drawn_again_each_from_itself(trained: Path, tmp_path: Path, sampler: str) -> None:
    drawn(trained, tmp_path / "files", labels=["red", "blue"], num=5, sampler=sampler)
    files = sorted((tmp_path / "files").iterdir())
    assert [f.name for f in files] == [
        "00000-red-seed3.png",
        "00001-red-seed4.png",
        "00002-red-seed5.png",
        "00003-blue-seed6.png",
        "00004-blue-seed7.png",
    ]
    for file in (files[1], files[4]):
        lines = list(again(file, tmp_path / "again" / file.name, device="cpu"))
        assert lines[-1] == "every pixel is equal to the first"
        assert np.array_equal(pixels(file), pixels(tmp_path / "again" / file.name))
    # The record holds the batch it was computed in, so that even the last bit comes back.
    assert read_record(files[4])["seeds"] == [6, 7]
    assert read_record(files[4])["index"] == 1


def test_the_tensors_come_back_bit_for_bit(trained: Path) -> None:
    pipeline = load(trained)
    request = pipeline.request(labels=["red", "blue", "red"], seed=2, guidance_scale=1.5, num_steps=4, batch=2)
    from kakusan.request import SampleRequest

    record = json.loads(json.dumps(pipeline.record(request)))
    assert torch.equal(load(trained).run(SampleRequest.from_record(record)), pipeline.run(request))


def test_one_picture_is_one_picture(trained: Path, tmp_path: Path) -> None:
    drawn(trained, tmp_path / "one.png", labels=["red"], num=1)
    assert pixels(tmp_path / "one.png").shape == (8, 8, 3)
    list(again(tmp_path / "one.png", tmp_path, device="cpu"))
    assert "every pixel" in list(again(tmp_path / "one.png", tmp_path / "new", device="cpu"))[-1]
    assert (tmp_path / "new" / "one.png").is_file()


def test_a_sheet_of_all_labels_has_a_row_for_each(trained: Path, tmp_path: Path) -> None:
    drawn(trained, tmp_path / "all.png", all_labels=True, num=2)
    record = read_record(tmp_path / "all.png")
    assert record["label_names"] == ["blue", "blue", "red", "red"]
    assert record["rows"] == ["blue", "red"]
    assert record["columns"] == 2
    with pytest.raises(ValueError, match="exclude each other"):
        drawn(trained, tmp_path / "all.png", all_labels=True, labels=["red"])


def test_raw_weights_are_asked_for_and_said(trained: Path, tmp_path: Path) -> None:
    assert "'raw'" in drawn(trained, tmp_path / "raw.png", num=2, weights="raw")[0]
    assert read_record(tmp_path / "raw.png")["weights"] == "raw"
    assert "every pixel" in list(again(tmp_path / "raw.png", tmp_path / "b.png", device="cpu"))[-1]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_the_way_from_noise_is_an_animation(trained: Path, tmp_path: Path, suffix: str) -> None:
    drawn(trained, tmp_path / "a.png", labels=["red"], num=3, trajectory=tmp_path / f"way{suffix}")
    with Image.open(tmp_path / f"way{suffix}") as way:
        assert way.n_frames >= 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": ["rde"]}, r"no class 'rde' \(did you mean 'red'"),
        ({"num": 0}, "at least one sample"),
        ({"guidance_scale": 2.0}, "guidance needs labels"),
        ({"eta": 0.5}, "eta belongs to the sampler ddim"),
        ({"weights": "emma"}, "'emma' is none of them"),
        ({"trajectory": Path("way.avi")}, "--trajectory ends in"),
        ({"device": "tpu"}, "no device"),
        ({"sampler": "euler-b"}, "no sampler"),
    ],
)
def test_wrong_wishes_are_refused(trained: Path, tmp_path: Path, options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        drawn(trained, tmp_path / "a.png", **options)
    assert not (tmp_path / "a.png").exists()


def test_only_png_carries_a_record(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--out is a \.png file.*or a folder"):
        drawn(trained, tmp_path / "a.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--out is a \.png file"):
        drawn(trained, tmp_path / "file")
    drawn(trained, tmp_path / "v1.0", num=1)
    assert len(list((tmp_path / "v1.0").glob("*.png"))) == 1


class TestAgain:
    @pytest.fixture
    def sheet(self, trained: Path, tmp_path: Path) -> Path:
        drawn(trained, tmp_path / "sheet.png", labels=["red"], num=2)
        return tmp_path / "sheet.png"

    def test_a_moved_run_is_named(self, trained: Path, sheet: Path, tmp_path: Path) -> None:
        moved = tmp_path / "moved"
        shutil.copytree(trained, moved)
        lines = list(again(sheet, tmp_path / "b.png", run=moved, device="cpu"))
        assert str(moved) in lines[0]
        assert "every pixel" in lines[-1]

    def test_an_older_checkpoint_of_the_run_is_found(self, trained: Path, tmp_path: Path) -> None:
        older = RunFolder(trained).checkpoint(RunFolder(trained).steps()[0])
        drawn(older, tmp_path / "old.png", num=1)
        assert str(older) in next(iter(again(tmp_path / "old.png", tmp_path / "b.png", run=trained, device="cpu")))

    def test_another_model_is_refused(self, sheet: Path, pictures: Path, tmp_path: Path) -> None:
        start(settings(pictures, run={"steps": 1}), tmp_path / "other")
        with pytest.raises(ValueError, match="the model of this picture .* is not in .*other"):
            list(again(sheet, tmp_path / "b.png", run=tmp_path / "other", device="cpu"))
        with pytest.raises(ValueError, match="there is no run or model at"):
            list(again(sheet, tmp_path / "b.png", run=tmp_path / "nothing", device="cpu"))

    def test_a_model_that_is_gone_is_said(self, sheet: Path, tmp_path: Path) -> None:
        record = {**read_record(sheet), "model_path": str(tmp_path / "gone")}
        save_png(Image.new("RGB", (8, 8)), tmp_path / "x.png", record)
        with pytest.raises(ValueError, match="is not at .*gone; name the run that holds it"):
            list(again(tmp_path / "x.png", tmp_path / "b.png", device="cpu"))

    def test_a_changed_model_is_refused(self, trained: Path, sheet: Path, tmp_path: Path) -> None:
        moved = tmp_path / "moved"
        shutil.copytree(trained, moved)
        latest = RunFolder(moved).latest()
        assert latest is not None
        (latest / "ema.safetensors").write_bytes(b"\0" * 100)
        with pytest.raises(CorruptModel, match=r"ema\.safetensors is damaged"):
            list(again(sheet, tmp_path / "b.png", run=moved, device="cpu"))

    def test_previews_of_training_are_refused(self, trained: Path, tmp_path: Path) -> None:
        preview = sorted((trained / "samples").glob("*.png"))[-1]
        with pytest.raises(ValueError, match="was drawn during training"):
            list(again(preview, tmp_path / "b.png", device="cpu"))

    @pytest.mark.parametrize("key", ["kind", "threads", "weights", "seeds", "sampler", "columns"])
    def test_incomplete_records_are_refused(self, sheet: Path, tmp_path: Path, key: str) -> None:
        record = {k: v for k, v in read_record(sheet).items() if k != key}
        save_png(Image.new("RGB", (8, 8)), tmp_path / "x.png", record)
        with pytest.raises(ValueError, match=r"record in .* is incomplete|was not drawn by kakusan sample"):
            list(again(tmp_path / "x.png", tmp_path / "b.png", device="cpu"))

    def test_pictures_without_a_record_are_refused(self, tmp_path: Path) -> None:
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
        with pytest.raises(ValueError, match="holds no record of kakusan's"):
            list(again(tmp_path / "x.png", tmp_path / "b.png", device="cpu"))

    def test_other_circumstances_are_said(self, sheet: Path, tmp_path: Path) -> None:
        record = {**read_record(sheet), "torch": "2.0.0"}
        save_png(Image.open(sheet), tmp_path / "x.png", record)
        last = list(again(tmp_path / "x.png", tmp_path / "b.png", device="cpu"))[-1]
        assert last.startswith("every pixel is equal to the first (torch was 2.0.0, is ")

    def test_a_picture_that_was_painted_over_is_noticed(self, sheet: Path, tmp_path: Path) -> None:
        image = Image.open(sheet).convert("RGB")
        value = image.getpixel((3, 3))
        image.putpixel((3, 3), tuple((v + 9) % 256 for v in value))  # type: ignore[union-attr]
        save_png(image, tmp_path / "x.png", read_record(sheet))
        assert "pixels differ by at most" in list(again(tmp_path / "x.png", tmp_path / "b.png", device="cpu"))[-1]


def test_classes_without_dropout_and_models_without_classes(pictures: Path, tmp_path: Path) -> None:
    start(settings(pictures, model={"condition_dropout": 0.0}, run={"steps": 1}), tmp_path / "strict")
    with pytest.raises(ValueError, match="trained without condition dropout"):
        drawn(tmp_path / "strict", tmp_path / "a.png", labels=["red"], guidance_scale=2.0)
    start(settings(pictures, model={"conditional": False}, run={"steps": 1}), tmp_path / "free")
    with pytest.raises(ValueError, match="trained without classes"):
        drawn(tmp_path / "free", tmp_path / "a.png", labels=["red"])
    with pytest.raises(ValueError, match="trained without classes; leave --all-labels out"):
        drawn(tmp_path / "free", tmp_path / "a.png", all_labels=True)
    drawn(tmp_path / "free", tmp_path / "a.png", num=2)
