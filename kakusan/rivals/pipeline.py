"""What a user holds: a trained rival, sampled and measured as a diffusion model's `Pipeline` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kakusan import model_folder
from kakusan.data.spec import DataSpec
from kakusan.noise import as_seeds
from kakusan.rivals import folder
from kakusan.rivals.base import LikelihoodKind, Rival
from kakusan.specs import suggestion

if TYPE_CHECKING:
    from PIL.Image import Image


class RivalPipeline:
    """A trained rival, ready to sample.

    Args:
        rival: the model.
        training: how it was trained, plain values.
        weights: which weights these are: an EMA profile, or "raw".
        path: where it was loaded from.
        model_hash: its identity.
    """

    def __init__(
        self,
        rival: Rival,
        training: Mapping[str, Any],
        *,
        weights: str,
        path: Path | None = None,
        model_hash: str = "",
    ) -> None:
        self.rival, self.training, self.weights = rival.eval(), training, weights
        self.path, self.model_hash = path, model_hash

    @property
    def kind(self) -> str:
        """ "vae", "gan" or "flow"."""
        return self.rival.kind

    @property
    def likelihood_kind(self) -> LikelihoodKind:
        """Of what `log_likelihood` states: "exact", "bound" or "none"."""
        return self.rival.likelihood_kind

    @property
    def data(self) -> DataSpec:
        return self.rival.spec

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes it can be asked for; empty when it has none."""
        return self.rival.classes

    @property
    def device(self) -> torch.device:
        return self.rival.device

    def to(self, device: torch.device | str) -> RivalPipeline:
        """Move the model."""
        self.rival.to(device)
        return self

    def label_index(self, label: str | int) -> int:
        """Index of a class given by name or number.

        Raises:
            ValueError: no such class, or a model without classes.
        """
        if not self.classes:
            raise ValueError("this model was trained without classes; use it without labels")
        if isinstance(label, str):
            if label not in self.classes:
                near = suggestion(label, list(self.classes))
                raise ValueError(f"no class {label!r}{near}; there are {', '.join(self.classes)}")
            return self.classes.index(label)
        if not 0 <= label < len(self.classes):
            raise ValueError(f"label {label} is outside the classes 0 to {len(self.classes) - 1}")
        return int(label)

    def sample(self, **arguments: Any) -> list[Image]:
        """Pictures, as PIL images; arguments as in `sample_tensor`."""
        return self.data.to_pil(self.sample_tensor(**arguments))

    def sample_tensor(
        self,
        *,
        labels: Sequence[str | int] | Tensor | None = None,
        num: int | None = None,
        seeds: Sequence[int] | Tensor | None = None,
        seed: int = 0,
        batch: int = 64,
    ) -> Tensor:
        """Samples (B, C, *size) in model units, on the CPU.

        Args:
            labels: class names or indices, one for each picture; drawn by the training data's proportions when not
                given.
            num: how many, where neither labels nor seeds say so.
            seeds: one for each picture, in place of `seed`.
            seed: of the first picture; the k-th has seed + k and does not depend on the others.
            batch: pictures computed at once.

        Raises:
            ValueError: unknown labels, or counts that disagree.
        """
        if isinstance(labels, str):
            raise ValueError(f"labels is a list with one label for each picture, as in [{labels!r}] * 8")
        counts = {
            name: size
            for name, size in (
                ("labels", None if labels is None else len(labels)),
                ("seeds", None if seeds is None else len(seeds)),
                ("num", num),
            )
            if size is not None
        }
        if len(set(counts.values())) > 1:
            given = ", ".join(f"{name} {size}" for name, size in counts.items())
            raise ValueError(f"labels, seeds and num disagree on how many pictures are wanted ({given})")
        count = next(iter(counts.values()), 1)
        if count < 1 or batch < 1:
            raise ValueError(f"at least one picture and a batch of at least one are needed, got {count} and {batch}")
        numbers = as_seeds(list(range(seed, seed + count)) if seeds is None else seeds)
        chosen = self._labels(labels)
        parts = [
            self.rival.sample(numbers[i : i + batch], None if chosen is None else chosen[i : i + batch]).cpu()
            for i in range(0, count, batch)
        ]
        return torch.cat(parts)

    def log_likelihood(
        self,
        stored: Tensor,
        labels: Sequence[str | int] | Tensor | None = None,
        *,
        seeds: Sequence[int] | Tensor | None = None,
        seed: int = 0,
        batch: int = 64,
    ) -> Tensor | None:
        """-log2 P of stored pictures per dimension, (B,) float64 on the CPU; None for a model without likelihood.

        Args:
            stored: (B, C, *size), integers of `data.dtype`.
            labels: class names or indices; without them P is the mixture over the classes.
            seeds: one for each picture, in place of `seed`.
            seed: of the first picture; the k-th has seed + k.
            batch: pictures computed at once.

        Raises:
            ValueError: pictures, labels or seeds that do not fit.
        """
        numbers = as_seeds(list(range(seed, seed + len(stored))) if seeds is None else seeds)
        chosen = self._labels(labels)
        if len(numbers) != len(stored) or (chosen is not None and len(chosen) != len(stored)):
            raise ValueError(
                f"{len(stored)} pictures need as many seeds and labels, got {len(numbers)} seeds"
                + ("" if chosen is None else f" and {len(chosen)} labels")
            )
        parts = []
        for i in range(0, len(stored), batch):
            rows = slice(i, i + batch)
            some = None if chosen is None else chosen[rows]
            found = self.rival.log_likelihood(stored[rows], some, seeds=numbers[rows])
            if found is None:
                return None
            parts.append(found.cpu())
        if not parts:
            raise ValueError("there are no pictures to measure the likelihood of")
        return torch.cat(parts)

    def _labels(self, labels: Sequence[str | int] | Tensor | None) -> Tensor | None:
        if labels is None:
            return None
        given = labels.tolist() if isinstance(labels, Tensor) else labels
        return torch.tensor([self.label_index(label) for label in given], dtype=torch.int64)


def open_rival(path: str | Path, *, weights: str | None = None, device: torch.device | str = "cpu") -> RivalPipeline:
    """What `kakusan.rivals.load` does."""
    place = Path(path)
    rival, description, chosen = folder.read(place, weights=weights)
    training = description.get("training", {})
    hashed = model_folder.model_hash(place)
    return RivalPipeline(rival, training, weights=chosen, path=place, model_hash=hashed).to(device)
