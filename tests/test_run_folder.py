"""The run folder: refuses foreign places, cleans up, thins out, and always knows its newest whole checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kakusan.choices import build_objective
from kakusan.config import ObjectiveSettings
from kakusan.data.spec import DataSpec
from kakusan.denoiser import Denoiser
from kakusan.files import write_text
from kakusan.model_folder import CorruptModel, Model, ModelFacts
from kakusan.nn import UNet
from kakusan.parameterizations import V
from kakusan.run_folder import RunFolder, find_model, read_state
from kakusan.schedules import Cosine

DATA = DataSpec(channels=1, size=(4, 4), mean=(0.0,), std=(0.5,), mode="L")


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(Denoiser(UNet(channels=1, width=2, multipliers=[1], depth=1), Cosine(), V()))


def save(folder: RunFolder, step: int, model: nn.Module, **state: object) -> Path:
    assert isinstance(model, Model)
    facts = ModelFacts(DATA, build_objective(ObjectiveSettings(), DATA), {"steps": step}, ("ema",))
    averages = {"ema": {n: p.detach() + step for n, p in model.named_parameters()}}
    return folder.save(step, model, facts, averages, {"0/0/step": torch.tensor(float(step))}, {"step": step, **state})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create("# settings\n").close()
    return folder


def test_a_checkpoint_comes_back_whole(run: RunFolder, model: Model) -> None:
    assert run.latest() is None
    path = save(run, 3, model, best=[0.5, 2])
    assert run.latest() == path == run.checkpoint(3) == find_model(run.path) == find_model(path)
    weights, optimizer, averages, state = read_state(path)
    assert all(torch.equal(v, weights[n]) for n, v in model.state_dict().items())
    assert float(optimizer["0/0/step"]) == 3.0
    assert torch.equal(averages["ema"]["denoiser.backbone.stem.bias"], weights["denoiser.backbone.stem.bias"] + 3)
    assert state == {"step": 3, "best": [0.5, 2]}


def test_thinning_keeps_the_newest_the_named_and_the_latest(run: RunFolder, model: Model) -> None:
    for step in range(1, 7):
        save(run, step, model)
    run.thin({2})
    assert run.steps() == [2, 5, 6]
    # Sent back by hand: what comes later is left alone, and the one just written is not lost.
    write_text(run.path / "latest", "step-00000002\n")
    save(run, 3, model)
    run.thin(set())
    assert run.steps() == [2, 3, 5, 6]
    assert run.latest() == run.checkpoint(3)


def test_saving_over_an_unnamed_checkpoint_of_the_same_step(run: RunFolder, model: Model) -> None:
    save(run, 1, model)
    save(run, 2, model, note="first")
    write_text(run.path / "latest", "step-00000001\n")
    save(run, 2, model, note="second")
    assert read_state(run.checkpoint(2))[3]["note"] == "second"
    assert not list(run.checkpoints.glob(".part*"))


def test_leftovers_of_a_kill_are_cleaned_and_nothing_else(run: RunFolder, model: Model) -> None:
    save(run, 1, model)
    (run.checkpoints / ".part-step-00000002-77").mkdir()
    (run.checkpoints / ".part-step-00000002-77" / "weights.safetensors").write_bytes(b"half")
    (run.path / ".0123.part").write_text("step-000")
    (run.samples / ".0123.part.png").write_bytes(b"half")
    (run.path / "notes.txt").write_text("mine")
    run.create("# settings\n").close()
    assert sorted(p.name for p in run.path.rglob("*.part*")) == []
    assert (run.path / "notes.txt").read_text() == "mine"
    assert run.steps() == [1]


def test_foreign_places_are_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty and is not a run.*nothing is overwritten"):
        RunFolder(tmp_path).create("")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex").create("")


def test_a_run_killed_in_its_first_moment_can_start(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".0123456789abcdef.part.toml").write_text("[da")
    RunFolder(out).create("# settings\n").close()
    assert (out / "config.toml").read_text() == "# settings\n"


@pytest.mark.parametrize("content", ["step-00000009", "", "..", "../../elsewhere", "/etc", "\udcff"])
def test_a_pointer_to_nothing_is_an_error(run: RunFolder, model: Model, content: str) -> None:
    save(run, 1, model)
    (run.path / "latest").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CorruptModel, match="which is missing or incomplete; whole checkpoints here: step-00000001"):
        run.latest()


def test_folders_that_are_not_ours_are_no_checkpoints(run: RunFolder, model: Model) -> None:
    save(run, 1, model)
    for name in ("step-2", "step-x", "step-00000003", "other"):
        (run.checkpoints / name).mkdir()
    (run.checkpoints / "step-2" / "model.json").write_text("{}")
    assert run.steps() == [1]


def test_a_run_without_a_checkpoint_says_so(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        find_model(run.path)


def test_the_lock_ends_with_its_process(run: RunFolder) -> None:
    pytest.importorskip("fcntl")
    lock = run.create("")
    with pytest.raises(ValueError, match="another process is training"):
        run.create("")
    lock.close()
    script = "import os, sys, fcntl; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", script, str(run.path / ".lock")]
    assert subprocess.run(command, check=False).returncode == -9
    run.create("").close()
