"""The space "classifier", and the judge of what samples show: one network, trained on labelled pictures."""

from __future__ import annotations

from pathlib import Path

from kakusan.data.source import ArrayPictures
from kakusan.metrics.classifier import Classifier, train_classifier
from kakusan.metrics.reference import Reference
from kakusan.metrics.spaces.shapes import check_size, learnt_from, resizer_of, shrink_for
from kakusan.metrics.spaces.store import ALONE, Opening, Say, recall
from kakusan.metrics.spaces.whitening import WhitenedSpace

VERSION = 1
STEPS, BATCH, SEED = 150, 64, 0
_LIMIT = 40


def can_judge(reference: Reference) -> bool:
    """Whether the learning part shows at least two classes."""
    learning = reference.learning
    if learning.labels is None or len(learning.spec.classes) < 2:
        return False
    return len(learning.labels.unique()) > 1


def open_judge(reference: Reference, *, folder: Path | None = None, say: Say | None = None) -> Classifier | None:
    """The classifier trained on the learning part, or read from where it is kept; None without labels.

    It has seen no picture of the pool. The space "classifier" is made of the same network.

    Args:
        reference: the real pictures.
        folder: where trained networks are kept; None keeps them nowhere.
        say: takes lines for people.

    Raises:
        ValueError: data that are not pictures (H, W).
    """
    how = Opening(folder, say)
    if not can_judge(reference):
        return None
    learning = reference.learning
    spec, labels = learning.spec, learning.labels
    shrink = shrink_for(check_size(spec), _LIMIT)

    def train() -> Classifier:
        how.tell(
            f"training a classifier on {len(learning)} pictures of {len(spec.classes)} classes, "
            "about half a minute on one core"
        )
        pictures = ArrayPictures(spec, learning.stored, labels=labels, fingerprint=learning.hash)
        return train_classifier(pictures, steps=STEPS, batch=BATCH, seed=SEED, shrink=shrink)

    facts = {"version": VERSION, "steps": STEPS, "batch": BATCH, "seed": SEED, **learnt_from(reference)}
    return recall(
        "classifier",
        facts,
        lambda: Classifier(channels=spec.channels, classes=len(spec.classes), shrink=shrink),
        train,
        how,
    )


def open_classifier(reference: Reference, how: Opening = ALONE) -> WhitenedSpace:
    """The space "classifier": what the last layer of the judge sees, whitened; its network is the judge.

    Raises:
        ValueError: pictures without labels of at least two classes.
    """
    judge = open_judge(reference, folder=how.folder, say=how.say)
    if judge is None:
        raise ValueError(
            "the feature space 'classifier' needs real pictures with labels of at least two classes; use "
            "'self-supervised', which needs none, or a folder of class sub-folders"
        )
    return WhitenedSpace(
        "classifier",
        judge,
        reference.learning,
        judge.features,
        version=VERSION,
        resizer=resizer_of(judge.shrink),
    )
