"""`kakusan inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse


@dataclass(frozen=True)
class InspectOptions:
    """Show every fact a checkpoint holds: network, process, data, conditions, training, files and hashes.

    Args:
        run: a run, checkpoint or model folder.
        json: as JSON.
    """

    run: Annotated[Path, tyro.conf.Positional]
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(InspectOptions, argv, verb="inspect")
    from kakusan.tasks.runs import inspect, text

    facts = inspect(options.run)
    print(json.dumps(facts, indent=1, ensure_ascii=False) if options.json else text(facts))
    return 0
