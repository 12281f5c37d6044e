"""Measured orders of convergence of every sampler, beside the claimed ones.

    python benchmarks/sampler_order.py

Prints the tables and writes docs/results/sampler-order.md. The exact answers are those of the tests
(tests/samplers/sampler_laws.py); nothing in them is random or depends on the machine. About two minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "samplers")]

from sampler_laws import QUANTILES, STEPS, bumpy, flow_error, lone, moment_errors, slope, times  # noqa: E402

from kakusan import grids  # noqa: E402
from kakusan.levels import tabulate  # noqa: E402
from kakusan.samplers import DDIM, DDPM, DEIS, IPNDM, DPMSolverPP, Heun, Sampler, UniPC  # noqa: E402
from kakusan.schedules import Cosine, Karras, NoiseSchedule, Rectified, VariancePreserving  # noqa: E402

OUT = ROOT / "docs" / "results" / "sampler-order.md"
CLAIMS: list[tuple[int, Sampler, str]] = [
    (1, DDIM(), "DDIM (Euler)"),
    (1, DPMSolverPP(1), "DPM-Solver++ 1"),
    (1, UniPC(1, corrector=False), "UniPC 1, no corrector"),
    (1, IPNDM(1), "iPNDM 1"),
    (1, DEIS(1), "DEIS 1"),
    (2, Heun(), "Heun"),
    (2, DPMSolverPP(2), "DPM-Solver++ 2M"),
    (2, UniPC(1), "UniPC 1"),
    (2, UniPC(2, corrector=False), "UniPC 2, no corrector"),
    (2, IPNDM(2), "iPNDM 2"),
    (2, DEIS(2), "DEIS 2"),
    (3, DPMSolverPP(3), "DPM-Solver++ 3M"),
    (3, UniPC(2), "UniPC 2"),
    (3, UniPC(3, corrector=False), "UniPC 3, no corrector"),
    (3, IPNDM(3), "iPNDM 3"),
    (3, DEIS(3), "DEIS 3"),
    (4, UniPC(3), "UniPC 3"),
    (4, IPNDM(4), "iPNDM 4"),
    (4, DEIS(4), "DEIS 4"),
]
WEAK: list[tuple[int, Sampler, str]] = [
    (1, DDPM(), "DDPM"),
    (1, DDPM(large_variance=True), "DDPM, large variance"),
    (1, DDIM(eta=0.5), "DDIM, eta 0.5"),
    (1, DDIM(eta=1.0), "DDIM, eta 1"),
    (1, DPMSolverPP(1, sde=True), "DPM-Solver++ 1 SDE"),
    (2, DPMSolverPP(2, sde=True), "DPM-Solver++ 2M SDE"),
    (2, DPMSolverPP(3, sde=True), "DPM-Solver++ 3M SDE"),
    (2, Heun(churn=10.0), "Heun, churn 10"),
]
PATHS: list[tuple[str, NoiseSchedule, grids.Grid]] = [
    ("cosine, uniform", Cosine(), grids.uniform),
    ("VP, log-SNR", VariancePreserving(), grids.log_snr),
    ("rectified, quadratic", Rectified(), grids.quadratic),
    ("EDM, karras", Karras(), grids.karras),
]
TO_DATA: list[tuple[str, NoiseSchedule, grids.Grid]] = [
    ("cosine, uniform", Cosine(), grids.uniform),
    ("VP, log-SNR", VariancePreserving(), grids.log_snr),
    ("VP, karras", VariancePreserving(), grids.karras),
    ("EDM, karras", Karras(), grids.karras),
]
# What a fitted slope may be for the claim to stand.
ALLOWED = {1: (0.9, 1.1), 2: (1.9, 2.1), 3: (2.7, 3.3), 4: (3.6, 4.4)}


def inside(schedule: NoiseSchedule, grid: grids.Grid, end: float | None = 4.0) -> Callable[[int], Tensor]:
    """Grids from log-SNR -4 to 4, or to data."""
    start, low = times(schedule, 4.0, 4.0)
    return lambda count: grid(schedule, count, start=start, end=None if end is None else low)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def deterministic() -> tuple[str, int]:
    rows, failures = [], 0
    for order, sampler, name in CLAIMS:
        calls = sampler.network_calls(tabulate(Cosine(), inside(Cosine(), grids.uniform)(64)))
        cells, last = [], 0.0
        for _, schedule, grid in PATHS:
            errors = [flow_error(bumpy(schedule), sampler, inside(schedule, grid)(count)) for count in STEPS]
            measured = slope(STEPS, errors)
            good = ALLOWED[order][0] <= measured <= ALLOWED[order][1]
            failures += not good
            cells.append(f"{measured:.2f}" if good else f"**{measured:.2f}**")
            last = last or errors[0]
        rows.append([name, str(order), *cells, str(calls), f"{last:.0e}"])
    head = ["sampler", "claimed", *(name for name, _, _ in PATHS), "calls in 64 steps", "error at 64 (cosine)"]
    return table(head, rows), failures


def to_data() -> str:
    rows = []
    for order, sampler, name in CLAIMS:
        cells = []
        for _, schedule, grid in TO_DATA:
            errors = [flow_error(bumpy(schedule), sampler, inside(schedule, grid, None)(count)) for count in STEPS]
            cells.append(f"{slope(STEPS, errors):.2f} ({errors[-1]:.0e})")
        rows.append([name, str(order), *cells])
    return table(["sampler", "order inside", *(name for name, _, _ in TO_DATA)], rows)


def floors() -> str:
    """The error of the last jump of the grids in noise, from exact samples of the last noisy level."""
    found = []
    for name, schedule, grid in TO_DATA[1:]:
        points = grid(schedule, STEPS[-1], start=times(schedule, 4.0, 4.0)[0])[-2:]
        found.append(f"{flow_error(bumpy(schedule), DDIM(), points):.0e} for {name}")
    return ", ".join(found)


def stochastic() -> tuple[str, int]:
    steps, rows, failures = (32, 64, 128, 256), [], 0
    for order, sampler, name in WEAK:
        cells, last = [], 0.0
        for _, schedule, grid in PATHS:
            _, variances = moment_errors(lone(schedule), sampler, inside(schedule, grid), steps)
            measured = slope(steps, variances)
            good = measured >= order - 0.15
            failures += not good
            cells.append(f"{measured:.2f}" if good else f"**{measured:.2f}**")
            last = last or variances[1]
        calls = sampler.network_calls(tabulate(Cosine(), inside(Cosine(), grids.uniform)(64)))
        rows.append([name, str(order), *cells, str(calls), f"{last:.0e}"])
    head = ["sampler", "weak order", *(name for name, _, _ in PATHS), "calls in 64 steps", "error at 64 (cosine)"]
    return table(head, rows), failures


PAGE = """# Orders of convergence

    python benchmarks/sampler_order.py

Slopes of log(error) against log(steps), fitted over {steps} steps in fp64; a claim that is missed would
be bold. First order may measure 0.9 to 1.1, second 1.9 to 2.1, third 2.7 to 3.3, fourth 3.6 to 4.4. All samplers run
with their defaults, so the high orders begin with Runge-Kutta steps, which the calls include.

## Between two finite noise levels

From log-SNR -4 to 4, on a mixture of three Gaussians on the line. There the exact flow is known: it carries every
quantile of p_t to the same quantile of p_s, so no finer run stands in for the truth. The error is the mean distance
over {quantiles} quantiles. Column heads name the schedule and the spacing of the steps.

{inside}

## What a grid that runs to sigma = 0 costs

The same from log-SNR -4 all the way to data; in brackets the error at {most} steps. Two things cost order there:

- Data-form samplers (DPM-Solver++, UniPC) and Heun end with the prediction of the last noisy level, a step of first
  order. Steps even in log-SNR and Karras steps put that level at sigma / alpha = {lowest} however many there are, so
  the jump's own error is a constant ({floors}):
  the slope measures the rest until that floor is met, which the high orders meet first.
- Uniform steps in t grow without bound in log-SNR towards data, where a polynomial in log-SNR through such nodes
  loses its order: the data forms of order 2 and more fall below 2 whatever they claim.

The noise forms integrate eps against sigma / alpha, which is finite at data, and need no jump. iPNDM keeps its order
on all of these grids; DEIS, a polynomial in t, keeps it where steps are even in t and meets a floor elsewhere.

{to_data}

## Stochastic samplers: weak order

Error of the variance of the end on a Gaussian target, from exact moments: each step is affine in the sample and in its
noise, so unit impulses give the variance without Monte Carlo ({weak} steps, same levels). The mean is exact
to rounding at every number of steps. Heun's churn adds exactly the noise of the level it moves to, so its order is
that of its deterministic step.

The multistep SDE solvers measure order 2 here, on a Gaussian; on other targets the noise that is not resolved inside a
step may cost them that.

{weak_table}
"""


def main() -> int:
    torch.set_num_threads(1)
    first, missed = deterministic()
    second, weak_missed = stochastic()
    page = PAGE.format(
        steps=", ".join(map(str, STEPS)),
        quantiles=len(QUANTILES),
        most=STEPS[-1],
        lowest=grids.LOWEST_NOISE,
        inside=first,
        to_data=to_data(),
        floors=floors(),
        weak="32, 64, 128, 256",
        weak_table=second,
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(page, encoding="utf-8")
    print(page)
    return 1 if missed + weak_missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
