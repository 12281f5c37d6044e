"""Feature spaces: what pictures are compared in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kakusan.metrics.reference import Reference
from kakusan.metrics.spaces.base import NetworkSpace, Space, features, hash_of_network
from kakusan.metrics.spaces.judge import can_judge, open_classifier, open_judge
from kakusan.metrics.spaces.pretrained import open_dinov2, open_inception
from kakusan.metrics.spaces.self_supervised import open_self_supervised
from kakusan.metrics.spaces.store import Opening, Say
from kakusan.metrics.spaces.untrained import open_patches, open_random
from kakusan.specs import suggestion

__all__ = [
    "SPACES",
    "Builder",
    "NetworkSpace",
    "Opening",
    "Space",
    "default_spaces",
    "features",
    "hash_of_network",
    "open_judge",
    "open_spaces",
]


class Builder(Protocol):
    """Opens a space for some real pictures."""

    def __call__(self, reference: Reference, how: Opening = ..., /) -> Space:
        """The space."""
        ...


SPACES: dict[str, Builder] = {
    "classifier": open_classifier,
    "self-supervised": open_self_supervised,
    "random": open_random,
    "patches": open_patches,
    "inception": open_inception,
    "dinov2": open_dinov2,
}
"""What each space needs and sees is said by its builder."""

PRETRAINED = ("inception", "dinov2")
"""Those that take `NAME=PATH`, where PATH holds their weights."""


def default_spaces(reference: Reference) -> tuple[str, ...]:
    """The spaces that these pictures allow and that need no weights of others."""
    return ("classifier",) * can_judge(reference) + ("self-supervised", "random", "patches")


def open_spaces(
    names: Sequence[str], reference: Reference, *, folder: Path | None = None, say: Say | None = None
) -> list[Space]:
    """Open spaces by name, training what has to be trained.

    Args:
        names: of `SPACES`; `inception=PATH` and `dinov2=PATH` also say where their weights lie.
        reference: the real pictures; networks are trained on its learning part alone.
        folder: where trained networks are kept and found again; None keeps them nowhere.
        say: takes lines for people.

    Raises:
        ValueError: a name that is not known or is given twice, or a space that these pictures do not allow.
        ImportError: a library that a space needs is missing.
    """
    asked = [name.partition("=") for name in names]
    for name, given, _ in asked:
        if name not in SPACES:
            raise ValueError(
                f"unknown feature space {name!r}{suggestion(name, list(SPACES))}; known are {', '.join(SPACES)}"
            )
        if given and name not in PRETRAINED:
            raise ValueError(f"the feature space {name!r} takes no weights; only {' and '.join(PRETRAINED)} do")
    if len({name for name, _, _ in asked}) < len(asked):
        raise ValueError(f"a feature space is named twice: {', '.join(names)}")
    return [SPACES[name](reference, Opening(folder, say, Path(path) if path else None)) for name, _, path in asked]
