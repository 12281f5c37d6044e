import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.significance import (
    as_normal,
    below_order_statistic,
    compare_means,
    fewer,
    more,
    two_sided,
)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_tails_are_the_hypergeometric_ones(n: int, m: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    total = math.comb(n + m, a + b)
    exact = sum(math.comb(n, i) * math.comb(m, a + b - i) for i in range(a + 1)) / total
    assert fewer(a, n, b, m) == pytest.approx(exact, abs=1e-12)
    here = math.comb(n, a) * math.comb(m, b) / total
    assert fewer(a, n, b, m) + more(a, n, b, m) == pytest.approx(1.0 + here, abs=1e-12)


@pytest.mark.parametrize(
    ("count", "n", "order", "m"), [(1, 3, 1, 4), (2, 3, 1, 4), (2, 4, 2, 3), (3, 4, 1, 3), (0, 3, 1, 3)]
)
def test_values_below_an_order_statistic_by_listing_all_orders(count: int, n: int, order: int, m: int) -> None:
    hits = total = 0
    for places in combinations(range(n + m), n):
        others = sorted(set(range(n + m)) - set(places))
        hits += sum(p < others[order - 1] for p in places) >= count
        total += 1
    assert below_order_statistic(count, n, order, m) == pytest.approx(hits / total, abs=1e-12)


def test_students_quantiles_become_normal_ones() -> None:
    # Tables of Student's t: 97.5% and 99.95% with 10 degrees, 97.5% with 30.
    for t, freedom, z in ((2.2281, 10, 1.95996), (4.5869, 10, 3.29053), (2.0423, 30, 1.95996)):
        assert float(as_normal(torch.tensor(t, dtype=torch.float64), freedom)) == pytest.approx(z, rel=2e-3)
    assert two_sided(1.959964) == pytest.approx(0.05, rel=1e-6)


def test_means_of_one_source_differ_by_a_standard_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    strata = torch.randint(3, (400, 90), generator=generator)
    values = torch.randn(400, 90, generator=generator) * (1.0 + strata) + 3.0 * strata
    z, within = [], []
    for row, kind in zip(values, strata, strict=True):
        a, b = row[:30, None], row[30:, None]
        z.append(float(compare_means(a, b).z))
        within.append(float(compare_means(a, b, (kind[:30], kind[30:])).z))
    for found in (torch.tensor(z), torch.tensor(within)):
        assert abs(float(found.mean())) < 0.2
        assert 0.85 < float(found.std()) < 1.15


def test_strata_are_blind_to_how_often_each_is_shown_and_see_a_shift_within() -> None:
    generator = torch.Generator().manual_seed(1)
    kinds = (torch.tensor([0] * 180 + [1] * 20), torch.arange(400) % 2)
    a, b = (kind[:, None] * 5.0 + torch.randn(len(kind), 1, generator=generator) for kind in kinds)
    assert abs(float(compare_means(a, b).z)) > 5.0
    assert abs(float(compare_means(a, b, kinds).z)) < 3.0
    assert abs(float(compare_means(a + 0.6, b, kinds).z)) > 5.0


def test_a_stratum_without_real_pictures_and_constant_numbers_are_no_crash() -> None:
    a, b = torch.ones(4, 1), torch.ones(6, 1)
    shift = compare_means(a, b, (torch.tensor([0, 0, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 1])))
    assert float(shift.z) == 0.0
    with pytest.raises(ValueError, match="at least two pictures"):
        compare_means(a[:1], b)
