"""Likelihoods of exact denoisers beside the truth, on every schedule.

    python benchmarks/likelihood_oracle.py

Writes docs/results/likelihood-oracle.md and its figure. The exact answers are those of the tests
(tests/likelihood/likelihood_laws.py). About six minutes on one quiet core.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "likelihood")]

from likelihood_laws import (  # noqa: E402
    draws_of,
    even_log_snr,
    excess,
    lone,
    posterior_coefficient,
    slope,
    trefoil,
)

from kakusan.choices import SCHEDULES  # noqa: E402
from kakusan.likelihood import Beta, Density, Posterior, flow_log_prob, variational_bound  # noqa: E402
from kakusan.likelihood.bound import log_snr_ends  # noqa: E402
from kakusan.schedules import NoiseSchedule  # noqa: E402
from kakusan.time_samplers import LogNormalSigma, TimeSampler, Uniform  # noqa: E402

OUT = ROOT / "docs" / "results" / "likelihood-oracle.md"
FIGURE = OUT.with_name("likelihood-oracle.png")
CHAIN = (8, 16, 32, 64, 128, 256, 512)
RATES = ("cosine", "karras")
SAMPLES, FLOW_SAMPLES = 4000, 512


def flow_row(schedule: NoiseSchedule) -> tuple[float, float]:
    """(mean of flow NLL less truth, largest of a sample), nats/dim."""
    mixture = trefoil(schedule)
    x = draws_of(mixture, FLOW_SAMPLES)
    error = (mixture.log_prob(x) - flow_log_prob(mixture, x, num_steps=64)) / 2.0
    return float(error.mean()), float(error.abs().max())


def bound_row(schedule: NoiseSchedule, times: TimeSampler, draws: int) -> tuple[float, float]:
    """(bound less -log p, its standard error), nats/dim."""
    mixture = trefoil(schedule)
    x = draws_of(mixture, SAMPLES)
    found = variational_bound(mixture, x, decoder=Density(), seeds=range(SAMPLES), draws=draws, times=times)
    error = (found.total + mixture.log_prob(x)) / 2.0
    return float(error.mean()), float(error.std() / math.sqrt(SAMPLES))


def rates(name: str) -> list[tuple[str, list[float], float]]:
    """(variance, T * excess for each T, its limit in closed form)."""
    schedule = SCHEDULES[name]
    gaussian, (high, low) = lone(schedule), log_snr_ends(schedule)
    log_snr = torch.linspace(low, high, 20_001, dtype=torch.float64)
    t = schedule.time(log_snr)
    share = -2.0 * schedule.sigma_prime(t) / schedule.sigma(t) / schedule.log_snr_prime(t)
    found = []
    for label, variance, part in (("posterior", Posterior(), 0.0), ("beta", Beta(), share)):
        values = [(n - 1) * excess(gaussian, even_log_snr(schedule, n), variance) for n in (c + 1 for c in CHAIN)]
        found.append((label, values, posterior_coefficient(schedule, 0.5, part, log_snr)))
    return found


def draw_figure(found: dict[str, list[tuple[str, list[float], float]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(9.0, 3.6), sharey=True, layout="constrained")
    for axis, (name, rows) in zip(axes, found.items(), strict=True):
        for (label, values, limit), colour in zip(rows, ("#0b6e99", "#c2571a"), strict=True):
            axis.loglog(CHAIN, [limit / n for n in CHAIN], color=colour, lw=1.2, alpha=0.6)
            excesses = [v / n for v, n in zip(values, CHAIN, strict=True)]
            axis.loglog(CHAIN, excesses, "o", color=colour, ms=5, label=f"{label} variance")
        axis.set_title(f"{name}", fontsize=11)
        axis.set_xticks(CHAIN, [str(n) for n in CHAIN])
        axis.minorticks_off()
        axis.set_xlabel("steps T, even in log-SNR")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("T-step bound less the continuous one (nats)")
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(FIGURE, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=320, help="evaluations for each sample")
    draws = parser.parse_args().draws
    began = time.process_time()
    centred, lines = LogNormalSigma(-0.7, 1.5), []
    worst = {"flow": 0.0, "bound": 0.0, "errors": 0.0}
    for name, schedule in SCHEDULES.items():
        flow = flow_row(schedule)
        rows = [bound_row(schedule, times, draws) for times in (centred, Uniform())]
        worst["flow"] = max(worst["flow"], abs(flow[0]))
        for mean, error in rows:
            worst["bound"] = max(worst["bound"], abs(mean))
            worst["errors"] = max(worst["errors"], abs(mean) / error)
        cells = " | ".join(f"{mean:+.1e} | {error:.1e}" for mean, error in rows)
        lines.append(f"| {name} | {flow[0]:+.1e} | {flow[1]:.1e} | {cells} |")
        print(lines[-1], flush=True)
    found = {name: rates(name) for name in RATES}
    draw_figure(found)
    table = [
        f"| {name} | {label} | {slope(CHAIN[-4:], [v / n for v, n in zip(values, CHAIN, strict=True)][-4:]):.3f} | "
        + " | ".join(f"{v:.2f}" for v in values[-3:])
        + f" | {limit:.2f} |"
        for name, rows in found.items()
        for label, values, limit in rows
    ]
    OUT.write_text(PAGE.format(
        rows="\n".join(lines), rates="\n".join(table), steps=" | ".join(f"T = {n}" for n in CHAIN[-3:]),
        samples=SAMPLES, flow=FLOW_SAMPLES, evaluations=f"{SAMPLES * draws / 1e6:.1f}",
        worst_flow=worst["flow"], worst_bound=worst["bound"], worst_errors=worst["errors"],
        minutes=(time.process_time() - began) / 60.0,
    ), encoding="utf-8")  # fmt: skip
    print(f"wrote {OUT}")


PAGE = """# Likelihood of exact denoisers

`python benchmarks/likelihood_oracle.py` ({minutes:.1f} minutes of one core; nothing else in it depends on the machine).

The model is the exact denoiser of three Gaussians in the plane, so its likelihood is known. On every schedule:

- **flow**: the probability flow's -log p(x) less the true one, 64 Runge-Kutta steps, exact divergence, {flow} samples;
- **bound**: the variational bound less -log p(x), sample by sample on {samples} samples, {evaluations} million
  evaluations a column, with its standard error. Both columns estimate the same number, once with times where the noise
  is of the size of the data (`LogNormalSigma(-0.7, 1.5)`) and once with times even in the schedule's own t: the
  interior of a schedule changes the spread of the estimate and not its value. Noises belong to the samples and not to
  the schedule, so the first of the two columns is the same computation at the same noise levels on every path, and
  comes out the same to the digits shown; the second meets other levels on each.

All in nats/dim.

| schedule | flow, mean | flow, largest | bound, log-normal noise | error | bound, even t | error |
|---|---|---|---|---|---|---|
{rows}

Largest: flow {worst_flow:.1e}, bound {worst_bound:.1e}, at most {worst_errors:.1f} standard errors.

The samples are centred and as wide in every direction. Where a schedule keeps signal at its noise end (VE, linear,
scaled-linear), a prior that is an isotropic Gaussian costs other data a little more, at most KL(q(z) || p(z)), which
the bound's prior term holds.

## The rate in T

One Gaussian on the line of standard deviation 0.5; T steps even in log-SNR between the ends. Each step replaces an
integral by a rectangle, and the true reverse variance by another one, so that T times the excess over the continuous
bound tends to

    (range of log-SNR) / 4 * integral of (a - g)^2 d log-SNR,        g = 1 / (1 + u^2 / 0.5^2), u = sigma / alpha,

a = 0 for the posterior's variance ("small") and a = -d log sigma^2 / d log-SNR for beta ("large"). So beta is best
where a = g, that is for unit variance on a variance preserving path, as Ho et al. say. No Monte Carlo is in these
numbers.

| schedule | reverse variance | slope in T | {steps} | limit |
|---|---|---|---|---|---|---|
{rates}

![T-step bound less the continuous one, over T; the lines are the closed form](likelihood-oracle.png)

With steps even in t and the posterior's variance the bound of *continuous* data does not reach the continuous one on
paths with sigma ~ t: the first steps are t = 1/T, 2/T, 3/T, ..., and their ratios of SNR stay 4, 9/4, ... however large
T is. Beta has no such loss there, and of 8-bit data below a pixel's step there is nothing left to lose.
"""

if __name__ == "__main__":
    main()
