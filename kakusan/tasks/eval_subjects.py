"""What is evaluated: a run, a rival, or a folder of pictures from any tool, and the real pictures beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from kakusan.config import DataSettings
from kakusan.data.source import Pictures, open_data
from kakusan.metrics.record import digest
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.model_folder import FACTS
from kakusan.pipeline import Pipeline, load
from kakusan.rivals import load as load_rival
from kakusan.run_folder import CONFIG, find_model
from kakusan.tasks.eval_samples import PictureModel
from kakusan.train.reopen import reopen_parts
from kakusan.train.sources import open_parts

Say = Callable[[str], None]
POOL = 2048
"""Real pictures that samples are compared with, where there are so many; four times as many as samples beyond."""
_RESIZER = "crop of the middle, Lanczos (kakusan.data.fit.CenterCrop)"


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Args:
        name: for people.
        training: real pictures that it was trained on.
        held_out: real pictures that it was not trained on.
        out: where the results go when nothing else is said.
        model: what samples are drawn from; None for ready pictures.
        pictures: ready pictures; None for a model.
        notes: what a reader must know.
    """

    name: str
    training: Pictures
    held_out: Pictures
    out: Path
    model: PictureModel | None = None
    pictures: Pictures | None = None
    resizer: str = "none"
    notes: tuple[str, ...] = ()

    def reference(self, num: int) -> Reference:
        """The real pictures, dealt out, as many of them as `num` samples need: more cost time and change little."""
        whole = Reference.of(self.training, self.held_out)
        most = max(POOL, 4 * num)
        if len(whole.pool) <= most:
            return whole
        order = torch.randperm(len(whole.pool), generator=torch.Generator().manual_seed(0))
        return dataclasses.replace(whole, pool=whole.pool.take(order[:most].sort().values))

    def ready(self, reference: Reference, num: int, seed: int) -> PictureSet:
        """Some of the ready pictures, chosen by chance, with the labels of classes that the real ones have too."""
        assert self.pictures is not None
        pictures, classes = self.pictures, reference.pool.spec.classes
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
        some = PictureSet.read(pictures, order[:num].sort().values.numpy())
        known = {name: i for i, name in enumerate(classes)}
        names = pictures.spec.classes
        labels = None
        if some.labels is not None and names and all(name in known for name in names):
            labels = torch.tensor([known[names[int(label)]] for label in some.labels])
        origin = {
            "model": digest(pictures.fingerprint),
            "seeds": f"{len(some)} of {len(pictures)} pictures, chosen with the seed {seed}",
            "conditions": "none" if labels is None else "the classes of its folders",
            "resizer": self.resizer,
        }
        spec = dataclasses.replace(reference.pool.spec, classes=classes)
        # By way of model units: the real pictures' integers may have another range.
        return PictureSet.sampled(some.x(), spec, labels, origin)


def open_subject(path: Path, *, data: str | None, weights: str | None, device: torch.device, say: Say) -> Subject:
    """Find out what lies at `path`, and open it.

    Raises:
        ValueError: nothing that can be evaluated, or real pictures that cannot be found or do not fit.
    """
    if (path / CONFIG).is_file() or (path / FACTS).is_file() or path.name in ("best", "latest"):
        folder = find_model(path)
        return _of_model(path, folder, data, weights, device, say)
    if not path.exists():
        raise ValueError(f"there is no run, model or folder of pictures at {path}; `kakusan list` shows the runs")
    return _of_folder(path, data, weights, say)


def _of_model(
    path: Path, folder: Path, data: str | None, weights: str | None, device: torch.device, say: Say
) -> Subject:
    # A run has a folder of its own; beside a single checkpoint, not in it, since its files are checked.
    out = path / "eval" if (path / CONFIG).is_file() else path.with_name(path.name + "-eval")
    model = _load(folder, weights, device)
    if isinstance(model, Pipeline):
        source = data or str(model.facts.training.get("source", "its data"))
        say(f"opening the real pictures of {source}")
        training, held_out = reopen_parts(model, data)
        return Subject(str(path), training, held_out, out, model=model, notes=tuple(held_out.notes))
    if data is None:
        raise ValueError("a rival does not say where its pictures are; name them with --data")
    say(f"opening the real pictures of {data}")
    training, held_out = _parts(data, model.data.size[0])
    if training.spec.shape != model.data.shape:
        raise ValueError(f"the pictures of {data} are {training.spec.shape}, the model draws {model.data.shape}")
    return Subject(str(path), training, held_out, out, model=model, notes=tuple(held_out.notes))


def _load(folder: Path, weights: str | None, device: torch.device) -> PictureModel:
    import json

    facts = json.loads((folder / FACTS).read_text("utf-8")) if (folder / FACTS).is_file() else {}
    open_model: Callable[..., PictureModel] = load_rival if "rival" in facts else load
    return open_model(folder, weights=weights, device=device)


def _of_folder(path: Path, data: str | None, weights: str | None, say: Say) -> Subject:
    if data is None:
        raise ValueError(f"{path} is no run, so it is taken for pictures; name the real ones to compare with by --data")
    if weights is not None:
        raise ValueError(f"{path} is no model, so it has no weights {weights!r}")
    say(f"opening the real pictures of {data}")
    training, held_out = _parts(data, None)
    spec = training.spec
    say(f"opening the pictures of {path}")
    pictures = open_data(path, size=(spec.size[0], spec.size[1]), channels=spec.channels)
    if pictures.spec.shape != spec.shape or pictures.spec.bits != spec.bits:
        raise ValueError(
            f"the pictures of {path} are {pictures.spec.shape} of {pictures.spec.bits} bits, the real ones "
            f"{spec.shape} of {spec.bits}; they must be of one kind"
        )
    resizer = _RESIZER if _resized(path, spec.size) else "none"
    notes = [] if resizer == "none" else [f"the pictures were brought to the size of the real ones: {resizer}"]
    notes.append("whether whoever made these pictures knew the held-out ones is not known here")
    out = path.with_name(path.name + "-eval")
    return Subject(str(path), training, held_out, out, pictures=pictures, resizer=resizer, notes=tuple(notes))


def _parts(data: str, size: int | None) -> tuple[Pictures, Pictures]:
    return open_parts(DataSettings(source=data, size=size), seed=0)


def _resized(path: Path, size: tuple[int, ...]) -> bool:
    """Whether any picture below the folder is of another size; archives are not looked into."""
    if not path.is_dir():
        return True
    for file in path.rglob("*"):
        try:
            with Image.open(file) as image:
                if image.size[::-1] != tuple(size):
                    return True
        except (OSError, ValueError):
            continue
    return False
