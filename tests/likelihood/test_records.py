"""Records hold everything, survive JSON, and refuse comparison with what they do not measure."""

import dataclasses
import json
import math

import pytest
import torch
from likelihood_laws import draws_of, trefoil

from kakusan.likelihood import (
    Beta,
    Bound,
    Categorical,
    Chain,
    Density,
    Exact,
    Flow,
    LikelihoodRecord,
    UniformNoise,
)
from kakusan.schedules import Cosine
from kakusan.specs import from_spec


def record(**facts):
    terms = {"prior": torch.tensor([0.0, 1.0, 2.0]), "rest": torch.tensor([5.0, 3.0, 7.0])}
    return LikelihoodRecord.of(terms, **{"dims": 4, "levels": 17, "method": Bound(Categorical(17)).record()} | facts)


def test_means_errors_and_units():
    found = record()
    assert found.nats == pytest.approx(6.0)
    assert found.error == pytest.approx(math.sqrt(7.0 / 3.0))  # totals 5, 4, 9
    assert found.bits_per_dim == pytest.approx(6.0 / 4.0 / math.log(2.0))
    assert found.nats_per_dim == pytest.approx(1.5)
    assert sum(found.terms.values()) == pytest.approx(found.nats)
    plain = json.loads(json.dumps(found.record()))
    assert plain["bits_per_dim"] == found.bits_per_dim
    assert plain["method"]["type"] == "Bound"


def test_unlike_records_are_not_compared():
    one, other = record(data="a"), record(data="a", model="other")
    assert one.less(other) == (0.0, pytest.approx(math.sqrt(2.0) * one.bits_error))
    for change, match in (
        ({"data": "b"}, "data"),
        ({"n": 4}, "number of samples"),
        ({"dims": 5}, "size"),
        ({"levels": None}, "density"),
        ({"conditions": "labels"}, "conditions"),
    ):
        with pytest.raises(ValueError, match=match):
            one.less(dataclasses.replace(other, **change))


def test_values_that_are_none_are_refused():
    with pytest.raises(ValueError, match="sample 1 is nan"):
        LikelihoodRecord.of({"a": torch.tensor([1.0, math.nan])}, dims=1, levels=None, method={})
    with pytest.raises(ValueError, match="no samples"):
        LikelihoodRecord.of({"a": torch.zeros(0)}, dims=1, levels=None, method={})


@pytest.mark.parametrize(
    "method",
    [
        Bound(Density(), draws=4),
        Chain(Density(), 4, steps=20, variance=Beta()),
        Flow(None, Exact(), 8),
        Flow(UniformNoise(9), Exact(), 8, 2),
    ],
    ids=lambda m: type(m).__name__,
)
def test_every_method_comes_back_from_its_record(method):
    assert from_spec(json.loads(json.dumps(method.record())), type(method)) == method
    mixture = trefoil(Cosine())
    x = draws_of(mixture, 3) if method.levels is None else torch.tensor([[0.25, -0.5]] * 3, dtype=torch.float64)
    terms = method.terms(mixture, x, None, torch.arange(3))
    assert all(value.shape == (3,) and bool(value.isfinite().all()) for value in terms.values())
    assert method.calls(2) > 0.0
