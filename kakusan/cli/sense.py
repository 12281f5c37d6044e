"""`kakusan sense`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kakusan.cli.options import parse
from kakusan.cli.restoring import RestoreOptions, run_restoration


@dataclass(frozen=True, kw_only=True)
class SenseOptions(RestoreOptions):
    """Compressed sensing: measure few random mixtures of a picture's values and restore it from them.

    Args:
        ratio: measurements over values of the picture.
        pattern: seed of the mixtures.
    """

    ratio: float = 0.25
    pattern: int = 0


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(SenseOptions, argv, verb="sense")
    from kakusan.tasks.restore_problems import Sense

    return run_restoration(options, Sense(options.ratio, options.pattern))
