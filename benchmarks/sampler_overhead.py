"""Microseconds a sampling step costs outside the network: kakusan, a bare loop, and peers when installed.

    python benchmarks/sampler_overhead.py [--repeats 60] [--write]

One thread, a do-nothing network whose own time is measured and subtracted. Every figure is the least of many runs
taken in turn, so that other work on the machine, which only ever adds time, does not count; the median is beside it.
`--write` puts the table into docs/results/sampler-overhead.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import kakusan  # noqa: E402
from kakusan import grids  # noqa: E402
from kakusan.parameterizations import V  # noqa: E402
from kakusan.samplers import DDIM, DPMSolverPP, Sampler  # noqa: E402
from kakusan.schedule_tables import Tabulated  # noqa: E402

STEPS = 50
SHAPES = ((1, 3, 32, 32), (16, 3, 32, 32), (1, 4, 64, 64))
# Microseconds on the machine where the bars were set, and what the bare loop took there. On a machine of another speed
# the same bar is the ratio of the two.
BARS = {("DDIM", (1, 3, 32, 32)): (20.0, 5.0), ("DDIM", (16, 3, 32, 32)): (35.0, 17.0)}
OUT = ROOT / "docs" / "results" / "sampler-overhead.md"


class Nothing(nn.Module):
    """Gives its input back: what is left is the cost of everything around it."""

    def forward(self, x: Tensor, c_noise: Tensor, cond: object = None) -> Tensor:
        return x


def network_alone(x: Tensor) -> Callable[[], object]:
    backbone, level = Nothing().eval(), torch.zeros(1)

    def run() -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                backbone(x, level, None)

    return run


def ours(sampler: Sampler, x: Tensor) -> Callable[[], object]:
    denoiser = kakusan.Denoiser(Nothing(), Tabulated.linear(), V(), sigma_data=0.5).eval()
    grid = grids.uniform(denoiser.schedule, STEPS)
    return lambda: kakusan.sample(denoiser, sampler, grid, x.shape, x_start=x)


def bare(multistep: bool, x: Tensor) -> Callable[[], object]:
    """The same arithmetic written by hand, all coefficients as Python floats in a list.

    Five element-wise operations a step for DDIM (input scale, two to read x0 from v, two to move), one more for 2M.
    """
    schedule, backbone, level = Tabulated.linear(), Nothing().eval(), torch.zeros(1)
    t = grids.uniform(schedule, STEPS)
    alpha, sigma, log_snr = (f(t).tolist() for f in (schedule.alpha, schedule.sigma, schedule.log_snr))
    c_in = [(0.25 * a * a + s * s) ** -0.5 for a, s in zip(alpha, sigma, strict=True)]
    rows = []
    for i in range(STEPS):
        kept = sigma[i + 1] / sigma[i]
        total = alpha[i + 1] - kept * alpha[i]
        r = 0.0 if i == 0 or i == STEPS - 1 else 0.5 * (log_snr[i + 1] - log_snr[i]) / (log_snr[i] - log_snr[i - 1])
        rows.append((c_in[i], alpha[i], -sigma[i], kept, total * (1.0 + r), -total * r))

    def run() -> Tensor:
        y, before = x, x
        with torch.no_grad():
            for scale, x0_x, x0_f, kept, now, past in rows:
                x0 = torch.mul(y, x0_x).add_(backbone(y * scale, level, None), alpha=x0_f)
                y = torch.mul(y, kept).add_(x0, alpha=now)
                if multistep:
                    y.add_(before, alpha=past)
                    before = x0
        return y

    return run


def with_diffusers(name: str, x: Tensor) -> Callable[[], object]:
    import diffusers

    scheduler = getattr(diffusers, name)(num_train_timesteps=1000, prediction_type="v_prediction")
    backbone, level = Nothing().eval(), torch.zeros(1)

    def run() -> Tensor:
        scheduler.set_timesteps(STEPS)
        y = x
        with torch.no_grad():
            for t in scheduler.timesteps:
                y = scheduler.step(backbone(scheduler.scale_model_input(y, t), level), t, y).prev_sample
        return y

    return run


def with_azula(name: str, x: Tensor) -> Callable[[], object]:
    from azula import sample as azula_sample
    from azula.denoise import KarrasDenoiser
    from azula.noise import VPSchedule

    class Adapter(nn.Module):
        def forward(self, x: Tensor, c: Tensor, **_: object) -> Tensor:
            return x

    denoiser = KarrasDenoiser(Adapter(), VPSchedule()).eval()
    sampler = getattr(azula_sample, name)(denoiser, steps=STEPS, silent=True)

    def run() -> object:
        with torch.no_grad():
            return sampler(x)

    return run


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def contestants(x: Tensor) -> dict[tuple[str, str], Callable[[], object]]:
    """What to time, by (sampler, who)."""
    found: dict[tuple[str, str], Callable[[], object]] = {
        ("", "network"): network_alone(x),
        ("DDIM", "bare loop"): bare(False, x),
        ("DDIM", "kakusan"): ours(DDIM(), x),
        ("DPM-Solver++(2M)", "bare loop"): bare(True, x),
        ("DPM-Solver++(2M)", "kakusan"): ours(DPMSolverPP(order=2), x),
    }
    if installed("diffusers"):
        found["DDIM", "diffusers"] = with_diffusers("DDIMScheduler", x)
        found["DPM-Solver++(2M)", "diffusers"] = with_diffusers("DPMSolverMultistepScheduler", x)
    if installed("azula"):
        found["DDIM", "azula"] = with_azula("DDIMSampler", x)
    return found


def measure(shape: tuple[int, ...], repeats: int) -> dict[tuple[str, str], tuple[float, float]]:
    """(least, median) microseconds a step outside the network; all contestants take turns."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    runs = contestants(x)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for turn in range(repeats + 2):
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 2:
                times[key].append((time.perf_counter() - start) * 1e6 / STEPS)
    network = min(times["", "network"])
    return {key: (min(t) - network, statistics.median(t) - network) for key, t in times.items() if key[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    who = ["bare loop", "kakusan", *(name for name in ("diffusers", "azula") if installed(name))]
    lines = [
        "| sampler | shape | " + " | ".join(who) + " | ours / bare | bar |",
        "|---|---|" + "---:|" * (len(who) + 2),
    ]
    missed = 0
    for shape in SHAPES:
        found = measure(shape, arguments.repeats)
        for sampler in ("DDIM", "DPM-Solver++(2M)"):
            cells = [
                f"{found[sampler, w][0]:.1f} ({found[sampler, w][1]:.1f})" if (sampler, w) in found else "" for w in who
            ]
            ratio = found[sampler, "kakusan"][0] / found[sampler, "bare loop"][0]
            bar = BARS.get((sampler, shape))
            said = ""
            if bar is not None:
                most, floor = bar
                missed += ratio > most / floor
                met = {True: "met", False: "missed"}
                said = f"{most:.0f} us: {met[found[sampler, 'kakusan'][0] <= most]}; "
                said += f"{most / floor:.1f}x: {met[ratio <= most / floor]}"
            lines.append(f"| {sampler} | {shape} | " + " | ".join(cells) + f" | {ratio:.2f} | {said} |")
    print("\n".join(lines))
    if arguments.write:
        versions = ", ".join(f"{name} {installed(name)}" for name in ("torch", "diffusers", "azula") if installed(name))
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(PAGE.format(table="\n".join(lines), versions=versions, steps=STEPS), encoding="utf-8")
    return 1 if missed else 0


PAGE = """# What a sampling step costs outside the network

    python benchmarks/sampler_overhead.py --write

Microseconds a step, least of many runs (median in brackets), one CPU thread, {steps} steps, fp32, v prediction on the
linear table of 1000 steps. The network is the identity, and its own call is subtracted. All columns of a row were
measured in turn in one run, so ratios mean more than the figures, which belong to one machine.

"kakusan" is the public `kakusan.sample` on a `Denoiser`, with everything it does in a run: looking up the levels, the
network's input scale, the prediction object, the iterator that yields every step. "Bare loop" is the same
arithmetic written by hand, with all coefficients as Python numbers made beforehand. The peers' own loops do less
arithmetic where their network takes x_t unscaled.

{table}

The bars for DDIM, 20 us at (1, 3, 32, 32) and 35 us at (16, 3, 32, 32), were set on a machine whose bare loop took 5
and 17 us. Both are shown: the microseconds as they are here, and the same bar carried over to this machine's speed, 4.0
and 2.1 times the bare loop; the second decides the exit status. Versions: {versions}.

What keeps it low: `x_s` is written straight from the network's output (`Prediction.towards_x0`)
and x0 is only formed if someone asks; factors go into kernels as the `alpha` of an addition or as 0-d tensors, since
torch on the CPU needs twice as long to multiply by a Python number; coefficients are kept between runs of one denoiser,
and the levels of a grid between runs on one frozen schedule, so the least of many runs does not make that table: the
first run on a grid does, in about a quarter of a millisecond; gradients are switched off once a run, not once a step;
the per-step records are plain dataclasses, not frozen ones.
The bare loop has neither of the first two, which is why it can be slower: it is a yardstick, not a floor.
"""

if __name__ == "__main__":
    raise SystemExit(main())
