"""Laws of the splits: parts are dealt fairly, the standard error is that of known statistics, the null is a null."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.distance import Cloud, Distance, Splits, deal
from kakusan.metrics.distances import DISTANCES

NAMES = {"frechet", "kernel", "sliced", "precision", "recall", "density", "coverage", "two-sample"}


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 20), st.integers(1, 4), st.integers(0, 99))
def test_parts_are_disjoint_and_hold_each_class_evenly(parts, size, more, classes, seed):
    total = parts * size + more
    labels = torch.randint(classes, (total,), generator=dice(seed))
    dealt = deal(total, parts, size, dice(seed), labels)
    assert [len(part) for part in dealt] == [size] * parts
    rows = torch.cat(dealt)
    assert len(rows.unique()) == parts * size
    assert int(rows.min()) >= 0
    assert int(rows.max()) < total
    counts = torch.stack([torch.bincount(labels[part], minlength=classes) for part in dealt]).double()
    # Of a class that fills a run of places each part gets its share, to the odd one at either end.
    share = torch.bincount(labels, minlength=classes) * size / total
    assert float((counts - share).abs().max()) <= 2.0


def test_every_row_is_as_likely_in_every_part():
    labels = torch.tensor([0] * 5 + [1] * 8)
    counts = torch.zeros(3, 13)
    generator = dice(1)
    for _ in range(2000):
        for i, part in enumerate(deal(13, 3, 4, generator, labels)):
            counts[i, part] += 1
    # Each of 13 rows in each of 3 parts: 4 / 13 of the time, with a deviation of 0.0103.
    assert float((counts / 2000 - 4 / 13).abs().max()) < 0.06


def test_more_parts_than_rows_are_refused():
    with pytest.raises(ValueError, match="need 12 rows, there are 11"):
        deal(11, 3, 4, dice())


@pytest.mark.parametrize("n", [40, 41, 43])
def test_the_standard_error_of_a_mean_is_the_known_one(n):
    x = normal(3 * n)
    found = Splits(count=4, turns=600).measure(lambda a, b: float(x[a].mean()), n=n, pool=2 * n)
    known = float(x[:n].std()) / math.sqrt(n)
    # 600 turns of 3 degrees of freedom.
    assert found.stderr == pytest.approx(known, rel=0.05 + 1.5 / n)
    assert found.value == pytest.approx(float(x[:n].mean()))


def test_the_standard_error_covers_other_samples_of_the_same_law():
    # The same over many sample sets: the squared errors have the mean of the true variance, here 1 / n.
    n = 32
    found = []
    for seed in range(150):
        x = normal(3 * n, seed=seed)
        found.append(Splits(count=2, turns=2).measure(lambda a, b, x=x: float(x[a].mean()), n=n, pool=2 * n).stderr)
    assert float(torch.tensor(found).square().mean()) == pytest.approx(1 / n, rel=0.12)


def test_what_the_classes_decide_is_not_an_error_when_each_is_asked_for_as_often():
    n = 40
    labels = torch.arange(n) % 4
    x = torch.cat([normal(n) * 0.1 + labels * 100.0, normal(2 * n)])
    compare = lambda a, b: float(x[a].mean())  # noqa: E731
    pool = torch.arange(2 * n) % 4
    by_class = Splits(count=2, turns=400).measure(compare, n=n, pool=2 * n, labels=labels, pool_labels=pool)
    plain = Splits(count=2, turns=400).measure(compare, n=n, pool=2 * n)
    within = math.sqrt(sum(float(x[:n][labels == k].var()) for k in range(4)) / 4 / n)
    # Quarters of a class of 10 are 2 or 3: proportions are kept to one picture, which costs a little.
    assert plain.stderr > 10.0
    assert by_class.stderr < 0.35 * plain.stderr
    even = torch.cat([normal(48, seed=1) * 0.1 + (torch.arange(48) % 4) * 100.0, normal(96)])
    exact = Splits(count=2, turns=400).measure(
        lambda a, b: float(even[a].mean()),
        n=48,
        pool=96,
        labels=torch.arange(48) % 4,
        pool_labels=torch.arange(96) % 4,
    )
    within = math.sqrt(sum(float(even[:48][torch.arange(48) % 4 == k].var()) for k in range(4)) / 4 / 48)
    assert exact.stderr == pytest.approx(within, rel=0.1)


def test_halves_are_cut_again_and_again_and_only_from_the_pool():
    calls = []

    def compare(a, b):
        calls.append((a, b))
        return 0.0

    n, pool, splits = 12, 30, Splits(count=5, turns=3)
    assert splits.measure(compare, n=n, pool=pool).stderr == 0.0
    assert len(calls) == splits.comparisons
    values, nulls = calls[:5], calls[5:10]
    for (samples, first), (second, again) in zip(values, nulls, strict=True):
        assert torch.equal(samples, torch.arange(n))
        assert torch.equal(first, again)
        assert len(torch.cat([first, second]).unique()) == 2 * n
        assert int(torch.cat([first, second]).min()) >= n
        assert int(torch.cat([first, second]).max()) < n + pool
    assert len({tuple(first.sort().values.tolist()) for _, first in values}) == 5
    for samples, real in calls[10:]:
        assert len(samples.unique()) == 9
        assert int(samples.max()) < n
        assert len(real) == n
        assert int(real.min()) >= n
    calls.clear()
    splits.measure(compare, n=n, pool=pool, paired=True)
    assert all(len(a) == len(b.unique()) == 9 for a, b in calls[10:])


def test_samples_of_the_real_law_score_the_null():
    # Exchangeable pictures: value - null has the mean 0, over sets of pictures.
    n, off = 24, {name: [] for name in DISTANCES}
    for seed in range(40):
        cloud = Cloud(normal(3 * n, 3, seed=seed))
        for name, build in DISTANCES.items():
            found = Splits(count=4, turns=1).measure(build().on(cloud), n=n, pool=2 * n)
            off[name].append(found.value - found.null)
    for name, differences in off.items():
        seen = torch.tensor(differences)
        assert abs(float(seen.mean())) < 4.0 * float(seen.std()) / math.sqrt(len(seen)), name


def test_a_seed_decides_everything_and_turns_decide_no_value():
    cloud = Cloud(normal(90, 4))
    compare = DISTANCES["frechet"]().on(cloud)
    first = Splits(count=3, turns=2).measure(compare, n=30, pool=60)
    assert first == Splits(count=3, turns=2).measure(compare, n=30, pool=60)
    more = Splits(count=3, turns=5).measure(compare, n=30, pool=60)
    assert (more.value, more.null, more.null_stderr) == (first.value, first.null, first.null_stderr)
    assert more.stderr != first.stderr
    assert Splits(count=3, seed=1).measure(compare, n=30, pool=60).value != first.value


@pytest.mark.parametrize("shape", [(8, 3), (16, 40), (17, 5), (33, 1)], ids=str)
@pytest.mark.parametrize("kind", ["normal", "constant", "far"])
def test_few_samples_odd_numbers_many_dimensions_and_constant_features_give_numbers(shape, kind):
    n, dim = shape
    features = normal(n + 2 * n + 3, dim)
    features = {"normal": features, "constant": torch.full_like(features, 0.1), "far": features + 1e8}[kind]
    cloud = Cloud(features)
    for name, build in DISTANCES.items():
        distance = build()
        found = Splits(count=3, turns=2).measure(distance.on(cloud), n=n, pool=2 * n + 3, paired=distance.paired)
        assert all(math.isfinite(v) for v in vars(found).values()), name
        if kind == "constant" and name in ("frechet", "kernel", "sliced"):
            assert found.value == pytest.approx(0.0, abs=1e-12), name


def test_every_distance_keeps_the_protocol():
    assert set(DISTANCES) == NAMES
    features = normal(30, 4)
    rows, others = torch.arange(10), torch.arange(10, 30)
    for name, build in DISTANCES.items():
        distance = build()
        assert isinstance(distance, Distance)
        assert distance.name == name
        assert distance.better in ("low", "high", "null")
        assert json.loads(json.dumps(dict(distance.settings()))) == dict(distance.settings())
        assert distance == build()
        assert hash(distance) == hash(build())
        assert distance.on(features)(rows, others) == distance.on(Cloud(features))(rows, others)
        # The rows say which pictures, not in what order.
        assert distance.on(features)(rows.flip(0), others.flip(0)) == pytest.approx(
            distance.on(features)(rows, others), rel=1e-9
        )


@pytest.mark.parametrize(
    ("n", "pool", "message"), [(7, 100, "at least 8 samples"), (20, 39, "need 40 real pictures"), (0, 10, "at least 8")]
)
def test_too_few_pictures_are_refused(n, pool, message):
    with pytest.raises(ValueError, match=message):
        Splits().measure(lambda a, b: 0.0, n=n, pool=pool)


def test_wrong_settings_and_features_are_refused():
    for wrong in ({"count": 1}, {"turns": 0}):
        with pytest.raises(ValueError, match="at least two cuts"):
            Splits(**wrong)
    for features in (torch.zeros(3), torch.zeros(0, 2), torch.zeros(2, 0)):
        with pytest.raises(ValueError, match="features are"):
            Cloud(features)
    with pytest.raises(ValueError, match="not finite"):
        Cloud(torch.tensor([[math.inf]]))


def test_distances_between_points_are_the_plain_ones():
    x = normal(40, 6) * 5.0 + 2.0
    assert torch.allclose(Cloud(x).distances.double(), torch.cdist(x, x), rtol=1e-6, atol=1e-6)
    assert torch.allclose(Cloud(x).products, (x - x.mean(0)) @ (x - x.mean(0)).T, rtol=1e-12, atol=1e-12)
