"""What a CLIP has learned: zero-shot classes, retrieval both ways, and the gap between its two kinds of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.encoders.clip import BRIDGES, Clip, Gap
from kakusan.metrics.retrieval import KS, Rate, accuracy, recall

TEMPLATES = ("{class}", "a {class}", "a picture of a {class}")
"""Texts about a class unless told otherwise."""
_SLOT = "{class}"


@dataclass(frozen=True)
class ZeroShot:
    """Classes told by their names alone.

    Args:
        rate: share of pictures whose own class has the nearest text.
        templates: the texts about a class that were averaged.
        names: of the classes, as they were put in.
    """

    rate: Rate
    templates: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Retrieval:
    """Finding a picture's text and a text's picture among held-out pairs.

    Args:
        to_text: k -> rate, of pictures that look for their text. Equal texts are one answer.
        to_picture: k -> rate, of different texts that look for a picture of theirs.
        texts: different ones.
    """

    to_text: Mapping[int, Rate]
    to_picture: Mapping[int, Rate]
    texts: int


@dataclass(frozen=True)
class ClipFigures:
    """Everything measured on one set of pairs.

    Args:
        pairs: pictures with a text.
        retrieval: both ways.
        gaps: by bridge, from texts to pictures.
        own: (n,) cosines of pictures with their own texts.
        others: cosines of pictures with other texts.
        zero_shot: None where there are no classes.
    """

    pairs: int
    retrieval: Retrieval
    gaps: Mapping[str, Gap]
    own: Tensor
    others: Tensor
    zero_shot: ZeroShot | None

    def record(self) -> dict[str, Any]:
        """Plain values."""
        found: dict[str, Any] = {
            "pairs": self.pairs,
            "texts": self.retrieval.texts,
            "image_to_text": {f"R@{k}": rate.record() for k, rate in self.retrieval.to_text.items()},
            "text_to_image": {f"R@{k}": rate.record() for k, rate in self.retrieval.to_picture.items()},
            "gap": {name: gap.record() for name, gap in self.gaps.items()},
        }
        if self.zero_shot is not None:
            shot = self.zero_shot
            found["zero_shot"] = {**shot.rate.record(), "templates": list(shot.templates), "names": list(shot.names)}
        return found


def bare_name(name: str) -> str:
    """A class name as people say it: `074_rose` and `74-Rose` are both "rose"."""
    words = name.lstrip("0123456789").replace("_", " ").replace("-", " ").strip().lower()
    return words or name


def known_templates(clip: Clip, templates: Sequence[str] = TEMPLATES) -> tuple[str, ...]:
    """The templates whose own words the text tower was shown while training; the bare name is always one."""
    found = [t for t in templates if t == _SLOT or not clip.text.report(t.replace(_SLOT, " ")).unknown]
    return tuple(found) or (_SLOT,)


def class_vectors(clip: Clip, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One direction (K, D) for each class: the mean over templates (Radford et al. 2021, section 3.1.4).

    Raises:
        ValueError: no names, or no templates.
    """
    if not names or not templates:
        raise ValueError("telling classes by their names needs at least one name and one template")
    each = [clip.embed_texts([template.replace(_SLOT, name) for name in names]) for template in templates]
    return F.normalize(torch.stack(each).mean(0), dim=-1)


def zero_shot(
    clip: Clip, images: Tensor, labels: Tensor, names: Sequence[str], *, templates: Sequence[str] | None = None
) -> ZeroShot:
    """Classes of pictures by the names alone.

    Args:
        images: (N, D) directions.
        labels: (N,) class indices.
        names: of the classes.
        templates: texts with `{class}`; those whose words training showed when None.
    """
    chosen = known_templates(clip) if templates is None else tuple(templates)
    vectors = class_vectors(clip, names, chosen)
    return ZeroShot(accuracy(images @ vectors.T, labels.to(images.device)), chosen, tuple(names))


def retrieval(images: Tensor, texts: Sequence[str], vectors: Tensor, ks: Sequence[int] = KS) -> Retrieval:
    """Both ways between N pictures and their N texts.

    Args:
        images: (N, D) directions.
        texts: N texts, of which some may be equal.
        vectors: (N, D) directions of the texts.
    """
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    place = {text: number for number, text in enumerate(first)}
    own = torch.tensor([place[text] for text in texts], device=images.device)
    right = F.one_hot(own, len(first)).bool()
    similarity = images @ vectors[list(first.values())].T
    return Retrieval(recall(similarity, right, ks), recall(similarity.T, right.T, ks), len(first))


def measure_clip(
    clip: Clip,
    images: Tensor,
    texts: Sequence[str],
    *,
    labels: Tensor | None = None,
    names: Sequence[str] = (),
    templates: Sequence[str] | None = None,
) -> ClipFigures:
    """Everything that the report shows.

    Args:
        images: (N, D) directions of pictures.
        texts: one text of each.
        labels: (N,) class indices; None where there are none.
        names: of the classes.
        templates: as `zero_shot` takes them.
    """
    vectors = clip.embed_texts(texts)
    cosines = images @ vectors.T
    different = torch.tensor([[a != b for b in texts] for a in texts])
    shot = None
    if labels is not None and len(names) >= 2:
        shot = zero_shot(clip, images, labels, names, templates=templates)
    return ClipFigures(
        len(texts),
        retrieval(images, texts, vectors),
        {name: Gap.between(images, bridge(clip, vectors)) for name, bridge in BRIDGES.items()},
        cosines.diagonal().cpu(),
        cosines.cpu()[different],
        shot,
    )
