"""Guidance on the command line: every option reaches the samples, and a picture's record replays all of it."""

import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import settings, start

from kakusan.cli import main
from kakusan.cli.guidance_options import GuidanceOptions
from kakusan.cli.options import parse
from kakusan.guidance import (
    ByClassifier,
    DynamicThresholding,
    Projected,
    StaticThresholding,
    Weaker,
    WithoutAttention,
)
from kakusan.report.png import read_record
from kakusan.run_folder import RunFolder

FEW = ["--steps", "3", "--sampler", "ddim", "--device", "cpu"]


def said(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> str:
    got = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert got == code, (out, err)
    return re.sub(r"\s+", " ", out + err)


def arguments(*argv: object, run: Path = Path("run")) -> dict[str, Any]:
    return parse(GuidanceOptions, [str(a) for a in argv], verb="x").arguments(run)


@pytest.fixture(scope="module")
def attentive(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A run with an early checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "attentive"
    start(settings(pictures, run={"steps": 8, "checkpoints": 2, "batch": 4}), out)
    return out


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, attentive: Path) -> Path:
    out = tmp_path_factory.mktemp("classifier") / "it"
    assert main(["train-classifier", str(attentive), "--steps", "20", "--width", "8", "--threads", "1", "--batch", "8",
                 "--out", str(out), "--device", "cpu"]) == 0  # fmt: skip
    return out


def test_nothing_said_is_nothing_done() -> None:
    assert arguments() == {"guidance_scale": None, "rescale": 0.0, "interval": (0.0, 1.0)}


def test_options_become_the_objects_they_name(attentive: Path) -> None:
    assert arguments("--guidance-scale", -3, "--rescale", 0.7, "--interval", 0.1, 0.6) == {
        "guidance_scale": -3.0,
        "rescale": 0.7,
        "interval": (0.1, 0.6),
    }
    assert arguments("--rule", "zero-star")["rule"] == "zero-star"
    found = arguments("--rule", "apg", "--apg-limit", 0.2, "--apg-momentum", -0.7)
    assert found["rule"] == Projected(momentum=-0.7, limit=0.2)
    assert arguments("--mix", "red=0.25", "2=-1", "--negative", "blue") | {} == arguments() | {
        "mixture": {"red": 0.25, "2": -1.0},
        "negative": "blue",
    }
    assert arguments("--threshold", 0.99)["thresholding"] == DynamicThresholding(0.99)
    assert arguments("--clamp")["thresholding"] == StaticThresholding()
    guides = arguments("--without-attention", 1.5, "--attention-layers", 0, "--interval", 0.2, 0.8)["guides"]
    assert guides == (WithoutAttention(1.5, (0,), (0.2, 0.8)),)
    newest = RunFolder(attentive).latest()
    assert arguments("--weaker", attentive)["guides"] == (Weaker(str(newest)),)
    found = arguments("--weaker-weights", "raw", "--weaker-scale", 3, run=attentive)["guides"]
    assert found == (Weaker(str(newest), "raw", 3.0),)
    assert arguments("--classifier", "c", "--classifier-scale", 4)["guides"] == (ByClassifier("c", 4.0),)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--apg-limit", "1"], "belongs to --rule apg, not to linear"),
        (["--mix", "red"], "LABEL=WEIGHT"),
        (["--mix", "red=much"], "LABEL=WEIGHT"),
        (["--threshold", "0.9", "--clamp"], "exclude each other"),
        (["--threshold", "1.5"], "quantile"),
        (["--weaker-scale", "2"], "--weaker-scale does nothing without --weaker"),
        (["--attention-layers", "0"], "does nothing without --without-attention"),
        (["--classifier-scale", "2"], "does nothing without --classifier"),
        (["--weaker", "nowhere"], "no run or model at nowhere"),
        (["--without-attention", "2", "--interval", "0.9", "0.1"], "interval"),
    ],
)
def test_what_means_nothing_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(*argv)


def test_wrong_names_are_met_with_what_there_is(
    attentive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["sample", attentive, "--num", 1, *FEW, "--out", tmp_path / "a.png"]
    assert "no rule 'agp' (did you mean 'apg'?)" in said(capsys, *base, "--rule", "agp", code=1)
    assert "no class 'rde'" in said(capsys, *base, "--label", "red", "--negative", "rde", code=1)
    assert "has the weights" in said(capsys, *base, "--weaker-weights", "emma", code=1)
    assert "needs labels" in said(capsys, *base, "--classifier", attentive, code=1)
    assert not (tmp_path / "a.png").exists()


GUIDANCES = {
    "apg": ["--guidance-scale", "3", "--rule", "apg", "--apg-limit", "0.5", "--apg-parallel", "0.2"],
    "zero-star": ["--guidance-scale", "3", "--rule", "zero-star"],
    "plus-plus": ["--guidance-scale", "0.6", "--rule", "plus-plus"],
    "rescale": ["--guidance-scale", "3", "--rescale", "0.7", "--interval", "0.1", "0.8"],
    "negative": ["--guidance-scale", "2", "--negative", "blue"],
    "mixture": ["--mix", "blue=0.4", "--threshold", "0.9"],
    "clamp": ["--guidance-scale", "9", "--clamp"],
    "attention": ["--without-attention", "2"],
    "weaker": ["--weaker", "{early}", "--weaker-scale", "2"],
    "own-raw": ["--weaker-weights", "raw", "--weaker-scale", "5"],
    "classifier": ["--classifier", "{classifier}", "--classifier-scale", "3"],
    "everything": ["--guidance-scale", "2", "--rule", "apg", "--negative", "blue", "--mix", "blue=-0.5", "--threshold",
                   "0.95", "--without-attention", "1.5", "--weaker", "{early}", "--classifier", "{classifier}"],
}  # fmt: skip


@pytest.mark.parametrize("kind", list(GUIDANCES))
def test_a_picture_replays_its_guidance_bit_for_bit(
    attentive: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    early = RunFolder(attentive).checkpoint(RunFolder(attentive).steps()[0])
    options = [option.format(early=early, classifier=classifier) for option in GUIDANCES[kind]]
    sheet, again = tmp_path / "a.png", tmp_path / "b.png"
    text = said(capsys, "sample", attentive, "--label", "red", "--num", 3, "--batch", 2, *FEW, *options, "--out", sheet)
    assert "wrote" in text
    said(capsys, "sample", attentive, "--label", "red", "--num", 3, "--batch", 2, *FEW, "--out", tmp_path / "plain.png")
    assert sheet.read_bytes() != (tmp_path / "plain.png").read_bytes()
    found = said(capsys, "sample", "--from-png", sheet, "--out", again, "--device", "cpu")
    assert "every pixel is equal to the first" in found
    assert read_record(sheet) == read_record(again)


def test_a_guiding_model_that_changed_or_went_is_noticed(
    attentive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    early = RunFolder(attentive).checkpoint(RunFolder(attentive).steps()[0])
    other = tmp_path / "early"
    shutil.copytree(early, other)
    sheet = tmp_path / "a.png"
    said(capsys, "sample", attentive, "--num", 1, *FEW, "--weaker", other, "--out", sheet)
    facts = (other / "model.json").read_text()
    (other / "model.json").write_text(facts + "\n")
    text = said(capsys, "sample", "--from-png", sheet, "--out", tmp_path / "b.png", "--device", "cpu", code=1)
    assert "was guided by the model" in text
    # A whole run that was moved keeps its checkpoints beside each other.
    said(capsys, "sample", attentive, "--num", 1, *FEW, "--weaker", early, "--out", sheet)
    moved = tmp_path / "moved"
    shutil.copytree(attentive, moved)
    text = said(capsys, "sample", moved, "--from-png", sheet, "--out", tmp_path / "c.png", "--device", "cpu")
    assert "every pixel is equal" in text


def test_a_model_without_classes_is_led_by_a_classifier(
    pictures: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "free"
    start(settings(pictures, model={"conditional": False}, run={"steps": 4, "batch": 4}), run)
    base = ["sample", run, "--num", 2, *FEW, "--out", tmp_path / "files"]
    text = said(capsys, *base, "--label", "red", "--classifier", classifier)
    assert "wrote 2 files" in text
    assert sorted(f.name for f in (tmp_path / "files").iterdir()) == ["00000-red-seed0.png", "00001-red-seed1.png"]
    sheet = tmp_path / "all.png"
    said(capsys, *base[:-1], sheet, "--all-labels", "--classifier", classifier)
    assert read_record(sheet)["rows"] == ["blue", "red"]
    assert "trained without classes" in said(capsys, *base, "--label", "red", code=1)


class TestTrainClassifier:
    def test_it_says_how_well_it_does_and_how_to_use_it(
        self, attentive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "c"
        text = said(capsys, "train-classifier", attentive, "--steps", 5, "--width", 8, "--out", out, "--device", "cpu")
        assert "accuracy on held-out pictures by noise level (chance is 0.50)" in text
        assert "log-SNR +9:" in text
        assert f"--classifier {out}" in text
        text = said(capsys, "train-classifier", attentive, "--steps", 5, "--out", out, code=1)
        assert "is taken; name another folder with --out" in text

    def test_it_lies_in_the_run_when_no_place_is_named(
        self, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        start(settings(pictures, run={"steps": 2, "batch": 4}), run)
        said(capsys, "train-classifier", run, "--steps", 2, "--width", 8, "--device", "cpu")
        assert (run / "classifier" / "model.json").is_file()

    def test_data_without_classes_are_refused(
        self, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        start(settings(pictures / "red", run={"steps": 2, "batch": 4}), run)
        text = said(capsys, "train-classifier", run, "--steps", 2, "--out", tmp_path / "c", code=1)
        assert "at least two classes" in text
        assert not (tmp_path / "c").exists()
