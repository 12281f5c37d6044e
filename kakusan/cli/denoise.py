"""`kakusan denoise`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kakusan.cli.options import parse
from kakusan.cli.restoring import RestoreOptions, run_restoration


@dataclass(frozen=True, kw_only=True)
class DenoiseOptions(RestoreOptions):
    """Remove noise; how much there is, is found from the picture when --noise is not given."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(DenoiseOptions, argv, verb="denoise")
    from kakusan.tasks.restore_problems import Denoise

    return run_restoration(options, Denoise())
