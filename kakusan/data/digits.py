"""Scikit-learn's handwritten digits: 1797 real scans of 8 by 8 pixels with 17 levels of gray.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kakusan.extras import need
from kakusan.specs import suggestion

if TYPE_CHECKING:
    from kakusan.data.source import ArrayPictures

CLASSES = tuple("0123456789")
HELD_OUT_EVERY = 5
"""Every fifth scan of each digit, in the file's order, is held out."""


def pictures(split: str = "train") -> ArrayPictures:
    """The scans: (N, 1, 8, 8) with levels 0 to 16 and their digit as label. About four in five are for training.

    Raises:
        ValueError: an unknown split.
        ImportError: scikit-learn is not installed.
    """
    from kakusan.data.source import ArrayPictures
    from kakusan.data.spec import DataSpec

    if split not in ("train", "held-out"):
        raise ValueError(f"the digits have no split {split!r}{suggestion(split, ['train', 'held-out'])}")
    scans = need("sklearn.datasets", extra="digits", what="the data set digits").load_digits()
    labels = scans.target.astype(np.int64)
    stored = scans.images.astype(np.uint8)[:, None]
    rank = np.zeros(len(labels), np.int64)
    for digit in range(len(CLASSES)):
        members = labels == digit
        rank[members] = np.arange(members.sum())
    held_out = rank % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    chosen = np.flatnonzero(held_out == (split == "held-out"))
    # The statistics are those of the training part in both, so that both have one spec.
    spec = DataSpec.measure(stored[~held_out], low=0.0, high=16.0, mode="L", classes=CLASSES)
    return ArrayPictures(
        spec,
        stored[chosen],
        labels=labels[chosen],
        names=[f"digits/{index}" for index in chosen],
        captions=[f"a handwritten digit {labels[index]}" for index in chosen],
    )
