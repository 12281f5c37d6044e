import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.retrieval import accuracy, recall


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 6), columns=st.integers(1, 7), levels=st.integers(1, 5))
def test_recall_against_brute_force(seed: int, rows: int, columns: int, levels: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, levels, (rows, columns), generator=draw).float()
    right = torch.rand(rows, columns, generator=draw) < 0.4
    right[:, 0] |= ~right.any(1)
    for k, rate in recall(similarity, right, (1, 2, 5)).items():
        found = 0
        for row in range(rows):
            # Wrong answers stand first among equals.
            ranked = sorted(range(columns), key=lambda j: (-float(similarity[row, j]), bool(right[row, j])))
            found += any(bool(right[row, j]) for j in ranked[:k])
        assert rate.value == pytest.approx(found / rows)
        assert rate.error == pytest.approx(math.sqrt(rate.value * (1 - rate.value) / rows))
        assert rate.count == rows


@pytest.mark.parametrize(("answers", "right", "k"), [(5, 1, 1), (6, 2, 3), (4, 4, 1), (3, 1, 5)])
def test_chance_is_the_share_of_draws_that_hold_a_right_answer(answers: int, right: int, k: int) -> None:
    mask = torch.zeros(1, answers, dtype=torch.bool)
    mask[0, :right] = True
    draws = list(itertools.combinations(range(answers), min(k, answers)))
    expected = sum(any(i < right for i in draw) for draw in draws) / len(draws)
    assert recall(torch.zeros(1, answers), mask, (k,))[k].chance == pytest.approx(expected)


def test_a_model_that_says_the_same_of_all_finds_nothing() -> None:
    assert recall(torch.ones(4, 9), torch.eye(4, 9).bool(), (1, 5))[5].value == 0.0


def test_accuracy_is_the_share_of_highest_scores() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    rate = accuracy(scores, torch.tensor([0, 1, 1]))
    assert rate.value == pytest.approx(2 / 3)
    assert rate.chance == pytest.approx(0.5)


def test_bad_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="no right answer"):
        recall(torch.zeros(1, 2), torch.zeros(1, 2).bool())
    with pytest.raises(ValueError, match="not finite"):
        recall(torch.full((1, 2), math.nan), torch.ones(1, 2).bool())
    with pytest.raises(ValueError, match="expected"):
        recall(torch.zeros(2, 2), torch.zeros(1, 2).bool())
