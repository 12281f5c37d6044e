"""One process and two on the same run: curves, reloading, and what happens when one is killed (gloo, CPU).

    python benchmarks/two_processes.py             measures and prints
    python benchmarks/two_processes.py --write     also writes docs/results/distributed.md

The model is small; with one thread for each process it takes about two minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "results" / "distributed.md"
STEPS, BATCH = 100, 16


def worker(way: str, double: bool, steps: int, out: Path) -> None:
    """The curve of one run by as many processes as there are; process 0 writes it."""
    import dataclasses

    from kakusan import building, choices
    from kakusan.config import TrainConfig, merge
    from kakusan.data.source import open_data
    from kakusan.train.feed import Batch, Feed
    from kakusan.train.joining import join, watched
    from kakusan.train.optim import OptimSettings
    from kakusan.train.parallel import parallel
    from kakusan.train.trainer import DiffusionLoss, Group, Trainer

    torch.set_num_threads(1)
    if double:
        # What is meant to be at least fp32 is fp64, and so are the data.
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
        made = Feed._made

        def doubled(self: Feed, *arguments: object) -> Batch:
            batch = made(self, *arguments)  # type: ignore[arg-type]
            return dataclasses.replace(batch, x0=batch.x0.double())

        Feed._made = doubled  # type: ignore[method-assign]
    with watched():
        world = join("cpu")
        pictures = open_data("flowers", num=256, size=16)
        config = merge(TrainConfig(), {"model": {"width": 16, "depth": 1}})
        torch.manual_seed(0)
        model = building.build_model(config.model, pictures.spec)
        model = model.double() if double else model
        shared = parallel(way, world)
        feed = Feed(pictures, seed=0, batch=BATCH, world=world)
        objective = choices.build_objective(config.objective, pictures.spec)
        loss = shared.share(model, DiffusionLoss(model, objective, seed=0), feed)
        group = Group(list(model.parameters()), loss, OptimSettings(rate=2e-3, warmup=10))
        trainer = Trainer(model, [group], feed, steps=steps, parallel=shared)
        began, losses = time.perf_counter(), []
        for step in trainer.run():
            losses.append(step.losses[0])
        if world.main:
            found = {"losses": losses, "seconds": time.perf_counter() - began}
            out.write_text(json.dumps(found), encoding="utf-8")


def launch(processes: int, arguments: list[str]) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    command = [*(torchrun if processes > 1 else [sys.executable]), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def curve(processes: int, way: str, double: bool, steps: int, folder: Path) -> tuple[list[float], float]:
    out = folder / f"{processes}-{way}-{double}.json"
    given = [str(Path(__file__).resolve()), "--worker", way, "--steps", str(steps), "--out", str(out)]
    process = launch(processes, given + (["--double"] if double else []))
    _, errors = process.communicate(timeout=300)
    if process.returncode:
        raise SystemExit(errors[-3000:])
    found = json.loads(out.read_text(encoding="utf-8"))
    return found["losses"], found["seconds"] / steps


def train(processes: int, way: str, steps: int, out: Path) -> subprocess.Popen[str]:
    module = ["-m", "--", "kakusan"] if processes > 1 else ["-m", "kakusan"]
    sizes = "--data flowers --num 256 --size 16 --width 16 --depth 1 --batch 16 --warmup 10 --ema 0.1"
    how = f"--steps {steps} --device cpu --precision fp32 --threads 1 --measurements 0 --previews 0 --snapshots 0"
    return launch(processes, [*module, "train", *sizes.split(), *how.split(), "--parallel", way, "--out", str(out)])


def reloaded(way: str, folder: Path) -> tuple[bool, float]:
    """(whether one process holds bit for bit what two wrote after ten steps, its loss at step 12 against theirs)."""
    from kakusan.run_folder import RunFolder, read_state
    from kakusan.train.continuing import stored_config
    from kakusan.train.metrics_log import read_records
    from kakusan.train.run import TrainingRun

    start = folder / f"reload-{way}"
    _, errors = train(2, way, 10, start).communicate(timeout=300)
    config, latest = stored_config(start), RunFolder(start).latest()
    if config is None or latest is None:
        raise SystemExit(errors[-3000:])
    run = TrainingRun(config, start, say=lambda line: None)
    weights, optimizer, averages, _ = read_state(latest)
    held = run.trainer.state()[0]
    same = all(torch.equal(v, weights[n]) for n, v in run.model.state_dict().items())
    same &= all(torch.equal(v, optimizer[n]) for n, v in held.items()) and held.keys() == optimizer.keys()
    for profile, part in run.trainer.ema.averages.items():
        same &= all(torch.equal(v, averages[profile][n]) for n, v in part.items())
    ends = []
    for processes in (1, 2):
        out = shutil.copytree(start, folder / f"{start.name}-{processes}")
        train(processes, way, 12, out).communicate(timeout=300)
        ends.append([r["loss"] for r in read_records(RunFolder(out).metrics) if r["kind"] == "step"][-1])
    return same, abs(ends[0] / ends[1] - 1.0)


def killed(folder: Path) -> tuple[float, str]:
    """(seconds from killing rank 1 to the end of everything, what rank 0 said)."""
    import signal

    out = folder / "killed"
    process = train(2, "ddp", 100_000, out)
    until = time.monotonic() + 120
    metrics = out / "metrics.csv"
    while time.monotonic() < until and not (metrics.is_file() and metrics.read_text().count("\n") > 5):
        time.sleep(0.2)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    victim = sorted(int(pid) for pid in children.stdout.split())[-1]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    said = [line for line in errors.splitlines() if "rank 1" in line and "kakusan train" in line]
    return time.monotonic() - began, (said or ["(nothing)"])[0]


def difference(a: list[float], b: list[float]) -> float:
    return max(abs(x / y - 1.0) for x, y in zip(a, b, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--worker", choices=["ddp", "fsdp"])
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.double, given.steps, given.out)
        return
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    rows, missed = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for double in (True, False):
            alone, pace = curve(1, "ddp", double, given.steps, folder)
            for way in ("ddp", "fsdp"):
                both, seconds = curve(2, way, double, given.steps, folder)
                far = difference(alone, both)
                missed += double and far > 1e-6
                kind = "fp64" if double else "fp32"
                rows.append(f"| {way} | {kind} | {far:.1e} | {1e3 * pace:.0f} | {1e3 * seconds:.0f} |")
                print(rows[-1], flush=True)
        again = []
        for way in ("ddp", "fsdp"):
            same, far = reloaded(way, folder)
            missed += not same
            again.append(f"| {way} | {'yes' if same else '**no**'} | {far:.1e} |")
            print(again[-1], flush=True)
        seconds, said = killed(folder)
        missed += seconds > 60.0 or "rank 1" not in said
        print(f"killed: {seconds:.1f} s; {said}", flush=True)
    text = f"""# One process and two

Measured by `python benchmarks/two_processes.py --write`: the U-Net of width 16 on 16 x 16 flowers, batch {BATCH}, two
processes on one machine over gloo, one thread each ({platform.machine()}, torch {torch.__version__}). What the words
mean stands in [distributed.md](../distributed.md).

## Curves

Largest relative difference between the losses of one process and of two over {given.steps} steps (bar: 1e-6 in fp64),
and milliseconds of a step.

| way | numbers | difference | one process, ms | two processes, ms |
|---|---|---|---|---|
{chr(10).join(rows)}

## Reloading

Ten steps by two processes, then loaded by one: equal bit for bit (weights, averages, moments)? And two more steps: the
relative difference between the last loss of one process and of two (fp32).

| way | equal | difference |
|---|---|---|
{chr(10).join(again)}

## A killed process

Rank 1 was killed by SIGKILL in the middle of training. Everything had ended after {seconds:.1f} s (bar: 60 s), and
rank 0 said:

    {said}
"""
    if given.write:
        OUT.write_text(text, encoding="utf-8")
        print(f"wrote {OUT}")
    raise SystemExit(f"{missed} bars missed" if missed else 0)


if __name__ == "__main__":
    main()
