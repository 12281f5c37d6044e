import math
from dataclasses import replace

import pytest
import torch
from fault_scenes import evaluation, samples

from kakusan.metrics.clusters import Thumbnail
from kakusan.metrics.diversity import PairDistance, diversity, diversity_records


def test_the_mean_over_pairs() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]).double()
    found = PairDistance.of(points)
    assert found is not None
    assert found.mean == pytest.approx((5 + 0 + 10 + 5 + 5 + 10) / 6)
    assert PairDistance.of(points[:2]) is None


def test_two_normal_points_are_two_over_root_pi_apart_within_the_stated_error() -> None:
    generator = torch.Generator().manual_seed(0)
    z = []
    for _ in range(40):
        found = PairDistance.of(torch.randn(100, 1, generator=generator).double())
        assert found is not None
        z.append((found.mean - 2 / math.sqrt(math.pi)) / (2 * found.spread / math.sqrt(found.n)))
    assert abs(sum(z) / 40) < 0.5
    assert 0.7 < torch.tensor(z).std() < 1.4


def test_real_pictures_are_as_diverse_as_real_pictures_and_one_picture_is_not() -> None:
    world, space = evaluation(), Thumbnail()
    some = samples(0, 96, world.reference.pool.spec)
    record = diversity_records(world, some, space)[0]
    assert record.ratio == pytest.approx(1.0, abs=0.15)
    assert record.z is not None
    assert abs(record.z) < 4
    assert some.labels is not None
    first = torch.stack([some.stored[some.labels == k][0] for k in range(4)])
    rows = diversity(world, replace(some, stored=first[some.labels]), space)
    assert [row.label for row in rows] == [0, 1, 2, 3]
    assert all(row.ratio == 0.0 for row in rows)
    assert len(diversity_records(world, some, space, by_class=True)) == 5


def test_without_labels_all_pictures_are_one_class() -> None:
    world = evaluation(labeled=False)
    some = samples(0, 32, world.reference.pool.spec)
    assert [record.name for record in diversity_records(world, some, Thumbnail())] == ["diversity"]
    assert diversity_records(world, some.take([0, 1]), Thumbnail()) == []
