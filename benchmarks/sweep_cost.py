"""What `kakusan sweep` costs beside the network itself, and what it shares.

    python benchmarks/sweep_cost.py --run runs/demo [--values 41] [--num 16] [--steps 20] [--threads 2] [--write]

The verb's own task runs in this process, from opening the model to the last file. Right after every fourth of its
network calls the same call is made again, bare, and timed; these second calls are taken out of the verb's time. So both
are measured in the same moments, and other work on the machine slows both. Seconds are those of the wall and, beside
them, of the processor, which other work does not lengthen. `--write` puts the table into docs/results/sweep-cost.md.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import RESULTS, Spread, finish, machine, table

BAR = 1.1


EVERY = 4
"""One call of so many is made again, bare."""


@dataclass(frozen=True)
class Time:
    """Seconds of the wall and of the processor."""

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Time:
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: Time) -> Time:
        return Time(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Time) -> Time:
        return Time(self.wall - other.wall, self.cpu - other.cpu)


@dataclass
class Watch:
    """Seconds by part of one run of the verb."""

    again: Time = field(default_factory=Time)
    paired: Time = field(default_factory=Time)
    own: Time = field(default_factory=Time)
    rows: int = 0
    calls: int = 0
    parts: dict[str, Time] = field(default_factory=dict)

    @property
    def bare(self) -> Time:
        """All calls bare, from those that were made again."""
        wall = self.own.wall * self.again.wall / self.paired.wall
        return Time(wall, self.own.cpu * self.again.cpu / self.paired.cpu)

    def on(self, network: Any) -> None:
        """Time every call of a network, and once more bare."""
        import torch

        began = [Time()]
        again = [False]

        def before(module: Any, arguments: tuple[Any, ...]) -> None:
            if not again[0]:
                began[0] = Time.now()

        def after(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
            if again[0]:
                return
            now = Time.now()
            self.own += now - began[0]
            self.rows += len(arguments[0])
            self.calls += 1
            if self.calls % EVERY != 1:
                return
            self.paired += now - began[0]
            again[0] = True
            with torch.no_grad():
                module.forward(*arguments)
            again[0] = False
            self.again += Time.now() - now

        network.register_forward_pre_hook(before)
        network.register_forward_hook(after)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds added to a part."""

        def run(*arguments: Any, **options: Any) -> Any:
            start = Time.now()
            try:
                return function(*arguments, **options)
            finally:
                self.parts[name] = self.parts.get(name, Time()) + (Time.now() - start)

        return run


def once(arguments: argparse.Namespace) -> tuple[Time, Watch]:
    """Seconds of the verb without the second calls, and what they were spent on."""
    from kakusan.sweeping.publish import Published
    from kakusan.sweeping.store import SweepFolder

    task: Any = importlib.import_module("kakusan.tasks.sweep")

    watch = Watch()
    true: dict[str, Any] = {"load": task.load, "keep": SweepFolder.keep, "write": Published.write}

    def load(*places: Any, **options: Any) -> Any:
        pipeline = true["load"](*places, **options)
        watch.on(pipeline.model.denoiser.backbone)
        return pipeline

    task.load = watch.timed("opening the model", load)
    SweepFolder.keep = watch.timed("a file for each picture", true["keep"])  # type: ignore[method-assign]
    Published.write = watch.timed("sheet, video and table", true["write"])  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = Time.now()
            axis = f"guidance-scale=-10:10:{arguments.values}"
            lines = task.sweep(
                arguments.run,
                [axis],
                Path(folder) / "out",
                num=arguments.num,
                num_steps=arguments.steps,
                seed=3,
                batch=arguments.batch,
                device="cpu",
            )
            for line in lines:
                print(line, flush=True)
            whole = Time.now() - start - watch.again
    finally:
        task.load, SweepFolder.keep, Published.write = true["load"], true["keep"], true["write"]  # type: ignore
    return whole, watch


def start_up() -> float:
    """Seconds until Python has imported what the verb needs."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import kakusan.tasks.sweep"], check=True, cwd=RESULTS.parent.parent)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--values", type=int, default=41)
    parser.add_argument("--num", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch

    torch.set_num_threads(arguments.threads)
    runs = [once(arguments) for _ in range(arguments.repeats)]
    ratios = Spread.of(whole.wall / watch.bare.wall for whole, watch in runs)
    whole, watch = sorted(runs, key=lambda run: run[0].wall / run[1].bare.wall)[len(runs) // 2]
    pictures = arguments.values * arguments.num
    plain = 2 * arguments.steps * pictures
    between = whole - watch.own - sum(watch.parts.values(), Time())
    # What is not the network runs in one thread; on idle cores the network has all of them.
    idle = 1.0 + (whole.cpu - watch.own.cpu) * arguments.threads / watch.bare.cpu
    rows = [
        ("network, the verb's own calls", watch.own),
        ("the same calls, bare", watch.bare),
        *watch.parts.items(),
        ("sampler, guidance, noise, comparing rows, facts of the settings", between),
        ("whole verb", whole),
    ]
    page = PAGE.format(
        command=f"python benchmarks/sweep_cost.py --run {arguments.run} --write",
        values=arguments.values,
        num=arguments.num,
        steps=arguments.steps,
        batch=arguments.batch,
        run=arguments.run,
        threads=arguments.threads,
        repeats=arguments.repeats,
        ratios=ratios.text(".3f"),
        verdict="met" if ratios.median <= BAR else "missed",
        bar=BAR,
        table=table(
            ["part", "seconds", "of the bare calls", "processor seconds", "of the bare calls"],
            [
                (n, f"{s.wall:.2f}", f"{s.wall / watch.bare.wall:.3f}", f"{s.cpu:.2f}", f"{s.cpu / watch.bare.cpu:.3f}")
                for n, s in rows
            ],
        ),
        idle=f"{idle:.3f}",
        rows=watch.rows,
        calls=watch.calls,
        plain=plain,
        saved=f"{1.0 - watch.rows / plain:.1%}",
        start=f"{start_up():.1f}",
        machine=machine(arguments.threads),
    )
    finish(page, RESULTS / "sweep-cost.md" if arguments.write else None)
    return 0 if ratios.median <= BAR else 1


PAGE = """# What a sweep costs beside the network

    {command}

{values} guidance scales at {num} pictures, {steps} steps of DPM-Solver++(2M), batches of {batch}, model `{run}`,
{threads} threads. The time of the whole verb, from opening the model to the last file, over the time of the same
network calls made bare, right after every fourth of the verb's own and carried to all: **{ratios}** (median, least
and most of {repeats} runs).
The bar is {bar}: {verdict}. By processor seconds, with the network spread over {threads} idle cores and the rest on
one, it would be {idle}. Where the time goes, in the median run:

{table}

Starting Python and importing torch takes {start} s more, once.

What is shared: the network saw {rows:,} samples in {calls} calls. As many single pictures, each drawn with and without
its label in every step, would be {plain:,}: {saved} fewer, because all scales of a seed start from one picture of noise
and the first step is computed once for each seed and label. From the second step on the pictures differ, and nothing
more can be shared without changing them. An axis whose values part later shares more: a sweep over the step at which a
label is switched shares every step before it.

{machine}
"""

if __name__ == "__main__":
    raise SystemExit(main())
