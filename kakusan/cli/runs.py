"""`kakusan list`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse


@dataclass(frozen=True)
class ListOptions:
    """Show the runs in a folder with their figures and last pictures.

    Args:
        folder: where to look.
        json: print one JSON list in place of the table.
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(ListOptions, argv, verb="list")
    from kakusan.tasks.runs import list_runs, table

    rows = list_runs(options.folder)
    print(json.dumps(rows, indent=1) if options.json else table(rows, options.folder))
    return 0
