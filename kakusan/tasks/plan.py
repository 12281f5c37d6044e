"""`kakusan plan`: how much memory and time a run takes, and how to cut its batches, before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kakusan.config import TrainConfig
from kakusan.train.estimate import duration
from kakusan.train.plan import Plan, Row, Variant, ladder, make_plan, parse_bytes
from kakusan.train.probe import Measure, measure_apart

_HEAD = ("size", "precision", "checkpointing", "at once", "memory", "a step", "samples/s", "")
CONFIRMATIONS = 3


def plan_run(
    config: TrainConfig,
    *,
    memory: str | None = None,
    sizes: Sequence[int] = (),
    precisions: Sequence[str] = (),
    limit: float = 120.0,
    say: Callable[[str], None] = print,
    measure: Measure | None = None,
) -> Plan:
    """Measure what a run of these settings takes, and pick a micro-batch.

    Args:
        config: settings of the run.
        memory: that may be used, as in "8G"; what is free when None.
        sizes: sides of the pictures to compare; the first is picked for.
        precisions: fp32 or bf16, to compare; the first is picked for.
        limit: seconds that one measurement may take.
        say: where lines for people go.
        measure: how one measurement is made; in a process of its own when None.

    Raises:
        ValueError: a wrong option, or nothing could be measured.
    """
    bound = None if memory is None else parse_bytes(memory)
    if limit <= 0.0:
        raise ValueError(f"limit is a positive number of seconds, got {limit}")
    if min(sizes, default=1) < 1:
        raise ValueError(f"a size is a side of a picture, at least 1; got {min(sizes)}")
    checkpointing = (True,) if config.engine.checkpointing else (False, True)
    variants = [
        Variant(size, precision, again)
        for size in sizes or (config.data.size,)
        for precision in precisions or (config.run.precision,)
        for again in checkpointing
    ]
    count = len(variants) * len(ladder(config.run.batch)) + CONFIRMATIONS
    say(
        f"{count} measurements at most, each in a process of its own and of at most {limit:g} s: "
        f"{duration(count * limit)} at the very most, usually a few seconds each"
    )
    return make_plan(config, variants, measure or (lambda settings: measure_apart(settings, limit)), bound)


def text(plan: Plan, config: TrainConfig) -> str:
    """The plan as a table, with what to write down."""
    rows = [_HEAD, *(_cells(row, plan) for row in plan.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(f"{plan.memory / 2**30:.2f} GiB may be used on {plan.example.device}")
    lines += [f"not measured: {what}: {why}" for what, why in plan.failed]
    if plan.picked is None or plan.confirmed is None:
        lines.append("nothing fits. Use a smaller --size or --width, --patch 2, or give it more --memory")
        return "\n".join(lines)
    row, found = plan.picked, plan.confirmed
    again = " --checkpointing" if row.variant.checkpointing else ""
    lines += [
        f"picked: {row.at_once} of {plan.batch} at once: {row.bytes / 2**30:.2f} GiB, {row.seconds:.3g} s a step, "
        f"measured with the whole batch; one measurement of the loss {duration(found.measuring_seconds)}, "
        f"one preview {duration(found.preview_seconds)}",
    ]
    if config.run.steps is not None:
        whole = row.seconds * config.run.steps + found.beside_seconds
        lines.append(f"{config.run.steps} steps with all measurements and previews: about {duration(whole)}")
    lines += [
        f"options: --batch {plan.batch} --micro-batch {row.at_once}{again}",
        "or in a file:",
        f"[engine]\nmicro_batch = {row.at_once}\ncheckpointing = {str(row.variant.checkpointing).lower()}",
    ]
    return "\n".join(lines)


def _cells(row: Row, plan: Plan) -> tuple[str, ...]:
    size = "x".join(map(str, plan.example.size)) if row.variant.size is None else str(row.variant.size)
    kind = "measured" if row.measured else "predicted"
    return (
        size,
        plan.example.precision if row.variant.precision == "auto" else row.variant.precision,
        "yes" if row.variant.checkpointing else "no",
        str(row.at_once),
        f"{row.bytes / 2**30:.2f} GiB",
        f"{row.seconds:.3g} s",
        f"{plan.batch / max(row.seconds, 1e-9):.0f}",
        kind if row is not plan.picked else f"{kind}, picked",
    )
