"""The models that diffusion is compared with: a VAE, a GAN and a normalizing flow, trained by the same trainer.

A kind is imported when it is asked for, so what one of them needs (the flow's library) is not needed by the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kakusan.specs import suggestion

if TYPE_CHECKING:
    import torch

    from kakusan.rivals.base import Rival
    from kakusan.rivals.pipeline import RivalPipeline

HOMES = {
    "vae": ("kakusan.rivals.vae", "Vae"),
    "gan": ("kakusan.rivals.gan", "Gan"),
    "flow": ("kakusan.rivals.flow", "NormalizingFlow"),
}
"""Module and class of each kind."""


class Rivals(Mapping[str, "type[Rival]"]):
    """Kinds of rivals by name; the class behind a name is imported when it is looked up."""

    def __getitem__(self, kind: str) -> type[Rival]:
        """The class of a kind.

        Raises:
            KeyError: no such kind; the message names those there are.
            ImportError: a package that it needs is not installed; the message says how to get it.
        """
        if kind not in HOMES:
            raise KeyError(f"no rival {kind!r}{suggestion(kind, list(HOMES))}; there are {', '.join(HOMES)}")
        module, name = HOMES[kind]
        found: type[Rival] = getattr(importlib.import_module(module), name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)


RIVALS = Rivals()


def load(path: str | Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> RivalPipeline:
    """A trained rival, ready to sample.

    Args:
        path: the folder that `train_rival` wrote.
        weights: an EMA profile or "raw"; the default profile when None.
        device: where to put it.

    Raises:
        ValueError: no rival there, a damaged one, or a diffusion model (`kakusan.load` reads those).
    """
    from kakusan.rivals.pipeline import open_rival

    return open_rival(path, weights=weights, device=device)
