"""`kakusan colorize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kakusan.cli.options import parse
from kakusan.cli.restoring import RestoreOptions, run_restoration


@dataclass(frozen=True, kw_only=True)
class ColorizeOptions(RestoreOptions):
    """Give colours to a gray picture."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(ColorizeOptions, argv, verb="colorize")
    from kakusan.tasks.restore_problems import Colorize

    return run_restoration(options, Colorize())
