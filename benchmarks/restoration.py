"""Restoration of held-out real pictures: our posteriors beside deepinv's own, on one network, operator and budget.

    python benchmarks/restoration.py --run runs/real-flowers --data FLOWERS_ZIP_OR_FOLDER [--calls 100] [--write]

The run held the pictures out when it was trained. Settings were tuned on the first 8 of them, the table is of others.
Only numbers are written. deepinv is used where it can be imported (PYTHONPATH); it is no dependency.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import restoration_rivals as rivals
import torch
from torch import Tensor

import kakusan
from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.grids import GRIDS
from kakusan.levels import tabulate
from kakusan.metrics.classifier import Classifier, train_classifier
from kakusan.metrics.fidelity import psnr, ssim
from kakusan.metrics.perceptual import perceptual_distance
from kakusan.noise import Stream, normal
from kakusan.operators import Downsample, GaussianBlur, Gray, Identity, Mask, Measurement, Operator
from kakusan.pipeline import Pipeline
from kakusan.posteriors import DAPS, DDNM, DDRM, DPS, MMPS, DiffPIR, PiGDM, Posterior, RePaint, Reverse
from kakusan.train.continuing import stored_config
from kakusan.train.sources import open_parts

TUNING = 8


@dataclass(frozen=True)
class Task:
    """An operator and the noise of its measurement, a share of the range."""

    operator: Operator
    noise: float
    tv: float
    """Weight of the total variation, tuned."""


def tasks(shape: tuple[int, ...]) -> dict[str, Task]:
    """What is restored."""
    side = shape[-1]
    known = torch.ones(1, *shape[1:], dtype=torch.bool)
    known[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = False
    return {
        "box inpainting": Task(Mask(known, shape), 0.01, 0.01),
        "x2": Task(Downsample(shape, 2), 0.01, 0.01),
        "x4": Task(Downsample(shape, 4), 0.01, 0.01),
        "Gaussian deblurring, 1.5 pixels": Task(GaussianBlur(shape, 1.5), 0.01, 0.01),
        "colourisation": Task(Gray(shape), 0.01, 0.01),
        "denoising, noise 0.05": Task(Identity(shape), 0.05, 0.1),
    }


def ours(posterior: Posterior, *, grid: str = "karras") -> rivals.Solve:
    """One of our methods, with as many steps as the calls allow, forward and backward passes each counted."""

    def solve(denoiser: BaseDenoiser, cond: Condition | None, measurement: Measurement, calls: int) -> Tensor:
        make = GRIDS[grid]

        def cost(steps: int) -> int:
            found = posterior.network_calls(tabulate(denoiser.schedule, make(denoiser.schedule, steps)), measurement)
            assert found is not None
            return found

        steps = max(steps for steps in range(1, calls + 1) if steps == 1 or cost(steps) <= calls)
        count = len(measurement.y)
        return posterior.sample(
            denoiser, measurement, make(denoiser.schedule, steps), count, cond=cond, seeds=100
        ).clamp(-1.0, 1.0)

    return solve


OURS: dict[str, Posterior] = {
    "DPS": DPS(),
    "DiffPIR": DiffPIR(),
    "DDRM": DDRM(),
    "DDNM+": DDNM(),
    "PiGDM": PiGDM(),
    "MMPS": MMPS(),
    "DAPS": DAPS(),
}


def contestants(name: str) -> dict[str, rivals.Solve]:
    """Method: how it solves."""
    found = {f"kakusan {method}": ours(posterior) for method, posterior in OURS.items()}
    found["kakusan DPS, tuned"] = ours(DPS(), grid="log-snr")
    found["kakusan DDRM, tuned"] = ours(DDRM(temperature=0.5), grid="log-snr")
    if name == "box inpainting":
        found["kakusan RePaint"] = ours(RePaint())
    if name.startswith("denoising"):
        found["kakusan reverse process"] = ours(Reverse())
    library = rivals.deepinv()
    if library is not None:
        found |= {
            "deepinv DPS": rivals.their_dps(library),
            "deepinv DPS, tuned": rivals.their_dps(library, weight=DPS_WEIGHT),
            "deepinv DiffPIR": rivals.their_diffpir(library),
            "deepinv DDRM": rivals.their_ddrm(library),
            "deepinv DDRM, tuned": rivals.their_ddrm(library, eta=1.0),
        }
    return found


DPS_WEIGHT = 100.0
"""What the tuning pictures like best at this few steps; made for 1000 of them, the default of 1 hardly acts."""


class Bench:
    """The model, held-out pictures and the judge."""

    def __init__(self, run: Path, data: str | None) -> None:
        config = stored_config(run)
        assert config is not None, f"{run} is no run"
        if data is not None:
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data))
        self.training, self.held_out = open_parts(config.data, seed=config.run.seed)
        self.model = kakusan.load(run)

    @functools.cached_property
    def judge(self) -> Classifier:
        """A classifier of the training pictures."""
        return train_classifier(self.training, steps=300)

    def pictures(self, first: int, count: int) -> tuple[Tensor, Condition | None]:
        """Held-out pictures in an order of their own, and their classes as a condition."""
        order = torch.randperm(len(self.held_out), generator=torch.Generator().manual_seed(5))
        rows = order[first : first + count].tolist()
        x = self.held_out.spec.to_model(self.held_out.read(rows))
        conditioner = self.model.model.conditioner
        labels = self.held_out.labels
        return x, None if conditioner is None or labels is None else conditioner(labels[rows])

    def measured(self, task: Task, x: Tensor) -> Measurement:
        """y with seeded noise, one group for each picture."""
        clean = task.operator(x)
        noise = normal(range(len(x)), Stream.MEASUREMENT, shape=clean.shape[1:])
        return Measurement(task.operator, clean + 2.0 * task.noise * noise, 2.0 * task.noise)

    def scores(self, found: Tensor, x: Tensor) -> list[list[float]]:
        """PSNR, SSIM and perceptual distance, each for every picture."""
        near = perceptual_distance(self.judge, found, x)
        return [part.double().tolist() for part in (psnr(found, x), ssim(found, x), near)]


@dataclass(frozen=True)
class Row:
    """A method on an operator: `scores` are PSNR, SSIM and perceptual distance, each for every picture."""

    method: str
    calls: int
    seconds: float
    scores: list[list[float]]

    @property
    def means(self) -> list[float]:
        return [statistics.fmean(part) for part in self.scores]

    def cells(self) -> list[object]:
        """Of the table."""
        ratio, alike, near = self.means
        return [self.method, self.calls, f"{ratio:.2f}", f"{alike:.3f}", f"{near:.3f}", f"{self.seconds:.1f}"]


def rows(
    bench: Bench, x: Tensor, cond: Condition | None, name: str, task: Task, calls: int, known: Sequence[str]
) -> Iterator[Row]:
    """One row for each method and floor of an operator that is not known yet."""
    measurement = bench.measured(task, x)
    floors: dict[str, Callable[[], Tensor]] = {
        "total variation": lambda: rivals.total_variation(measurement, task.tv),
    }
    if isinstance(task.operator, Downsample):
        floors["bicubic"] = lambda: rivals.bicubic(measurement)
    for method, make in floors.items():
        if method not in known:
            yield Row(method, 0, 0.0, bench.scores(make(), x))
    for method, solve in contestants(name).items():
        if method in known:
            continue
        torch.manual_seed(0)
        began = time.perf_counter()
        found = solve(bench.model.denoiser, cond, measurement, calls)
        yield Row(method, calls, (time.perf_counter() - began) / len(x), bench.scores(found, x))


HEAD = ("method", "calls", "PSNR, dB", "SSIM", "perceptual", "s a picture")
PAIRS = ("DPS", "DiffPIR", "DDRM")


def verdicts(parts: dict[str, list[Row]]) -> Iterator[list[object]]:
    """Ours beside theirs of the same name: PSNR and perceptual distance, against whichever of their rows is better."""
    for name, found in parts.items():
        for method in PAIRS:
            theirs = [row for row in found if row.method.startswith(f"deepinv {method}")]
            if not theirs:
                continue
            own = next(
                row for row in reversed(found) if row.method in (f"kakusan {method}", f"kakusan {method}, tuned")
            )
            best, nearest = max(theirs, key=lambda row: row.means[0]), min(theirs, key=lambda row: row.means[2])
            won = (own.means[0] >= best.means[0]) + (own.means[2] <= nearest.means[2])
            yield [
                name,
                method,
                _difference(own.scores[0], best.scores[0], 2),
                _difference(own.scores[2], nearest.scores[2], 3),
                ("neither", "one", "both")[won],
            ]


def _difference(ours: list[float], theirs: list[float], digits: int) -> str:
    """The mean of the paired differences and its standard error."""
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    error = statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
    return f"{statistics.fmean(apart):+.{digits}f} ± {error:.{digits}f}"


def page(parts: dict[str, list[Row]], arguments: argparse.Namespace, model: Pipeline) -> str:
    """The results as Markdown."""

    def order(row: Row) -> tuple[bool, float]:
        return bool(row.calls), -row.means[0]

    tables = "\n\n".join(
        f"### {name}\n\n{common.table(HEAD, [row.cells() for row in sorted(found, key=order)])}"
        for name, found in parts.items()
    )

    head = ("operator", "method", "PSNR, dB", "perceptual", "ours at least equal in")
    library = rivals.deepinv()
    beside = (
        common.table(head, verdicts(parts), texts=2) if library else "deepinv was not installed: nothing to set beside."
    )
    version = common.installed("deepinv") or "none"
    side = model.data.size[0]
    return f"""# Restoration without retraining, on held-out real pictures

    python benchmarks/restoration.py --run {arguments.run.name} --data ... --first {arguments.first} \\
        --pictures {arguments.pictures} --calls {arguments.calls} --write

{arguments.pictures} pictures of flowers at {side} x {side} that the model did not see, one sample of each, the class
known. Settings were tuned on {TUNING} other held-out ones, and these pictures were not looked at before the settings
stood. Measurements have noise of 0.01 of the range, 0.05 for denoising. Every method has {arguments.calls} network
calls a sample; a backward pass counts as one, so DPS and PiGDM take half as many steps and MMPS a fifth. The network,
the operator with its singular values, the measurement and the condition are the same for all; deepinv {version} brings
its own schedule, steps and settings. Its rows are its defaults; "DPS, tuned" has the weight {DPS_WEIGHT:g}, the best of
1, 10, 30 and 100 on the tuning pictures (boxes and x4), and "DDRM, tuned" has eta 1. For its DiffPIR a strength of 1 in
place of 7 made no difference there. Ours have one setting for all operators, the defaults; "DDRM, tuned" has a
temperature of 0.5 and, as "DPS, tuned", steps even in log-SNR. Perceptual: distance between the layers of a classifier
of these flowers, lower is nearer.

A sample of the posterior has up to 3 dB less PSNR than the posterior's mean, so a blurrier method may win there.
`{common.cpu_name()}`, {arguments.threads} thread;
seconds on a machine shared with others.

{tables}

## Beside deepinv's method of the same name

Ours less theirs, each against whichever of their rows is better, with the standard error of the paired differences.
Ours is the tuned row where there is one.

{beside}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", help="the pictures of the run, where they lie elsewhere now")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--first", type=int, default=TUNING, help="where in the order of held-out pictures to begin")
    parser.add_argument("--only", help="one operator")
    parser.add_argument("--rows", type=Path, help="a file that keeps the rows; those in it are not measured again")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.run, arguments.data)
    x, cond = bench.pictures(arguments.first, arguments.pictures)
    parts: dict[str, list[Row]] = {}
    if arguments.rows is not None and arguments.rows.exists():
        stored = json.loads(arguments.rows.read_text())
        parts = {name: [Row(**row) for row in found] for name, found in stored.items()}
    for name, task in tasks(bench.model.data.shape).items():
        if arguments.only in (None, name):
            found = parts.setdefault(name, [])
            for row in rows(bench, x, cond, name, task, arguments.calls, [row.method for row in found]):
                found.append(row)
                print(name, *row.cells(), flush=True)
                if arguments.rows is not None:
                    plain = {name: [dataclasses.asdict(row) for row in found] for name, found in parts.items()}
                    arguments.rows.write_text(json.dumps(plain))
    common.finish(page(parts, arguments, bench.model), common.RESULTS / "restoration.md" if arguments.write else None)


if __name__ == "__main__":
    main()
