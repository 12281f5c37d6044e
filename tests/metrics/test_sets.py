"""Laws of picture sets: quantised as files are, identified by their content, taken and joined in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.metrics.sets import PictureSet


def some(n=6, *, channels=1, dtype=np.uint8, seed=0, labels=True):
    high = 255 if dtype == np.uint8 else 65535
    stored = np.random.default_rng(seed).integers(0, high, (n, channels, 4, 3), dtype=dtype, endpoint=True)
    spec = DataSpec.measure(stored, classes=("a", "b"), mode="L" if channels == 1 else "RGB")
    return ArrayPictures(spec, stored, labels=[i % 2 for i in range(n)] if labels else None)


@given(st.lists(st.floats(-2.0, 2.0, width=32), min_size=12, max_size=12))
def test_samples_become_the_nearest_stored_integers(values):
    spec = some().spec
    x0 = torch.tensor(values).reshape(1, 1, 4, 3)
    found = PictureSet.sampled(x0, spec).stored
    exact = (x0.clamp(-1.0, 1.0).double() + 1.0) * 127.5
    assert found.dtype == torch.uint8
    assert float((found.double() - exact).abs().max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stored_pictures_come_back_bit_for_bit(dtype):
    pictures = PictureSet.read(some(dtype=dtype))
    again = PictureSet.sampled(pictures.x(), pictures.spec, pictures.labels)
    assert torch.equal(again.stored.long(), pictures.stored.long())
    assert again.hash == pictures.hash
    assert float(pictures.x().abs().max()) <= 1.0
    assert pictures.x().dtype == torch.float32


def test_samples_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError):
        PictureSet.sampled(torch.full((1, 1, 4, 3), float("nan")), some().spec)


def test_the_hash_sees_pixels_order_labels_and_shape():
    pictures = PictureSet.read(some())
    changed = pictures.stored.clone()
    changed[3, 0, 2, 1] ^= 1
    labels = pictures.labels.clone()
    labels[0] = 1
    others = [
        PictureSet(changed, pictures.spec, pictures.labels),
        PictureSet(pictures.stored, pictures.spec, labels),
        PictureSet(pictures.stored, pictures.spec),
        pictures.take(range(5)),
        pictures.take([1, 0, 2, 3, 4, 5]),
    ]
    assert len({pictures.hash, *(other.hash for other in others)}) == 6
    assert pictures.hash == PictureSet(pictures.stored.clone(), pictures.spec, pictures.labels.clone()).hash
    # Where from does not matter, and memory order neither.
    turned = pictures.stored.transpose(2, 3).contiguous().transpose(2, 3)
    assert PictureSet(turned, pictures.spec, pictures.labels, {"model": "m"}).hash == pictures.hash


@given(st.lists(st.integers(0, 5), max_size=8))
def test_taking_keeps_pictures_and_labels_together(rows):
    pictures = PictureSet.read(some())
    taken = pictures.take(rows)
    assert len(taken) == len(rows)
    for place, row in enumerate(rows):
        assert torch.equal(taken.stored[place], pictures.stored[row])
        assert taken.labels[place] == pictures.labels[row]
    assert isinstance(taken.hash, str)


def test_reading_rows_and_joining():
    data = some()
    whole = PictureSet.read(data)
    parts = PictureSet.read(data, [0, 2, 4]), PictureSet.read(data, np.array([1, 3, 5]))
    joined = parts[0].join(parts[1])
    assert joined.hash == whole.take([0, 2, 4, 1, 3, 5]).hash
    assert joined.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert parts[0].join(PictureSet(parts[1].stored, data.spec)).labels is None
    empty = PictureSet.read(data, [])
    assert len(empty) == 0
    assert empty.x().shape == (0, 1, 4, 3)
    assert whole.join(empty).hash == whole.hash
    assert whole.origin == {"source": data.fingerprint}
    assert whole.x(slice(1, 3)).shape == (2, 1, 4, 3)


def test_what_does_not_fit_is_refused():
    pictures = PictureSet.read(some())
    with pytest.raises(ValueError, match="6 pictures have 5 labels"):
        PictureSet(pictures.stored, pictures.spec, pictures.labels[:5])
    with pytest.raises(ValueError, match="do not make one set"):
        pictures.join(PictureSet.read(some(channels=3)))
    with pytest.raises(ValueError):
        PictureSet(pictures.stored.float(), pictures.spec)


def test_the_quantiser_says_its_bits():
    assert PictureSet.read(some()).quantiser == "clamped, half to even, 8 bits"
    assert PictureSet.read(some(dtype=np.uint16)).quantiser.endswith("16 bits")
