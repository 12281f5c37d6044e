"""Editing as people do it: by verbs, on pictures of their own, with ends that are what they should be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import settings, start

from kakusan.cli import main
from kakusan.inversion import INVERSIONS, Side, read_code
from kakusan.levels import tabulate
from kakusan.pipeline import load
from kakusan.report.png import read_record

FEW = ["--steps", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def red(pictures: Path) -> Path:
    return pictures / "red" / "00.png"


@pytest.fixture(scope="module")
def blue(pictures: Path) -> Path:
    return pictures / "blue" / "03.png"


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "unconditional"
    start(settings(pictures, model={"conditional": False}), out)
    return out


def run(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> str:
    """What a verb says, to standard output or of its failure."""
    got = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert got == code, (out, err)
    return out if code == 0 else err


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


class TestRestyle:
    def test_the_ends_of_a_switch_are_plain_samples(
        self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = run(
            capsys, "restyle", trained, "--from-label", "red", "--to-label", "blue", "--num", 2, "--seed", 3,
            "--out", tmp_path / "all", "--video", tmp_path / "way.gif", *FEW,
        )  # fmt: skip
        assert "passes of the network" in said
        pipeline = load(trained)
        for label, place in (("blue", 0), ("red", 4)):
            for row, plain in enumerate(pipeline.sample(labels=[label] * 2, seed=3, num_steps=4)):
                found = pixels(tmp_path / "all" / f"{row:02d}-{place:03d}.png").astype(int)
                assert np.abs(found - np.asarray(plain).astype(int)).max() <= 1
        assert not np.array_equal(pixels(tmp_path / "all" / "00-000.png"), pixels(tmp_path / "all" / "00-004.png"))
        assert (tmp_path / "all" / "sheet.png").is_file()
        with Image.open(tmp_path / "way.gif") as video:
            assert video.n_frames == 5
        assert read_record(tmp_path / "all" / "00-002.png")["place"] == 2

    def test_one_switch_is_its_column(self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shared = ["restyle", trained, "--from-label", "red", "--to-label", "blue", "--num", 1, *FEW]
        run(capsys, *shared, "--out", tmp_path / "all")
        run(capsys, *shared, "--switch", 2, "--out", tmp_path / "one.png")
        difference = pixels(tmp_path / "one.png").astype(int) - pixels(tmp_path / "all" / "00-002.png").astype(int)
        assert np.abs(difference).max() <= 1
        assert read_record(tmp_path / "one.png")["switch"] == 2

    @pytest.mark.parametrize("method", ["edit-friendly", "flow-edit", "fixed-point", "edict", "bdia", "ddim", "noise"])
    def test_strength_zero_gives_the_picture_back_to_the_bit(
        self, trained: Path, red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
    ) -> None:
        shared = ["restyle", trained, red, "--from-label", "red", "--to-label", "blue", "--method", method, *FEW]
        said = run(capsys, *shared, "--strength", 0, "--out", tmp_path / "none.png")
        assert "round trip" in said
        assert np.array_equal(pixels(tmp_path / "none.png"), pixels(red))

    @pytest.mark.parametrize("method", ["edit-friendly", "edict", "noise"])
    def test_a_strip_runs_from_the_picture_to_full_strength(
        self, trained: Path, red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
    ) -> None:
        shared = ["restyle", trained, red, "--from-label", "red", "--to-label", "blue", "--method", method, *FEW]
        run(capsys, *shared, "--strength", 1, "--out", tmp_path / "full.png")
        assert not np.array_equal(pixels(tmp_path / "full.png"), pixels(red))
        run(capsys, *shared, "--out", tmp_path / "strip")
        assert np.array_equal(pixels(tmp_path / "strip" / "00-000.png"), pixels(red))
        difference = pixels(tmp_path / "strip" / "00-004.png").astype(int) - pixels(tmp_path / "full.png").astype(int)
        assert np.abs(difference).max() <= 1

    def test_strength_one_of_noise_forgets_the_picture(
        self, trained: Path, red: Path, blue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, image in (("a", red), ("b", blue)):
            options = ["--to-label", "blue", "--method", "noise", "--strength", 1, "--seed", 7]
            run(capsys, "restyle", trained, image, *options, "--out", tmp_path / f"{name}.png", *FEW)
        assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
        plain = load(trained).sample(labels=["blue"], seed=7, num_steps=4)[0]
        assert np.array_equal(pixels(tmp_path / "a.png"), np.asarray(plain))

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--to-label", "blue", "--strength", "1.5"], "strength lies between 0"),
            (["--to-label", "blue", "--strength", "nan"], "strength lies between 0"),
            (["--to-label", "blue", "--method", "edct"], "did you mean 'edict'"),
            (["--to-label", "blu"], "did you mean 'blue'"),
            (["--from-label", "red"], "name the class to go to"),
            (["--to-label", "blue", "--switch", "2"], "a given picture takes --strength"),
            (["--to-label", "blue", "--video", "a.avi"], "--video ends in"),
            (["--to-label", "blue", "--out", "a.jpg"], "--out is a .png"),
        ],
    )
    def test_mistakes(
        self, trained: Path, red: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
    ) -> None:
        assert message in run(capsys, "restyle", trained, red, *argv, *FEW, code=1)

    def test_mistakes_without_a_picture(
        self, trained: Path, unconditional: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        labels = ["--from-label", "red", "--to-label", "blue"]
        assert "begin as some class" in run(capsys, "restyle", trained, "--to-label", "red", *FEW, code=1)
        assert "given picture" in run(capsys, "restyle", trained, *labels, "--strength", "1", code=1)
        assert "between 0 and the 4 steps" in run(capsys, "restyle", trained, *labels, "--switch", 5, *FEW, code=1)
        assert "without classes" in run(capsys, "restyle", unconditional, *labels, *FEW, code=1)

    def test_a_picture_of_another_size_is_refused_or_fitted(
        self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Image.new("RGB", (12, 10), (200, 30, 30)).save(tmp_path / "large.png")
        shared = ["restyle", trained, tmp_path / "large.png", "--to-label", "blue", "--strength", "0.5", *FEW]
        assert "12 x 10" in run(capsys, *shared, code=1)
        run(capsys, *shared, "--fit", "crop", "--out", tmp_path / "out.png")
        assert pixels(tmp_path / "out.png").shape == (8, 8, 3)
        Image.new("L", (8, 8)).save(tmp_path / "gray.png")
        assert "1 channel" in run(capsys, "restyle", trained, tmp_path / "gray.png", "--to-label", "red", *FEW, code=1)


class TestInvert:
    @pytest.mark.parametrize("method", list(INVERSIONS))
    def test_the_noise_becomes_the_picture_again(
        self, trained: Path, red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
    ) -> None:
        out = tmp_path / "inverted"
        said = run(capsys, "invert", trained, red, "--label", "red", "--method", method, "--out", out, *FEW)
        assert "round trip: largest error" in said
        assert "dB" in said
        assert sorted(f.name for f in out.iterdir()) == ["noise.safetensors", "reconstruction.png", "sheet.png"]
        code, record = read_code(out / "noise.safetensors")
        assert record["label"] == "red"
        pipeline = load(trained)
        side = Side(*pipeline.guided(pipeline.request(labels=["red"])))
        levels = tabulate(pipeline.denoiser.schedule, torch.tensor(record["times"], dtype=torch.float64))
        back = INVERSIONS[method].replay(side, code, levels)
        assert np.array_equal(np.asarray(pipeline.data.to_pil(back.float())[0]), pixels(out / "reconstruction.png"))
        if INVERSIONS[method].exact:
            assert np.array_equal(pixels(out / "reconstruction.png"), pixels(red))

    def test_guidance_is_warned_of_where_it_breaks_the_way_back(
        self, trained: Path, red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shared = ["invert", trained, red, "--label", "red", "--out", tmp_path / "a", *FEW]
        assert "does not lead back" in run(capsys, *shared, "--method", "ddim", "--guidance-scale", "3")
        assert "does not lead back" not in run(capsys, *shared, "--method", "ddim")
        assert "does not lead back" not in run(capsys, *shared, "--method", "edict", "--guidance-scale", "3")

    def test_a_model_without_classes_inverts_too(
        self, unconditional: Path, red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(capsys, "invert", unconditional, red, "--method", "edict", "--out", tmp_path / "a", *FEW)
        assert np.array_equal(pixels(tmp_path / "a" / "reconstruction.png"), pixels(red))
        said = run(capsys, "invert", unconditional, red, "--label", "red", "--out", tmp_path / "a", *FEW, code=1)
        assert "without classes" in said
        assert "folder" in run(capsys, "invert", unconditional, red, "--out", tmp_path / "a.png", *FEW, code=1)


class TestInterpolate:
    @pytest.mark.parametrize("method", ["edict", "edit-friendly", "noise"])
    def test_the_ends_are_the_pictures(
        self, trained: Path, red: Path, blue: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
    ) -> None:
        labels = ["--from-label", "red", "--to-label", "blue"]
        said = run(
            capsys, "interpolate", trained, red, blue, *labels, "--method", method, "--frames", 4,
            "--out", tmp_path / "way", "--video", tmp_path / "way.gif", *FEW,
        )  # fmt: skip
        assert "the ends: round trip" in said
        assert np.array_equal(pixels(tmp_path / "way" / "00-000.png"), pixels(red))
        assert np.array_equal(pixels(tmp_path / "way" / "00-003.png"), pixels(blue))
        with Image.open(tmp_path / "way.gif") as video:
            # There and back, each end once.
            assert video.n_frames == 6

    def test_the_ends_of_samples_are_plain_samples(
        self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        labels = ["--from-label", "red", "--to-label", "blue"]
        shared = ["--frames", 3, "--num", 1, "--seed", 5, "--to-seed", 9, "--out", tmp_path / "way", *FEW]
        run(capsys, "interpolate", trained, *labels, *shared)
        pipeline = load(trained)
        for label, seed, place in (("red", 5, 0), ("blue", 9, 2)):
            plain = np.asarray(pipeline.sample(labels=[label], seed=seed, num_steps=4)[0]).astype(int)
            assert np.abs(pixels(tmp_path / "way" / f"00-{place:03d}.png").astype(int) - plain).max() <= 1

    def test_mistakes(
        self, trained: Path, unconditional: Path, red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "two pictures" in run(capsys, "interpolate", trained, red, *FEW, code=1)
        assert "name what to go to" in run(capsys, "interpolate", unconditional, *FEW, code=1)
        assert "at least 2" in run(capsys, "interpolate", trained, red, red, "--frames", 1, *FEW, code=1)
        assert "strength lies" in run(
            capsys, "interpolate", trained, red, red, "--method", "noise", "--strength", 2, *FEW, code=1
        )
        assert "--method noise" in run(capsys, "interpolate", trained, red, red, "--strength", "0.5", *FEW, code=1)
        out = tmp_path / "seeds.png"
        run(capsys, "interpolate", unconditional, "--to-seed", 4, "--num", 1, "--frames", 3, "--out", out, *FEW)
        assert out.is_file()


class TestVary:
    @pytest.mark.parametrize("method", ["noise", "ddim"])
    def test_strength_runs_from_the_picture_to_forgetting_it(
        self, trained: Path, red: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
    ) -> None:
        spreads = []
        for strength in (0, 0.5, 1):
            out = tmp_path / f"{strength}"
            options = ["--method", method, "--label", "red", "--num", 3, "--strength", strength, "--out", out]
            said = run(capsys, "vary", trained, red, *options, *FEW)
            spreads.append(float(said.split("largest spread of a pixel ")[1].split()[0]))
            assert np.array_equal(pixels(out / "000.png"), pixels(red))
            if strength == 0:
                assert all(np.array_equal(pixels(out / f"00{k}.png"), pixels(red)) for k in (2, 3, 4))
        assert spreads[0] == 0.0 < spreads[1] < 1.5 * spreads[2]

    def test_mistakes(self, trained: Path, red: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "strength lies" in run(capsys, "vary", trained, red, "--strength", "-0.1", *FEW, code=1)
        assert "no method 'edict'" in run(capsys, "vary", trained, red, "--method", "edict", *FEW, code=1)
        assert "at least 1" in run(capsys, "vary", trained, red, "--num", 0, *FEW, code=1)
        assert "no picture" in run(capsys, "vary", trained, red.parent / "none.png", *FEW, code=1)
