"""Published designs: every stage is a command that its verb takes, and all of them together draw a text."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kakusan.cli import main
from kakusan.cli.train import TrainOptions, base_settings
from kakusan.cli.train import parse as parsed
from kakusan.cli.train_autoencoder import TrainAutoencoderOptions
from kakusan.cli.train_clip import TrainClipOptions
from kakusan.cli.train_prior import TrainPriorOptions
from kakusan.designed import Designed
from kakusan.recipes.designs import DESIGNS, FILE, DesignSettings, read_drawing, write_drawing
from kakusan.report.png import read_record

OPTIONS = {
    "train-autoencoder": TrainAutoencoderOptions,
    "train-clip": TrainClipOptions,
    "train-prior": TrainPriorOptions,
}


@pytest.mark.parametrize("name", list(DESIGNS))
def test_every_stage_is_a_command_that_its_verb_takes(name: str, tmp_path: Path) -> None:
    settings = DesignSettings(out=tmp_path, size=64, base=16, minutes=10.0, more=("--num", "300", "--threads", "1"))
    stages = DESIGNS[name].stages(settings)
    assert sum(stage.share for stage in stages) == pytest.approx(1.0)
    drawing = DESIGNS[name].drawing
    named = {drawing.base, *drawing.upscalers, *filter(None, (drawing.prior, drawing.paint))}
    assert named <= {stage.name for stage in stages}
    for stage in stages:
        verb, *argv = stage.arguments(settings)
        if verb == "train":
            options = parsed(TrainOptions, argv, verb=verb, default=TrainOptions(settings=base_settings(argv)))
            assert options.settings.run.minutes == pytest.approx(10.0 * stage.share)
            assert options.settings.data.size == (64 if stage.name == "upscale" or name == "latent" else 16)
            assert options.settings.data.num == 300
        else:
            given = parsed(OPTIONS[verb], argv, verb=verb)
            assert given.out == tmp_path / stage.name  # type: ignore[attr-defined]


@pytest.mark.parametrize(("size", "factor"), [(32, 2), (48, 2), (64, 4), (96, 4), (128, 8), (512, 8)])
def test_latents_of_every_size_have_a_factor_that_autoencoders_know(size: int, factor: int) -> None:
    command = DESIGNS["latent"].stages(DesignSettings(size=size))[1].command
    assert command[command.index("--factor") + 1] == str(factor)


def test_a_small_dalle2_draws_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage of the longest design for two steps."""
    tiny = ["num=48", "threads=1", "steps=2", "previews=0", "snapshots=0", "measurements=0", "device=cpu"]
    out = tmp_path / "design"
    argv = ["design", "dalle2", "--size", "16", "--base", "8", "--width", "16", "--out", str(out), "--options", *tiny]
    assert main([*argv, "--dry-run"]) == 0
    assert not out.exists()
    assert main([*argv, "--only", "clip"]) == 0
    assert "still to be trained: prior, base, upscale" in capsys.readouterr().out
    assert read_drawing(out) is None
    before = (out / "clip" / "report.html").stat().st_mtime_ns
    assert main(argv) == 0
    assert "done already" in capsys.readouterr().out
    assert (out / "clip" / "report.html").stat().st_mtime_ns == before
    picture = tmp_path / "a.png"
    draw = ["generate", str(out), "a red flower", "--num", "2", "--steps", "2", "--device", "cpu", "--out"]
    assert main([*draw, str(picture)]) == 0
    said = capsys.readouterr().out
    assert "the prior" in said
    assert "16 x 16, covered by 0.2" in said
    record = read_record(picture)
    assert record is not None
    assert Path(record["model_path"]).is_relative_to(out / "upscale")
    # From Python the same pictures, each its own in any company.
    two = Designed.open(out).sample(prompts=["a red flower"], num=2, num_steps=2, guidance_scale=2.0)
    one = Designed.open(out).sample(prompts=["a red flower"], seeds=[1], num_steps=2, guidance_scale=2.0)
    assert two[1].size == (16, 16)
    assert np.abs(np.asarray(two[1], np.int16) - np.asarray(one[0], np.int16)).max() <= 1
    assert main([*draw[:-1], "--out", str(tmp_path / "singles")]) == 0
    drawn = sorted((tmp_path / "singles").iterdir())
    assert np.array_equal(np.asarray(Image.open(drawn[1])), np.asarray(two[1]))
    with pytest.raises(ValueError, match="does not enlarge"):
        Designed.open(out / "base", upscalers=[out / "base"])


def test_a_small_model_of_latents_draws_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps of each stage; the pictures are as large as asked for, and their latents half of that."""
    tiny = ["num=48", "threads=1", "steps=2", "previews=0", "snapshots=0", "measurements=0", "device=cpu"]
    tiny += ["autoencoder.features=random", "autoencoder.width=16"]
    out, picture = tmp_path / "design", tmp_path / "a.png"
    argv = ["design", "latent", "--size", "32", "--base", "8", "--width", "16", "--out", str(out), "--options", *tiny]
    assert main(argv) == 0
    assert "autoencoder: pictures to latents and back" in capsys.readouterr().out
    draw = [
        "generate",
        str(out),
        "a red flower",
        "--num",
        "1",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--out",
        str(picture),
    ]
    assert main(draw) == 0
    with Image.open(picture) as drawn:
        assert drawn.size == (32, 32)
    base = Designed.open(out).base
    assert base.data.shape == (4, 16, 16)
    assert base.data.pictured.shape == (3, 32, 32)


def test_what_cannot_be_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", "glid", "--out", str(tmp_path)]) == 1
    assert "did you mean 'glide'" in capsys.readouterr().err
    assert main(["design", "glide", "--size", "48", "--base", "16", "--out", str(tmp_path)]) == 1
    assert "2 or 4 times" in capsys.readouterr().err
    assert main(["design", "glide", "--only", "prior", "--out", str(tmp_path)]) == 1
    assert "it has base, paint, upscale" in capsys.readouterr().err
    assert main(["design", "glide", "--options", "prior.rate=1", "--out", str(tmp_path)]) == 1
    assert "it has base, paint, upscale" in capsys.readouterr().err
    assert main(["design", "glide", "--options", "num", "--out", str(tmp_path)]) == 1
    assert "as in num=4000" in capsys.readouterr().err


def test_how_a_design_draws_is_read_back_and_stays_in_its_folder(tmp_path: Path) -> None:
    assert read_drawing(tmp_path) is None
    for name, design in DESIGNS.items():
        write_drawing(name, tmp_path)
        assert read_drawing(tmp_path) == design.drawing
    found = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**found, "base": "../other"}))
    with pytest.raises(ValueError, match="outside its folder"):
        read_drawing(tmp_path)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ValueError, match="does not say how"):
        read_drawing(tmp_path)
