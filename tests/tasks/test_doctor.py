"""Whose fault a bad sample is."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import draw_pictures, settings, start

from kakusan.model_folder import sha256
from kakusan.run_folder import RunFolder
from kakusan.tasks.doctor import examine


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def change_weights(run: Path, change) -> None:
    """Alter all weights of the newest checkpoint, hashes and all."""
    folder = RunFolder(run).latest()
    assert folder is not None
    facts = json.loads((folder / "model.json").read_text())
    for name in ("weights.safetensors", "ema.safetensors"):
        file = folder / name
        save_file({n: change(n, v) for n, v in load_file(str(file)).items()}, str(file))
        facts["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    (folder / "model.json").write_text(json.dumps(facts))


def test_a_run_that_has_learnt_is_healthy(run: Path) -> None:
    found = examine(run)
    assert found.healthy, found.text()
    assert found.verdict.startswith("healthy")
    assert found.distance < 0.05 * found.spacing
    middle = list(zip(found.levels.x0_error, found.levels.floor, strict=True))[1:-1]
    assert all(error < 0.9 * floor for error, floor in middle)
    assert found.picture == run / "doctor.png"
    with Image.open(found.picture) as picture:
        assert picture.width > 64
    assert "verdict: healthy" in found.text()


def test_a_fresh_network_is_at_fault(run: Path) -> None:
    def zero(name: str, value: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(value) if "head" in name else value

    change_weights(run, zero)
    found = examine(run)
    assert not found.healthy
    assert "the network is at fault" in found.verdict


def test_a_ruined_network_is_at_fault(run: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    change_weights(run, lambda name, value: 3.0 * torch.randn(value.shape, generator=generator))
    found = examine(run)
    assert not found.healthy
    assert "the network is" in found.verdict


@pytest.mark.parametrize("grid", ["uniform", "log-snr"])
def test_a_sampler_that_cannot_arrive_is_at_fault(run: Path, grid: str) -> None:
    found = examine(run, sampler="ddim", grid=grid, num_steps=1)
    assert not found.healthy
    assert found.verdict.startswith("the sampler is at fault")


def test_averages_that_lag_are_told(run: Path) -> None:
    def blank(name: str, value: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(value) if name.startswith("ema-") and "head" in name else value

    change_weights(run, blank)
    found = examine(run)
    assert "averaged weights lag" in found.verdict


def test_the_data_may_have_moved(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "first"
    draw_pictures(folder)
    start(settings(folder, run={"steps": 2}), tmp_path / "run")
    shutil.move(folder, tmp_path / "second")
    with pytest.raises(ValueError, match="no folder, zip file or embedded data set"):
        examine(tmp_path / "run")
    examine(tmp_path / "run", data=str(tmp_path / "second"), out=tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()
    draw_pictures(tmp_path / "third", classes=("green",))
    with pytest.raises(ValueError, match="other classes"):
        examine(tmp_path / "run", data=str(tmp_path / "third"))
    draw_pictures(tmp_path / "fourth", size=12)
    with pytest.raises(ValueError, match="the model was trained on"):
        examine(tmp_path / "run", data=str(tmp_path / "fourth"))


@pytest.mark.parametrize("kind", ["one picture", "not square", "one colour", "embedded"])
def test_every_kind_of_run_can_be_examined(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    size = (12, 8) if kind == "not square" else (8, 8)
    for number in range(1 if kind == "one picture" else 3):
        image = Image.new("RGB", size, (90, 90, 90))
        if kind != "one colour":
            image.putpixel((number, number), (255, 0, 0))
        image.save(folder / f"{number}.png")
    source = "digits" if kind == "embedded" else folder
    config = settings(source, run={"steps": 2})
    if kind == "embedded":
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, held_out=0.1))
    start(config, tmp_path / "run")
    found = examine(tmp_path / "run")
    assert not found.healthy
    assert ("nothing to learn" in found.verdict) == (kind == "one colour")
    assert found.text()
