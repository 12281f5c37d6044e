"""Cost of the U-Net against pixels, parameters, steps and processes: time, FLOPs, memory and MFU.

    python benchmarks/scaling.py --write                  # docs/results/scaling.md and its figure, about 4 minutes
    python benchmarks/scaling.py --quick --threads 1

Training steps are forward, MSE, backward and AdamW. Memory is how much the process grew in one step, measured before
the allocator is told to keep what it frees. Processes are runs of `kakusan train` under `torchrun`, one thread each,
with the same number of pictures in a step of the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common
import peak
import torch
import torch.nn.functional as F

import kakusan
from kakusan import grids, runtime
from kakusan.nn import UNet, count
from kakusan.parameterizations import V
from kakusan.samplers import DDIM
from kakusan.schedule_tables import Tabulated

OUT = common.RESULTS / "scaling.md"
FIGURE = "scaling.png"


@dataclass(frozen=True)
class Plan:
    """What is swept; `quick` is for trying the script."""

    sizes: tuple[int, ...] = (16, 24, 32, 48, 64)
    widths: tuple[int, ...] = (16, 32, 64, 96, 128)
    steps: tuple[int, ...] = (5, 10, 25, 50, 100)
    batch: int = 16
    width: int = 32
    size: int = 32
    repeats: int = 3
    run_steps: int = 24


QUICK = Plan((8, 12, 16), (8, 16, 24), (2, 4, 8), batch=2, width=8, size=16, repeats=2, run_steps=4)


@dataclass(frozen=True)
class Row:
    """One measurement: `amount` is what was swept, `share` what one picture took."""

    amount: float
    parameters: int
    flops: float
    seconds: common.Spread
    memory: int | None

    def cells(self, ceiling: peak.Peak, form: str) -> tuple[str, ...]:
        memory = "" if self.memory is None else f"{self.memory / 2**20:,.0f}"
        return (
            f"{self.amount:{form}}",
            f"{self.parameters / 1e6:.2f} M",
            f"{self.flops / 1e9:.2f}",
            self.seconds.text(".3f"),
            f"{self.flops / self.seconds.median / 1e9:.0f}",
            f"{ceiling.mfu(self.flops, self.seconds.median):.0%}",
            memory,
        )


class Case:
    """A U-Net with something to do, measured in two passes: memory first, time after the process was tuned."""

    def __init__(self, amount: float, network: torch.nn.Module, flops: float, run: Callable[[], object]) -> None:
        self.amount, self.network, self.flops, self.run = amount, network, flops, run
        self.memory = common.peak_memory(run)

    def row(self, repeats: int) -> Row:
        taken = common.Spread.of(common.seconds(self.run, repeats=repeats))
        return Row(self.amount, count.parameters(self.network), self.flops, taken, self.memory)


def training(amount: float, size: int, width: int, batch: int) -> Case:
    """A training step on `batch` pictures."""
    torch.manual_seed(0)
    shape = (3, size, size)
    network = UNet.for_data(3, shape[1:], width=width)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    x, target, c_noise = torch.randn(batch, *shape), torch.randn(batch, *shape), torch.rand(batch)

    def step() -> None:
        optimizer.zero_grad()
        F.mse_loss(network(x, c_noise), target).backward()
        optimizer.step()

    return Case(amount, network, batch * count.flops(network, shape, backward=True), step)


def sampling(steps: int, size: int, width: int, batch: int) -> Case:
    """`batch` pictures drawn in `steps` steps of DDIM."""
    torch.manual_seed(0)
    shape = (3, size, size)
    network = UNet.for_data(3, shape[1:], width=width)
    denoiser = kakusan.Denoiser(network, Tabulated.linear(), V(), sigma_data=0.5).eval()
    grid = grids.uniform(denoiser.schedule, steps)
    flops = steps * batch * count.flops(network, shape)
    return Case(steps, network, flops, lambda: kakusan.sample(denoiser, DDIM(), grid, (batch, *shape)))


def images_per_second(processes: int, plan: Plan) -> float | str:
    """Speed of a run of `kakusan train` over some processes, one thread each; or why there is none."""
    options = {
        "--data": "flowers",
        "--num": str(max(64, 4 * plan.batch)),
        "--size": str(plan.size),
        "--width": str(plan.width),
        "--steps": str(plan.run_steps),
        "--batch": str(plan.batch),
        "--threads": "1",
        "--device": "cpu",
        "--measurements": "0",
        "--previews": "0",
        "--checkpoints": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        # Without "--" torchrun takes options such as --num for short forms of its own.
        command += ["-m", "--", "kakusan", "train", "--out", str(out)]
        command += [word for pair in options.items() for word in pair]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(common.ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        log = out / "metrics.jsonl"
        if done.returncode or not log.exists():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            named = [line for line in said if "rror" in line or "No module" in line] or said
            return named[0][:160] if named else f"exit status {done.returncode}"
        records = [json.loads(line) for line in log.read_text().splitlines()]
    rates = [r["images_per_second"] for r in records if r["kind"] == "step"]
    # The first steps fill caches and connect.
    return statistics.median(rates[len(rates) // 3 :])


def processes(plan: Plan, ceiling: Callable[[int], peak.Peak]) -> tuple[str, list[tuple[float, float]]]:
    """The table for 1 and 2 processes, and its points."""
    network = UNet.for_data(3, (plan.size, plan.size), width=plan.width)
    flops = count.flops(network, (3, plan.size, plan.size), backward=True)
    rows, points, alone = [], [], None
    for size in (1, 2):
        rate = images_per_second(size, plan)
        if isinstance(rate, str):
            rows.append((size, "", "", "", f"not measured: {rate}"))
            continue
        alone = rate if size == 1 else alone
        mfu = ceiling(size).mfu(rate * flops, 1.0)
        gain = "" if alone is None else f"{rate / alone:.2f}"
        rows.append((size, f"{rate:.1f}", f"{rate * flops / 1e9:.0f}", f"{mfu:.0%}", gain))
        points.append((float(size), plan.batch / rate))
    return common.table(("processes", "images/s", "GFLOP/s", "MFU", "times one process"), rows), points


def measure(plan: Plan, threads: int) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """The page, and for each sweep its (amount, seconds)."""
    torch.set_num_threads(threads)
    sweeps = {
        "pixels": [training(s * s, s, plan.width, plan.batch) for s in plan.sizes],
        "parameters": [training(w, plan.size, w, plan.batch // 2) for w in plan.widths],
        "steps": [sampling(s, plan.size, plan.width, plan.batch // 2) for s in plan.steps],
    }
    runtime.tune(threads=threads)
    found = {name: [case.row(plan.repeats) for case in cases] for name, cases in sweeps.items()}
    ceiling = peak.measure(threads=threads)
    peaks = {threads: ceiling}

    def with_threads(count_: int) -> peak.Peak:
        if count_ not in peaks:
            peaks[count_] = peak.measure(threads=count_)
        return peaks[count_]

    by_process, process_points = processes(plan, with_threads)
    # The abscissa of the widths is what they make: parameters.
    points = {
        name: [(float(r.parameters if name == "parameters" else r.amount), r.seconds.median) for r in rows]
        for name, rows in found.items()
    }
    slopes = {name: f"{common.slope(*zip(*pairs, strict=True)):.2f}" for name, pairs in points.items()}
    against_flops = [(r.flops, r.seconds.median) for name in ("pixels", "parameters") for r in found[name]]
    tables = {
        name: common.table(
            (first, "parameters", "GFLOP", "seconds median (min-max)", "GFLOP/s", "MFU", "memory MiB"),
            [row.cells(ceiling, ".0f") for row in found[name]],
            texts=0,
        )
        for name, first in (("pixels", "pixels"), ("parameters", "width"), ("steps", "steps"))
    }
    page = PAGE.format(
        machine=common.machine(threads),
        ceiling=ceiling.text(),
        batch=plan.batch,
        half=plan.batch // 2,
        size=plan.size,
        width=plan.width,
        flop_slope=f"{common.slope(*zip(*against_flops, strict=True)):.2f}",
        figure=FIGURE,
        processes=by_process,
        **{f"{name}_table": text for name, text in tables.items()},
        **{f"{name}_slope": text for name, text in slopes.items()},
    )
    return page, {**points, "processes": process_points}


def draw(points: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """One figure, a panel for each sweep; the thin line would be proportional."""
    from kakusan.report import style

    figure = style.figure(1160, 330)
    titles = {
        "pixels": ("Pixels", "seconds a training step"),
        "parameters": ("Parameters", "seconds a training step"),
        "steps": ("Sampling steps", "seconds to draw"),
        "processes": ("Processes", "seconds a training step"),
    }
    for place, (name, (title, label)) in enumerate(titles.items(), start=1):
        axes = common.log_axes(figure, title, "", label, (1, 4, place))
        if not points[name]:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=style.MUTED)
            continue
        x, y = zip(*points[name], strict=True)
        power = -1.0 if name == "processes" else 1.0
        axes.plot(x, [y[-1] * (a / x[-1]) ** power for a in x], color=style.MUTED, linewidth=0.8, linestyle="--")
        axes.plot(x, y, color=style.INDIGO, marker="o", markersize=4, linewidth=1.5)
        axes.set_xticks(x, [f"{a:,.0f}" if a < 1e5 else f"{a / 1e6:.2g}M" for a in x], fontsize=8)
    figure.tight_layout()
    common.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--write", action="store_true", help=f"write {OUT.relative_to(common.ROOT)} and its figure")
    parser.add_argument("--out", type=Path, help="another place for the page")
    options = parser.parse_args()
    page, points = measure(QUICK if options.quick else Plan(), options.threads)
    out = options.out or (OUT if options.write else None)
    common.finish(page, out)
    if out is not None:
        draw(points, out.with_name(FIGURE))


PAGE = """# Scaling

    python benchmarks/scaling.py --write

{machine}
{ceiling}

The U-Net of `UNet.for_data`, float32. A training step is forward, MSE, backward and AdamW. GFLOP are nominal (direct
convolutions, attention written out) and of the whole row; MFU is their rate over the peak, and may pass 100% where
minimal filtering does fewer multiplications than are counted. Memory is how much the process grew during the first
step, gradients and optimizer state included. Slopes are of log time against log amount over all rows: 1 is
proportional. Against FLOPs, over the first two tables, it is {flop_slope}; below 1 means that small steps do not fill
the machine.

![cost against pixels, parameters, steps and processes]({figure})

## Pixels

Batch {batch}, width {width}. Slope {pixels_slope}; `for_data` adds a level for every doubling of the side.

{pixels_table}

## Parameters

Batch {half} of {size}x{size}. Slope against parameters {parameters_slope}.

{parameters_table}

## Steps

{half} pictures of {size}x{size} drawn by DDIM, width {width}. Slope {steps_slope}.

{steps_table}

## Processes

`torchrun --nproc-per-node N -m -- kakusan train`, one thread each, batch {batch} of the whole. MFU is over the
peak of as many threads.

{processes}
"""

if __name__ == "__main__":
    main()
