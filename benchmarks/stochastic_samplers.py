"""Stochastic samplers: weak orders, right marginals, and whether predictor-corrector is worth its calls.

    python benchmarks/stochastic_samplers.py

Writes docs/results/stochastic-samplers.md and its picture. Everything is seeded; denoisers are known in closed form.
Each row is kept in runs/stochastic-samplers/ with the settings it was made under and is not made twice, so that rows
can be added; after a change of the samplers themselves, start with `--fresh`. About twelve minutes on one core from
nothing; it gives up after fifteen minutes of processor time, and another run goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "samplers")]

from sampler_laws import bumpy, lone, moment_errors, slope, times, weak_error  # noqa: E402

from kakusan import grids  # noqa: E402
from kakusan.conditioning import Condition  # noqa: E402
from kakusan.levels import Level, tabulate  # noqa: E402
from kakusan.noise import Stream, normal, uniform  # noqa: E402
from kakusan.oracles import GaussianMixture  # noqa: E402
from kakusan.samplers import (  # noqa: E402
    DDIM,
    DDPM,
    SEEDS,
    DPMSolverPP,
    EulerMaruyama,
    Heun,
    NormRatio,
    PredictorCorrector,
    Sampler,
    sample,
)
from kakusan.schedules import (  # noqa: E402
    Cosine,
    NoiseSchedule,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)

OUT = ROOT / "docs" / "results" / "stochastic-samplers.md"
PICTURE = OUT.with_suffix(".png")
KEPT = ROOT / "runs" / "stochastic-samplers"
LIMIT_S = 900.0
SCHEDULES: dict[str, NoiseSchedule] = {
    "VP": VariancePreserving(),
    "VE": VarianceExploding(),
    "sub-VP": SubVariancePreserving(),
    "cosine": Cosine(),
}


def in_time() -> None:
    if time.process_time() > LIMIT_S:
        raise SystemExit(f"gave up after {LIMIT_S:.0f} s of processor time; run it again to go on from there")


def kept(part: str, settings: list[Any], make: Callable[[], Any]) -> Any:
    """What `make` returns (JSON values), made once for these settings."""
    text = json.dumps([part, *(each if isinstance(each, (int, float, str)) else repr(each) for each in settings)])
    path = KEPT / f"{part}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.is_file() and "--fresh" not in sys.argv[1:]:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] == text:
            return found["value"]
    in_time()
    value = make()
    KEPT.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": text, "value": value}, indent=1) + "\n", encoding="utf-8")
    print(part, settings[0], value, flush=True)
    return value


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


# Weak orders.

STEPS, MIXTURE_STEPS = (64, 128, 256, 512), (32, 64, 128)


@dataclass(frozen=True)
class Claim:
    name: str
    sampler: Sampler
    order: int
    draws: int = 1
    memory: bool = False


CLAIMS = [
    Claim("Euler-Maruyama", EulerMaruyama(), 1),
    Claim("Euler-Maruyama, noise 0.5", EulerMaruyama(0.5), 1),
    Claim("DDPM", DDPM(), 1),
    Claim("DPM-Solver++ 1 SDE", DPMSolverPP(1, sde=True), 1),
    Claim("DPM-Solver++ 2M SDE", DPMSolverPP(2, sde=True), 2, memory=True),
    Claim("DPM-Solver++ 3M SDE", DPMSolverPP(3, sde=True), 2, memory=True),
    Claim("Heun, churn 10", Heun(churn=10.0), 2),
    Claim("SEEDS-2", SEEDS(), 2, draws=2),
    Claim("SEEDS-2, noise 0.5", SEEDS(0.5), 2, draws=2),
    Claim("SEEDS-2, second stage at the end", SEEDS(middle=1.0), 2, draws=2),
]
ALLOWED = {1: (0.9, 1.1), 2: (1.85, 2.15)}


def orders() -> tuple[str, int]:
    rows, missed = [], 0
    for claim in CLAIMS:
        settings = [claim.name, claim, STEPS, MIXTURE_STEPS, *SCHEDULES.values()]
        found = kept("order", settings, partial(measured, claim))
        cells = [_order(value, claim.order) for value in found["slopes"]]
        missed += sum(cell.startswith("**") for cell in cells)
        calls = claim.sampler.network_calls(tabulate(Cosine(), grids.uniform(Cosine(), 64, end=0.1)))
        weak = ["–"] if claim.memory else []
        rows.append([claim.name, str(claim.order), *cells, *weak, str(calls), f"{found['error']:.0e}"])
    head = ["sampler", "claimed", *SCHEDULES, "mixture, cosine", "calls in 64 steps", "error at 64 (VP)"]
    return table(head, rows), missed


def measured(claim: Claim) -> dict[str, Any]:
    """Slopes on every schedule (and on the mixture, of a sampler without memory), and the error of the variance."""
    slopes, shown = [], 0.0
    for name, schedule in SCHEDULES.items():
        start, end = times(schedule, 4.0, 4.0)
        _, errors = moment_errors(
            lone(schedule, std=0.3),
            claim.sampler,
            lambda n, s=schedule, a=start, b=end: grids.log_snr(s, n, start=a, end=b),  # type: ignore[misc]
            STEPS,
            draws=claim.draws,
        )
        slopes.append(slope(STEPS, errors))
        shown = errors[0] if name == "VP" else shown
    if not claim.memory:
        schedule = SCHEDULES["cosine"]
        start, end = times(schedule, 4.0, 4.0)
        weak = [
            weak_error(
                bumpy(schedule),
                claim.sampler,
                grids.uniform(schedule, n, start=start, end=end),
                draws=claim.draws,
                points=401,
                nodes=10 if claim.draws == 1 else 6,
            )
            for n in MIXTURE_STEPS
        ]
        slopes.append(slope(MIXTURE_STEPS, weak))
    return {"slopes": slopes, "error": shown}


def _order(measured: float, claimed: int) -> str:
    low, high = ALLOWED[claimed]
    return f"{measured:.2f}" if measured >= low and (measured <= high or claimed == 2) else f"**{measured:.2f}**"


# Marginals.

POINTS, FLOORS, CALLS = 10_000, 19, 100


def _ring(count: int, radius: float) -> Tensor:
    angle = 2.0 * torch.pi * torch.arange(count) / count
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


def eight(schedule: NoiseSchedule) -> GaussianMixture:
    return GaussianMixture(_ring(8, 2.0), 0.2, schedule=schedule)


def unequal(schedule: NoiseSchedule) -> GaussianMixture:
    means = torch.tensor([[-1.5, -1.0], [0.0, 1.2], [1.6, -0.4], [0.4, -1.8]])
    std = torch.tensor([[0.5, 0.1], [0.1, 0.4], [0.25, 0.25], [0.05, 0.05]])
    return GaussianMixture(means, std, torch.tensor([0.4, 0.3, 0.2, 0.1]), schedule=schedule)


TARGETS: dict[str, Callable[[NoiseSchedule], GaussianMixture]] = {"eight": eight, "unequal": unequal}


def truth(target: GaussianMixture, n: int, number: int) -> Tensor:
    """The number-th set of n exact samples."""
    seeds = torch.arange(n) + 1_000_000 * (number + 1)
    chosen = uniform(seeds, Stream.RESERVED_FOR_TESTS)
    return target.draw(chosen.contiguous(), normal(seeds, Stream.RESERVED_FOR_TESTS, 1, shape=target.shape)).float()


class Mmd:
    """Unbiased MMD^2 (Gretton et al. 2012, eq. 3) to a fixed reference, Gaussian kernel at the median distance."""

    def __init__(self, reference: Tensor) -> None:
        self.reference = reference
        self.scale = 0.5 / float(torch.pdist(reference[:2000]).median()) ** 2
        self.inner = self._mean(reference, reference, True)

    def _mean(self, x: Tensor, y: Tensor, same: bool) -> float:
        total = 0.0
        for first in range(0, len(x), 1000):
            part, other = x[first : first + 1000], y[first:] if same else y
            squared = torch.addmm(other.square().sum(1), part, other.T, alpha=-2.0)
            squared = squared.add_(part.square().sum(1, keepdim=True)).clamp_min_(0.0)
            kernel = squared.mul_(-self.scale).exp_()
            total += float(kernel.sum(dtype=torch.float64))
            if same:  # The blocks right of the diagonal stand for those left of it too.
                total += float(kernel[:, len(part) :].sum(dtype=torch.float64))
        # Each point's kernel with itself is one.
        return (total - len(x)) / (len(x) * (len(x) - 1.0)) if same else total / (len(x) * len(y))

    def __call__(self, x: Tensor) -> float:
        return self._mean(x, x, True) + self.inner - 2.0 * self._mean(x, self.reference, False)


def drawn(target: GaussianMixture, sampler: Sampler, grid: Tensor, n: int, seed: int = 0) -> Tensor:
    parts = []
    for first in range(0, n, 2500):
        in_time()
        count = min(2500, n - first)
        parts.append(sample(target, sampler, grid, (count, *target.shape), seeds=seed + first))
    return torch.cat(parts)


def within(calls: int, sampler: Sampler, schedule: NoiseSchedule) -> Tensor:
    """The longest grid even in log-SNR, down to data, that this many evaluations pay for."""
    for steps in range(calls, 0, -1):
        grid = grids.log_snr(schedule, steps)
        spent = sampler.network_calls(tabulate(schedule, grid))
        if spent is not None and spent <= calls:
            return grid
    raise ValueError(f"{calls} calls do not pay for a step")


MARGINALS: list[tuple[str, Sampler, int]] = [
    ("Euler-Maruyama", EulerMaruyama(), CALLS),
    ("DDPM", DDPM(), CALLS),
    ("DPM-Solver++ 1 SDE", DPMSolverPP(1, sde=True), CALLS),
    ("DPM-Solver++ 2M SDE", DPMSolverPP(2, sde=True), CALLS),
    ("DPM-Solver++ 3M SDE", DPMSolverPP(3, sde=True), CALLS),
    ("Heun, churn 10", Heun(churn=10.0), CALLS),
    ("Heun, churn 40", Heun(churn=40.0), CALLS),
    ("SEEDS-2", SEEDS(), CALLS),
    ("PC, DDPM + level rule", PredictorCorrector(), CALLS),
    ("PC, DDPM + norm rule", PredictorCorrector(step_size=NormRatio()), CALLS),
    ("DDPM, half the calls", DDPM(), CALLS // 2),
    ("PC, DDPM + level rule, four times the calls", PredictorCorrector(), 4 * CALLS),
    ("control: Euler-Maruyama", EulerMaruyama(), 16),
]
PLACES = [("eight", "VP"), ("eight", "VE"), ("eight", "sub-VP"), ("unequal", "cosine")]


def marginals() -> tuple[str, str, dict[str, int]]:
    judges: dict[str, Mmd] = {}

    def judge(name: str) -> Mmd:
        if name not in judges:
            judges[name] = Mmd(truth(TARGETS[name](SCHEDULES["VP"]), POINTS, 0))
        return judges[name]

    def true_sets(name: str) -> list[float]:
        target = TARGETS[name](SCHEDULES["VP"])
        return [judge(name)(truth(target, POINTS, k + 1)) for k in range(FLOORS)]

    def distance(name: str, path: str, sampler: Sampler, calls: int) -> float:
        target = TARGETS[name](SCHEDULES[path])
        return judge(name)(drawn(target, sampler, within(calls, sampler, target.schedule), POINTS))

    floors = {name: kept("floor", [name, POINTS, FLOORS], partial(true_sets, name)) for name in TARGETS}
    rows, outside = [], {}
    for label, sampler, calls in MARGINALS:
        cells, outside[label] = [], 0
        for name, path in PLACES:
            settings = [label, name, SCHEDULES[path], sampler, calls, POINTS]
            value = kept("mmd", settings, partial(distance, name, path, sampler, calls))
            floor = torch.tensor(floors[name])
            above = value > float(floor.max())
            outside[label] += above
            z = (value - float(floor.mean())) / float(floor.std())
            cells.append(f"**{z:+.1f}**" if above else f"{z:+.1f}")
        rows.append([label, str(calls), *cells])
    spread = ", ".join(
        f"{name} {torch.tensor(values).mean():.1e} ± {torch.tensor(values).std():.1e}, largest {max(values):.1e}"
        for name, values in floors.items()
    )
    head = ["sampler", "calls", *(f"{name}, {path}" for name, path in PLACES)]
    return table(head, rows), spread, outside


# Predictor-corrector at equal calls.

BUDGETS, DRAWN, PROJECTIONS = (12, 25, 50, 100), 4000, 64


class WeakScore(GaussianMixture):
    """Every eps is a tenth too small."""

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        x0 = super().output(x_t, level, cond)
        return (0.9 * level.alpha * x0 + 0.1 * x_t) / level.alpha


class WavySlope(GaussianMixture):
    """The error of a network: smooth in x, a tenth of the noise in size, turning with the level."""

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        scale = (level.alpha**2 * self.sigma_data**2 + level.sigma**2) ** 0.5
        wave = (4.0 * x_t.roll(1, -1) / scale + level.log_snr).sin()
        size = 0.2 * self.sigma_data * level.sigma / (level.alpha**2 + level.sigma**2) ** 0.5
        return super().output(x_t, level, cond) + size * wave


def spectrum() -> tuple[Tensor, Tensor]:
    """Four Gaussians of 64 numbers whose spread falls as a power, as pictures' does."""
    seeds = torch.arange(4)
    fall = torch.arange(1, 65, dtype=torch.float32) ** -0.7
    return normal(seeds, Stream.RESERVED_FOR_TESTS, shape=(64,)) * fall, (0.7 * fall).expand(4, 64)


KINDS: dict[str, type[GaussianMixture]] = {
    "exact score": GaussianMixture,
    "score a tenth too small": WeakScore,
    "wavy error": WavySlope,
}
SETS: dict[str, tuple[Tensor, Tensor]] = {
    "eight points, 2-D": (_ring(8, 2.0), torch.full((8,), 0.2)),
    "falling spectrum, 64-D": spectrum(),
}
PAIRS: list[tuple[str, Sampler, list[tuple[str, Sampler]]]] = [
    ("DDIM", DDIM(), [("level", PredictorCorrector(DDIM()))]),
    ("DDPM", DDPM(), [("level", PredictorCorrector()), ("norm", PredictorCorrector(step_size=NormRatio()))]),
    ("Euler-Maruyama", EulerMaruyama(), [("level", PredictorCorrector(EulerMaruyama()))]),
]


def sliced(x: Tensor, y: Tensor) -> float:
    """Sliced Wasserstein-1 distance of equally many points, over fixed random directions of unit length."""
    direction = normal(torch.arange(PROJECTIONS), Stream.RESERVED_FOR_TESTS, 7, shape=x.shape[1:])
    direction /= direction.norm(dim=1, keepdim=True)
    return float(((x @ direction.T).sort(0).values - (y @ direction.T).sort(0).values).abs().mean())


Curves = dict[tuple[str, str], dict[tuple[str, str], list[float]]]


def corrected() -> tuple[Curves, dict[str, float]]:
    schedule = SCHEDULES["VP"]
    curves: Curves = {}
    floor = {}
    for where, (means, std) in SETS.items():
        exact = GaussianMixture(means, std, schedule=schedule)
        reference = truth(exact, DRAWN, 0)
        floor[where] = sum(sliced(truth(exact, DRAWN, k), reference) for k in range(1, 6)) / 5.0
        for kind, make in KINDS.items():
            target = make(means, std, schedule=schedule)
            panel = curves[(where, kind)] = {}
            for name, alone, withs in PAIRS:
                for rule, sampler in [("alone", alone), *withs]:
                    settings = [where, kind, name, rule, schedule, sampler, DRAWN, PROJECTIONS, BUDGETS]
                    panel[(name, rule)] = kept("corrected", settings, partial(distances, target, sampler, reference))
    return curves, floor


def distances(target: GaussianMixture, sampler: Sampler, reference: Tensor) -> list[float]:
    """Sliced distance to the reference at every budget of calls."""
    schedule = target.schedule
    return [sliced(drawn(target, sampler, within(calls, sampler, schedule), DRAWN), reference) for calls in BUDGETS]


def verdicts(curves: Curves) -> tuple[str, str]:
    """Tables of the distances, and of how often the corrected sampler is clearly nearer and clearly further."""
    rows, counts = [], []
    for name, _, withs in PAIRS:
        for rule, _ in withs:
            cells = []
            for kind in KINDS:
                pairs = [
                    (a, b)
                    for (_, other), panel in curves.items()
                    if other == kind
                    for a, b in zip(panel[(name, "alone")], panel[(name, rule)], strict=True)
                ]
                better, worse = sum(b < 0.95 * a for a, b in pairs), sum(b > a / 0.95 for a, b in pairs)
                cells.append(f"{better} / {worse} of {len(pairs)}")
            counts.append([f"{name}, {rule} rule", *cells])
    for (where, kind), panel in curves.items():
        for (name, rule), values in panel.items():
            label = name if rule == "alone" else f"{name} + corrector, {rule} rule"
            rows.append([f"{where}, {kind}", label, *(f"{value:.3f}" for value in values)])
    whole = table(["set and score", "sampler", *(f"{calls} calls" for calls in BUDGETS)], rows)
    return whole, table(["nearer / further by over 5 %", *KINDS], counts)


def write(
    order_table: str, marginal: tuple[str, str, dict[str, int]], compared: tuple[Curves, dict[str, float]]
) -> None:
    from stochastic_samplers_page import PAGE, VERDICT, draw

    (mmd_table, spread, outside), (curves, floor) = marginal, compared
    whole, counts = verdicts(curves)
    draw(curves, floor, BUDGETS, PICTURE)
    text = PAGE.format(
        orders=order_table,
        steps=", ".join(map(str, STEPS)),
        mixture_steps=", ".join(map(str, MIXTURE_STEPS)),
        points=f"{POINTS:,}",
        floors=FLOORS,
        spread=spread,
        mmd=mmd_table,
        outside=sum(v for k, v in outside.items() if not k.startswith("control")),
        verdict=VERDICT,
        compared=len(PLACES) * (len(MARGINALS) - 1),
        control=MARGINALS[-1][2],
        drawn=f"{DRAWN:,}",
        counts=counts,
        whole=whole,
        floor=", ".join(f"{value:.3f} for {name}" for name, value in floor.items()),
        picture=PICTURE.name,
    )
    OUT.write_text(text, encoding="utf-8")
    print(text, f"{time.process_time():.0f} s of processor time")


def main() -> int:
    torch.set_num_threads(1)
    order_table, missed = orders()
    write(order_table, marginals(), corrected())
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
