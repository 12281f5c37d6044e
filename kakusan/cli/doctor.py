"""`kakusan doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybePath, MaybeText


@dataclass(frozen=True)
class DoctorOptions:
    """Tell in seconds whether bad samples are the network's fault or the sampler's.

    Three tests: one-step denoising at eight noise levels against the trivial floor; the exact denoiser of a subset of
    the run's own training pictures through the same sampler; raw weights beside averaged ones.

    Args:
        run: a run or checkpoint.
        data: the training data, when they have moved.
        sampler: the sampler to test.
        grid: its grid.
        steps: its steps.
        out: where the picture goes.
    """

    run: Annotated[Path, tyro.conf.Positional]
    data: MaybeText = None
    sampler: str = "dpmpp-2m"
    grid: str = "karras"
    steps: int = 20
    out: MaybePath = None


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(DoctorOptions, argv, verb="doctor")
    from kakusan.tasks.doctor import examine

    findings = examine(
        options.run,
        data=options.data,
        sampler=options.sampler,
        grid=options.grid,
        num_steps=options.steps,
        out=options.out,
    )
    print(findings.text())
    return 0 if findings.healthy else 1
