"""Conditions: combined, expanded, dropped as planned; labels found by any of their names."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.conditioning import ClassLabels, Condition, TokenSet
from kakusan.noise import Stream, uniform

FLOWERS = ("074_rose", "075_thorn_apple", "tulip", "7")


def full() -> Condition:
    tokens = {"text": TokenSet(torch.ones(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]]))}
    return Condition(torch.zeros(2, 5), tokens, torch.full((2, 1, 4, 4), 2.0))


def test_every_slot_is_mapped_expanded_and_joined() -> None:
    cond = full()
    assert cond.batch == 2
    assert [tuple(x.shape) for x in cond.tensors()] == [(2, 5), (2, 3, 4), (2, 3), (2, 1, 4, 4)]
    doubled = cond.cat(cond)
    assert [len(x) for x in doubled.tensors()] == [4] * 4
    one = cond.map(lambda x: x[:1])
    wide = one.expand(3)
    assert wide.batch == 3
    assert all(torch.equal(a[2:3], b) for a, b in zip(wide.tensors(), one.tensors(), strict=True))
    assert cond.expand(2) is cond


def test_unlike_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match="different kinds"):
        full().cat(Condition(torch.zeros(2, 5)))
    with pytest.raises(ValueError, match="for 2 samples was given with 3"):
        full().expand(3)
    with pytest.raises(ValueError, match="no batch size; pass cond=None"):
        Condition().batch


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("074_rose", 0),
        ("rose", 0),
        ("Rose", 0),
        ("thorn apple", 1),
        ("thorn_apple", 1),
        ("tulip", 2),
        ("7", 3),  # a name goes before a number
        (0, 0),
        ("2", 2),
        (3, 3),
    ],
)
def test_labels_by_name_by_bare_name_and_by_number(label: str | int, index: int) -> None:
    assert ClassLabels(classes=FLOWERS, width=4).index(label) == index


@pytest.mark.parametrize(
    ("label", "match"),
    [
        ("tulpi", r"no class 'tulpi' \(did you mean 'tulip'\?\); the classes are 074_rose"),
        ("", "no class ''"),
        (4, "label 4 is out of range: the model has classes 0 to 3"),
        ("-1", "out of range"),
        ("1.5", "no class '1.5'"),
    ],
)
def test_unknown_labels_are_refused(label: str | int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ClassLabels(classes=FLOWERS, width=4).index(label)


def test_a_bare_name_that_fits_two_classes_is_no_name() -> None:
    conditioner = ClassLabels(classes=("1_rose", "2_rose"), width=4)
    with pytest.raises(ValueError, match="no class 'rose'"):
        conditioner.index("rose")
    assert conditioner.index("2_rose") == 1


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True))
def test_every_class_is_found_by_its_own_name(names: list[str]) -> None:
    conditioner = ClassLabels(classes=names, width=2)
    assert [conditioner.index(name) for name in names] == list(range(len(names)))


def test_dropout_is_per_sample_at_the_planned_rate() -> None:
    conditioner = ClassLabels(classes=FLOWERS, width=4, dropout=0.25)
    raw = torch.arange(20_000) % 4
    dropped = conditioner.drop(
        raw, uniform(torch.zeros(20_000, dtype=torch.int64), Stream.DROP_CONDITION, torch.arange(20_000))
    )
    null = dropped == 4
    assert float(null.float().mean()) == pytest.approx(0.25, abs=0.012)
    assert torch.equal(dropped[~null], raw[~null])
    never = ClassLabels(classes=FLOWERS, width=4, dropout=0.0)
    assert torch.equal(never.drop(raw, torch.zeros(20_000)), raw)


def test_no_condition_is_a_row_of_its_own() -> None:
    conditioner = ClassLabels(classes=FLOWERS, width=4)
    assert torch.equal(conditioner.null(3).vector, conditioner.table.weight[4].expand(3, 4))
    with pytest.raises(ValueError, match="trained without condition dropout"):
        ClassLabels(classes=FLOWERS, width=4, dropout=0.0).null()


@pytest.mark.parametrize(
    ("arguments", "match"), [({"classes": ()}, "at least one class"), ({"dropout": 1.0}, "probability")]
)
def test_impossible_conditioners_are_refused(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ClassLabels(**{"classes": FLOWERS, "width": 4, **arguments})
