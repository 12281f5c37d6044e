"""The command line as people use it: help, errors in one line, exit codes, precedence of settings."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import draw_pictures

from kakusan.cli import VERBS, main
from kakusan.config import TrainConfig, merge
from kakusan.recipes import RECIPES
from kakusan.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["--measurements", "0", "--previews", "0", "--checkpoints", "0", "--snapshots", "0"]
TINY = ["--width", "8", "--depth", "1", "--batch", "8", "--warmup", "2", "--device", "cpu", "--threads", "1", *QUIET]


def printed(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> str:
    """What a command prints to standard output."""
    got = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    assert got == code, (out, err)
    return out


def complaint(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 1) -> str:
    """The one line that a failing command prints to standard error."""
    got = main([str(a) for a in argv])
    _, err = capsys.readouterr()
    assert got == code, err
    assert err.count("\n") == 1, err
    assert err.startswith(f"kakusan {argv[0]}: ")
    return err


def usage_error(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in argv])
    assert stop.value.code == 2
    # Without the frame that the options' reader draws around it.
    return re.sub(r"[│\s]+", " ", capsys.readouterr().err)


class TestHelp:
    def test_every_verb_is_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = printed(capsys, "--help")
        assert all(f"\n  {verb} " in text for verb in VERBS)
        assert main([]) == 2

    @pytest.mark.parametrize("verb", list(VERBS))
    def test_every_verb_has_help(self, capsys: pytest.CaptureFixture[str], verb: str) -> None:
        if verb == "data":
            assert "kakusan data check FOLDER" in printed(capsys, "data", "--help")
            for sub in ("check", "get"):
                with pytest.raises(SystemExit) as stop:
                    main(["data", sub, "--help"])
                assert stop.value.code == 0
                assert f"kakusan data {sub}" in capsys.readouterr().out
            return
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert f"kakusan {verb}" in text
        assert "{None}" not in text

    @pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], ["sample", "--help"], ["sampel"]])
    def test_torch_is_not_needed_to_answer(self, argv: list[str]) -> None:
        script = (
            "import sys\nfrom kakusan.cli import main\n"
            "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'numpy', 'matplotlib', 'PIL', 'safetensors'} & set(sys.modules)\n"
            "print('heavy:', sorted(heavy))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *argv], capture_output=True, text=True, cwd=ROOT, check=True
        )
        assert done.stdout.endswith("heavy: []\n")

    def test_the_version_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert re.fullmatch(r"kakusan \d+\.\d+\.\d+\n", printed(capsys, "--version"))

    def test_an_unknown_verb_is_met_with_a_suggestion(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["trian"]) == 2
        assert "no verb 'trian' (did you mean 'train'?)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("argv", "near"),
        [
            (["train", "--widht", "3"], "--width"),
            (["sample", "x", "--guidance", "3"], "--guidance-scale"),
            (["ema", "x", "--widht", "0.1"], "--width"),
            (["doctor", "x", "--sampller", "ddim"], "--sampler"),
            (["forward", "x", "--shedule", "ve"], "--schedule"),
            (["data", "check", "x", "--metdata", "y"], "--metadata"),
        ],
    )
    def test_an_unknown_option_is_met_with_a_suggestion(
        self, capsys: pytest.CaptureFixture[str], argv: list[str], near: str
    ) -> None:
        text = usage_error(capsys, *argv)
        assert "Unrecognized options" in text
        assert near in text

    def test_a_wrong_type_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--width" in usage_error(capsys, "train", "--width", "wide")
        assert "--out" in usage_error(capsys, "train", "--out")


class TestPrecedence:
    def config(self, capsys: pytest.CaptureFixture[str], *argv: object) -> TrainConfig:
        return merge(TrainConfig(), tomllib.loads(printed(capsys, "train", "--print-config", *argv)))

    def test_defaults_recipe_file_command_line(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        out = tmp_path / "run"
        assert self.config(capsys, "--out", out) == TrainConfig()
        recipe = merge(TrainConfig(), RECIPES["demo"]())
        assert self.config(capsys, "--out", out, "--recipe", "demo") == recipe
        file = tmp_path / "mine.toml"
        file.write_text("[model]\nwidth = 24\ndepth = 3\n")
        found = self.config(capsys, "--out", out, "--recipe", "demo", "--config", file, "--depth", 1)
        expected = merge(recipe, {"model": {"width": 24, "depth": 1}})
        assert found == expected
        assert not out.exists()

    def test_what_is_printed_gives_the_same_back(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        argv = [
            "--out",
            tmp_path / "r",
            "--recipe",
            "small",
            "--steps",
            7,
            "--flip",
            "--classes",
            "a b",
            'c"d',
            "--ema",
            0.2,
        ]
        text = printed(capsys, "train", "--print-config", *argv)
        (tmp_path / "a.toml").write_text(text)
        assert (
            printed(capsys, "train", "--print-config", "--out", tmp_path / "r", "--config", tmp_path / "a.toml") == text
        )
        config = merge(TrainConfig(), tomllib.loads(text))
        assert config.data.classes == ("a b", 'c"d')
        assert (config.run.steps, config.run.minutes) == (7, None)
        assert config.data.flip

    def test_a_later_length_replaces_an_earlier_one(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        file = tmp_path / "mine.toml"
        file.write_text("[run]\nsteps = 9\n")
        assert self.config(capsys, "--out", tmp_path / "r", "--config", file, "--minutes", 2).run.steps is None
        assert self.config(capsys, "--out", tmp_path / "r", "--config", file, "--minutes=2").run.minutes == 2.0
        assert self.config(capsys, "--out", tmp_path / "r", "--recipe", "small", "--config", file).run.minutes is None

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            (
                "[model]\nwitdh = 3\n",
                r"\[model\] of .*mine\.toml has an unknown key 'witdh' \(did you mean 'width'\?\)",
            ),
            ("[modl]\n", "unknown key 'modl'"),
            ("[model]\nwidth = 'x'\n", r"width in \[model\] of .*mine\.toml must be a whole number, got 'x'"),
            ("[model\n", r"mine\.toml is not valid TOML"),
        ],
    )
    def test_wrong_files_are_refused(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, match: str
    ) -> None:
        (tmp_path / "mine.toml").write_text(text)
        assert re.search(match, complaint(capsys, "train", "--out", tmp_path / "r", "--config", tmp_path / "mine.toml"))

    def test_unknown_recipes_and_missing_files_are_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no recipe 'dmeo' (did you mean 'demo'?)" in complaint(capsys, "train", "--recipe", "dmeo")
        assert "there is no configuration file" in complaint(capsys, "train", "--config", "nothing.toml")

    def test_impossible_values_are_refused(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        for argv, match in (
            (["--batch", 0], "batch must be at least 1"),
            (["--rate", -1], "expected rate > 0"),
            (["--minutes", -3], "minutes must be a positive number"),
        ):
            got: int | str | None
            try:
                got = main(["train", "--out", str(tmp_path / "r"), *map(str, argv)])
            except SystemExit as stop:
                got = stop.code
            err = re.sub(r"[│\s]+", " ", capsys.readouterr().err)
            assert got in (1, 2)
            assert match in err
            assert "Traceback" not in err


class TestTrain:
    def test_a_dry_run_estimates_and_writes_nothing(
        self, capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        text = printed(capsys, "train", "--data", pictures, "--out", out, "--steps", 50, "--dry-run", *TINY)
        assert "22 pictures (2 held out), 3 x 8 x 8, 2 classes; cpu" in text
        assert "50 steps: about" in text
        assert "memory about" in text
        assert not out.exists()

    def test_training_says_where_things_are_and_resumes(
        self, capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        text = printed(capsys, "train", "--data", pictures, "--out", out, "--steps", 3, *TINY)
        assert f"model   {out / 'checkpoints' / 'step-00000003'}" in text
        assert "step 3/3" in text
        assert "finished at step 3" in printed(capsys, "train", "--out", out)
        text = printed(capsys, "train", "--out", out, "--steps", 5)
        assert "continuing" in text
        assert "from step 3 of 5" in text
        assert RunFolder(out).latest() == RunFolder(out).checkpoint(5)

    def test_mistakes_are_one_line(self, capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        assert "no folder, zip file" in complaint(capsys, "train", "--data", tmp_path / "none", "--out", out, *TINY)
        (tmp_path / "empty").mkdir()
        complaint(capsys, "train", "--data", tmp_path / "empty", "--out", out, *TINY)
        assert "did you mean 'cosine'" in complaint(
            capsys, "train", "--data", pictures, "--out", out, "--schedule", "cosin", *TINY
        )
        printed(capsys, "train", "--data", pictures, "--out", out, "--steps", 1, *TINY)
        line = complaint(capsys, "train", "--out", out, "--width", 16)
        assert "model.width was 8, now 16" in line
        assert "is not a run of kakusan's" in complaint(capsys, "train", "--data", pictures, "--out", pictures, *TINY)

    def test_memory_that_does_not_suffice_is_one_line(
        self, capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise RuntimeError("CUDA out of memory. Tried to allocate 3.00 GiB.\nmore lines")

        monkeypatch.setattr("kakusan.train.run.pace_of_a_step", full)
        line = complaint(capsys, "train", "--data", pictures, "--out", tmp_path / "run", *TINY)
        assert "not enough memory. Use a smaller --batch" in line
        assert "--micro-batch or --checkpointing" in line


class TestOthers:
    def test_samples(self, capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path) -> None:
        sheet, files, way = tmp_path / "a.png", tmp_path / "files", tmp_path / "way.gif"
        common = ["--steps", 3, "--seed", 7, "--device", "cpu"]
        argv = ["sample", trained, "--label", "red", "blue", "--num", 4, "--guidance-scale", 3, "--sampler", "dpmpp-2m"]
        text = printed(capsys, *argv, *common, "--out", sheet, "--trajectory", way)
        assert "4 pictures with the weights 'ema-0.1'" in text
        assert "every pixel is equal" in printed(
            capsys, "sample", "--from-png", sheet, "--out", tmp_path / "b.png", "--device", "cpu"
        )
        with Image.open(way) as animation:
            assert animation.n_frames >= 3
        printed(capsys, "sample", trained, "--all-labels", "--num", 2, *common, "--out", files)
        assert len(list(files.iterdir())) == 4
        printed(capsys, "sample", trained, "--num", 2, "--sampler", "ddim", "--eta", 1, *common, "--out", sheet)

    def test_mistakes_in_sampling_are_one_line(
        self, capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
    ) -> None:
        assert "name the run" in complaint(capsys, "sample")
        assert "there is no run" in complaint(capsys, "sample", tmp_path / "none")
        assert "did you mean 'red'" in complaint(capsys, "sample", trained, "--label", "rde")
        assert "did you mean" in complaint(capsys, "sample", trained, "--sampler", "dpmp-2m")
        complaint(capsys, "sample", "--from-png", tmp_path / "none.png")

    def test_averages_are_rebuilt_and_sampled(
        self, capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path
    ) -> None:
        model, sheet = tmp_path / "model", tmp_path / "a.png"
        text = printed(capsys, "ema", trained, "--width", 0.05, 0.2, "--name", "short", "long", "--out", model)
        assert "short: width 0.05 after 60 updates, from averages stored at 5 times" in text
        assert f"kakusan sample {model} --num 16" in text
        common = ["--num", 1, "--steps", 2, "--device", "cpu", "--out", sheet]
        assert "with the weights 'short'" in printed(capsys, "sample", model, *common)
        assert "with the weights 'long'" in printed(capsys, "sample", model, "--weights", "long", *common)
        assert "nothing is overwritten" in complaint(capsys, "ema", trained, "--width", 0.05, "--out", model)
        assert "between 0 and 0.28" in complaint(capsys, "ema", trained, "--width", 0.5, "--out", tmp_path / "x")
        assert "is not a run" in complaint(capsys, "ema", tmp_path, "--width", 0.1)
        assert "--width" in usage_error(capsys, "ema", trained)

    def test_list_and_inspect(self, capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path) -> None:
        assert str(trained) in printed(capsys, "list", trained.parent)
        assert json.loads(printed(capsys, "list", trained.parent, "--json"))[0]["steps"] == 60
        assert "no runs in" in printed(capsys, "list", tmp_path)
        complaint(capsys, "list", tmp_path / "none")
        text = printed(capsys, "inspect", trained)
        assert '"Cosine"' in text
        assert json.loads(printed(capsys, "inspect", trained, "--json"))["format"] == 1
        complaint(capsys, "inspect", tmp_path)

    def test_doctor(self, capsys: pytest.CaptureFixture[str], trained: Path, tmp_path: Path) -> None:
        picture = tmp_path / "doctor.png"
        assert "verdict: healthy" in printed(capsys, "doctor", trained, "--out", picture)
        text = printed(
            capsys, "doctor", trained, "--sampler", "ddim", "--steps", 1, "--grid", "log-snr", "--out", picture, code=1
        )
        assert "verdict: the sampler is at fault" in text

    def test_data(self, capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path) -> None:
        assert "24" in printed(capsys, "data", "check", pictures)
        assert json.loads(printed(capsys, "data", "check", pictures, "--json"))
        draw_pictures(tmp_path / "bad")
        (tmp_path / "bad" / "red" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        assert "00.png" in printed(capsys, "data", "check", tmp_path / "bad", code=1)
        complaint(capsys, "data", "check", tmp_path / "none")
        assert main(["data"]) == 2
        capsys.readouterr()

    def test_fetching_offline_is_one_line(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def offline(*_: object, **__: object) -> None:
            raise OSError("Name or service not known")

        monkeypatch.setattr("socket.getaddrinfo", offline)
        main(["data", "get", "mnist", "--out", str(tmp_path / "mnist")])
        err = capsys.readouterr().err
        assert "kakusan data: " in err
        assert "Traceback" not in err
        assert "did you mean 'mnist'" in complaint(capsys, "data", "get", "mnits", "--out", tmp_path / "x")

    def test_forward(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        array = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(array).save(tmp_path / "a.jpg")
        text = printed(capsys, "forward", tmp_path / "a.jpg", "--schedule", "rectified", "--out", tmp_path / "s.png")
        assert "10 times of Rectified" in text
        printed(capsys, "forward", tmp_path / "a.jpg", "--t", 0, 0.5, 1, "--out", tmp_path / "s.gif")
        complaint(capsys, "forward", tmp_path / "none.jpg", "--out", tmp_path / "s.png")

    def test_a_reader_that_has_enough_is_no_error(self, trained: Path) -> None:
        script = "import sys; from kakusan.cli import main; sys.exit(main(sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", script, "inspect", str(trained), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        process.stdout.close()
        _, err = b"", process.stderr.read() if process.stderr is not None else b""
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
        assert err == b""
