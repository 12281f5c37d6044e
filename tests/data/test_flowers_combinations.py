"""Laws of the flowers for words: factors are free of each other, and pairs that training lacks are in none of it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.flowers import SPLITS, draw, draw_batch, sample_factors
from kakusan.data.flowers_combinations import (
    ATTRIBUTES,
    PARTS,
    SEEN,
    UNSEEN,
    check_values,
    factors_of,
    pictures,
    sample_plain,
    values_of,
)
from kakusan.data.flowers_species import KNOWN, SPECIES
from kakusan.data.source import Pictures, open_data


def pair(factors) -> tuple[str, int]:
    return factors.petal_hue, factors.petal_count


def test_pairs_are_split_without_rest() -> None:
    hues, counts = ATTRIBUTES["petal_hue"], ATTRIBUTES["petal_count"]
    assert set(SEEN) | set(UNSEEN) == {(h, c) for h in hues for c in counts}
    assert not set(SEEN) & set(UNSEEN)
    assert sorted(h for h, _ in UNSEEN) == sorted(hues)
    assert max(Counter(c for _, c in UNSEEN).values()) <= 2
    assert set(counts) == {c for _, c in UNSEEN}


def test_training_never_shows_an_unseen_pair_and_shows_all_others_alike() -> None:
    shown = Counter(pair(factors_of("train", i)) for i in range(5600))
    assert set(shown) == set(SEEN)
    # 200 of each are expected; five standard deviations.
    assert min(shown.values()) > 200 - 5 * 200**0.5
    assert max(shown.values()) < 200 + 5 * 200**0.5


def test_held_out_parts_ask_for_both_in_turn() -> None:
    assert all(pair(factors_of("held-out", i)) in (SEEN, UNSEEN)[i % 2] for i in range(200))
    assert all(pair(factors_of("unseen", i)) in UNSEEN for i in range(100))
    assert all(pair(factors_of("seen", i)) in SEEN for i in range(100))
    assert {split for split, _ in PARTS.values()} == set(SPLITS)


def test_factors_are_free_of_each_other() -> None:
    found = [values_of(factors_of("train", i)) for i in range(6000)]
    names = [n for n in ATTRIBUTES if n not in ("petal_hue", "petal_count")]
    for one in (*names, "petal_count"):
        for two in names:
            if one != two:
                counts = Counter((f[one], f[two]) for f in found)
                rows, columns = Counter(f[one] for f in found), Counter(f[two] for f in found)
                for (a, b), n in counts.items():
                    expected = rows[a] * columns[b] / len(found)
                    assert abs(n - expected) < 6 * expected**0.5, (a, b, n, expected)
    assert all(f["petal_hue"] != f["centre_hue"] for f in found)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 10**6), st.data())
def test_what_is_given_stays(seed: int, index: int, data) -> None:
    names = data.draw(st.sets(st.sampled_from(list(ATTRIBUTES)), max_size=4))
    given_values = {name: data.draw(st.sampled_from(list(ATTRIBUTES[name])), label=name) for name in sorted(names)}
    if given_values.get("petal_hue", 0) == given_values.get("centre_hue", 1):
        with pytest.raises(ValueError, match="another colour"):
            sample_plain(seed, index, **given_values)
        return
    found = sample_plain(seed, index, **given_values)
    assert found == sample_plain(seed, index, **given_values)
    assert given_values.items() <= values_of(found).items()
    check_values(values_of(found))
    assert draw(found, 8).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("name", "other"),
    [("petal_count", 8), ("petal_form", "pointed"), ("leaf_count", 2), ("background", "night"), ("petal_hue", "blue")],
)
def test_each_factor_is_to_be_seen_at_32_pixels(name: str, other) -> None:
    fixed = {"petal_hue": "red", "petal_count": 5, "petal_form": "round", "leaf_count": 0, "background": "sky"}
    one = sample_plain(3, 3, centre_hue="white", **fixed)
    two = sample_plain(3, 3, centre_hue="white", **{**fixed, name: other})
    changed = np.abs(draw(one, 32).astype(int) - draw(two, 32)).max(axis=-1) > 40
    assert changed.sum() >= 40


def test_the_ordinary_set_knows_nothing_of_them() -> None:
    assert set(KNOWN) - set(SPECIES) == {"round-petalled flower", "pointed-petalled flower"}
    assert not {sample_factors(SPLITS["train"], i).species for i in range(64)} - set(SPECIES)
    mixed = [sample_factors(1, 0), sample_plain(1, 0), sample_factors(1, 1)]
    assert all(np.array_equal(a, draw(f, 16)) for a, f in zip(draw_batch(mixed, 16), mixed, strict=True))


def test_data_set_by_name() -> None:
    data = open_data("flowers:words", size=16, num=40)
    assert isinstance(data, Pictures)
    assert data.labels is None
    assert data.spec.shape == (3, 16, 16)
    assert data.fingerprint == pictures(16, 40).fingerprint
    assert np.array_equal(data.read([7])[0].numpy(), draw(factors_of("train", 7), 16).transpose(2, 0, 1))
    parts = [open_data(f"flowers:words:{part}", size=16, num=40) for part in PARTS]
    assert len({part.fingerprint for part in parts}) == len(PARTS)
    assert data.fingerprint == parts[0].fingerprint
    digests = [{part.digest(i) for i in range(40)} for part in parts]
    assert not digests[0] & (digests[1] | digests[2] | digests[3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: open_data("flowers:words:unsen"), "did you mean 'unseen'"),
        (lambda: open_data("flowers:word"), "'flowers:words'"),
        (lambda: open_data("digits:words"), "'digits:held-out'"),
        (lambda: open_data("flowers:words", nun=3), "did you mean 'num'"),
        (lambda: pictures(16, 0), "at least one picture"),
        (lambda: sample_plain(0, 0, petal_hu="red"), "did you mean 'petal_hue'"),
        (lambda: sample_plain(0, 0, petal_count=7), "no petal_count 7"),
        (lambda: sample_plain(0, 0, petal_hue="white", centre_hue="white"), "another colour"),
    ],
)
def test_unknown_names_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
