"""`kakusan lab`: it writes what it says, and refuses what does not exist before anything is drawn."""

from pathlib import Path

import pytest
from PIL import Image

from kakusan.choices import SCHEDULES
from kakusan.cli import main
from kakusan.data.toys import TOYS
from kakusan.lab import Lab
from kakusan.report.png import read_record

FIGURES = {"density", "score", "velocity", "trajectories", "families", "errors"}


def test_the_verb_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "lab"
    command = ["lab", "mixture", "--out", str(out), "--steps", "4", "--points", "8", "--frames", "2", "--seed", "5"]
    assert main(command) == 0
    said = {Path(line.removeprefix("wrote ")) for line in capsys.readouterr().out.splitlines()}
    expected = {f"{name}.png" for name in FIGURES} | {"forward.gif", "sampling.gif", "lab.html"}
    assert {path.name for path in said} == expected == {path.name for path in out.iterdir()}
    record = read_record(out / "score.png")
    assert (record["set"], record["figure"], record["seed"], record["num_steps"]) == ("mixture", "score", 5, 4)
    with Image.open(out / "sampling.gif") as animation:
        assert animation.n_frames == 2
    page = (out / "lab.html").read_text("utf-8")
    assert "kakusan lab mixture --schedule vp --sampler dpmpp-2m --steps 4" in page


def test_a_network_may_stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--train", "0.5", "--formats", "html", "--points", "4", "--steps", "3", "--schedule", "rectified"]
    assert main(["lab", "mixture", "--out", str(tmp_path), *options]) == 0
    assert "a network, trained on the spot" in (tmp_path / "lab.html").read_text("utf-8")
    assert "wrote" in capsys.readouterr().out


def test_the_page_speaks_japanese_and_pictures_do_where_a_font_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kakusan.lab.words.japanese_font", lambda: None)
    options = ["--steps", "3", "--points", "4", "--frames", "2", "--language", "ja", "--formats", "png,html"]
    assert main(["lab", "mixture", "--out", str(tmp_path), *options]) == 0
    assert "no font of this system has Japanese letters" in capsys.readouterr().out
    page = (tmp_path / "lab.html").read_text("utf-8")
    assert '<html lang="ja">' in page
    for word in ("データからノイズへ", "スコア", "厳密な流れ", "ステップ数", "--language ja"):
        assert word in page
    for word in ("Three ways", "arrows<", "number of steps", "exact flow", "to data"):
        assert word not in page


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_every_schedule_has_trajectories(schedule: str) -> None:
    lab = Lab("mixture", TOYS["mixture"], SCHEDULES[schedule], num_steps=4, points=4)
    assert all(bool(run.x.isfinite().all()) for run in lab.trajectories)


@pytest.mark.parametrize("schedule", ["ve", "zero-terminal-snr", "rectified"])
def test_families_end_at_data(schedule: str) -> None:
    lab = Lab("mixture", TOYS["mixture"], SCHEDULES[schedule], points=4)
    # Twelve standard deviations from the circle of means is beyond any sample.
    assert all(float((run.end.norm(dim=1) - 2.0).abs().max()) < 12.0 * 0.2 for run, _ in lab.families)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["moon"], "did you mean 'moons'"),
        (["moons", "--schedule", "vpp"], "did you mean 'vp'"),
        (["moons", "--sampler", "dpm-2m"], "did you mean 'dpmpp-2m'"),
        (["moons", "--grid", "karas"], "did you mean 'karras'"),
        (["moons", "--language", "fr"], "no language 'fr'"),
        (["moons", "--formats", "png,gfi"], "did you mean 'gif'"),
        (["moons", "--formats", ""], "one format is needed"),
        (["moons", "--steps", "0"], "at least 1 step"),
        (["moons", "--points", "1"], "2 points"),
        (["moons", "--train", "-1"], "at least 0 seconds"),
        (["moons", "--frames", "1"], "frames at least 2"),
    ],
)
def test_what_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], match: str
) -> None:
    assert main(["lab", *options, "--out", str(tmp_path / "out")]) == 1
    assert match in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
