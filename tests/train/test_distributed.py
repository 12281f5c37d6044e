"""One process and two do the same; what is saved by some is read by others; a lost process ends all, by name."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from process_pairs import CASES, STEPS, curve
from small_runs import settings, start

from kakusan.run_folder import RunFolder, read_state
from kakusan.train import distributed
from kakusan.train.distributed import LostRank, World
from kakusan.train.joining import join
from kakusan.train.metrics_log import read_records
from kakusan.train.parallel import Parallel, parallel

HERE = Path(__file__).parent
SECTIONS = {"run": {"steps": 6, "batch": 9, "measurements": 2, "checkpoints": 2}, "optim": {"rate": 3e-3, "warmup": 3}}


def two(folder: Path, *, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Two processes of `process_pairs.py` under torchrun, on this machine alone and on a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, str(HERE / "process_pairs.py"), str(folder), port]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """What two processes left behind, which began two runs where one process had stopped."""
    out = tmp_path_factory.mktemp("two")
    (out / "settings.json").write_text(json.dumps({"source": str(pictures), "sections": SECTIONS}))
    for way in ("fsdp", "ddp"):
        start(settings(pictures, **SECTIONS), out / way, stop_at=3)
    done = two(out)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_curve_of_one(case: str, together: Path) -> None:
    alone = curve(case, World())
    found = json.loads((together / "curves.json").read_text())[case]
    # Newton-Schulz in single precision amplifies the last bits of its input.
    bound = 1e-4 if CASES[case][1] == "muon" else 1e-9
    assert len(found) == len(alone) > 2 * STEPS
    assert all(math.isclose(a, b, rel_tol=bound) for a, b in zip(alone, found, strict=True)), (alone, found)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_run_goes_on_with_another_number_of_processes(
    way: str, together: Path, pictures: Path, tmp_path: Path
) -> None:
    whole = start(settings(pictures, **SECTIONS), tmp_path / "whole")
    run = RunFolder(together / way)
    first, second = ([r for r in read_records(f.metrics) if r["kind"] == "step"] for f in (whole.folder, run))
    assert [r["step"] for r in first] == [r["step"] for r in second] == list(range(1, 7))
    # Three steps by one process, three by two; fp32.
    assert all(math.isclose(a["loss"], b["loss"], rel_tol=1e-4) for a, b in zip(first, second, strict=True))
    held = [[r["loss"] for r in read_records(f.metrics) if r["kind"] == "held-out"] for f in (whole.folder, run)]
    assert held[0] == pytest.approx(held[1], rel=1e-3)
    # And on with one: the checkpoint of two processes is an ordinary one, read bit for bit.
    path = run.latest()
    assert path is not None
    weights, optimizer, averages, _ = read_state(path)
    longer = settings(pictures, **{**SECTIONS, "run": {**SECTIONS["run"], "steps": 7}, "engine": {"parallel": way}})

    def check(again) -> None:
        assert again.trainer.step == 6
        assert all(torch.equal(v, weights[n]) for n, v in again.model.state_dict().items())
        assert all(torch.equal(v, optimizer[n]) for n, v in again.trainer.state()[0].items())
        for profile, part in again.trainer.ema.averages.items():
            assert all(torch.equal(v, averages[profile][n]) for n, v in part.items())

    assert start(longer, together / way, prepare=check).trainer.step == 7
    assert not list(run.checkpoints.glob(".part*"))


@pytest.mark.slow
def test_a_killed_process_ends_the_other_which_names_it(together: Path) -> None:
    out = together / "kill"
    (first, ended), (second, killed) = (json.loads((out / f"ended-{rank}").read_text()) for rank in (0, 1))
    assert second == -signal.SIGKILL
    assert first not in (0, -signal.SIGKILL)
    assert ended - killed < 60.0
    said = (out / "said-0").read_text()
    assert "rank 1 of 2 gave no more sign of life (killed?)" in said, said
    assert "start the same command again" in said
    # And the first process saved what it could.
    latest = RunFolder(out / "run").latest()
    assert latest is not None
    assert latest.name == "step-00000003"


def test_a_process_that_hangs_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "LOST_AFTER_S", 1.5)
    store = torch.distributed.HashStore()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda rank: World(rank, 2, rank, "cpu", store), (0, 1))
    # It no longer gives signs of life, and has not left.
    second._over.set()
    began = time.monotonic()
    with pytest.raises(LostRank, match=r"rank 1 of 2 \(process \d+ on .*\) gave no sign of life"), first.watch():
        first.barrier()
    assert 0.5 < time.monotonic() - began < 15.0
    first.leave()


def test_a_process_that_left_is_not_waited_for() -> None:
    store = torch.distributed.HashStore()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda rank: World(rank, 2, rank, "cpu", store), (0, 1))
    second.leave()
    with pytest.raises(LostRank, match="rank 1 of 2 left before the others were done"), first.watch():
        first.barrier()
    first.leave()


@pytest.mark.parametrize(("count", "size"), [(9, 2), (64, 3), (7, 7), (100, 8)])
def test_parts_are_contiguous_whole_and_fair(count: int, size: int) -> None:
    class Member(World):
        def __init__(self, rank: int) -> None:
            self.rank, self.size = rank, size

    parts = [Member(rank).part(count) for rank in range(size)]
    rows = [row for first, number in parts for row in range(first, first + number)]
    assert rows == list(range(count))
    assert max(n for _, n in parts) - min(n for _, n in parts) <= 1
    for at_once in (1, 2, 5, count):
        cuts = [parallel_cuts(Member(rank), count, at_once) for rank in range(size)]
        assert len({len(each) for each in cuts}) == 1
        for (_, number), each in zip(parts, cuts, strict=True):
            assert [i for part in each for i in range(number)[part]] == list(range(number))
            assert all(range(number)[part] for part in each)


def parallel_cuts(world: World, count: int, at_once: int) -> list[slice]:
    return parallel("ddp", world).cuts(world.part(count)[1], at_once, count)


def test_one_process_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    world = join("cpu")
    assert (world.rank, world.size, world.main) == (0, 1, True)
    assert type(parallel("fsdp", world)) is Parallel
    assert world.gather(3) == [3]
    assert world.decide(lambda: 4) == 4
    assert world.first(lambda: 5) == 5
    with pytest.raises(ValueError, match=r"no way 'dpp' to share a step \(did you mean 'ddp'"):
        parallel("dpp", world)


def test_an_incomplete_environment_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"RANK, MASTER_ADDR, MASTER_PORT are not set; start by torchrun"):
        join("cpu")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE='two'"):
        join("cpu")


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    class Member(World):
        def __init__(self) -> None:
            self.rank, self.size = 0, 8

    with pytest.raises(ValueError, match="8 processes cannot share a batch of 4"):
        parallel("ddp", Member()).check(torch.nn.Linear(1, 1), 4)
