"""Starting from another model: which tensors are kept, resized or new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kakusan import model_folder
from kakusan.conditioning import ClassLabels, Conditioner
from kakusan.model_folder import Model
from kakusan.pairs import PairConditioner
from kakusan.run_folder import find_model
from kakusan.specs import to_spec

_TABLE = "table.weight"


@dataclass(frozen=True)
class Adaptation:
    """Names of tensors by what became of them; `left` are tensors of the source that found no place.

    `meaning` says where the two models read the network's input or output differently: then training must first
    unlearn.
    """

    kept: tuple[str, ...]
    resized: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    meaning: tuple[str, ...] = ()

    def text(self) -> str:
        """A few lines for people."""
        lines = [
            f"{len(self.kept)} tensors kept, {len(self.resized)} resized, {len(self.new)} new, {len(self.left)} left"
        ]
        for title, names in (("resized", self.resized), ("new", self.new), ("left", self.left)):
            if names:
                lines.append(
                    f"  {title}: " + ", ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "")
                )
        lines += [f"  note: {what}" for what in self.meaning]
        return "\n".join(lines)


@torch.no_grad()
def adapt(model: Model, source: str | Path, *, weights: str | None = None) -> Adaptation:
    """Load what fits of another model into this one, in place.

    Tensors of equal shape are kept. Class vectors go by class name, the null class by its role. Another tensor of the
    same rank takes over the part that both have; what has no counterpart keeps its fresh start. Inputs that the other
    had not, as of a picture to start from, begin unheard.

    Args:
        model: takes over what fits.
        source: run or model folder.
        weights: of the source; the default profile when None.

    Raises:
        ValueError: nothing fits at all.
    """
    other, _, _ = model_folder.read(find_model(source), weights=weights)
    theirs = _renamed(other.state_dict(), _prefix(other.conditioner), _prefix(model.conditioner))
    my_labels, their_labels = _labels(model.conditioner), _labels(other.conditioner)
    here = _prefix(model.conditioner) + _TABLE
    mine = model.state_dict()
    kept: list[str] = []
    resized: list[str] = []
    new: list[str] = []
    for name, value in mine.items():
        found = theirs.get(name)
        if name == here and my_labels is not None and their_labels is not None:
            found = theirs[here]
            same = my_labels.classes == their_labels.classes and found.shape == value.shape
            (kept if same else resized).append(name)
            _classes(value, found, my_labels.classes, their_labels.classes)
        elif found is not None and found.shape == value.shape:
            value.copy_(found)
            kept.append(name)
        elif found is not None and found.dim() == value.dim():
            part = tuple(slice(min(a, b)) for a, b in zip(value.shape, found.shape, strict=True))
            value[part] = found[part]
            if value.dim() > 1 and value.shape[0] == found.shape[0] and value.shape[1] > found.shape[1]:
                value[:, found.shape[1] :] = 0.0
            resized.append(name)
        else:
            new.append(name)
    if not kept:
        raise ValueError(
            f"no tensor of {source} fits this model; --init-from needs a model of the same kind of network"
        )
    model.load_state_dict(mine)
    left = [name for name in theirs if name not in mine]
    return Adaptation(tuple(kept), tuple(resized), tuple(new), tuple(left), _meaning(model, other))


def _prefix(conditioner: Conditioner | None) -> str:
    """Where the tensors lie of what reads classes or texts: by itself or as a part of a conditioner."""
    return "conditioner.labels." if isinstance(conditioner, PairConditioner) else "conditioner."


def _renamed(tensors: Mapping[str, Tensor], theirs: str, mine: str) -> dict[str, Tensor]:
    """The same with what reads classes or texts where this model has it."""
    if theirs == mine:
        return dict(tensors)
    return {mine + n.removeprefix(theirs) if n.startswith(theirs) else n: v for n, v in tensors.items()}


def _labels(conditioner: Conditioner | None) -> ClassLabels | None:
    asking = None if conditioner is None else conditioner.asking
    return asking if isinstance(asking, ClassLabels) else None


def _meaning(mine: Model, theirs: Model) -> tuple[str, ...]:
    a, b = theirs.denoiser, mine.denoiser
    pairs = (
        ("predicted", a.parameterization, b.parameterization),
        ("trained on the schedule", a.trained_schedule, b.trained_schedule),
        ("told the noise level by", a.noise_map, b.noise_map),
    )
    return tuple(
        f"the source {what} {_name(x)}, this model {_name(y)}" for what, x, y in pairs if to_spec(x) != to_spec(y)
    )


def _name(part: object) -> str:
    arguments = {k: v for k, v in to_spec(part).items() if k != "type" and isinstance(v, (int, float))}
    return type(part).__name__ + (f"({', '.join(f'{k}={v:.3g}' for k, v in arguments.items())})" if arguments else "")


def _classes(value: Tensor, found: Tensor, mine: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    width = min(value.shape[1], found.shape[1])
    rows: Mapping[str, int] = {name: i for i, name in enumerate(theirs)}
    for i, name in enumerate(mine):
        if name in rows:
            value[i, :width] = found[rows[name], :width]
    value[-1, :width] = found[-1, :width]
