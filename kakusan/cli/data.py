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
from kakusan.config import DataSettings, MaybeInt, MaybePath


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

    This and `get-encoder` are the only commands that use the network. Checksums are verified before anything is
    unpacked.

    Args:
        name: which.
        out: folder to make; data/NAME when not given.
        have: folder with files downloaded by hand.
    """

    name: Annotated[str, tyro.conf.Positional]
    out: MaybePath = None
    have: Annotated[Path | None, tyro.conf.arg(name="from", metavar="PATH", help_behavior_hint="")] = None


@dataclass(frozen=True)
class CacheOptions:
    """List the files of decoded pictures that make opening a data set fast, or remove them.

    They can be removed at any time: what is needed is decoded again. A training that uses them goes on.

    Args:
        folder: another folder than the usual one.
        clear: remove them all.
    """

    folder: MaybePath = None
    clear: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


@dataclass(frozen=True)
class SpeedOptions:
    """Measure how fast pictures can be handed to training, without any network.

    Args:
        source: what kakusan train takes as --data.
        batch: samples in a batch.
        seconds: for each figure, about.
        size: side of the pictures; found from the data when not given.
        cache: auto, off, or a folder.
        device: where batches go: auto, cpu, cuda.
        json: as JSON.
    """

    source: Annotated[str, tyro.conf.Positional]
    batch: int = 64
    seconds: float = 3.0
    size: MaybeInt = None
    cache: str = "auto"
    device: str = "auto"
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False


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
    if argv[:1] == ["cache"]:
        return _cache(parse(CacheOptions, argv[1:], verb="data cache"))
    if argv[:1] == ["speed"]:
        return _speed(parse(SpeedOptions, argv[1:], verb="data speed"))
    help_wanted = argv[:1] in (["-h"], ["--help"])
    print(
        "usage: kakusan data check FOLDER    report on a folder or zip file of pictures\n"
        "       kakusan data get NAME        fetch oxford-flowers-102, mnist, fashion-mnist or cifar-10\n"
        "       kakusan data speed SOURCE    measure how fast pictures reach the network\n"
        "       kakusan data cache [--clear] show or remove the files of decoded pictures",
        file=sys.stdout if help_wanted else sys.stderr,
    )
    return 0 if help_wanted else 2


def _cache(options: CacheOptions) -> int:
    from kakusan.data.cache import cache_home, clear, packs, size_text

    folder = options.folder or cache_home() / "pictures"
    if options.clear:
        files, size = clear(folder)
        print(f"removed {files} files ({size_text(size)}) from {folder}")
        return 0
    found = packs(folder)
    for path, facts in found:
        what = "damaged; it is made again when needed"
        if facts is not None:
            what = f"{facts.count} pictures {' x '.join(map(str, facts.shape))} of {facts.source}"
        print(f"{size_text(path.stat().st_size):>10}  {path.name}  {what}")
    total = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    print(f"{size_text(total):>10}  in {folder}" + ("" if found else "; there are no decoded pictures"))
    return 0


def _speed(options: SpeedOptions) -> int:
    from kakusan.runtime import pick_device
    from kakusan.tasks.loader_speed import measure

    data = DataSettings(source=options.source, size=options.size, cache=options.cache)
    found = measure(data, batch=options.batch, seconds=options.seconds, device=pick_device(options.device))
    print(json.dumps(found.to_json(), indent=1, ensure_ascii=False) if options.json else found.text())
    return 0
