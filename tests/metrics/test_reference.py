"""Laws of the reference: no picture is used for two things that must not meet, proportions are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet


def numbered(count, start=0, classes=("a", "b", "c"), labels=None):
    """Pictures that are each its own number."""
    numbers = np.arange(start, start + count, dtype=np.uint16)
    stored = np.zeros((count, 1, 2, 2), np.uint16)
    stored[:, 0, 0, 0] = numbers
    spec = DataSpec.measure(stored, high=65535.0, classes=classes, mode="L")
    given_labels = [i % len(classes) for i in range(count)] if labels is None and classes else labels
    return ArrayPictures(spec, stored, labels=given_labels)


def numbers(pictures):
    return set(pictures.stored[:, 0, 0, 0].long().tolist())


@given(st.integers(0, 200), st.integers(0, 200), st.integers(16, 120), st.integers(0, 9))
def test_parts_are_disjoint_and_nothing_is_read_twice(training, held_out, most, seed):
    if training + held_out < 64 or training < 2 or held_out < 1:
        return
    reference = Reference.of(numbered(training), numbered(held_out, 1000), seed=seed, most=most, most_training=70)
    learning, pool = numbers(reference.learning), numbers(reference.pool)
    assert not learning & pool
    assert len(learning) == len(reference.learning) == min(most, training // 2)
    assert len(pool) == len(reference.pool) == min(most, min(most, held_out) + training - len(learning))
    assert max(learning) < 1000
    assert numbers(reference.held_out) <= pool
    assert min(numbers(reference.held_out)) >= 1000
    assert len(reference.training) == min(70, training)
    assert max(numbers(reference.training)) < 1000
    assert reference.most() == len(pool) // 2


def test_a_seed_deals_and_the_hash_says_what_was_dealt():
    first, again, other = (Reference.of(numbered(100), numbered(20, 1000), seed=seed) for seed in (0, 0, 1))
    assert first.hash == again.hash != other.hash
    assert first.learning_hash == again.learning_hash != other.learning_hash


def test_without_held_out_pictures_the_training_pictures_are_the_pool():
    held_out = numbered(2, 1000)
    empty = PictureSet.read(held_out, [])
    nothing = ArrayPictures(held_out.spec, np.zeros((0, 1, 2, 2), np.uint16), labels=[], fingerprint="none")
    reference = Reference.of(numbered(64), nothing)
    assert len(reference.held_out) == len(empty) == 0
    assert numbers(reference.learning) | numbers(reference.pool) == set(range(64))
    assert reference.most() == 16


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="at least 64 real pictures, these are 40 and 23"):
        Reference.of(numbered(40), numbered(23, 1000))


@given(st.lists(st.integers(0, 2), min_size=64, max_size=90), st.integers(1, 60))
def test_proportions_are_exact(labels, n):
    pictures = PictureSet.read(numbered(len(labels), labels=labels))
    reference = Reference(pictures, pictures, pictures, pictures)
    found = reference.proportions(n)
    assert len(found) == n
    counts = torch.bincount(found, minlength=3).double()
    exact = torch.bincount(torch.tensor(labels), minlength=3).double() * n / len(labels)
    # Each class by its share, rounded up or down; and whole shares exactly.
    assert float((counts - exact).abs().max()) < 1.0
    assert torch.equal(found, found.sort().values)
    everyone = reference.proportions(len(labels))
    assert torch.equal(everyone, torch.tensor(labels).sort().values)


def test_the_larger_remainder_gets_what_is_left_and_the_earlier_class_where_equal():
    pictures = PictureSet.read(numbered(70, labels=[0] * 7 + [1] * 21 + [2] * 42))
    reference = Reference(pictures, pictures, pictures, pictures)
    # 10: shares 1, 3, 6. 11: 1.1, 3.3, 6.6. 5: 0.5, 1.5, 3.
    for n, expected in ((10, [1, 3, 6]), (11, [1, 3, 7]), (5, [1, 1, 3])):
        assert torch.bincount(reference.proportions(n), minlength=3).tolist() == expected


def test_without_classes_there_are_no_proportions():
    pictures = PictureSet.read(numbered(70, classes=()))
    assert Reference(pictures, pictures, pictures, pictures).proportions(10) is None
