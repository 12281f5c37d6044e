"""Runs on latents: the same training and sampling, between an encoder and a decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import settings, start
from test_resume import kill_nine

from kakusan import autoencoders
from kakusan.autoencoders.cache import LatentCache
from kakusan.autoencoders.folder import save
from kakusan.autoencoders.kl import KlAutoencoder
from kakusan.autoencoders.latents import LatentPictures, LatentSpec
from kakusan.autoencoders.networks import NetworkSize
from kakusan.cli import main
from kakusan.data.source import open_data
from kakusan.data.spec import DataSpec
from kakusan.model_folder import CorruptModel
from kakusan.pipeline import load
from kakusan.run_folder import RunFolder
from kakusan.specs import from_spec, to_spec


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The folder of an autoencoder for 8 x 8 pictures that was never trained, only measured."""
    folder = tmp_path_factory.mktemp("autoencoder") / "model"
    folder.mkdir()
    torch.manual_seed(1)
    made = KlAutoencoder(channels=3, factor=2, latent_channels=4, size=NetworkSize(width=8)).eval()
    data = open_data(pictures)
    x = data.spec.to_model(data.read(range(len(data))))
    made.measure_latents(lambda: [x])
    save(folder, made, data.spec, {})
    return folder


def encoded(pictures: Path, halves: Path, tmp_path: Path, **options: Any) -> LatentPictures:
    data, autoencoder = open_data(pictures, **options), autoencoders.load(halves)
    return LatentPictures(data, autoencoder, LatentCache.open(data, autoencoder, path=tmp_path / "latents"))


def test_the_spec_goes_between_pictures_and_latents(pictures: Path, halves: Path, tmp_path: Path) -> None:
    data = encoded(pictures, halves, tmp_path)
    spec, pixels = data.spec, data.pixels
    assert spec.shape == (4, 4, 4)
    assert spec.pictured == pixels.spec
    assert spec.sigma_data == 1.0
    stored = pixels.read([0, 3])
    z = spec.to_model(stored)
    torch.testing.assert_close(z, data.read([0, 3]), rtol=2e-3, atol=2e-3)
    assert torch.equal(spec.to_model(z), z)
    assert torch.equal(spec.snap(z), z)
    x = spec.autoencoder.decode(z)
    assert torch.equal(spec.to_stored(z), pixels.spec.to_stored(x))
    assert np.array_equal(np.asarray(spec.to_pil(z)[1]), np.asarray(pixels.spec.to_pil(x)[1]))
    spec.check(stored)
    spec.check(z)
    with pytest.raises(ValueError, match="not finite"):
        spec.check(z * float("nan"))
    with pytest.raises(ValueError, match="expected pictures"):
        spec.check(z[:, :2])


def test_the_spec_is_stored_and_read(pictures: Path, halves: Path, tmp_path: Path) -> None:
    spec = encoded(pictures, halves, tmp_path).spec
    again = from_spec(to_spec(spec), DataSpec)
    assert isinstance(again, LatentSpec)
    assert again.identity == spec.identity != ""
    again.autoencoder.load_state_dict(spec.autoencoder.state_dict())
    z = torch.randn(2, *spec.shape)
    assert torch.equal(again.to_stored(z), spec.to_stored(z))


def test_training_sees_draws_and_mirrored_pictures_by_sample(pictures: Path, halves: Path, tmp_path: Path) -> None:
    data = encoded(pictures, halves, tmp_path, flip=True)
    indices, numbers = torch.zeros(64, dtype=torch.int64), torch.arange(64)
    seen = data.seen(indices, 3, numbers)
    assert torch.equal(data.seen(indices[5:7], 3, numbers[5:7]), seen[5:7])
    mean, mirrored = data.cache.read([0]), data.cache.read([0], mirrored=torch.ones(1, dtype=torch.bool))
    to_mean, to_mirrored = ((seen - x).square().mean((1, 2, 3)) for x in (mean, mirrored))
    assert 16 < int((to_mean < to_mirrored).sum()) < 48
    assert float(to_mean.min()) > 0.0


def test_two_halves_are_the_whole(pictures: Path, halves: Path, tmp_path: Path) -> None:
    config = settings(pictures, data={"autoencoder": str(halves), "flip": True}, run={"measurements": 2})
    start(config, tmp_path / "whole")
    start(config, tmp_path / "two", stop_at=3)
    start(config, tmp_path / "two")
    assert kill_nine.compare(tmp_path / "two", tmp_path / "whole") == []


def test_a_model_of_latents_draws_pictures(
    pictures: Path, halves: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    start(settings(pictures, data={"autoencoder": str(halves)}, run={"previews": 1, "watch": 0}), run)
    pipeline = load(run)
    assert pipeline.data.shape == (4, 4, 4)
    found = pipeline.sample(labels=["red", "blue"], num_steps=3, guidance_scale=2.0)
    assert [picture.size for picture in found] == [(8, 8), (8, 8)]
    # The autoencoder is in the folder: the one it came from is not needed.
    assert (pipeline.path / "autoencoder.safetensors").is_file()  # type: ignore[operator]
    common = ["--steps", "3", "--device", "cpu"]
    sheet = str(tmp_path / "a.png")
    assert main(["sample", str(run), "--label", "red", "--num", "2", *common, "--out", sheet]) == 0
    assert main(["sample", "--from-png", sheet, "--device", "cpu", "--out", str(tmp_path / "b.png")]) == 0
    assert "every pixel is equal" in capsys.readouterr().out
    picture = str(next(pictures.rglob("*.png")))
    assert main(["vary", str(run), picture, "--num", "2", *common, "--out", str(tmp_path / "v.png")]) == 0
    # A hole in a picture: what is known comes back bit for bit, also under a soft seam.
    hole, before = np.zeros((8, 8), np.uint8), np.asarray(Image.open(picture))
    hole[3:7, 1:6] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    for seam in ("0", "1.5"):
        out = tmp_path / f"seam-{seam}"
        argv = ["inpaint", str(run), picture, str(tmp_path / "mask.png"), "--num", "2", "--seam", seam, *common]
        assert main([*argv, "--out", str(out)]) == 0
        assert "latent cells hold known pixels only" in capsys.readouterr().out
        after = np.asarray(Image.open(out / "sample-1.png"))
        np.testing.assert_array_equal(after[hole == 0], before[hole == 0])
        assert (after[hole > 0] != before[hole > 0]).any()
    assert main(["upscale", str(run), picture, "--degrade", *common, "--out", str(tmp_path / "u.png")]) == 0
    assert main([*argv, "--posterior", "smc", "--noise", "0.1"]) == 1
    assert "through the autoencoder" in capsys.readouterr().err
    assert main(["likelihood", str(run), "--device", "cpu"]) == 1
    assert "model of latents" in capsys.readouterr().err


def test_a_damaged_autoencoder_is_refused(pictures: Path, halves: Path, tmp_path: Path) -> None:
    start(settings(pictures, data={"autoencoder": str(halves)}), tmp_path / "run")
    folder = RunFolder(tmp_path / "run").latest()
    assert folder is not None
    weights = folder / "autoencoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CorruptModel, match=r"autoencoder\.safetensors is damaged"):
        load(folder)


def test_settings_that_do_not_go_together_are_refused(pictures: Path, halves: Path, tmp_path: Path) -> None:
    for data, match in (
        ({"augment": 0.2}, "leave augment at 0"),
        ({"pair": "gray"}, "cannot start from a picture"),
        ({"channels": 1}, "3 channels"),
    ):
        with pytest.raises(ValueError, match=match):
            start(settings(pictures, data={"autoencoder": str(halves), **data}), tmp_path / "run")
