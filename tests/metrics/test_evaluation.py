"""Laws of evaluations: records say everything they depend on, real features are computed once, bits repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kakusan.data.source import ArrayPictures
from kakusan.data.spec import DataSpec
from kakusan.metrics.distance import Splits
from kakusan.metrics.distances import DISTANCES
from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet


class Corner:
    """A space of two pixels, which counts the pictures that it saw."""

    name, hash, resizer = "corner", "corner-1", "none"

    def __init__(self):
        self.seen = 0

    def __call__(self, x):
        self.seen += len(x)
        return x[:, 0, 0, :2]


def drawn(count, seed, low=0):
    stored = np.random.default_rng(seed).integers(low, 256, (count, 1, 3, 3), dtype=np.uint8)
    spec = DataSpec.measure(stored, classes=("a", "b"), mode="L")
    return ArrayPictures(spec, stored, labels=[i % 2 for i in range(count)])


@pytest.fixture(scope="module")
def reference():
    return Reference.of(drawn(120, 0), drawn(40, 1))


def evaluation(reference, space=None, names=("frechet", "coverage")):
    return Evaluation(reference, [space or Corner()], [DISTANCES[n]() for n in names], Splits(count=3, turns=2))


def samples(reference, seed=2, n=24, low=0, **origin):
    found = PictureSet.read(drawn(n, seed, low))
    return PictureSet(found.stored, reference.pool.spec, found.labels, origin)


def test_records_say_what_they_depend_on(reference):
    given = {"model": "m", "weights": "ema", "sampling": {"steps": 4}, "seeds": "0 to 23", "conditions": "in turn"}
    records = list(evaluation(reference).measure(samples(reference, **given, seconds=1.0)))
    assert [r.name for r in records] == ["frechet", "coverage"]
    for record in records:
        assert (record.of.model, record.of.weights, record.of.sampling) == ("m", "ema", {"steps": 4})
        assert (record.of.seeds, record.of.conditions) == ("0 to 23", "in turn")
        assert (record.of.reference, record.of.extractor, record.of.resizer) == (reference.hash, "corner-1", "none")
        assert record.of.quantiser == reference.pool.quantiser
        assert (record.space, record.n) == ("corner", 24)
        assert record.of.settings["splits"] == 3
        assert MetricRecord.from_record(record.record()) == record
    assert records[1].of.settings["k"] == 5


def test_pictures_of_no_model_are_named_by_their_content(reference):
    first, second = (next(evaluation(reference).measure(samples(reference, seed))) for seed in (2, 3))
    assert first.of.model != second.of.model
    assert first.difference(second, across=["model"])[1] > 0.0
    with pytest.raises(ValueError, match="they differ in model"):
        first.difference(second)


def test_two_evaluations_are_equal_to_the_bit(reference):
    first, again = (list(evaluation(reference, names=tuple(DISTANCES)).measure(samples(reference))) for _ in range(2))
    assert first == again


def test_real_features_are_computed_once_and_those_of_samples_not_kept(reference):
    space = Corner()
    measured = evaluation(reference, space)
    list(measured.measure(samples(reference)))
    assert space.seen == 24 + len(reference.pool)
    list(measured.measure(samples(reference, 3)))
    assert space.seen == 48 + len(reference.pool)
    assert len(measured._known) == 1


def test_worse_pictures_score_worse(reference):
    good, bad = ({r.name: r for r in evaluation(reference).measure(samples(reference, low=low))} for low in (0, 200))
    assert bad["frechet"].ratio > 2.0 * good["frechet"].ratio
    assert bad["coverage"].value < good["coverage"].value
    # The same reference against itself; sums may end in another bit where the memory lies otherwise (MKL, AVX-512).
    assert bad["frechet"].null == pytest.approx(good["frechet"].null, rel=1e-12)


def test_classes_are_kept_in_proportion_where_the_samples_have_them(reference):
    pictures = samples(reference)
    plain = PictureSet(pictures.stored, pictures.spec, None)
    by_class, without = (next(evaluation(reference).measure(p)) for p in (pictures, plain))
    assert by_class.null != without.null
    assert (by_class.of.settings["cut_by_class"], without.of.settings["cut_by_class"]) == (True, False)
    assert without.of.model != by_class.of.model


def test_other_shapes_and_too_many_samples_are_refused(reference):
    with pytest.raises(ValueError, match=f"measure at most {reference.most()}"):
        list(evaluation(reference).measure(samples(reference, n=reference.most() + 1)))
    wide = np.zeros((10, 1, 3, 4), np.uint8)
    with pytest.raises(ValueError, match=r"the samples are \(1, 3, 4\)"):
        list(evaluation(reference).measure(PictureSet(torch.from_numpy(wide), DataSpec.measure(wide, mode="L"))))


def test_features_that_are_not_finite_are_refused(reference):
    class Broken(Corner):
        name, hash = "broken", "broken-1"

        def __call__(self, x):
            return x[:, 0, 0, :2] / 0.0

    with pytest.raises(ValueError, match="'broken' gives values that are not finite"):
        list(evaluation(reference, Broken()).measure(samples(reference)))
