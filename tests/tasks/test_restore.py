"""Restoration as people use it: every verb on a small model, what it writes, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import draw_pictures, settings, start

from kakusan.cli import main
from kakusan.operators import Identity, Measurement
from kakusan.pipeline import load
from kakusan.report.png import read_record
from kakusan.tasks.restore_problems import Colorize, Deblur, Inpaint, Upscale
from kakusan.tasks.restore_sampling import METHODS, chosen, posterior_samples

COMMON = ["--steps", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("restore")
    start(settings(draw_pictures(base / "data")), base / "run")
    return base / "run"


@pytest.fixture(scope="module")
def gray_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("gray")
    (base / "data").mkdir()
    for k in range(8):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (8, 8), np.uint8)).save(base / "data" / f"{k}.png")
    start(settings(base / "data", model={"conditional": False}), base / "run")
    return base / "run"


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> Path:
    shape = size if mode == "L" else (*size, len(mode))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (8, 8)) -> Path:
    values = np.zeros(size, np.uint8)
    values[2:6, 3:7] = 255
    Image.fromarray(values).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(a) for a in argv]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    assert main([str(a) for a in argv]) == 1
    return capsys.readouterr().err


VERBS = {
    "inpaint": (lambda d: [picture(d / "a.png"), mask(d / "m.png")]),
    "upscale": (lambda d: [picture(d / "a.png", (4, 4))]),
    "deblur": (lambda d: [picture(d / "a.png"), "--blur", 1.0]),
    "colorize": (lambda d: [picture(d / "a.png", mode="L")]),
    "denoise": (lambda d: [picture(d / "a.png"), "--noise", 0.1]),
    "sense": (lambda d: [picture(d / "a.png"), "--ratio", 0.5]),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_took_and_writes_its_parts(
    verb: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    text = said(capsys, verb, run, *VERBS[verb](tmp_path), *COMMON, "--num", 3, "--out", out, "--label", "red")
    assert re.search(
        r"3 passes of the network, 3 evaluations for each of 3 pictures, \d+\.\d s \((3|15) network calls", text
    )
    assert "times the noise of the measurement" in text
    assert "no --label" not in text
    names = {path.stem for path in out.iterdir()}
    true = {"true"} if verb == "sense" else set()
    assert names == {"given", "mean", "spread", "sheet", "sample-0", "sample-1", "sample-2", *true}
    record = read_record(out / "sample-1.png")
    assert (record["kind"], record["problem"]["type"].lower(), record["part"]) == ("restoration", verb, "sample-1")
    assert main(["sample", "--from-png", str(out / "sample-1.png"), "--out", str(tmp_path / "b.png")]) == 1
    assert "not drawn by kakusan sample" in capsys.readouterr().err


@pytest.mark.parametrize("posterior", METHODS)
def test_known_pixels_are_kept_to_the_bit_by_every_method(
    posterior: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, hole = picture(tmp_path / "a.png"), mask(tmp_path / "m.png")
    argv = ["inpaint", run, image, hole, *COMMON, "--num", 2, "--posterior", posterior, "--out", tmp_path / "out"]
    if posterior == "reverse":
        assert "use another posterior" in complaint(capsys, *argv)
        return
    assert "bit-equal" in said(capsys, *argv)
    before, known = pixels(image), pixels(hole) == 0
    for k in range(2):
        after = pixels(tmp_path / "out" / f"sample-{k}.png")
        np.testing.assert_array_equal(after[known], before[known])
        assert (after[~known] != before[~known]).any()


def test_noise_that_is_named_is_cleaned_from_known_pixels_too(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [picture(tmp_path / "a.png"), mask(tmp_path / "m.png"), *COMMON, "--noise", 0.1, "--out", tmp_path / "o"]
    assert "are not bit-equal" in said(capsys, "inpaint", run, *argv)


def test_a_clean_picture_is_degraded_and_the_loss_measured(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [picture(tmp_path / "a.png"), *COMMON, "--degrade", "--factor", 4, "--kernel", "bicubic"]
    first = said(capsys, "upscale", run, *argv, "--out", tmp_path / "a.png.png")
    assert re.search(r"samples: PSNR \d+\.\d\d dB, SSIM -?\d\.\d{3}", first)
    assert "their mean: PSNR" in first
    second = said(capsys, "upscale", run, *argv, "--out", tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png.png"), pixels(tmp_path / "b.png"))
    assert second.count("PSNR") == 2


def test_the_noise_is_found_when_it_is_not_given(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = picture(tmp_path / "a.png")
    assert "the noise found in the picture is" in said(
        capsys, "denoise", run, image, *COMMON, "--out", tmp_path / "o.png"
    )
    given = said(capsys, "denoise", run, image, *COMMON, "--noise", 0.1, "--out", tmp_path / "o.png")
    assert "noise found" not in given
    assert "(0.1000;" in given


def test_particles_are_many_and_only_some_are_shown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [picture(tmp_path / "a.png"), *COMMON, "--num", 3, "--posterior", "smc", "--batch", 2]
    text = said(capsys, "denoise", run, *argv, "--noise", 0.3, "--out", tmp_path / "o")
    assert "each of 32 pictures" in text
    assert "sequential Monte Carlo is exact only for very many" in text
    assert len(list((tmp_path / "o").glob("sample-*.png"))) == 3


def test_a_model_without_classes_and_colours(
    gray_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = picture(tmp_path / "a.png", mode="L")
    argv = [*COMMON, "--num", 1, "--out", tmp_path / "o.png", "--trajectory", tmp_path / "o.gif"]
    text = said(capsys, "deblur", gray_run, image, "--motion", 3, 45, *argv)
    assert "knows no classes" in text
    assert "wraps around the border" in text
    with Image.open(tmp_path / "o.gif") as animation:
        assert animation.n_frames >= 2
    assert "gray already" in complaint(capsys, "colorize", gray_run, image, *COMMON)
    assert "without classes" in complaint(capsys, "denoise", gray_run, image, *COMMON, "--noise", 0.1, "--label", "red")


def test_samples_belong_to_their_seeds_and_not_to_the_batch(run: Path) -> None:
    pipeline = load(run)
    y = torch.rand(1, *pipeline.data.shape) - 0.5
    measurement = Measurement(Identity(pipeline.data.shape), y, 0.3)
    together = posterior_samples(pipeline, chosen("ddrm"), measurement, pipeline.request(num=3, seed=4, num_steps=3))
    apart = posterior_samples(
        pipeline, chosen("ddrm"), measurement, pipeline.request(num=3, seed=4, num_steps=3, batch=2)
    )
    torch.testing.assert_close(together, apart, rtol=0.0, atol=1e-4)


def test_the_picture_of_a_kernel_is_the_kernel(tmp_path: Path, run: Path) -> None:
    values = np.zeros((3, 5), np.uint8)
    values[1, 3] = 200
    Image.fromarray(values).save(tmp_path / "k.png")
    data = load(run).data
    x = torch.rand(1, *data.shape)
    shifted = Deblur(kernel=tmp_path / "k.png").operator(data, None)(x)
    torch.testing.assert_close(shifted, x.roll(1, 3))


def test_a_gray_picture_may_have_three_channels(tmp_path: Path, run: Path) -> None:
    data = load(run).data
    gray = picture(tmp_path / "g.png", mode="L")
    Image.fromarray(pixels(gray)).convert("RGB").save(tmp_path / "rgb.png")
    problem = Colorize()
    operator = problem.operator(data, None)
    one, three = (problem.read(tmp_path / name, data, operator, None) for name in ("g.png", "rgb.png"))
    assert one.shape == (1, 1, 8, 8)
    torch.testing.assert_close(one, three, rtol=0.0, atol=1e-6)


def test_what_does_not_fit_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, hole = picture(tmp_path / "a.png"), mask(tmp_path / "m.png")
    small, wide = picture(tmp_path / "s.png", (4, 4)), mask(tmp_path / "w.png", (8, 10))
    gray = picture(tmp_path / "g.png", mode="L")
    black = tmp_path / "b.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(black)
    white = tmp_path / "white.png"
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(white)
    for argv, message in (
        (["inpaint", run, image, wide], "10 x 8 pixels (width x height), expected are 8 x 8"),
        (["inpaint", run, small, hole], "4 x 4 pixels (width x height), expected are 8 x 8"),
        (["inpaint", run, gray, hole], "1 channel and the model draws 3"),
        (["inpaint", run, image, black], "no white pixel"),
        (["inpaint", run, image, white], "white all over"),
        (["inpaint", run, image, tmp_path / "none.png"], "there is no picture"),
        (["upscale", run, image], "expected are 4 x 4"),
        (["upscale", run, small, "--factor", 3], "divide every side"),
        (["upscale", run, small, "--kernel", "cubic"], "no kernel 'cubic'"),
        (["deblur", run, image], "say how the picture is blurred"),
        (["deblur", run, image, "--blur", 1, "--motion", 3, 0], "in one way"),
        (["deblur", run, image, "--motion", 9, 0], "does not fit"),
        (["deblur", run, image, "--kernel", black], "black all over"),
        (["colorize", run, tmp_path / "none.png"], "there is no picture"),
        (["sense", run, image, "--ratio", 1.5], "ratio"),
        (["denoise", run, image, "--noise", -1], "0 or more"),
        (["denoise", run, image, "--num", 0], "num is at least 1"),
        (["denoise", run, image, "--posterior", "dsp"], "did you mean 'dps'"),
        (["denoise", run, image, "--label", "rde"], "did you mean 'red'"),
        (["denoise", run, image, "--trajectory", tmp_path / "x.png"], "--trajectory ends in"),
        (["denoise", run, image, "--out", tmp_path / "x.jpg"], "--out is a .png"),
        (["colorize", run, image, "--posterior", "repaint"], "RePaint fills in masks"),
    ):
        assert message in complaint(capsys, *argv, *COMMON), argv


def test_fitting_is_asked_for(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large, wide = picture(tmp_path / "a.png", (20, 30)), mask(tmp_path / "w.png", (20, 30))
    said(capsys, "inpaint", run, large, wide, *COMMON, "--fit", "crop", "--out", tmp_path / "o.png")
    assert Inpaint(wide).operator(load(run).data, "crop").shape == (3, 8, 8)
    assert Upscale(2).operator(load(run).data, None).measured == (3, 4, 4)
