"""Training an autoencoder: it learns, goes on bit for bit, and leaves what fits its weights."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kakusan.autoencoders import load, perceptual, read
from kakusan.autoencoders.losses import AutoencoderLosses
from kakusan.autoencoders.networks import NetworkSize
from kakusan.data.source import ArrayPictures, subset
from kakusan.data.spec import DataSpec
from kakusan.run_folder import RunFolder
from kakusan.train.autoencoder import MAKER, PROFILE, AutoencoderRun, AutoencoderTraining
from kakusan.train.metrics_log import read_records

SMALL = NetworkSize(width=8, multipliers=(1,), decoder_depth=1)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures() -> ArrayPictures:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(40, 3, 4, 4, generator=generator)
    stored = (255 * torch.nn.functional.interpolate(small, size=16, mode="bilinear")).round().to(torch.uint8)
    return ArrayPictures(DataSpec.measure(stored, flip=True), stored)


def settings(**changes) -> AutoencoderTraining:
    losses = AutoencoderLosses(features="random", start=0.3, **changes.pop("losses", {}))
    given = {"size": SMALL, "losses": losses, "steps": 12, "batch": 8, "measurements": 1, "checkpoints": 1}
    return AutoencoderTraining(**{**given, **changes})


def start(
    pictures: ArrayPictures, out: Path, how: AutoencoderTraining, *, stop_at: int | None = None
) -> AutoencoderRun:
    errors: list[float] = []

    def on_step(step, run) -> None:
        errors.append(float(step.terms.x0_error.mean()))
        if step.step == stop_at:
            run.stop = "the test"

    parts = subset(pictures, range(32)), subset(pictures, range(32, 40))
    run = AutoencoderRun(how, *parts, out, device="cpu", threads=1, say=lambda line: None, on_step=on_step)
    run.health = run.run()
    run.errors = errors
    return run


def tensors(run: AutoencoderRun) -> dict[str, torch.Tensor]:
    folder = RunFolder(run.folder.path).latest()
    return {
        f"{n}/{k}": v
        for n in ("weights", "ema", "optimizer")
        for k, v in load_file(folder / f"{n}.safetensors").items()
    }


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(kind: str, pictures, tmp_path: Path) -> None:
    how = settings(kind=kind, codes=16)
    whole = tensors(start(pictures, tmp_path / "whole", how))
    start(pictures, tmp_path / "cut", how, stop_at=7)
    assert RunFolder(tmp_path / "cut").steps() == [7]
    again = tensors(start(pictures, tmp_path / "cut", how))
    assert whole.keys() == again.keys()
    different = [name for name in whole if not torch.equal(whole[name], again[name])]
    assert not different
    steps = [r["step"] for r in read_records(tmp_path / "cut" / "metrics.jsonl") if r["kind"] == "step"]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_training_learns_and_the_folder_holds_its_statistics(kind: str, pictures, tmp_path: Path) -> None:
    fast, wider = dataclasses.replace(MAKER, rate=1e-2, warmup=5), dataclasses.replace(SMALL, width=16)
    alone = {"adversarial": 0.0, "perceptual": 0.0}
    how = settings(kind=kind, codes=64, steps=50, maker=fast, size=wider, losses=alone)
    run = start(pictures, tmp_path / "run", how)
    first, last = (next(r for r in order if r["kind"] == "step") for order in (run.records(), run.records()[::-1]))
    assert last["reconstruction"] < 0.75 * first["reconstruction"]
    x = run.training.spec.to_model(run.training.read(range(32)))
    both = torch.cat([x, x.flip(-1)])
    for weights in (None, "raw"):
        with torch.no_grad():
            z = load(tmp_path / "run", weights=weights).encode(both).double().transpose(0, 1).flatten(1)
        assert z.mean(1).abs().max() < 1e-4
        moving = z.std(1, unbiased=False) > 1e-3
        assert (z.std(1, unbiased=False)[moving] - 1.0).abs().max() < 1e-4
    stored = read(tmp_path / "run")
    assert stored.weights == PROFILE
    assert stored.training["latents_measured_on"] == 32
    assert stored.data == run.training.spec
    assert run.health.count == 8


def test_both_sides_and_the_health_are_logged(pictures, tmp_path: Path) -> None:
    run = start(pictures, tmp_path / "run", settings(steps=20))
    records = run.records()
    steps = [r for r in records if r["kind"] == "step"]
    assert all(len(r["losses"]) == 2 for r in steps)
    # The console shows the error of the autoencoder, not the nothing of the discriminator.
    assert min(run.errors) > 0.0
    assert all(len(r["kl"]) == 4 for r in steps)
    assert "margin" not in steps[0]
    assert "margin" in steps[-1]
    assert 0.0 < steps[-1]["balance"] <= 4.0
    health = [r for r in records if r["kind"] == "health"]
    assert [r["step"] for r in health] == [10, 20]
    assert {"psnr", "kl", "dead", "latent_range", "turned", "noise", "forgives"} <= set(health[-1])
    assert (tmp_path / "run" / "settings.json").is_file()


def test_trouble_is_skipped_and_said(pictures, tmp_path: Path, monkeypatch) -> None:
    said = []
    parts = subset(pictures, range(32)), subset(pictures, range(32, 40))
    run = AutoencoderRun(settings(), *parts, tmp_path / "run", device="cpu", threads=1, say=said.append)
    original = run.maker._made

    def spoilt(batch):
        made, truth, code = original(batch)
        return (made * float("nan") if run.trainer.step == 4 else made), truth, code

    monkeypatch.setattr(run.maker, "_made", spoilt)
    run.run()
    assert any("skipped: step 4" in line for line in said)
    assert load(tmp_path / "run").identity
    assert run.trainer.step == 12


def test_a_folder_of_something_else_and_other_settings_are_refused(pictures, tmp_path: Path) -> None:
    how = settings(steps=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="nothing is overwritten"):
        start(pictures, tmp_path / "other", how)
    start(pictures, tmp_path / "run", how)
    with pytest.raises(ValueError, match="other settings \\(factor\\)"):
        start(pictures, tmp_path / "run", dataclasses.replace(how, factor=8))
    with pytest.raises(ValueError, match="the data are not those"):
        AutoencoderRun(how, subset(pictures, range(20)), subset(pictures, []), tmp_path / "run", threads=1)
    assert start(pictures, tmp_path / "run", dataclasses.replace(how, steps=3)).trainer.step == 3


def test_minutes_are_kept(pictures, tmp_path: Path) -> None:
    how = settings(steps=None, minutes=0.03, measurements=0, checkpoints=0)
    run = start(pictures, tmp_path / "run", how)
    assert run.trainer.step >= 2
    assert run.elapsed() < 20.0


def test_learned_features_go_on_with_the_run(pictures, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(perceptual, "_RECIPE", dataclasses.replace(perceptual._RECIPE, steps=3, batch=8))
    how = dataclasses.replace(settings(steps=4), losses=AutoencoderLosses(features="learned"))
    first = start(pictures, tmp_path / "run", how, stop_at=2)
    monkeypatch.setattr(perceptual, "learned_features", None)
    second = start(pictures, tmp_path / "run", how)
    for name, value in first.features.state_dict().items():
        assert torch.equal(value, second.features.state_dict()[name])


@pytest.mark.parametrize("wrong", [{"minutes": 0.0}, {"steps": 0}, {"batch": 0}, {"measurements": -1}, {"kind": "vae"}])
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        AutoencoderTraining(**wrong)
