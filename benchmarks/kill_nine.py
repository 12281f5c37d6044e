"""Kill a training run with SIGKILL at random instants, again and again, and check that nothing is lost.

After every kill: each checkpoint is whole (all hashes are checked), `latest` names one of them, and the same command
goes on. At the end: the loss curve, the weights, the averages and the optimizer's state are bit for bit those of a run
that was never killed.

    python benchmarks/kill_nine.py                 20 kills, writes docs/results/kill-nine.md
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A process that has imported everything once and forks for each command: kills fall into the run, not into imports.
NURSERY = """
import json, os, sys
import kakusan.cli.train, kakusan.train.run, kakusan.report.curves, kakusan.report.grids, kakusan.report.page
import kakusan.report.watching, matplotlib.backends.backend_svg, torch._dynamo  # optimizers import the last
from kakusan.cli import main
from kakusan.data.source import open_data
if sys.argv[1:]:
    open_data(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    command = json.loads(line)
    child = os.fork()
    if child == 0:
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 70
        try:
            code = main(command["argv"])
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Runs `kakusan ...` in fresh processes that start at once, with an embedded set opened if one is named."""

    def __init__(self, folder: Path, *data: str) -> None:
        self.log = folder / "output.txt"
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, *data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        self._expect("ready")

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _expect(self, word: str) -> None:
        found = self._read()
        if found != word:
            raise RuntimeError(f"the nursery did not start: {found!r}")

    def start(self, argv: Sequence[str]) -> int:
        """Start a command; returns its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"argv": list(argv), "log": str(self.log)}) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def wait(self) -> int:
        """Exit code of the command; minus the signal when one ended it."""
        return int(self._read())

    def output(self) -> str:
        """Everything the commands have printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        """End the nursery."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: where the run stood, and what it went on from."""

    after: float
    saving: bool
    reached: int
    kept: int


def command(out: Path, steps: int) -> list[str]:
    """A tiny run with a checkpoint at every second step: much of its time is spent saving."""
    return (
        f"train --data digits --width 8 --depth 1 --batch 8 --warmup 5 --ema 0.1 0.05 --dropout 0.1 --measurements 2 "
        f"--previews 0 --threads 1 --device cpu --precision fp32 --checkpoints {steps // 2} --steps {steps} --out {out}"
    ).split()


def curve(run: Path) -> list[tuple[int, float, float]]:
    """(step, loss, norm of the gradient) of every step."""
    from kakusan.train.metrics_log import read_records

    records = [r for r in read_records(run / "metrics.jsonl") if r["kind"] == "step"]
    return [(r["step"], r["loss"], r["gradient_norm"]) for r in records]


def check_whole(run: Path) -> int:
    """Read every checkpoint in full; returns the step that the run would go on from (0 when nothing was saved yet).

    Raises:
        ValueError: a checkpoint cannot be read, or `latest` does not name one.
    """
    from kakusan.model_folder import read
    from kakusan.run_folder import RunFolder, read_state

    folder = RunFolder(run)
    if not folder.exists():
        folder.check_free()
        return 0
    for step in folder.steps():
        read(folder.checkpoint(step))
        read_state(folder.checkpoint(step))
    latest = folder.latest()
    if latest is None:
        return 0
    return int(read_state(latest)[3]["trainer"]["step"])


def leftovers(run: Path) -> list[str]:
    """Temporary files that should have been cleaned up."""
    return sorted(str(p.relative_to(run)) for p in run.rglob("*") if ".part" in p.name)


def kill_once(nursery: Nursery, run: Path, steps: int, delay: float, *, in_save: bool) -> Kill | None:
    """Start or continue the run and kill it; None when it ended before."""
    began = time.monotonic()
    process = nursery.start(command(run, steps))
    while time.monotonic() - began < delay:
        time.sleep(0.001)
    while in_save and not list((run / "checkpoints").glob(".part-*")) and _alive(process):
        time.sleep(0.0002)
    saving = bool(list((run / "checkpoints").glob(".part-*")))
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    code = nursery.wait()
    if code == 0:
        return None
    if code != -signal.SIGKILL:
        raise RuntimeError(f"the run failed with code {code}:\n{nursery.output()[-3000:]}")
    taken = curve(run)
    return Kill(time.monotonic() - began, saving, taken[-1][0] if taken else 0, check_whole(run))


def _alive(process: int) -> bool:
    # A child that has ended stays a zombie until the nursery has reaped it; both count as ended.
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def compare(killed: Path, whole: Path) -> list[str]:
    """What differs between the two runs; empty when nothing does."""
    import torch

    from kakusan.run_folder import RunFolder, read_state

    found = []
    if curve(killed) != curve(whole):
        found.append("the loss curve")
    ends = [RunFolder(run).latest() for run in (killed, whole)]
    assert ends[0] is not None
    assert ends[1] is not None
    if ends[0].name != ends[1].name:
        return [*found, f"the last step ({ends[0].name}, {ends[1].name})"]
    states = [read_state(end) for end in ends]
    pairs = [("weights", states[0][0], states[1][0]), ("optimizer", states[0][1], states[1][1])]
    pairs += [(f"average {profile}", a, states[1][2][profile]) for profile, a in states[0][2].items()]
    for what, a, b in pairs:
        changed = [n for n in sorted(a.keys() | b.keys()) if n not in a or n not in b or not torch.equal(a[n], b[n])]
        if changed:
            found.append(f"{what} ({len(changed)} of {len(a)} tensors, {changed[0]} first)")
    return found


def experiment(folder: Path, *, kills: int, steps: int, seed: int) -> tuple[list[Kill], list[str], float]:
    """(the kills, what differs in the end, seconds of the run that was left alone)."""
    generator = random.Random(seed)
    nursery = Nursery(folder)
    try:
        began = time.monotonic()
        nursery.start(command(folder / "whole", steps))
        if nursery.wait() != 0:
            raise RuntimeError(f"the run failed:\n{nursery.output()[-3000:]}")
        seconds = time.monotonic() - began
        done: list[Kill] = []
        # Kills come soon enough that several fit into one run; when it ends all the same, another is begun.
        run = folder / "killed-0"
        differences: list[str] = []
        for number in range(100 * kills):
            if len(done) == kills:
                break
            delay = generator.uniform(0.0, min(seconds, 2.5 * seconds / kills + 0.3 * seconds))
            kill = kill_once(nursery, run, steps, delay, in_save=generator.random() < 0.4)
            if kill is None:
                differences += [*compare(run, folder / "whole"), *leftovers(run)]
                run = folder / f"killed-{number + 1}"
            else:
                done.append(kill)
        nursery.start(command(run, steps))
        if nursery.wait() != 0:
            raise RuntimeError(f"the run failed:\n{nursery.output()[-3000:]}")
        differences += [*compare(run, folder / "whole"), *leftovers(run)]
    finally:
        nursery.close()
    return done, differences, seconds


def report(kills: Sequence[Kill], differences: Sequence[str], *, steps: int, seconds: float) -> str:
    """The result as a Markdown page."""
    saving = sum(kill.saving for kill in kills)
    rows = "\n".join(
        f"| {i} | {kill.after:.2f} | {'yes' if kill.saving else ''} | {kill.reached} | {kill.kept} |"
        for i, kill in enumerate(kills, 1)
    )
    verdict = "**bit for bit equal**" if not differences else "**different**: " + ", ".join(differences)
    return f"""# kill -9

`python benchmarks/kill_nine.py` trains a tiny class-conditional model (digits, 8 x 8, dropout on) for {steps} steps
with a checkpoint at every second step, kills it with SIGKILL at random instants, and starts the same command again.

- kills: {len(kills)}, of these while a checkpoint was being written: {saving}
- checkpoints that could not be read afterwards: 0 (every file of every checkpoint is read and hashed after every kill)
- `latest` naming a checkpoint that is not there: 0
- loss curve, weights, averages and optimizer state beside a run that was never killed: {verdict}
- temporary files left after the run has ended: 0

The run that was left alone took {seconds:.1f} s. Python {platform.python_version()}, {platform.system()}.

| kill | seconds after start | while saving | last step in metrics.jsonl | went on from step |
|---:|---:|:---:|---:|---:|
{rows}
"""


def main() -> int:
    """Run the experiment and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "kill-nine.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        kills, differences, seconds = experiment(
            Path(place), kills=options.kills, steps=options.steps, seed=options.seed
        )
    page = report(kills, differences, steps=options.steps, seconds=seconds)
    print(page)
    if differences:
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
