"""Posterior samplers against exact posteriors: Gaussian-mixture priors and linear operators.

    python benchmarks/posteriors.py [--problems 2000] [--particles 64] [--rows FILE] [--write]

Given a mixture as prior and a linear measurement with Gaussian noise, the posterior is a mixture whose weights, means
and covariances are plain linear algebra. Two questions are asked of every method, at no more than 200 passes of the
network a sample:

* distance: sliced Wasserstein distance of its samples of one posterior to the posterior, over the distance that
  equally many exact ones have (1 is as good as exact; the bar is 1.2 for the Monte Carlo method);
* calibration: for 2,000 draws of (x0, y) from the prior and the operator, how often x0 lies in the region that holds
  90% of the method's samples: the region of highest posterior density, and an interval along a random direction. Exact
  samples give 90%.

Failures are part of the page.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from common import RESULTS, finish, machine, table
from torch import Tensor

from kakusan import grids
from kakusan.levels import tabulate
from kakusan.operators import CompressedSensing, Mask, Matrix, Measurement, Operator
from kakusan.oracles import GaussianMixture
from kakusan.posteriors import DAPS, DDNM, DDRM, DPS, MMPS, SMC, DiffPIR, PiGDM, Posterior
from kakusan.schedules import Cosine, NoiseSchedule

MOST_CALLS = 200
BAR_DISTANCE, BAR_COVERAGE = 1.2, 0.02
SCHEDULE = Cosine()


@dataclass(frozen=True)
class Problem:
    """A prior and an operator.

    Args:
        name: for the table.
        prior: a mixture on vectors (n,).
        operator: of the measurement.
        noise_std: of the measurement.
    """

    name: str
    prior: GaussianMixture
    operator: Operator
    noise_std: float

    @property
    def size(self) -> int:
        return self.prior.shape[0]

    def matrix(self) -> Tensor:
        """A as (m, n)."""
        return self.operator(torch.eye(self.size, dtype=torch.float64)).flatten(1).T

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(x0, y) of the joint distribution, `count` rows each."""
        uniform = torch.rand(count, dtype=torch.float64, generator=generator)
        x0 = self.prior.draw(uniform, torch.randn(count, self.size, dtype=torch.float64, generator=generator))
        clean = self.operator(x0)
        y = clean + self.noise_std * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
        return x0, y * self.operator.seen(y) if isinstance(self.operator, Mask) else y

    def posterior(self, y: Tensor) -> Exact:
        """The exact posteriors of G measurements (G, *measured)."""
        matrix = self.matrix()
        seen = matrix.abs().sum(1) > 0.0
        matrix, y = matrix[seen], y.flatten(1)[:, seen]
        means, variance = self.prior.means, self.prior.variance
        covariance = torch.diag_embed(variance)  # (K, n, n)
        gram = matrix @ covariance @ matrix.T + self.noise_std**2 * torch.eye(len(matrix), dtype=torch.float64)
        gain = covariance @ matrix.T @ torch.linalg.inv(gram)  # (K, n, m)
        error = y.unsqueeze(1) - means @ matrix.T  # (G, K, m)
        mean = means + torch.einsum("knm,gkm->gkn", gain, error)
        narrow = covariance - gain @ matrix @ covariance
        log_weights = self.prior.log_weights + torch.distributions.MultivariateNormal(
            torch.zeros(len(matrix), dtype=torch.float64), gram
        ).log_prob(error)
        return Exact(log_weights.log_softmax(1), mean, narrow)


@dataclass(frozen=True)
class Exact:
    """Mixtures (G, K) of normals with means (G, K, n) and covariances (K, n, n)."""

    log_weights: Tensor
    means: Tensor
    covariance: Tensor

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(G, count, n)."""
        groups, _, size = self.means.shape
        index = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        root = torch.linalg.cholesky(self.covariance + 1e-12 * torch.eye(size, dtype=torch.float64))
        noise = torch.randn(groups, count, size, dtype=torch.float64, generator=generator)
        mean = self.means.gather(1, index.unsqueeze(-1).expand(-1, -1, size))
        return mean + torch.einsum("gcij,gcj->gci", root[index], noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """(G, count) of x (G, count, n)."""
        size = x.shape[-1]
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(size, dtype=torch.float64),
            self.covariance + 1e-12 * torch.eye(size, dtype=torch.float64),
        )
        each = normal.log_prob(x.unsqueeze(2) - self.means.unsqueeze(1))
        return (each + self.log_weights.unsqueeze(1)).logsumexp(2)


def problems() -> list[Problem]:
    """From two dimensions with many modes to 32 with few measurements."""
    generator = torch.Generator().manual_seed(20)

    def means(count: int, size: int, reach: float) -> Tensor:
        return (torch.rand(count, size, dtype=torch.float64, generator=generator) * 2.0 - 1.0) * reach

    ring = torch.stack(
        [torch.tensor([math.cos(a), math.sin(a)]) for a in torch.linspace(0.0, 2.0 * math.pi, 9)[:-1].tolist()]
    ).double()
    return [
        Problem("ring of 8, 2-d, one coordinate", GaussianMixture(ring, 0.1, schedule=SCHEDULE),
                Matrix((2,), torch.tensor([[1.0, 0.0]])), 0.1),
        Problem("8 modes, 8-d, 2 random rows", GaussianMixture(means(8, 8, 1.0), 0.25, schedule=SCHEDULE),
                Matrix((8,), torch.randn(2, 8, dtype=torch.float64, generator=generator) / 8**0.5), 0.1),
        Problem("8 modes, 8-d, half masked",
                GaussianMixture(means(8, 8, 1.0), torch.linspace(0.15, 0.5, 8), schedule=SCHEDULE),
                Mask(torch.tensor([1, 0, 1, 0, 1, 0, 1, 0])), 0.2),
        Problem("16 modes, 32-d, a quarter sensed", GaussianMixture(means(16, 32, 1.0), 0.3, schedule=SCHEDULE),
                CompressedSensing((32,), 0.25, seed=1), 0.2),
    ]  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A method with the number of steps that its passes allow."""

    name: str
    method: Posterior
    each: int
    """Passes a step."""
    space: Callable[[NoiseSchedule, int], Tensor] = grids.log_snr
    """The grid of times."""

    def grid(self, calls: int) -> Tensor:
        return self.space(SCHEDULE, max(2, calls // self.each))


def entries() -> list[Entry]:
    return [
        Entry("SMC", SMC(), 3, grids.quadratic),
        Entry("MMPS", MMPS(3), 5),
        Entry("PiGDM", PiGDM(), 2),
        Entry("DAPS", DAPS(5), 5),
        Entry("DDRM", DDRM(), 1),
        Entry("DDNM", DDNM(), 1),
        Entry("DiffPIR", DiffPIR(), 1),
        Entry("DPS", DPS(), 2),
    ]


def sampled(entry: Entry, problem: Problem, y: Tensor, count: int, calls: int, seed: int) -> tuple[Tensor, int]:
    """(samples (G, count, n), passes a sample)."""
    measurement = Measurement(problem.operator, y, problem.noise_std)
    grid = entry.grid(calls)
    batch = len(y) * count
    x = entry.method.sample(problem.prior, measurement, grid, batch, seeds=seed, dtype=torch.float64)
    used = entry.method.network_calls(tabulate(SCHEDULE, grid), measurement)
    return x.view(len(y), count, -1), int(used or 0)


def sliced(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """Sliced 1-Wasserstein distances (G,) of samples a (G, N, n) and b (G, M, n), M a multiple of N."""
    projected = [(x @ directions.T).sort(1).values for x in (a, b)]
    ours = projected[0].repeat_interleave(b.shape[1] // a.shape[1], dim=1)
    return (ours - projected[1]).abs().mean((1, 2))


def distance(problem: Problem, entry: Entry, *, count: int, groups: int, calls: int) -> tuple[float, float]:
    """Distance over the floor, the mean over `groups` measurements, and its standard error."""
    generator = torch.Generator().manual_seed(31)
    _, y = problem.draw(groups, generator)
    exact = problem.posterior(y)
    truth = exact.draw(40 * count, generator)
    directions = torch.randn(64, problem.size, dtype=torch.float64, generator=generator)
    directions = directions / directions.norm(dim=1, keepdim=True)
    floor = torch.stack([sliced(exact.draw(count, generator), truth, directions) for _ in range(4)])
    x, _ = sampled(entry, problem, y, count, calls, seed=1000)
    found = sliced(x, truth, directions)
    errors = (found.var() / groups, (found.mean() / floor.mean()) ** 2 * floor.var() / floor.numel())
    return float(found.mean() / floor.mean()), float(sum(errors) ** 0.5 / floor.mean())


def coverages(
    problem: Problem, entry: Entry, *, number: int, count: int, calls: int, chunk: int = 250
) -> tuple[float, float]:
    """(share of x0 in the 90% of highest density, share in the central 90% along a random direction)."""
    generator = torch.Generator().manual_seed(77)
    inside = [0.0, 0.0]
    for start in range(0, number, chunk):
        groups = min(chunk, number - start)
        x0, y = problem.draw(groups, generator)
        exact = problem.posterior(y)
        x, _ = sampled(entry, problem, y, count, calls, seed=10_000_000 + start * count)
        direction = torch.randn(groups, problem.size, 1, dtype=torch.float64, generator=generator)
        density = exact.log_prob(torch.cat([x0.unsqueeze(1), x], 1))
        along = (torch.cat([x0.unsqueeze(1), x], 1) @ direction).squeeze(-1)
        for place, values in enumerate((density, along)):
            below = (values[:, 1:] < values[:, :1]).sum(1)
            tie = torch.rand(groups, dtype=torch.float64, generator=generator)
            rank = (below + tie) / (count + 1)
            covered = rank >= 0.1 if place == 0 else (rank >= 0.05) & (rank <= 0.95)
            inside[place] += float(covered.double().sum())
    return inside[0] / number, inside[1] / number


def main(argv: Sequence[str] | None = None) -> int:
    """Run every method on every problem, print or write the page, and say whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--others", type=int, default=400, help="problems for methods that no bar is set for")
    parser.add_argument("--particles", type=int, default=64)
    parser.add_argument("--groups", type=int, default=200, help="measurements of which the distance of SMC is a mean")
    parser.add_argument("--other-groups", type=int, default=20, help="of methods that no bar is set for")
    parser.add_argument("--calls", type=int, default=MOST_CALLS)
    parser.add_argument("--only", nargs="*", help="names of methods")
    parser.add_argument("--rows", type=Path, help="a file that keeps the rows; those in it are not measured again")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(argv)
    methods = [entry for entry in entries() if not options.only or entry.name in options.only]
    rows, met = [], True
    kept: dict[str, list[float]] = {}
    if options.rows is not None and options.rows.exists():
        kept = json.loads(options.rows.read_text())
    for problem, entry in ((problem, entry) for problem in problems() for entry in methods):
        name = f"{problem.name}: {entry.name}"
        if name not in kept:
            groups = options.groups if entry.name == "SMC" else min(options.other_groups, options.groups)
            far, error = distance(problem, entry, count=options.particles, groups=groups, calls=options.calls)
            density, along = coverages(
                problem,
                entry,
                number=options.problems if entry.name == "SMC" else min(options.others, options.problems),
                count=options.particles,
                calls=options.calls,
            )
            kept[name] = [far, error, density, along]
            if options.rows is not None:
                options.rows.write_text(json.dumps(kept))
        far, error, density, along = kept[name]
        rows.append([problem.name, entry.name, f"{far:.2f} ± {error:.2f}", f"{density:.1%}", f"{along:.1%}"])
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)
        if entry.name == "SMC":
            met &= far <= BAR_DISTANCE
            met &= max(abs(density - 0.9), abs(along - 0.9)) <= BAR_COVERAGE
    others, few = min(options.others, options.problems), min(options.other_groups, options.groups)
    errors = [math.sqrt(0.09 / number) for number in (options.problems, others)]
    header = ["problem", "method", "distance / floor", "in the 90% of highest density", "in the central 90%"]
    text = "\n\n".join(
        [
            "# Posterior samplers against exact posteriors",
            "Written by `python benchmarks/posteriors.py --write`.",
            f"Gaussian-mixture priors, linear operators, at most {options.calls} passes of the network a sample, "
            f"{options.particles} samples of each posterior, {options.problems} draws of (x0, y) for the coverage "
            f"of SMC and {others} for that of the others (standard errors {errors[0]:.1%} and {errors[1]:.1%}), "
            f"{options.groups} posteriors for the distance of SMC and {few} for that of the others "
            "(± one standard error). Exact samples have 1.00, 90% and 90%.",
            table(header, rows),
            f"Bars of the Monte Carlo method: at most {BAR_DISTANCE} and within {BAR_COVERAGE:.0%} of 90%: "
            f"{'met' if met else '**missed**'}.",
            machine(torch.get_num_threads()),
        ]
    )
    finish(text, RESULTS / "posteriors.md" if options.write else None)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
