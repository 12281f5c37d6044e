"""A folder with a network of others: what is read of it, its hash, what is refused, and where it is when it moved."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

ENCODERS = "KAKUSAN_ENCODERS"
"""Environment variable: a folder that holds folders of encoders, where one that has moved is looked for by its name."""

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = (("model.safetensors", None), ("model.safetensors.index.json", None), ("model.fp16.safetensors", "fp16"))
"""Files of weights in the order in which they are looked for, with the name that transformers has for the variant."""
TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_MAX_JSON = 2**26


@dataclass(frozen=True)
class Place:
    """A folder with a network of others, looked at but not loaded.

    Args:
        folder: with `config.json` and the weights.
        config: the content of `config.json`.
        variant: what transformers calls the variant of the weights; None for the usual ones.
        files: every file that decides the features, by name.
        tokenizer: folder with the tokenizer's files; None where none is needed.
    """

    folder: Path
    config: Mapping[str, Any]
    variant: str | None
    files: Mapping[str, Path]
    tokenizer: Path | None = None

    def content(self) -> str:
        """Hash of every file that decides the features. Where they lie has no part in it."""
        found = hashlib.sha256()
        for name in sorted(self.files):
            with open(self.files[name], "rb") as file:
                found.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return found.hexdigest()

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """The shape of a tensor in the weights; None where there is none of that name.

        Raises:
            ValueError: damaged files.
        """
        from safetensors import SafetensorError, safe_open

        for path in (path for path in self.files.values() if path.suffix == ".safetensors"):
            try:
                with safe_open(str(path), framework="pt") as file:
                    if tensor in set(file.keys()):
                        return tuple(file.get_slice(tensor).get_shape())
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from None
        return None


def look(folder: str | Path, *, tokenizer: bool, preprocessor: bool = False) -> Place:
    """What a folder holds.

    The tokenizer may also lie where folders of diffusers have it: beside `text_encoder`, in `tokenizer`.

    Raises:
        ValueError: files are missing or damaged, the weights are pickles, or the folder asks for code of its own.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; an encoder is a folder with {CONFIG}, *.safetensors and so on")
    config = read_json(folder / CONFIG)
    name, variant = _weights(folder)
    files = {CONFIG: folder / CONFIG, name: folder / name}
    if name.endswith(".json"):
        files.update(_shards(folder, name))
    for path in files.values():
        _refuse_pickle(path)
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} holds an adapter beside the weights; merge the two and save them as one model")
    if preprocessor and (folder / PREPROCESSOR).is_file():
        files[PREPROCESSOR] = folder / PREPROCESSOR
    home = _tokenizer_home(folder) if tokenizer else None
    if home is not None:
        files.update({name: home / name for name in TOKENIZER if (home / name).is_file()})
    for path in (path for name, path in files.items() if name.endswith("config.json")):
        if "auto_map" in read_json(path):
            raise ValueError(f"{path} asks for code of its own (auto_map); kakusan never runs code from such a folder")
    return Place(folder, config, variant, files, home)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: missing, damaged or something else.
    """
    if not path.is_file():
        raise ValueError(
            f"{path.parent} has no {path.name}; an encoder is a folder with {CONFIG}, *.safetensors and so on"
        )
    if path.stat().st_size > _MAX_JSON:
        raise ValueError(f"{path} is too large to be a configuration")
    try:
        values = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a configuration: it holds no JSON object")
    return values


def _weights(folder: Path) -> tuple[str, str | None]:
    for name, variant in WEIGHTS:
        if (folder / name).is_file():
            return name, variant
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ValueError(
            f"{folder / pickles[0]} is a pickle, not safetensors; kakusan never loads pickles, which can run any code: "
            "get the model.safetensors of the same model"
        )
    raise ValueError(f"{folder} has no weights: expected {' or '.join(name for name, _ in WEIGHTS)}")


def _shards(folder: Path, index: str) -> dict[str, Path]:
    parts = read_json(folder / index).get("weight_map")
    names = set(parts.values()) if isinstance(parts, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{folder / index} is damaged: its weight_map names no files of this folder")
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing, which {index} names; the folder is incomplete")
        if not name.endswith(".safetensors"):
            raise ValueError(f"{folder / name} is not a safetensors file, and kakusan loads no others")
    return {name: folder / name for name in names}


def _refuse_pickle(path: Path) -> None:
    """By content: a name says nothing."""
    with open(path, "rb") as file:
        head = file.read(9)
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise ValueError(f"{path} is a pickle, not safetensors; kakusan never loads pickles, which can run any code")


def _tokenizer_home(folder: Path) -> Path:
    beside = folder.parent / folder.name.replace("text_encoder", "tokenizer")
    for home in (folder, beside):
        if any((home / name).is_file() for name in _VOCABULARIES):
            return home
    raise ValueError(
        f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt, or spiece.model, in it"
        + (f" or in {beside}" if beside != folder else "")
    )


def find(folder: str, content: str, *, tokenizer: bool, preprocessor: bool = False) -> Place:
    """The folder with this content: where it was, or under its name in the folder that `KAKUSAN_ENCODERS` names.

    Raises:
        ValueError: it is at neither place, or was changed.
    """
    there = Path(folder)
    home = os.environ.get(ENCODERS)
    told = []
    for candidate in (there, *((Path(home) / there.name,) if home else ())):
        if not candidate.is_dir():
            told.append(f"{candidate} is not there")
            continue
        place = look(candidate, tokenizer=tokenizer, preprocessor=preprocessor)
        found = place.content()
        if found == content:
            return place
        told.append(f"{candidate} holds another one ({found[:12]})")
    raise ValueError(
        f"this model needs the encoder {there.name!r} (hash {content[:12]}), which is not part of it: "
        f"{'; '.join(told)}. Say where its folder is now, or put it into the folder that {ENCODERS} names"
    )


@runtime_checkable
class Movable(Protocol):
    """An encoder whose network lies in a folder."""

    folder: str

    def moved(self, folder: str | Path) -> nn.Module:
        """The same encoder, whose network lies elsewhere now."""
        ...


def move(module: nn.Module, places: Mapping[str, str | Path]) -> int:
    """Tell the encoders inside a module where their folders are now; returns how many were told.

    Args:
        places: the folder that an encoder remembers, or its last name -> where it is now.
    """
    told = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Movable):
                new = places.get(child.folder, places.get(Path(child.folder).name))
                if new is not None:
                    setattr(parent, name, child.moved(new))
                    told += 1
    return told
