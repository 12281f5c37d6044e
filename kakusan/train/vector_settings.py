"""Settings of models of CLIP vectors. Imports no torch, so that the command line answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kakusan.train.option_kinds import arg


@dataclass(frozen=True)
class VectorSettings:
    """CLIP vectors as conditions: train on pictures alone, and ask the model with texts.

    Args:
        clip: a trained CLIP (`kakusan train-clip`), whose vector of each picture is its condition; None for a model
            without.
        bridge: how texts are carried over to where vectors of pictures are: none, shift or linear.
        noise: length of a random vector that training adds to a vector of length 1, so that nearby ones mean the same.
        prior: train on the vectors themselves, asked with texts (`kakusan train-prior`).
    """

    clip: Annotated[str | None, arg(name="clip-vectors", metavar="STR", help_behavior_hint="")] = None
    bridge: Annotated[str, arg(name="clip-bridge")] = "linear"
    noise: Annotated[float, arg(name="clip-noise")] = 0.0
    prior: Annotated[bool, arg(name="clip-prior")] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise < float("inf"):
            raise ValueError(f"noise of [vectors] is a length, 0 or more; got {self.noise}")
        if self.prior and self.clip is None:
            raise ValueError("a prior draws vectors of a CLIP: name its folder by --clip-vectors")
