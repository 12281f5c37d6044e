"""What runs there are, and what one holds."""

import json
import shutil
from pathlib import Path

import pytest

from kakusan.autoencoders import KlAutoencoder
from kakusan.autoencoders import folder as autoencoder_folder
from kakusan.autoencoders.networks import NetworkSize
from kakusan.data.spec import DataSpec
from kakusan.encoders import folder as clip_folder
from kakusan.model_folder import CorruptModel
from kakusan.run_folder import RunFolder
from kakusan.tasks.runs import inspect, list_runs, table, text
from kakusan.train.clip_model import ClipSizes
from kakusan.train.keeping import write_checkpoint


@pytest.fixture
def shelf(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "shelf" / "good")
    return tmp_path / "shelf"


def test_runs_are_listed_with_their_last_picture(shelf: Path) -> None:
    (row,) = list_runs(shelf)
    assert row["state"] == "ok"
    assert row["steps"] == 60
    assert row["size"] == [3, 8, 8]
    assert Path(row["picture"]).name == "step-00000060.png"
    assert {"training loss", "held-out loss"} <= row.keys()
    shown = table(list_runs(shelf), shelf)
    assert "60 steps in" in shown
    assert "held-out loss" in shown
    json.dumps(list_runs(shelf))
    assert list_runs(shelf / "good")[0]["steps"] == 60


def test_damaged_and_unfinished_runs_are_listed_too(shelf: Path) -> None:
    (shelf / "new").mkdir()
    (shelf / "new" / "config.toml").write_text("")
    shutil.copytree(shelf / "good", shelf / "broken")
    (shelf / "broken" / "latest").write_text("step-99999999")
    shutil.copytree(shelf / "good", shelf / "altered")
    latest = RunFolder(shelf / "altered").latest()
    assert latest is not None
    facts = json.loads((latest / "model.json").read_text())
    facts["training"] = {}
    (latest / "model.json").write_text(json.dumps(facts))
    (shelf / "not a run").mkdir()
    states = {Path(row["run"]).name: row["state"] for row in list_runs(shelf)}
    assert states.keys() == {"good", "new", "broken", "altered"}
    assert states["new"] == "no checkpoint yet"
    assert states["broken"].startswith("damaged: ")
    assert states["altered"].startswith("damaged: ")
    assert "no checkpoint yet" in table(list_runs(shelf), shelf)


def test_an_empty_folder_says_how_to_make_a_run(tmp_path: Path) -> None:
    assert "kakusan train --data FOLDER" in table(list_runs(tmp_path), tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        list_runs(tmp_path / "nothing")


def test_everything_a_checkpoint_holds_is_shown(trained: Path) -> None:
    facts = inspect(trained)
    assert facts["denoiser"]["schedule"]["type"] == "Cosine"
    assert facts["data"]["classes"] == ["blue", "red"]
    assert facts["training"]["steps"] == 60
    assert facts["tensors"].keys() == {"weights.safetensors", "ema.safetensors", "optimizer.safetensors"}
    elements = facts["training"]["figures"]["parameters"]
    assert facts["tensors"]["weights.safetensors"]["elements"] == elements
    assert facts["tensors"]["ema.safetensors"]["elements"] == 2 * elements
    assert facts["hash"] in text(facts)
    assert json.loads(json.dumps(facts)) == facts


def test_damage_is_said_while_inspecting(shelf: Path) -> None:
    latest = RunFolder(shelf / "good").latest()
    assert latest is not None
    (latest / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CorruptModel, match=r"optimizer\.safetensors is damaged"):
        inspect(shelf / "good")


def test_other_networks_are_listed_and_inspected(tmp_path: Path) -> None:
    """A CLIP with its files in the folder itself, and an autoencoder whose training has checkpoints."""
    spec = DataSpec(channels=1, size=(8, 8), mean=(0.0,), std=(1.0,), mode="L")
    for name in ("clip", "autoencoder"):
        (tmp_path / name).mkdir()
    made = ClipSizes(width=4, features=4, text_width=8, text_depth=1, vocabulary=300).build(
        spec, [["a"], ["b"]], seed=0
    )
    clip_folder.save(tmp_path / "clip", made, spec, {"steps": 7})
    (tmp_path / "clip" / "config.toml").write_text("")
    network = KlAutoencoder(channels=1, factor=2, latent_channels=2, size=NetworkSize(width=4))
    run = RunFolder(tmp_path / "autoencoder")
    write_checkpoint(run, 5, lambda folder: autoencoder_folder.save(folder, network, spec, {"steps": 5}))
    rows = {Path(row["run"]).name: row for row in list_runs(tmp_path)}
    assert {name: (row["kind"], row["steps"], row["size"]) for name, row in rows.items()} == {
        "clip": ("CLIP", 7, [1, 8, 8]),
        "autoencoder": ("autoencoder", 5, [1, 8, 8]),
    }
    assert "CLIP for 1 x 8 x 8, 7 steps" in table(list_runs(tmp_path), tmp_path)
    assert list_runs(tmp_path / "autoencoder")[0]["kind"] == "autoencoder"
    assert inspect(tmp_path / "autoencoder")["autoencoder"]["type"] == "KlAutoencoder"
    assert inspect(tmp_path / "clip")["tensors"]["weights.safetensors"]["tensors"] > 0
    (run.path / "latest").write_text("step-00000099")
    (tmp_path / "clip" / "model.json").write_text("{")
    assert all(row["state"].startswith("damaged: ") for row in list_runs(tmp_path))
    assert "damaged" in table(list_runs(tmp_path), tmp_path)
