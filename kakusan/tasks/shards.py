"""Many pictures into numbered tar shards, by one process or many, resumable.

A folder of shards holds `settings.json` (everything that decides the pictures), `pictures-00000.tar` and so on, beside
each the record `pictures-00000.json` with its hashes, and at the end `manifest.jsonl`, one line for each shard. A shard
without its record was not finished and is made again. Members are named as WebDataset does it: `000000123.png` and, for
a model with classes, `000000123.cls`. The seed of a picture is the first seed plus its number, and batches never cross
the border of a shard, so any number of processes makes the same files.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kakusan import runtime
from kakusan.files import sync_folder, unfinished, whole_file, write_text
from kakusan.model_folder import sha256
from kakusan.pipeline import Pipeline, load
from kakusan.request import SampleRequest
from kakusan.tasks.sampling import wanted, with_eta
from kakusan.train.place import Place

SETTINGS, MANIFEST = "settings.json", "manifest.jsonl"


@dataclass(frozen=True)
class Shard:
    """Some pictures of a set, in one file.

    Args:
        number: of the shard, from 0.
        first: number of its first picture.
        request: what its pictures are.
    """

    number: int
    first: int
    request: SampleRequest

    @property
    def tar(self) -> str:
        return f"pictures-{self.number:05d}.tar"

    @property
    def record(self) -> str:
        return f"pictures-{self.number:05d}.json"


def cut(request: SampleRequest, size: int) -> list[Shard]:
    """The shards of a request, `size` pictures in each but the last.

    Raises:
        ValueError: no pictures in a shard.
    """
    if size < 1:
        raise ValueError(f"a shard holds at least one picture, got --shard-size {size}")
    chunks = replace(request, batch=size).chunks()
    return [Shard(i, i * size, replace(chunk, batch=request.batch)) for i, chunk in enumerate(chunks)]


def draw_shards(
    run: Path,
    out: Path,
    *,
    size: int = 1000,
    labels: Sequence[str] = (),
    all_labels: bool = False,
    num: int | None = None,
    weights: str | None = None,
    device: str = "auto",
    eta: float | None = None,
    cuda_graphs: bool = False,
    precision: str = "fp32",
    **options: Any,
) -> Iterator[str]:
    """Draw the shards of this process's share that are not there yet; yields lines for people.

    Raises:
        ValueError: the folder holds something else, or pictures made under other settings.
    """
    place = Place.here()
    where = place.device(device)
    facts = runtime.tune(device=where)
    pipeline = load(run, weights=weights, device=where).with_precision(precision)
    if cuda_graphs:
        pipeline.with_graphs()
    names, _ = wanted(pipeline.classes_under(options.get("guides", ())), labels, all_labels, num)
    request = pipeline.request(
        labels=names, num=None if names else (16 if num is None else num), **with_eta(options, eta)
    )
    shards = cut(request, size)
    claim(out, settings(pipeline, request, size))
    mine = [shard for shard in shards if shard.number % place.size == place.rank]
    left = [shard for shard in mine if not finished(out, shard)]
    if place.rank == 0:
        many = f" in {place.size} processes" if place.size > 1 else ""
        yield f"{len(request.seeds)} pictures in {len(shards)} shards{many}, {pipeline.weights!r} of {pipeline.path}"
        if len(left) < len(mine):
            yield f"{len(mine) - len(left)} of this process's {len(mine)} shards are there already"
    for shard in left:
        write_shard(pipeline, shard, out, {"threads": facts.threads, "device": str(where)})
        yield f"wrote {out / shard.tar}"
    if complete(out, shards):
        yield f"all {len(shards)} shards are whole: {out / MANIFEST}"


def settings(pipeline: Pipeline, request: SampleRequest, size: int) -> dict[str, Any]:
    """Everything that decides which picture is in which shard, as JSON values."""
    record = request.record()
    seeds, labels = record.pop("seeds"), record.pop("labels")
    told = hashlib.sha256(json.dumps([seeds, labels]).encode()).hexdigest()
    return {
        "model": pipeline.model_hash,
        "weights": pipeline.weights,
        "pictures": len(seeds),
        "seed": seeds[0],
        "seeds_and_labels": told,
        "shard_size": size,
        **({} if pipeline.precision == "fp32" else {"precision": pipeline.precision}),
        **record,
    }


def claim(out: Path, told: dict[str, Any]) -> None:
    """Make the folder one of these shards, or see that it is.

    Raises:
        ValueError: it is a file, holds something else, or shards of other settings.
    """
    path = out / SETTINGS
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --shards names a folder")
    if not path.is_file():
        # Another process of this command may be writing the same file now.
        foreign = set(out.iterdir()) - {path, *unfinished(out)} if out.is_dir() else set()
        if foreign and not path.is_file():
            raise ValueError(f"{out} is not empty and holds no shards of kakusan's; choose another folder for --shards")
    if not path.is_file():
        write_text(path, json.dumps(told, indent=1) + "\n")
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); choose another folder for --shards") from None
    different = [name for name in {**told, **old} if old.get(name) != told.get(name)]
    if different:
        shown = "; ".join(f"{name} was {old.get(name)!r}, now {told.get(name)!r}" for name in different)
        raise ValueError(
            f"the shards in {out} were begun with other settings ({shown}); use those again to go on, or choose "
            "another folder"
        )


def finished(out: Path, shard: Shard) -> bool:
    """Whether a shard is there and is what its record says."""
    tar, path = out / shard.tar, out / shard.record
    if not (tar.is_file() and path.is_file()):
        return False
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return bool(tar.stat().st_size == told["bytes"] and sha256(tar) == told["sha256"])
    except (ValueError, KeyError, TypeError):
        return False


def write_shard(pipeline: Pipeline, shard: Shard, out: Path, circumstances: dict[str, Any]) -> None:
    """Draw a shard and write it, whole or not at all; its record comes last."""
    from kakusan.report.png import png_bytes

    pictures = []
    with whole_file(out / shard.tar) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        number = shard.first
        for chunk in shard.request.chunks():
            drawn = pipeline.data.to_pil(pipeline.run(chunk))
            for index, (picture, seed) in enumerate(zip(drawn, chunk.seeds, strict=True)):
                content = png_bytes(picture, pipeline.record(chunk, kind="single", index=index))
                name = f"{number:09d}"
                _add(tar, f"{name}.png", content)
                line: dict[str, Any] = {"name": name, "seed": seed, "sha256": hashlib.sha256(content).hexdigest()}
                if chunk.labels is not None:
                    line["label"] = chunk.labels[index]
                    _add(tar, f"{name}.cls", str(line["label"]).encode())
                pictures.append(line)
                number += 1
    record = {
        "shard": shard.tar,
        "first": shard.first,
        "count": len(pictures),
        "bytes": (out / shard.tar).stat().st_size,
        "sha256": sha256(out / shard.tar),
        **circumstances,
        "pictures": pictures,
    }
    write_text(out / shard.record, json.dumps(record) + "\n")
    sync_folder(out)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # No times, owners or modes of this machine: the same pictures make the same file.
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(content))


def complete(out: Path, shards: Sequence[Shard]) -> bool:
    """Write the manifest once every shard has its record: whichever process is last does it."""
    if not all((out / shard.record).is_file() and (out / shard.tar).is_file() for shard in shards):
        return False
    lines = [(out / shard.record).read_text(encoding="utf-8") for shard in shards]
    write_text(out / MANIFEST, "".join(lines))
    for leftover in out.glob(".*.part.tar"):  # of processes that were killed
        leftover.unlink(missing_ok=True)
    return True
