"""How much of a batch to compute at once: measured on small parts, predicted for larger ones, and then checked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kakusan.config import TrainConfig
from kakusan.train.probe import Measure, Measured, Unmeasured

# Share of the memory that a prediction may fill. A measurement may fill all of it.
FILLED = 0.9
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Variant:
    """What the micro-batches are measured with.

    Args:
        size: side of the pictures; None for that of the data.
        precision: fp32, bf16 or auto.
        checkpointing: activations are computed again in the backward pass.
    """

    size: int | None
    precision: str
    checkpointing: bool

    def settings(self, config: TrainConfig, batch: int, at_once: int, threads: int | None = None) -> TrainConfig:
        """`config` with these, a batch and a micro-batch."""
        return replace(
            config,
            data=replace(config.data, size=self.size),
            engine=replace(config.engine, checkpointing=self.checkpointing, micro_batch=at_once),
            run=replace(config.run, precision=self.precision, batch=batch, threads=config.run.threads or threads),
        )


@dataclass(frozen=True)
class Row:
    """A micro-batch with its cost: `seconds` of a step of the whole batch, `bytes` at most in use."""

    variant: Variant
    at_once: int
    bytes: int
    seconds: float
    measured: bool


@dataclass(frozen=True)
class Plan:
    """What was found.

    Args:
        rows: every micro-batch of every variant, measured or predicted.
        failed: (what, reason) of measurements that came to no end.
        picked: the fastest row that fits, measured with the whole batch; None when nothing fits.
        confirmed: that measurement.
        memory: bytes that may be used.
        batch: samples in a step.
        example: the first measurement, for what all have in common.
    """

    rows: tuple[Row, ...]
    failed: tuple[tuple[str, str], ...]
    picked: Row | None
    confirmed: Measured | None
    memory: int
    batch: int
    example: Measured


def parse_bytes(text: str) -> int:
    """`8G`, `800M`, `7.5 GiB` in bytes, in powers of 1024.

    Raises:
        ValueError: something else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) <= 0.0:
        raise ValueError(f"memory is a number with K, M, G or T, as in 8G or 800M; got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def ladder(batch: int) -> list[int]:
    """The micro-batches that are measured: an eighth, a quarter and half of the batch; for small ones 1 and 2."""
    rungs = sorted({max(1, batch // part) for part in (8, 4, 2)})
    return rungs if len(rungs) > 1 else list(range(1, min(batch, 2) + 1))


def candidates(batch: int) -> list[int]:
    """The micro-batches to choose from: the batch, and its halves down to 1."""
    found = [batch]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return sorted({*found, *ladder(batch)})


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(intercept, slope) of the line with the least squared error; memory and time never fall with the batch, so the
    slope is at least 0."""
    middle = sum(x for x, _ in points) / len(points)
    height = sum(y for _, y in points) / len(points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    slope = 0.0 if spread == 0.0 else sum((x - middle) * (y - height) for x, y in points) / spread
    slope = max(slope, 0.0)
    return height - slope * middle, slope


def table_of(variant: Variant, batch: int, found: dict[int, Measured]) -> list[Row]:
    """Rows of one variant: the measured micro-batches as they are, the others on the lines through them."""
    memory = fit([(n, m.step_bytes) for n, m in found.items()])
    passes = fit([(n, m.gradient_seconds) for n, m in found.items()])
    rows = []
    # One point is no line: nothing is said of what is larger than it.
    most = batch if len(found) > 1 else max(found)
    for at_once in (n for n in candidates(batch) if n <= most):
        here = found.get(at_once)
        near = found[min(found, key=lambda n: (abs(n - at_once), n))]
        if here is None:
            training, gradient = memory[0] + memory[1] * at_once, max(passes[0] + passes[1] * at_once, 0.0)
        else:
            training, gradient = here.step_bytes, here.gradient_seconds
        # Measuring and drawing take what they took beside the nearest micro-batch.
        beside = near.bytes if near.bytes > near.step_bytes else 0
        moving = max(near.step_seconds - near.gradient_seconds, 0.0)
        seconds = -(-batch // at_once) * gradient + moving
        rows.append(Row(variant, at_once, int(max(training, beside)), seconds, here is not None))
    return rows


def measured_rows(
    variant: Variant, config: TrainConfig, measure: Measure, threads: int | None
) -> tuple[dict[int, Measured], str]:
    """(measurements by micro-batch, why the next one failed): from small to large, up to the first failure."""
    found: dict[int, Measured] = {}
    for at_once in ladder(config.run.batch):
        try:
            found[at_once] = measure(variant.settings(config, at_once, at_once, threads))
        except Unmeasured as error:
            return found, f"{at_once} at once: {error}"
        threads = found[at_once].threads
    return found, ""


def make_plan(config: TrainConfig, variants: Sequence[Variant], measure: Measure, memory: int | None) -> Plan:
    """Measure the variants and pick from the first one's size and precision.

    Args:
        config: the settings of the run; `run.batch` is the batch that is wanted.
        variants: what to measure; those with the size and precision of the first are picked from.
        measure: how one measurement is made.
        memory: bytes that may be used; None for what is free.

    Raises:
        ValueError: nothing could be measured, or what is free is not known.
    """
    batch = config.run.batch
    rows: list[Row] = []
    failed: list[tuple[str, str]] = []
    example: Measured | None = None
    for variant in variants:
        found, reason = measured_rows(variant, config, measure, None if example is None else example.threads)
        if reason:
            failed.append((name(variant), reason))
        if found:
            example = example or next(iter(found.values()))
            rows += table_of(variant, batch, found)
    if example is None:
        raise ValueError("nothing could be measured: " + "; ".join(f"{what}: {why}" for what, why in failed))
    limit = memory if memory is not None else example.free_bytes
    if limit is None:
        raise ValueError(f"how much memory is free on {example.device} is not known; say it, as in --memory 8G")
    first = variants[0]
    usable = [r for r in rows if (r.variant.size, r.variant.precision) == (first.size, first.precision)]
    picked, confirmed = confirm(usable, config, measure, limit, example.threads, failed)
    if picked is not None:
        rows = [r for r in rows if (r.variant, r.at_once) != (picked.variant, picked.at_once)] + [picked]
        order = {variant: place for place, variant in enumerate(variants)}
        rows.sort(key=lambda r: (order[r.variant], r.at_once))
    return Plan(tuple(rows), tuple(failed), picked, confirmed, limit, batch, example)


def fits(row: Row, limit: int) -> bool:
    """Whether a row stays within the memory, with something to spare when it is only predicted."""
    return row.bytes <= limit * (1.0 if row.measured else FILLED)


def confirm(
    rows: Sequence[Row],
    config: TrainConfig,
    measure: Measure,
    limit: int,
    threads: int,
    failed: list[tuple[str, str]],
) -> tuple[Row | None, Measured | None]:
    """The fastest row that fits, measured as the run will be; when that shows that it does not fit, the next fastest
    with fewer samples at once. Three attempts at most."""
    left = sorted((r for r in rows if fits(r, limit)), key=lambda r: r.seconds)
    for _ in range(3):
        if not left:
            break
        best = left[0]
        try:
            found = measure(best.variant.settings(config, config.run.batch, best.at_once, threads))
        except Unmeasured as error:
            failed.append((name(best.variant), f"{best.at_once} at once, the whole batch: {error}"))
        else:
            row = dataclasses.replace(best, bytes=found.bytes, seconds=found.step_seconds, measured=True)
            if fits(row, limit):
                return row, found
            failed.append((name(best.variant), f"{best.at_once} at once took {found.bytes / 2**30:.2f} GiB"))
        left = [
            r for r in left if r.at_once < best.at_once or (r.variant.checkpointing and not best.variant.checkpointing)
        ]
    return None, None


def name(variant: Variant) -> str:
    """A variant in words."""
    size = "" if variant.size is None else f"size {variant.size}, "
    return f"{size}{variant.precision}, {'with' if variant.checkpointing else 'without'} checkpointing"
