"""Runs on augmented pictures: started, resumed, saved, loaded, sampled and measured like any other."""

import json
from pathlib import Path

import pytest
import torch
from small_runs import settings, start

import kakusan
from kakusan import model_folder
from kakusan.cli import main
from kakusan.conditioning import Condition
from kakusan.config import TrainConfig
from kakusan.data.augment import LABELS
from kakusan.run_folder import RunFolder

QUIET = ["--measurements", "0", "--previews", "0", "--checkpoints", "0"]
TINY = ["--width", "8", "--depth", "1", "--batch", "8", "--warmup", "2", "--device", "cpu", "--threads", "1", *QUIET]


def config(source: Path, **data: float | bool) -> TrainConfig:
    return settings(source, data={"augment": 0.5, **data}, run={"steps": 4})


def weights(out: Path) -> dict[str, torch.Tensor]:
    model, _, _ = model_folder.read(RunFolder(out).latest(), weights="raw")  # type: ignore[arg-type]
    return model.state_dict()


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("augmented") / "run"
    start(config(pictures, flip=True), out)
    return out


def test_resumed_bit_for_bit(whole: Path, pictures: Path, tmp_path: Path) -> None:
    start(config(pictures, flip=True), tmp_path / "run", stop_at=2)
    start(config(pictures, flip=True), tmp_path / "run")
    mine, theirs = weights(tmp_path / "run"), weights(whole)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert theirs["denoiser.backbone.embedding.augment"].shape[1] == len(LABELS)
    assert theirs["denoiser.backbone.embedding.augment"].abs().max() > 0


def test_another_probability_is_another_run(whole: Path, pictures: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.augment was 0\.5"):
        start(settings(pictures, data={"augment": 0.1, "flip": True}, run={"steps": 4}), whole)


def test_the_model_folder_knows_and_sampling_needs_no_label(whole: Path) -> None:
    pipeline = kakusan.load(whole)
    assert pipeline.data.augment == 0.5
    x, t = torch.randn(2, 3, 8, 8), 0.5
    raw = torch.tensor([0, 1])
    with torch.no_grad():
        model = pipeline.model
        cond = model.condition(raw)
        assert cond is not None
        zero = Condition(vector=cond.vector, augment=torch.zeros(2, len(LABELS)))
        other = Condition(vector=cond.vector, augment=torch.eye(len(LABELS))[:2])
        plain = model.denoiser(x, t, cond).x0
        assert torch.equal(model.denoiser(x, t, zero).x0, plain)
        assert not torch.equal(model.denoiser(x, t, other).x0, plain)


def test_trained_and_sampled_from_the_command_line(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", str(pictures), "--augment", "0.3", "--steps", "2", "--out", str(out), *TINY]) == 0
    facts = json.loads((RunFolder(out).latest() / "model.json").read_text())  # type: ignore[operator]
    assert facts["data"]["augment"] == 0.3
    assert facts["denoiser"]["backbone"]["augment_width"] == len(LABELS)
    made = tmp_path / "made"
    options = ["--num", "2", "--steps", "2", "--guidance-scale", "2", "--label", "red", "--out", str(made / "red.png")]
    assert main(["sample", str(out), *options]) == 0
    assert list(made.rglob("*.png"))


def test_unconditional_models_are_told_as_well(pictures: Path, tmp_path: Path) -> None:
    run = start(settings(pictures, data={"augment": 0.5}, model={"conditional": False}, run={"steps": 4}), tmp_path)
    assert run.model.conditioner is None
    assert weights(tmp_path)["denoiser.backbone.embedding.augment"].abs().max() > 0
    assert run.held_out.spec.augment == 0.0
