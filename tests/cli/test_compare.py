"""The options of `kakusan compare`."""

from pathlib import Path
from typing import Any

import pytest

from kakusan.cli import compare, main
from kakusan.cli.compare import budget, listed


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("5m", 300.0), ("1h", 3600.0), ("1.5m", 90.0), ("45", 45.0), (" 2 m ", 120.0)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert budget(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 minutes", "0s", "1d", "nan", "1e3"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 5m or 1h"):
        budget(text)


def test_lists() -> None:
    assert listed("5, 10,5,,20", int, "steps") == [5, 10, 20]
    assert listed("", str, "spaces") == []
    with pytest.raises(ValueError, match="separated by commas"):
        listed("5,ten", int, "steps")


def test_neither_runs_nor_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare"]) == 1
    assert "--budget 90s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--data", "flowers", "--budget", "soon"],
        ["--data", "flowers", "--models", "diffusion,vea"],
        ["--data", "flowers", "--steps", "few"],
        ["runs/none", "--samplers", "dim"],
        ["runs/none"],
    ],
)
def test_mistakes_end_in_one_line(argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["compare", *argv, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("kakusan compare: ")
    assert error.count("\n") == 1


def test_options_reach_the_contest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kakusan.tasks import contest

    seen: list[Any] = []

    class Recorder:
        def __init__(self, settings: Any, out: Path, say: Any) -> None:
            seen.append((settings, out))

        def run(self) -> None:
            pass

    monkeypatch.setattr(contest, "Contest", Recorder)
    argv = ["--data", "digits", "--budget", "2m", "--models", "diffusion,gan", "--seeds", "2", "--steps", "4,1,8"]
    assert compare.main([*argv, "--out", str(tmp_path / "o"), "--spaces", "random"]) == 0
    ((settings, out),) = seen
    assert (settings.seconds, settings.models, settings.seeds) == (120.0, ("diffusion", "gan"), 2)
    assert (settings.steps, settings.rungs, settings.num) == (8, (1, 4), 400)
    assert settings.spaces == ("random",)
    assert out == tmp_path / "o"


def test_options_reach_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    from kakusan.tasks import compare as task

    seen: list[Any] = []
    monkeypatch.setattr(task, "sweep", lambda settings, out, say: seen.append(settings))
    argv = ["runs/a", "runs/b", "--samplers", "ddim,heun", "--steps", "5,10", "--guidance-scales", "1,2.5"]
    assert compare.main(argv) == 0
    (settings,) = seen
    assert settings.runs == (Path("runs/a"), Path("runs/b"))
    assert settings.samplers == ("ddim", "heun")
    assert settings.steps == (5, 10)
    assert settings.guidance_scales == (1.0, 2.5)
    assert settings.num == 256
