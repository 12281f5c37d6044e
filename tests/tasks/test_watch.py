"""Following a run from outside: what the run would have measured itself, once each, and nothing of the run touched."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from small_runs import draw_pictures, settings, start

from kakusan.metrics.watching import WatchPlan, points_of
from kakusan.pipeline import load
from kakusan.run_folder import RunFolder
from kakusan.tasks import following
from kakusan.tasks.following import Follower
from kakusan.tasks.watch import plan_for, watch
from kakusan.train import watching as inside
from kakusan.train.metrics_log import read_records

PLAN = WatchPlan(num=48, num_steps=2, spaces=("random", "patches"), distances=("frechet", "coverage"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that watched itself, by the plan above, with three checkpoints beside the first."""
    source = draw_pictures(tmp_path_factory.mktemp("many"), each=80)
    out = tmp_path_factory.mktemp("finished") / "run"
    length = {"steps": 6, "watch": 3, "watch_num": 48, "watch_spaces": list(PLAN.spaces), "spaced": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inside, "plan_of", lambda run: PLAN)
        patch.setattr("kakusan.train.run.end_report", lambda *_, **__: None)
        start(settings(source, data={"held_out": 0.25}, run=length), out)
    return out


@pytest.fixture
def unwatched(finished: Path, tmp_path: Path) -> Path:
    """The same run as if it had not watched itself."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "best").unlink()
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["kind"] != "watch"))
    return out


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pages are drawn by one test only; how many points each would show."""
    shown: list[int] = []
    monkeypatch.setattr(following, "write_watch_page", lambda points, *_, **__: shown.append(len(points)))
    return shown


def follower(out: Path, plan: WatchPlan = PLAN) -> Follower:
    return Follower(out, plan, device="cpu", source=None)


def lines(out: Path) -> list[dict]:
    return read_records(out / "watch.jsonl")


def test_a_follower_finds_what_the_run_found_itself_to_the_bit(finished: Path, unwatched: Path) -> None:
    before = (unwatched / "metrics.jsonl").read_bytes()
    said = list(watch(follower(unwatched)))
    own = points_of(read_records(finished / "metrics.jsonl"))
    found = points_of(lines(unwatched))
    assert [point.step for point in found] == [point.step for point in own] == [2, 4, 6]
    for a, b in zip(own, found, strict=True):
        assert (a.model, a.plan, a.records) == (b.model, b.plan, b.records)
    # The trainer's files are the trainer's.
    assert (unwatched / "metrics.jsonl").read_bytes() == before
    assert RunFolder(unwatched).best() == RunFolder(finished).best()
    assert load(unwatched / "best").path == RunFolder(unwatched).checkpoint(RunFolder(finished).best() or 0)
    assert sum(line.startswith("step ") for line in said) == 3
    assert "best" in said[-1]


def test_what_has_been_measured_is_not_measured_again(finished: Path, unwatched: Path, tmp_path: Path) -> None:
    # By the run itself.
    assert follower(finished).missing() == []
    list(watch(follower(unwatched)))
    whole = lines(unwatched)
    assert follower(unwatched).missing() == []
    # By a watcher that was killed within its last line.
    text = (unwatched / "watch.jsonl").read_text().splitlines(keepends=True)
    (unwatched / "watch.jsonl").write_text("".join(text[:-1]) + text[-1][:100])
    assert follower(unwatched).missing() == [6]
    list(watch(follower(unwatched)))
    assert [(r["step"], r["records"]) for r in lines(unwatched)] == [(r["step"], r["records"]) for r in whole]
    # Another plan is another curve.
    assert follower(unwatched, WatchPlan(num=49)).missing() == [2, 4, 6]


def test_it_follows_until_the_training_ends(unwatched: Path, pages: list[int]) -> None:
    folder = RunFolder(unwatched)
    kept = unwatched / "later"
    folder.checkpoint(6).rename(kept)
    training = folder.lock()
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            # The last checkpoint appears, and the training ends.
            kept.rename(folder.checkpoint(6))
            training.close()

    list(watch(follower(unwatched), every=7.0, pause=pause))
    assert waits == [7.0, 7.0]
    assert [r["step"] for r in lines(unwatched)] == [2, 4, 6]
    # A page after every point, so that there is something to look at meanwhile.
    assert pages == [1, 2, 3, 3]


def test_once_looks_once_although_the_training_goes_on(unwatched: Path) -> None:
    def pause(_: float) -> None:
        raise AssertionError("it waits")

    with contextlib.closing(RunFolder(unwatched).lock()):
        list(watch(follower(unwatched), once=True, pause=pause))
    assert len(lines(unwatched)) == 3


def test_two_watchers_do_not_meet(unwatched: Path) -> None:
    with contextlib.closing(RunFolder(unwatched).lock(following.LOCK)):
        with pytest.raises(ValueError, match="another process is watching .*; wait for it, or stop it"):
            list(watch(follower(unwatched)))
    assert not (unwatched / "watch.jsonl").exists()
    # And a watcher is in nobody's way who wants to train.
    with contextlib.closing(RunFolder(unwatched).lock(following.LOCK)):
        assert not RunFolder(unwatched).in_training()
        RunFolder(unwatched).lock().close()


def test_a_checkpoint_that_is_thinned_out_meanwhile_is_passed_over(
    unwatched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(unwatched)

    def vanishing(path: Path, **options: object) -> object:
        if path == folder.checkpoint(4):
            shutil.rmtree(path)
        return load(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(following, "load", vanishing)
    list(watch(follower(unwatched)))
    assert [r["step"] for r in lines(unwatched)] == [2, 6]


def test_a_damaged_checkpoint_is_named(unwatched: Path) -> None:
    (RunFolder(unwatched).checkpoint(4) / "ema.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"step-00000004.ema.safetensors is damaged"):
        list(watch(follower(unwatched)))
    assert [r["step"] for r in lines(unwatched)] == [2]


def test_the_plan_is_the_runs_own_where_nothing_else_is_said(unwatched: Path, tmp_path: Path) -> None:
    own = plan_for(unwatched)
    assert (own.num, own.spaces, own.num_steps) == (48, ("random", "patches"), WatchPlan().num_steps)
    other = plan_for(unwatched, num=64, spaces=("patches",), num_steps=3)
    assert (other.num, other.spaces, other.num_steps) == (64, ("patches",), 3)
    with pytest.raises(ValueError, match="there is no run in"):
        plan_for(tmp_path / "nothing")


def test_the_page_and_the_picture(unwatched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kakusan.report.watching import write_watch_page

    monkeypatch.setattr(following, "write_watch_page", lambda *_, **__: None)
    list(watch(follower(unwatched)))
    write_watch_page(follower(unwatched).points(), unwatched, kept=RunFolder(unwatched).steps())
    page = (unwatched / "watch.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert "3 checkpoints measured" in page
    assert (unwatched / "watch.png").read_bytes()[:4] == b"\x89PNG"
