"""The verb `train-autoencoder` on a tiny folder of pictures."""

import dataclasses
import sys
import tomllib
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

from small_runs import draw_pictures

import kakusan.autoencoders
from kakusan.cli import main
from kakusan.config import merge, read_toml
from kakusan.train.autoencoder import AutoencoderTraining
from kakusan.train.autoencoder_settings import AutoencoderConfig


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_verb_leaves_a_model_and_a_page(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    draw_pictures(tmp_path / "data", size=16)
    options = [
        "--steps",
        "6",
        "--width",
        "8",
        "--batch",
        "8",
        "--features",
        "random",
        "--threads",
        "1",
        "--codes",
        "16",
    ]
    argv = ["train-autoencoder", "--data", tmp_path / "data", "--out", tmp_path / "ae", "--kind", kind, "--codes", "16"]
    argv += options
    assert main([str(a) for a in argv]) == 0
    said = capsys.readouterr().out
    assert "discriminator" in said
    assert "error 0.0000" not in said, "the error of the autoencoder, not of the discriminator"
    assert f"--autoencoder {tmp_path / 'ae'}" in said
    assert "PSNR" in said
    assert ("KL by channel" if kind == "kl" else "codes used") in said
    page = (tmp_path / "ae" / "report.html").read_text()
    assert "Held-out pictures and what becomes of them" in page
    assert "data:image/png" in page
    assert (tmp_path / "ae" / "reconstructions.png").is_file()
    autoencoder = kakusan.autoencoders.load(tmp_path / "ae")
    assert autoencoder.kind == kind
    assert autoencoder.latent_shape((3, 16, 16)) == (4, 4, 4)
    assert torch.get_num_threads() == before
    assert main([str(a) for a in argv]) == 0
    assert "continuing" in capsys.readouterr().out
    # The folder keeps its settings: it goes on without them, and shows them.
    settings = tmp_path / "ae" / "config.toml"
    stored = merge(AutoencoderConfig(), read_toml(settings))
    assert (stored.model.kind, stored.size.width, stored.run.steps) == (kind, 8, 6)
    assert main(["train-autoencoder", "--out", str(tmp_path / "ae"), "--print-config"]) == 0
    assert capsys.readouterr().out == settings.read_text()
    assert main(["train-autoencoder", "--out", str(tmp_path / "ae"), "--factor", "8"]) == 1
    assert "other settings (factor)" in capsys.readouterr().err


def test_an_autoencoder_is_not_taken_for_a_diffusion_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-autoencoder", "--out", str(tmp_path), "--kind", "gan"]) == 1
    assert "there are kl, vq" in capsys.readouterr().err


def test_a_file_of_settings_is_read_under_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[model]\nkind = 'vq'\nfactor = 8\n[losses]\nbottleneck = 0.5\n[run]\nminutes = 2\n")
    options = ["train-autoencoder", "--out", str(tmp_path / "x"), "--config", str(file)]
    assert main([*options, "--factor", "2", "--steps", "7", "--print-config"]) == 0
    found = merge(AutoencoderConfig(), tomllib.loads(capsys.readouterr().out))
    assert (found.model.kind, found.model.factor, found.losses.bottleneck) == ("vq", 2, 0.5)
    # A length takes the place of any other.
    assert (found.run.steps, found.run.minutes) == (7, None)
    file.write_text("[losses]\nbotleneck = 1.0\n")
    assert main(options) == 1
    assert "unknown key 'botleneck' (did you mean 'bottleneck'" in capsys.readouterr().err


def test_the_settings_are_those_of_the_classes_that_use_them() -> None:
    """A section and its class share names and defaults, so that neither can be changed alone."""
    config, made = AutoencoderConfig(), AutoencoderTraining()
    assert AutoencoderTraining.of(config) == made
    for section, target in ((config.size, made.size), (config.losses, made.losses)):
        assert {f.name for f in dataclasses.fields(section)} == {f.name for f in dataclasses.fields(target)}
    changed = merge(config, {"size": {"depth": 3}, "losses": {"most": 2.0}, "run": {"steps": 9, "seed": 4}})
    expected = dataclasses.replace(
        made,
        size=dataclasses.replace(made.size, depth=3),
        losses=dataclasses.replace(made.losses, most=2.0),
        steps=9,
        seed=4,
    )
    assert AutoencoderTraining.of(changed) == expected
