"""`kakusan plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kakusan.cli.options import parse
from kakusan.cli.train import base_settings
from kakusan.config import MaybePath, MaybeText, TrainConfig


@dataclass(frozen=True)
class PlanOptions:
    """Measure what a run would take, before its first step, and how to cut its batches.

    Takes the options of `kakusan train`. Peak memory and time are measured, each in a process of its own, for parts of
    the batch, with and without checkpointing, measuring and previews included; larger parts are predicted by a line
    and say so. The fastest that fits is picked and measured once more with the whole batch.

    Args:
        config: TOML file of settings.
        recipe: named settings to start from.
        memory: how much may be used, as in 8G; what is free when not given.
        sizes: sides of the pictures to compare.
        precisions: fp32 and bf16, to compare.
        limit: seconds that one measurement may take.
    """

    config: MaybePath = None
    recipe: MaybeText = None
    memory: MaybeText = None
    sizes: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ()
    limit: float = 120.0
    settings: TrainConfig = field(default_factory=TrainConfig)


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(PlanOptions, argv, verb="plan", default=PlanOptions(settings=base_settings(argv, None)))
    from kakusan.tasks.plan import plan_run, text

    plan = plan_run(
        options.settings,
        memory=options.memory,
        sizes=options.sizes,
        precisions=options.precisions,
        limit=options.limit,
        say=lambda line: print(line, flush=True),
    )
    print(text(plan, options.settings))
    return 0 if plan.picked is not None else 1
