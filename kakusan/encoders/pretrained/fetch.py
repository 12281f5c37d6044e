"""Fetching a folder with an encoder from its authors: only when asked, only what is needed, checked, all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kakusan.encoders.pretrained.place import CONFIG, PREPROCESSOR, TOKENIZER, WEIGHTS, look
from kakusan.files import write_text

HUB = "https://huggingface.co"
ORIGIN = "origin.json"
"""What was fetched from where, kept beside it."""
_TIMEOUT = 60.0
_CHUNK = 2**20
_LARGEST_LIST = 2**26
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")

Opener = Callable[[str], AbstractContextManager[IO[bytes]]]


@dataclass(frozen=True)
class Remote:
    """A file of a repository.

    Args:
        name: of the file.
        size: in bytes.
        sha256: of its content, for large files.
        blob: what git calls its content, for small ones.
    """

    name: str
    size: int
    sha256: str | None
    blob: str | None


def fetch(
    repository: str,
    out: str | Path,
    *,
    revision: str = "main",
    opener: Opener | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetch a CLIP or T5 from huggingface.co into the new folder `out`.

    Of the repository only the configuration, the safetensors files and the tokenizer are fetched; each is checked
    against the hash that the same server states. Nothing is written at `out` until all is there.

    Args:
        repository: such as openai/clip-vit-base-patch32.
        out: folder to make; it must not exist.
        revision: a commit, a branch or a tag.
        opener: opens an address for reading.
        say: takes one line of news at a time.

    Raises:
        ValueError: no such repository, one without safetensors, `out` exists, no connection, or damaged files.
    """
    target, ask = Path(out), opener or _open_url
    if target.exists():
        raise ValueError(f"{target} exists already; give another folder, or remove it first")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise ValueError(f"{repository!r} is not the name of a repository, such as openai/clip-vit-base-patch32")
    commit, files = _listed(repository, revision, ask)
    wanted = _wanted(repository, files)
    size = sum(file.size for file in wanted)
    say(f"{repository} at {commit[:12]}: {len(wanted)} files, {size / 2**20:.0f} MiB; see its page for the licence")
    work = target.with_name(f"{target.name}.partial-{os.getpid()}")
    work.mkdir(parents=True)
    try:
        if shutil.disk_usage(work).free < size + 2**20:
            raise ValueError(f"there is no room for {size / 2**20:.0f} MiB at {target}")
        for file in wanted:
            say(f"downloading {file.name}")
            _download(f"{HUB}/{repository}/resolve/{commit}/{file.name}", file, work / file.name, ask)
        write_text(work / ORIGIN, json.dumps({"repository": repository, "commit": commit}, indent=1) + "\n")
        # Whatever is wrong with it is said now and not at the end of a training.
        place = look(work, tokenizer=any(file.name in TOKENIZER for file in wanted), preprocessor=True)
        kind = place.config.get("model_type")
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"a network of type {kind!r} is in {target}")
    return target


def _open_url(url: str) -> AbstractContextManager[IO[bytes]]:
    opened: Any = urllib.request.urlopen(url, timeout=_TIMEOUT)
    return opened


def _listed(repository: str, revision: str, ask: Opener) -> tuple[str, list[Remote]]:
    """The commit of a revision and its files."""
    place = f"{HUB}/api/models/{repository}/revision/{urllib.parse.quote(revision, safe='')}?blobs=true"
    try:
        with ask(place) as source:
            values = json.loads(source.read(_LARGEST_LIST))
        commit = str(values["sha"])
        files = [_remote(entry) for entry in values["siblings"]]
    except OSError as error:
        raise ValueError(
            f"{repository} at {revision} could not be asked for ({error}). Without a connection: get its {CONFIG}, "
            "model.safetensors and tokenizer files on another machine and put them into one folder; that is all an "
            "encoder is"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{place} answered something else than a list of files: {error!r}") from None
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ValueError(f"{place} answered something else than a list of files: no commit")
    return commit, files


def _remote(entry: Mapping[str, Any]) -> Remote:
    large = entry.get("lfs")
    return Remote(
        str(entry["rfilename"]),
        int((large or entry)["size"]),
        None if large is None else str(large["sha256"]),
        None if large is not None or entry.get("blobId") is None else str(entry["blobId"]),
    )


def _wanted(repository: str, files: list[Remote]) -> list[Remote]:
    """What an encoder needs: no code, no pickles, nothing in other formats or in folders below."""
    known = {file.name: file for file in files}
    names = [name for name in (CONFIG, PREPROCESSOR, *TOKENIZER) if name in known]
    weights = next((name for name, _ in WEIGHTS if name in known), None)
    if CONFIG not in known or weights is None:
        raise ValueError(
            f"{repository} has no {CONFIG if CONFIG not in known else 'model.safetensors'}: kakusan reads no other "
            "form of weights, and never pickles, which can run any code; look for another repository of the same model"
        )
    names.append(weights)
    if weights.endswith(".json"):
        names += sorted(name for name in known if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name))
    return [known[name] for name in names]


def _download(url: str, file: Remote, path: Path, ask: Opener) -> None:
    large, small = hashlib.sha256(), hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    size = 0
    try:
        with ask(url) as source, path.open("wb") as target:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > file.size:
                    break
                large.update(chunk)
                small.update(chunk)
                target.write(chunk)
    except OSError as error:
        raise ValueError(f"{url} could not be downloaded: {error}") from None
    same = (file.sha256 in (None, large.hexdigest())) and (file.blob in (None, small.hexdigest()))
    if size != file.size or not same:
        raise ValueError(f"{url} is not the file that the server announced ({file.size} bytes); try again")
