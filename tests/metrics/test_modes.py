import math

import pytest
import torch
from fault_scenes import ByPlace, blobs, evaluation, labels_of, samples
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.clusters import Clusters, Thumbnail
from kakusan.metrics.modes import _tails, is_missing, mode_counts, mode_records, modes_of
from kakusan.metrics.sets import PictureSet


@given(st.integers(2, 12), st.integers(2, 12), st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_the_table_of_tails_is_hypergeometric(n: int, m: int, found: list[int]) -> None:
    found = [min(count, n + m) for count in found]
    table = _tails(torch.tensor(found), n, m)
    for row, count in zip(table, found, strict=True):
        exact = 0.0
        for a in range(min(n, max(found)) + 1):
            if a <= count and 0 <= count - a <= m:
                exact += math.comb(n, a) * math.comb(m, count - a) / math.comb(n + m, count)
            assert float(row[a]) == pytest.approx(exact, abs=1e-9)


def test_all_classes_of_real_pictures_are_there() -> None:
    world = evaluation()
    perfect = samples(0, 128, world.reference.pool.spec)
    kinds = modes_of(world, ByPlace(), 128)  # type: ignore[arg-type]
    counts = mode_counts(kinds, perfect, world.reference.pool)
    assert [count.name for count in counts] == ["north", "east", "south", "west"]
    assert sum(count.samples for count in counts) == 128
    assert not any(is_missing(count, 128, len(world.reference.pool), 0.01) for count in counts)


@pytest.mark.parametrize("labeled", [True, False])
def test_a_class_that_is_left_out_is_missing(labeled: bool) -> None:
    world = evaluation(labeled=labeled)
    spec = world.reference.pool.spec
    shown = labels_of(128)
    shown[shown == 2] = 1
    poor = PictureSet(blobs(77, shown), spec)
    kinds = modes_of(world, ByPlace() if labeled else None, 128)  # type: ignore[arg-type]
    counts = mode_counts(kinds, poor, world.reference.pool)
    missing = [count for count in counts if is_missing(count, 128, len(world.reference.pool), 0.001)]
    assert missing
    if labeled:
        assert [count.name for count in missing] == ["south"]
        assert missing[0].samples == 0


def test_chance_over_many_overlapping_clusters_is_kept() -> None:
    world = evaluation(labeled=False)
    kinds = modes_of(world, None, 64)
    chances = []
    for seed in range(20):
        perfect = samples(seed, 64, world.reference.pool.spec)
        chances.append(min(count.family_p for count in mode_counts(kinds, perfect, world.reference.pool, draws=300)))
    # Uniform or larger: a tenth of twenty is two; seven would come once in a thousand times.
    assert sum(chance < 0.1 for chance in chances) <= 6


def test_leaves_of_the_tree_share_out_all_pictures() -> None:
    world = evaluation(labeled=False)
    clusters = Clusters(Thumbnail(), world, smallest=0.1)
    pool = world.reference.pool
    strata = clusters.strata(pool)
    assert set(strata.tolist()) <= set(clusters.kinds)
    assert len(clusters.kinds) >= 4
    assert clusters.members(pool).shape == (len(pool), len(clusters.names))


def test_shares_are_records_beside_those_of_real_pictures() -> None:
    world = evaluation()
    perfect = samples(0, 128, world.reference.pool.spec)
    records = mode_records(world, perfect, judge=ByPlace())  # type: ignore[arg-type]
    assert [record.name for record in records] == [f"share of {name}" for name in ("north", "east", "south", "west")]
    assert sum(record.value for record in records) == pytest.approx(1.0)
    assert all(record.null == pytest.approx(0.25, abs=0.05) for record in records)
    unnamed = mode_records(evaluation(labeled=False), perfect, judge=None)
    assert sum(record.value for record in unnamed) == pytest.approx(1.0)
