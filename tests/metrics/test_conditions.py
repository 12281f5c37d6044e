from dataclasses import replace

import pytest
import torch
from fault_scenes import ByPlace, evaluation, samples

from kakusan.metrics.conditions import condition_count, condition_records, confusion
from kakusan.metrics.modes import JudgedClasses
from kakusan.metrics.significance import more


def test_errors_are_counted_beside_those_on_real_pictures_of_the_same_labels() -> None:
    world = evaluation()
    some = samples(0, 80, world.reference.pool.spec)
    assert some.labels is not None
    labels = some.labels.clone()
    labels[:10] = (labels[:10] + 1) % 4
    judge = JudgedClasses(ByPlace(), world)  # type: ignore[arg-type]
    count = condition_count(judge, replace(some, labels=labels), world.reference.pool)
    assert count is not None
    seen = judge.strata(some)
    assert count.wrong == int((seen != labels).sum())
    assert count.n == 80
    pool = world.reference.pool
    assert pool.labels is not None
    wrong = judge.strata(pool) != pool.labels
    each = [float(wrong[pool.labels == k].double().mean()) for k in range(4)]
    shares = torch.bincount(labels, minlength=4) / 80
    assert count.expected == pytest.approx(sum(float(s) * e for s, e in zip(shares, each, strict=True)), abs=1e-6)
    assert count.p == pytest.approx(
        more(count.wrong, 80, round(count.expected * count.equal_number), count.equal_number)
    )
    left = condition_count(judge, replace(some, labels=labels), pool, without={0, 1, 2})
    assert left is not None
    assert left.n == int((labels == 3).sum())


def test_real_pictures_are_weighted_to_the_labels_asked_for() -> None:
    class AlwaysNorth(ByPlace):
        def predict(self, x: torch.Tensor, *, batch: int = 256) -> torch.Tensor:
            return torch.zeros(len(x), dtype=torch.int64)

    world = evaluation()
    some = samples(0, 80, world.reference.pool.spec)
    asked = torch.tensor([0] * 50 + [1] * 10 + [3] * 20)
    judge = JudgedClasses(AlwaysNorth(), world)  # type: ignore[arg-type]
    count = condition_count(judge, replace(some, labels=asked), world.reference.pool)
    assert count is not None
    assert (count.wrong, count.expected) == (30, pytest.approx(30 / 80))


def test_the_share_that_ignores_its_label() -> None:
    world = evaluation()
    some = samples(0, 80, world.reference.pool.spec)
    assert some.labels is not None
    judge = JudgedClasses(ByPlace(), world)  # type: ignore[arg-type]
    # Every label is followed by each of the four classes equally often: nothing is known of it.
    free = replace(some, labels=torch.arange(80) // 20)
    count = condition_count(judge, free, world.reference.pool)
    assert count is not None
    assert count.ignoring(4) == pytest.approx(1.0, abs=0.05)
    table = confusion(judge, free)
    assert table is not None
    assert table.sum(1).tolist() == [20, 20, 20, 20]


def test_records_stand_beside_the_judges_own_accuracy() -> None:
    world = evaluation()
    some = samples(0, 80, world.reference.pool.spec)
    records = condition_records(world, some, judge=ByPlace(), by_class=True)  # type: ignore[arg-type]
    assert [record.name for record in records][:2] == ["condition accuracy", "condition accuracy of north"]
    assert len(records) == 5
    assert records[0].value > 0.95
    assert records[0].null == pytest.approx(records[0].value, abs=0.05)
    assert condition_records(world, some, judge=None) == []
    assert condition_records(world, replace(some, labels=None), judge=ByPlace()) == []  # type: ignore[arg-type]
