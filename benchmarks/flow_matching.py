"""Rectified flow on two-dimensional sets: couplings, reflow and bridges, by straightness and by quality at few steps.

    python benchmarks/flow_matching.py
    python benchmarks/flow_matching.py --page      # the words again, from the numbers of the last run

Writes docs/results/flow-matching.md and its pictures, and keeps its tables in runs/flow-matching.json. Everything
random is keyed by seeds; seconds are of CPU time, on one thread.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from kakusan import grids  # noqa: E402
from kakusan.couplings import (  # noqa: E402
    Coupling,
    Independent,
    MinibatchTransport,
    Sources,
    TrainingNoise,
    Unpaired,
    transport_cost,
)
from kakusan.data.order import order  # noqa: E402
from kakusan.data.toys import TOYS, Toy  # noqa: E402
from kakusan.denoiser import BaseDenoiser, Denoiser  # noqa: E402
from kakusan.distill import draw_pairs  # noqa: E402
from kakusan.lab.exact import exact_denoiser  # noqa: E402
from kakusan.metrics.straightness import StraightnessRecord, straightness  # noqa: E402
from kakusan.nn import MLP  # noqa: E402
from kakusan.objectives import FlowMatching, Objective  # noqa: E402
from kakusan.parameterizations import Velocity  # noqa: E402
from kakusan.report import style  # noqa: E402
from kakusan.samplers import DDIM, DPMSolverPP, Heun, Sampler, sample, sample_iter  # noqa: E402
from kakusan.schedules import Rectified  # noqa: E402
from kakusan.time_samplers import Stratified, Uniform  # noqa: E402
from kakusan.train.trainer import seeded  # noqa: E402

OUT = ROOT / "docs" / "results"
KEPT = ROOT / "runs" / "flow-matching.json"
SETS = {"moons": TOYS["moons"], "mixture": TOYS["mixture"]}
METHODS = ("independent", "transport", "reflow once", "reflow twice")
STEPS = (1, 2, 4, 8, 100)
POOL, BATCH, UPDATES, RATE = 10_000, 256, 800, 4e-3
DRAWN, TRACED = 2_000, 500
PATH = Rectified()
# From the noise end itself, in as many calls as 20 steps of Heun: what the cost taken apart below speaks for.
PAIRS: tuple[Sampler, Tensor] = DPMSolverPP(2), grids.uniform(PATH, 40)
COARSE: tuple[Sampler, Tensor] = Heun(), grids.karras(PATH, 20)
COLOURS = dict(zip(METHODS, (style.INDIGO, style.MOSS, style.AMBER, style.VERMILION), strict=True))


@dataclass
class Result:
    """One trained model, measured."""

    denoiser: Denoiser
    seconds: float
    straight: StraightnessRecord
    sliced: dict[int, tuple[float, float]]
    kernel: dict[int, float]


def fresh(sigma_data: float, coupling: Coupling) -> Denoiser:
    with seeded(0):
        network = MLP(dim=2, width=64, depth=2)
    return Denoiser(network, PATH, Velocity(), sigma_data=sigma_data, independent_noise=coupling.independent)


def train(denoiser: Denoiser, x0: Tensor, coupling: Coupling, *, seed: int) -> float:
    """Flow matching (Lipman et al. 2023) on points x0 (N, 2) under a coupling; returns CPU seconds."""
    began = time.process_time()
    objective = Objective(Stratified(Uniform()), FlowMatching(), coupling=coupling)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=RATE, weight_decay=0.0)
    for update in range(UPDATES):
        indices = torch.from_numpy(order(seed, update * BATCH, BATCH, len(x0)))
        numbers = torch.arange(update * BATCH, (update + 1) * BATCH)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (update + 1) / 100) * 0.5 * (1 + math.cos(math.pi * update / UPDATES))
        loss = objective(denoiser, x0[indices], None, TrainingNoise(seed, numbers, indices=indices)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    denoiser.eval()
    return time.process_time() - began


def euler(denoiser: Denoiser, steps: int, start: Tensor | None = None, *, seed: int = 50_000, n: int = DRAWN) -> Tensor:
    grid = grids.uniform(PATH, steps)
    return sample(denoiser, DDIM(), grid, (n, 2), seeds=seed, x_start=start)


def sliced(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Sliced Wasserstein-2 distance over 64 directions, evenly spread, and its standard error over ten parts."""
    angles = torch.arange(64, dtype=torch.float64) * (math.pi / 64)
    ways = torch.stack([angles.cos(), angles.sin()])

    def distance(x: Tensor, y: Tensor) -> float:
        return float(((x.double() @ ways).sort(0).values - (y.double() @ ways).sort(0).values).square().mean().sqrt())

    parts = torch.tensor([distance(x, y) for x, y in zip(a.chunk(10), b.chunk(10), strict=True)])
    return distance(a, b), float(parts.std()) / math.sqrt(10)


def kernel(a: Tensor, b: Tensor) -> float:
    """Unbiased MMD^2 with a sum of Gaussian kernels of widths 0.1, 0.3 and 1, over 2000 points."""
    x, y = a[:2000].double(), b[:2000].double()

    def mean(p: Tensor, q: Tensor, same: bool) -> float:
        squared = torch.cdist(p, q).square()
        total = sum((-squared / (2 * w * w)).exp() for w in (0.1, 0.3, 1.0))
        assert isinstance(total, Tensor)
        n = len(p)
        return float((total.sum() - 3 * n) / (n * (n - 1)) if same else total.mean())

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def measured(denoiser: Denoiser, seconds: float, truth: Tensor) -> Result:
    drawn = {k: euler(denoiser, k) for k in STEPS}
    return Result(
        denoiser,
        seconds,
        straightness(denoiser, (TRACED, 2), seeds=90_000, num_steps=40),
        {k: sliced(x, truth) for k, x in drawn.items()},
        {k: kernel(x, truth) for k, x in drawn.items()},
    )


def study(toy: Toy) -> dict[str, Result]:
    x0, truth = toy.sample(POOL, 1).float(), toy.sample(DRAWN, 2).float()
    sigma = float(x0.square().mean().sqrt())
    found: dict[str, Result] = {}
    for name, coupling in (("independent", Independent()), ("transport", MinibatchTransport())):
        denoiser = fresh(sigma, coupling)
        found[name] = measured(denoiser, train(denoiser, x0, coupling, seed=3), truth)
        print(f"  {name}: {found[name].seconds:.0f} s", flush=True)
    source = found["independent"].denoiser
    for times, name in enumerate(("reflow once", "reflow twice"), 1):
        began = time.process_time()
        pairs, again = draw_pairs(source, *PAIRS, (POOL, 2), seed=1_000_000 * times)
        drawing = time.process_time() - began
        source = copy.deepcopy(source)
        source.independent_noise = False
        found[name] = measured(source, drawing + train(source.train(), pairs, again, seed=3 + times), truth)
        print(f"  {name}: {found[name].seconds:.0f} s", flush=True)
    return found


def taken_apart(toy: Toy, found: dict[str, Result]) -> list[str]:
    """Where a change of the transport cost comes from: every row from the same starts as the exact flow's."""
    exact = exact_denoiser(toy, PATH)
    truth = moments(exact, *PAIRS)
    rows = [("exact flow", truth)]
    rows += [(f"network, {name}", moments(found[name].denoiser, *PAIRS)) for name in METHODS if name != "transport"]
    # The same training on pairs without a network's error, and on pairs drawn with too few steps.
    for name, how in (("pairs of the exact flow", PAIRS), ("pairs of the exact flow, 20 Heun steps", COARSE)):
        pairs, again = draw_pairs(exact, *how, (POOL, 2), seed=1_000_000)
        second = copy.deepcopy(found["independent"].denoiser)
        second.independent_noise = False
        train(second.train(), pairs, again, seed=4)
        rows += [(f"the {name}", moments(exact, *how)), (f"network, reflow on {name}", moments(second, *PAIRS))]
    lines = [
        "| pairs | transport cost | minus the exact flow's | mean of the squared norm of x0 |",
        "|---|---:|---:|---:|",
    ]
    for name, (cost, square) in rows:
        off = cost - truth[0]
        error = float(off.std()) / math.sqrt(len(off))
        shown = "" if name == "exact flow" else f"{float(off.mean()):+.4f} ± {error:.4f}"
        lines.append(f"| {name} | {float(cost.mean()):.4f} | {shown} | {float(square.mean()):.3f} |")
    true = float(toy.sample(1 << 17, 5).square().sum(1).mean())
    return [*lines, f"| *independent pairs, true points* | {2.0 + true:.4f} | | {true:.3f} |", ""]


def moments(denoiser: BaseDenoiser, sampler: Sampler, grid: Tensor) -> tuple[Tensor, Tensor]:
    """(transport cost, |x0|^2) of the pairs of DRAWN starts, each (DRAWN,) in fp64."""
    x0, coupling = draw_pairs(denoiser, sampler, grid, (DRAWN, 2), seed=90_000)
    start = coupling.start(x0, torch.arange(DRAWN))
    return transport_cost(x0, start), x0.double().square().sum(1)


def bridge() -> dict[str, tuple[Denoiser, float]]:
    """Moons (t = 1) to the mixture (t = 0), any source with any point, and the near ones."""
    x0, sources = TOYS["mixture"].sample(POOL, 1).float(), Sources.of(TOYS["moons"].sample(POOL, 4).float())
    found = {}
    for name, coupling in (
        ("independent", Unpaired(sources)),
        ("transport", MinibatchTransport(Unpaired(sources))),
    ):
        denoiser = fresh(float(x0.square().mean().sqrt()), coupling)
        found[name] = (denoiser, train(denoiser, x0, coupling, seed=7))
        print(f"  bridge, {name}: {found[name][1]:.0f} s", flush=True)
    return found


def trajectories(denoiser: Denoiser, n: int, start: Tensor | None = None) -> np.ndarray:
    """(steps + 1, n, 2): the flow in 60 Euler steps."""
    steps = list(sample_iter(denoiser, DDIM(), grids.uniform(PATH, 60), (n, 2), seeds=70_000, x_start=start))
    with torch.no_grad():
        return torch.stack([steps[0].x_t, *(step.x_s for step in steps)]).detach().numpy()


def plane(axes: object, title: str) -> None:
    axes.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal", xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=style.RULE)
    axes.set_title(title, fontsize=10, color=style.INK)


def ways(axes: object, paths: np.ndarray, colour: str) -> None:
    for i in range(paths.shape[1]):
        axes.plot(paths[:, i, 0], paths[:, i, 1], color=colour, linewidth=0.9, alpha=0.7)
    axes.scatter(*paths[0].T, s=5, color=style.MUTED, linewidths=0, zorder=3)
    axes.scatter(*paths[-1].T, s=6, color=style.INK, linewidths=0, zorder=4)


def draw_flows(found: dict[str, Result], path: Path) -> None:
    figure = style.figure(1160, 880)
    axes = figure.subplots(3, 4)
    for column, (name, result) in enumerate(found.items()):
        plane(axes[0][column], name)
        ways(axes[0][column], trajectories(result.denoiser, 140), COLOURS[name])
        for row, steps in ((1, 1), (2, 4)):
            plane(axes[row][column], "")
            points = euler(result.denoiser, steps, n=2000).detach().numpy()
            axes[row][column].scatter(*points.T, s=1.6, color=COLOURS[name], linewidths=0)
    for row, label in enumerate(("paths from noise (gray)\nto samples (black)", "1 Euler step", "4 Euler steps")):
        axes[row][0].set_ylabel(label, fontsize=10, color=style.MUTED)
    figure.subplots_adjust(left=0.05, right=0.995, top=0.96, bottom=0.01, wspace=0.03, hspace=0.05)
    finish(figure, path)


def draw_curves(every: dict[str, dict[str, Result]], floors: dict[str, float], path: Path) -> None:
    figure = style.figure(1000, 400)
    for axes, (name, found) in zip(figure.subplots(1, 2, sharey=True), every.items(), strict=True):
        style.style_axes(axes)
        for method, result in found.items():
            values, errors = zip(*result.sliced.values(), strict=True)
            axes.errorbar(STEPS, values, errors, color=COLOURS[method], marker="o", markersize=4, label=method)
        axes.axhline(floors[name], color=style.MUTED, linestyle="--", linewidth=1, label="two true samples")
        axes.set(xscale="log", yscale="log", xlabel="Euler steps", xticks=STEPS, xticklabels=map(str, STEPS))
        axes.set(yticks=(0.03, 0.1, 0.3, 1.0), yticklabels=("0.03", "0.1", "0.3", "1"))
        axes.minorticks_off()
        axes.set_title(name, fontsize=11, color=style.INK)
    figure.axes[0].set_ylabel("sliced Wasserstein distance", color=style.MUTED)
    figure.axes[1].legend(frameon=False, fontsize=9, labelcolor=style.INK)
    figure.tight_layout()
    finish(figure, path)


def draw_bridge(found: dict[str, tuple[Denoiser, float]], path: Path) -> None:
    start = TOYS["moons"].sample(2000, 5).float()
    figure = style.figure(1000, 360)
    axes = figure.subplots(1, 3)
    plane(axes[0], "sources (amber), reached by transport (blue)")
    reached = trajectories(found["transport"][0], 2000, start)[-1]
    axes[0].scatter(*start.T, s=1.5, color=style.AMBER, linewidths=0)
    axes[0].scatter(*reached.T, s=1.5, color=style.INDIGO, linewidths=0)
    for place, (name, (denoiser, _)) in zip(axes[1:], found.items(), strict=True):
        plane(place, f"paths, {name}")
        ways(place, trajectories(denoiser, 160, start[:160]), COLOURS[name])
    figure.subplots_adjust(left=0.01, right=0.99, top=0.92, bottom=0.02, wspace=0.03)
    finish(figure, path)


def finish(figure: object, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    style.use_bundled_font(figure)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, facecolor=style.PAPER)


def table(found: dict[str, Result], floor: tuple[float, float], floor_kernel: float) -> list[str]:
    lines = [
        "| coupling | S(Z) / cost | transport cost | "
        + " | ".join(f"{k} step{'s' * (k > 1)}" for k in STEPS)
        + " | seconds |",
        "|---|---:|---:|" + "---:|" * (len(STEPS) + 1),
    ]
    for name, result in found.items():
        straight = result.straight
        cells = [f"{v:.3f} ± {e:.3f} / {1e3 * result.kernel[k]:.1f}" for k, (v, e) in result.sliced.items()]
        lines.append(
            f"| {name} | {straight.relative:.4f} ± {straight.relative_stderr:.4f} | {straight.cost:.2f} ± "
            f"{straight.cost_stderr:.2f} | " + " | ".join(cells) + f" | {result.seconds:.0f} |"
        )
    cells = " | ".join([f"{floor[0]:.3f} ± {floor[1]:.3f} / {1e3 * floor_kernel:.1f}"] * len(STEPS))
    return [*lines, f"| *two true samples* | | | {cells} | |", ""]


def main() -> None:
    if "--page" in sys.argv[1:]:
        write(json.loads(KEPT.read_text(encoding="utf-8")))
        return
    torch.set_num_threads(1)
    began = time.process_time()
    every, floors, lines, apart = {}, {}, [], []
    for name, toy in SETS.items():
        print(name, flush=True)
        every[name] = study(toy)
        a, b = toy.sample(DRAWN, 2).float(), toy.sample(DRAWN, 8).float()
        floor = sliced(a, b)
        floors[name] = floor[0]
        lines += [f"### {name.capitalize()}", "", *table(every[name], floor, kernel(a, b))]
        apart += [f"### {name.capitalize()}, cost", "", *taken_apart(toy, every[name])]
    bridges = bridge()
    start, truth = TOYS["moons"].sample(DRAWN, 5).float(), TOYS["mixture"].sample(DRAWN, 2).float()
    rows = []
    for name, (denoiser, seconds) in bridges.items():
        bent = straightness(denoiser, (TRACED, 2), x_start=start[:TRACED], num_steps=40)
        ends = [sliced(euler(denoiser, k, start), truth) for k in (1, 4, 100)]
        rows.append(
            f"| {name} | {bent.relative:.4f} ± {bent.relative_stderr:.4f} | {bent.cost:.2f} ± {bent.cost_stderr:.2f} | "
            + " | ".join(f"{v:.3f} ± {e:.3f}" for v, e in ends)
            + f" | {seconds:.0f} |"
        )
    OUT.mkdir(parents=True, exist_ok=True)
    draw_flows(every["mixture"], OUT / "flow-matching.png")
    draw_curves(every, floors, OUT / "flow-matching-steps.png")
    draw_bridge(bridges, OUT / "flow-matching-bridge.png")
    made = dict(
        tables="\n".join(lines),
        apart="\n".join(apart),
        bridges="\n".join(rows),
        pool=POOL,
        batch=BATCH,
        updates=UPDATES,
        drawn=DRAWN,
        traced=TRACED,
        seconds=time.process_time() - began,
    )
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    write(made)


def write(made: dict[str, Any]) -> None:
    """The page."""
    text = PAGE.format(**made)
    (OUT / "flow-matching.md").write_text(text, encoding="utf-8")
    print(text)


PAGE = """# Rectified flow: couplings, reflow, bridges

    python benchmarks/flow_matching.py

One small network (MLP, width 64, depth 2) on the path x_t = (1 - t) x0 + t eps with a velocity output; {updates}
updates of {batch} points out of {pool}, the same for every row; one core, CPU seconds. Reflow starts from the weights
before it and sees only pairs that those drew (40 steps of DPM-Solver++ 2M, even in t), so its seconds come on top of
the row it starts from (independent, then once).
Written by the script, whatever came out; {seconds:.0f} s for all of it.

- **S(Z) / cost**: straightness (Liu et al. 2023, arXiv 2209.03003) over the transport cost E|x1 - x0|^2, of
  {traced} trajectories; 0 is straight.
- **k steps**: sliced Wasserstein-2 distance between {drawn} samples of k Euler steps and {drawn} true points (±
  standard error over ten parts) / unbiased MMD^2 x 1000 (it may fall below 0). The last row is what two true samples
  give.

{tables}
![Paths and few-step samples](flow-matching.png)

![Distance over steps](flow-matching-steps.png)

## Does reflow lower the transport cost?

In theory no convex transport cost rises when a coupling is rectified (Liu et al. 2022, arXiv 2209.03003, section 3.2).
That is of exact velocities and of equal ends; tests/distill/test_reflow.py holds exact velocities to it, on mixtures of
joint Gaussians and four costs. An earlier run of this page drew its pairs by 20 Heun steps on the Karras grid, and the
cost rose from 0.46 to 0.49 (moons) and from 0.83 to 0.88 (mixture). The rows below take that apart. All are of the same
{drawn} starts, so differences are far more exact than the costs; ± is the standard error of the difference.

- **The solver of the pairs was at fault.** Even the exact velocity, drawn by those 20 Heun steps, gives pairs of higher
  cost, and their samples are too wide: the cost is E|x0|^2 + E|x1|^2 - 2 E x0 . x1, and its first term alone is off.
  The grid also began at sigma / alpha = 80, short of the noise end, so lines drawn on to t = 1 ended in too little
  noise. A network trained on such pairs learns them faithfully. On pairs of the exact flow drawn as now, the same
  training does not raise the cost.
- **On the moons the first network was, too.** Its cost is below that of the exact flow, since its samples are too
  narrow. A cost compares couplings of the same ends only, and those of a network are not quite so.
- With accurate pairs each reflow costs less than the row before it, on both sets, by a hundredth or less. There is
  little to gain: lines between the ends of the exact flow do not cross on the mixture and hardly ever on the moons, and
  then the exact second rectification is the first.

{apart}
## A bridge: moons to the mixture

No noise at all: x_t runs from a point of the moons (t = 1) to one of the mixture (t = 0). Columns as above, by sliced
Wasserstein distance at 1, 4 and 100 Euler steps.

| sources | S(Z) / cost | transport cost | 1 step | 4 steps | 100 steps | seconds |
|---|---:|---:|---:|---:|---:|---:|
{bridges}

![A bridge](flow-matching-bridge.png)
"""


if __name__ == "__main__":
    main()
