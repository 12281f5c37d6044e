"""`kakusan data`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kakusan.cli.options import parse
from kakusan.config import MaybePath


@dataclass(frozen=True)
class CheckOptions:
    """Look at every picture of a folder or zip file and report: counts, sizes, modes, classes, duplicates, damage.

    Args:
        folder: where the pictures are.
        metadata: a metadata file kept elsewhere.
        json: as JSON.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    metadata: MaybePath = None
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


@dataclass(frozen=True)
class GetOptions:
    """Fetch a known data set from its authors: oxford-flowers-102, mnist, fashion-mnist, cifar-10.

    The only command of kakusan's that uses the network. Checksums are verified before anything is unpacked.

    Args:
        name: which.
        out: folder to make; data/NAME when not given.
        have: folder with files downloaded by hand.
    """

    name: Annotated[str, tyro.conf.Positional]
    out: MaybePath = None
    have: Annotated[Path | None, tyro.conf.arg(name="from", metavar="PATH", help_behavior_hint="")] = None


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    if argv[:1] == ["check"]:
        options = parse(CheckOptions, argv[1:], verb="data check")
        from kakusan.data.check import check_folder

        report = check_folder(options.folder, metadata=options.metadata)
        print(json.dumps(report.to_json(), indent=1, ensure_ascii=False) if options.json else report.text())
        return 1 if report.unreadable else 0
    if argv[:1] == ["get"]:
        wanted = parse(GetOptions, argv[1:], verb="data get")
        from kakusan.data.get import get

        get(wanted.name, wanted.out or Path("data") / wanted.name, have=wanted.have)
        return 0
    help_wanted = argv[:1] in (["-h"], ["--help"])
    print(
        "usage: kakusan data check FOLDER    report on a folder or zip file of pictures\n"
        "       kakusan data get NAME        fetch oxford-flowers-102, mnist, fashion-mnist or cifar-10",
        file=sys.stdout if help_wanted else sys.stderr,
    )
    return 0 if help_wanted else 2
