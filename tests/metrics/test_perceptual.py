"""The distance between the layers of a classifier."""

import pytest
import torch

from kakusan.metrics.classifier import Classifier
from kakusan.metrics.perceptual import perceptual_distance


def pictures(seed, side=16):
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def judge(shrink=1):
    return Classifier(channels=3, classes=2, shrink=shrink).eval()


def test_it_is_a_symmetric_distance_that_is_zero_for_equal_pictures():
    model, a, b = judge(), pictures(1), pictures(2)
    torch.testing.assert_close(perceptual_distance(model, a, a), torch.zeros(3))
    torch.testing.assert_close(perceptual_distance(model, a, b), perceptual_distance(model, b, a))
    assert (perceptual_distance(model, a, b) > 0.0).all()
    # Unit vectors are at most 2 apart after each of four stages.
    assert (perceptual_distance(model, a, b) <= 16.0).all()


def test_it_is_the_sum_over_stages_of_what_unit_vectors_differ_by():
    model, a, b = judge(), pictures(1), pictures(2)
    total = torch.zeros(3)
    for stage in (3, 6, 9, 12):
        u, v = model.body[:stage](a), model.body[:stage](b)
        u, v = (w / w.norm(dim=1, keepdim=True).clamp_min(1e-6) for w in (u, v))
        total += (u - v).square().sum(1).mean((1, 2))
    torch.testing.assert_close(perceptual_distance(model, a, b), total)


def test_more_of_another_picture_is_further_away_and_pictures_are_measured_alone():
    model, a, b = judge(), pictures(1), pictures(2)
    shares = [perceptual_distance(model, a + share * (b - a), a) for share in (0.05, 0.2, 0.6)]
    assert (shares[0] < shares[1]).all()
    assert (shares[1] < shares[2]).all()
    torch.testing.assert_close(perceptual_distance(model, a[1:2], b[1:2]), perceptual_distance(model, a, b)[1:2])


def test_large_pictures_are_shrunk_as_the_judge_does():
    model, a, b = judge(shrink=2), pictures(1), pictures(2)
    checker = torch.tensor([1.0, -1.0]).repeat(8)
    invisible = a + 0.1 * checker.view(1, 1, 1, -1)
    torch.testing.assert_close(perceptual_distance(model, invisible, a), torch.zeros(3), rtol=0.0, atol=1e-6)
    with pytest.raises(ValueError, match="cannot be compared"):
        perceptual_distance(model, a, b[:2])
