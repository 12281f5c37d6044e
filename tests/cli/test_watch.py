"""`kakusan watch` as people call it."""

from pathlib import Path

import pytest
from small_runs import draw_pictures, settings, start

from kakusan.cli import main
from kakusan.cli.watch import seconds


@pytest.mark.parametrize(
    ("text", "expected"), [("30s", 30), ("5m", 300), ("1h", 3600), ("2.5", 2.5), (" 10 min ", 600)]
)
def test_times_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0s", "soon", "-3s", "5 weeks", "1e3", "s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--every is a time such as 30s"):
        seconds(text)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "name the run to follow"),
        (["nothing-here"], "there is no run in nothing-here"),
        (["nothing-here", "--every", "often"], "--every is a time"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", *argv]) == 1
    err = capsys.readouterr().err
    assert err.startswith("kakusan watch: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_run_is_watched_and_its_best_is_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = draw_pictures(tmp_path / "pictures", each=80)
    start(settings(source, data={"held_out": 0.25}, run={"steps": 2, "checkpoints": 2}), tmp_path / "run")
    argv = ["watch", str(tmp_path / "run"), "--once", "--num", "48", "--spaces", "random", "patches", "--steps", "2"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "step 1: frechet" in out
    assert "step 2: frechet" in out
    assert {"watch.jsonl", "watch.html", "watch.png", "best"} <= {p.name for p in (tmp_path / "run").iterdir()}
    assert main(["sample", str(tmp_path / "run" / "best"), "--num", "2", "--out", str(tmp_path / "s.png")]) == 0
    assert main([*argv, "--num", "10"]) == 1
    assert "at least 48 samples" in capsys.readouterr().err
