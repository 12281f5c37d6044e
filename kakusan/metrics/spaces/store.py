"""Trained networks on disk: found again by what they learnt from, checked, and never trusted when damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from kakusan.files import whole_file, write_text
from kakusan.metrics.record import digest

FORMAT = 1
_MOST_FACTS = 2**20

Say = Callable[[str], None]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Opening:
    """How spaces are opened.

    Args:
        folder: where trained networks are kept; None keeps them nowhere.
        say: takes lines for people; None is silence.
        weights: where the weights of a network that is not trained here lie.
    """

    folder: Path | None = None
    say: Say | None = None
    weights: Path | None = None

    def tell(self, line: str) -> None:
        """Say it, if anybody listens."""
        if self.say is not None:
            self.say(line)


ALONE = Opening()
"""Nothing is kept, nobody is told."""


def recall(
    kind: str, facts: Mapping[str, Any], empty: Callable[[], Network], train: Callable[[], Network], how: Opening
) -> Network:
    """The network of these facts: read from the folder where it is there and whole, else trained and put there.

    Two files, `KIND-KEY.safetensors` and `KIND-KEY.json`; KEY is a hash of the facts. The second, written last, holds
    the facts and the hash of the first. A file that is not what it should be is trained anew and written over.

    Args:
        kind: of network.
        facts: all that its weights depend on, plain values.
        empty: a network of the right shapes.
        train: makes a trained one.
        how: where, and who is told.
    """
    whole = {"format": FORMAT, "kind": kind, **facts}
    if how.folder is None:
        return train()
    stem = f"{kind}-{digest(whole)}"
    place, beside = how.folder / f"{stem}.safetensors", how.folder / f"{stem}.json"
    if place.exists() or beside.exists():
        try:
            network = empty()
            network.load_state_dict(_read(place, beside, whole, network))
            return network.eval().requires_grad_(False)
        except (OSError, ValueError, SafetensorError) as error:
            how.tell(f"{place} is not used, its network is trained anew: {error}")
    network = train()
    try:
        _write(place, beside, whole, network)
    except OSError as error:
        how.tell(f"{place} could not be written, the network is trained again next time: {error}")
    return network


def _read(place: Path, beside: Path, whole: Mapping[str, Any], like: nn.Module) -> dict[str, Tensor]:
    if beside.stat().st_size > _MOST_FACTS:
        raise ValueError("its facts are too long")
    said = json.loads(beside.read_text(encoding="utf-8"))
    if not isinstance(said, dict) or said.get("facts") != json.loads(json.dumps(whole)):
        raise ValueError("it is of something else")
    wanted = like.state_dict()
    if place.stat().st_size > sum(v.nbytes for v in wanted.values()) + _MOST_FACTS:
        raise ValueError("it is too large")
    content = place.read_bytes()
    if hashlib.sha256(content).hexdigest() != said.get("sha256"):
        raise ValueError("its content is not what was written")
    tensors = safetensors_torch.load(content)
    found, expected = ({name: (tuple(v.shape), v.dtype) for name, v in some.items()} for some in (tensors, wanted))
    if found != expected:
        raise ValueError("its weights have other names or shapes")
    if not all(bool(v.isfinite().all()) for v in tensors.values()):
        raise ValueError("its weights are not finite")
    return tensors


def _write(place: Path, beside: Path, whole: Mapping[str, Any], network: nn.Module) -> None:
    content = safetensors_torch.save({name: v.detach().contiguous() for name, v in network.state_dict().items()})
    with whole_file(place) as temporary:
        temporary.write_bytes(content)
    said = {"facts": whole, "sha256": hashlib.sha256(content).hexdigest(), "torch": torch.__version__}
    write_text(beside, json.dumps(said, indent=1, sort_keys=True))
