"""`kakusan eval` as people use it."""

import json
from pathlib import Path

import pytest
from small_runs import settings, start

from kakusan.cli import main
from kakusan.report import evaluation as page
from kakusan.report.page import Page
from kakusan.tasks import eval_parts, evaluate

OPTIONS = [
    "--num",
    "32",
    "--steps",
    "2",
    "--batch",
    "16",
    "--device",
    "cpu",
    "--spaces",
    "random",
    "--distances",
    "frechet",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "flowers"
    start(settings("flowers", data={"num": 128, "size": 8}, run={"steps": 2}), out)
    return out


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few parts, and no judge to train."""
    monkeypatch.setattr(evaluate, "PARTS", [p for p in eval_parts.PARTS if p.name in ("distances", "cost")])
    monkeypatch.setattr(evaluate, "open_judge", lambda *given, **more: None)
    monkeypatch.setattr(page, "evaluation_page", lambda *given: Page("x"))


def test_it_prints_a_verdict_and_compares_with_another(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(run), *OPTIONS, "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "times real pictures" in said
    assert "measuring: distances" in said
    assert f"wrote {tmp_path / 'a' / 'eval.json'}" in said
    other = [*OPTIONS, "--seed", "1", "--out", str(tmp_path / "b"), "--against", str(tmp_path / "a")]
    assert main(["eval", str(run), *other]) == 0
    said = capsys.readouterr().out
    assert "frechet (random)" in said
    assert "of 1 differences are beyond the error" in said


def test_unlike_records_are_refused_and_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), *OPTIONS, "--out", str(tmp_path)]) == 0
    file = tmp_path / "eval.json"
    content = json.loads(file.read_text("utf-8"))
    for record in content["records"]:
        record["of"]["reference"] = "another"
    file.write_text(json.dumps(content), "utf-8")
    capsys.readouterr()
    again = ["eval", str(run), *OPTIONS, "--out", str(tmp_path / "b"), "--against", str(file)]
    assert main(again) == 1
    out, err = capsys.readouterr()
    assert "they differ in reference" in err
    # What was measured is not lost with the comparison.
    assert (tmp_path / "b" / "eval.json").is_file()
    assert "times real pictures" in out


def test_a_wrong_name_is_said_before_any_work(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, match in (
        (["--against", str(tmp_path)], "kakusan eval"),
        (["--distances", "frechett"], "did you mean 'frechet'"),
    ):
        assert main(["eval", str(run), *OPTIONS[:-2], *wrong]) == 1
        out, err = capsys.readouterr()
        assert match in err
        assert err.count("\n") == 1
        assert "opening" not in out
