"""The classifier that judges samples: it learns, it repeats itself, and it leaves the caller's random state alone."""

import numpy as np
import pytest
import torch

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.metrics.classifier import train_classifier


def stripes(count: int, seed: int, *, labelled: bool = True) -> ArrayPictures:
    """Two classes that differ by the direction of their stripes alone."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    phase = rng.integers(0, 4, count)
    ramp = np.arange(12)
    lines = ((ramp[None, :] + phase[:, None]) % 4 < 2) * 160
    pictures = np.where(labels[:, None, None] == 0, lines[:, None, :], lines[:, :, None]) + rng.integers(
        0, 90, (count, 12, 12)
    )
    stored = pictures.astype(np.uint8)[:, None]
    spec = DataSpec.measure(stored, classes=("upright", "level"))
    return ArrayPictures(spec, stored, labels=labels if labelled else None)


def test_it_learns_and_repeats_itself() -> None:
    train, held_out = stripes(200, 0), stripes(100, 1)
    before = torch.random.get_rng_state()
    first, second, other = (train_classifier(train, steps=25, batch=32, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    x = held_out.spec.to_model(held_out.read(range(100)))
    assert first.accuracy(x, held_out.labels) >= 0.97
    assert first.accuracy(x, 1 - held_out.labels) <= 0.03
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), other(x))
    assert torch.equal(first.predict(x, batch=7), first(x).argmax(dim=1))
    features = first.features(x)
    assert features.shape[0] == 100
    assert torch.equal(first.head(features), first(x))
    torch.testing.assert_close(first.features(x[:1]), features[:1], atol=1e-4, rtol=1e-4)


def test_pictures_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="needs pictures with labels"):
        train_classifier(stripes(20, 0, labelled=False), steps=1)


def test_accuracy_needs_as_many_labels_as_pictures() -> None:
    model = train_classifier(stripes(40, 0), steps=1, batch=8)
    with pytest.raises(ValueError, match="as many labels"):
        model.accuracy(torch.zeros(2, 1, 12, 12), torch.zeros(3, dtype=torch.int64))
