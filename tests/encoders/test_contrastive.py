import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kakusan.encoders.contrastive import LOSSES, SigmoidContrast, SoftmaxContrast, same_texts

NONE = torch.eye(2, dtype=torch.bool)


def test_softmax_of_two_pairs_by_hand() -> None:
    # Rows: log(1 + e^(b - a)), log(1 + e^(c - d)); columns: log(1 + e^(c - a)), log(1 + e^(b - d)).
    a, b, c, d = 2.0, -1.0, 0.5, 1.5
    expected = sum(math.log1p(math.exp(x)) for x in (b - a, c - d, c - a, b - d)) / 4.0
    found = SoftmaxContrast()(torch.tensor([[a, b], [c, d]]), NONE)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_sigmoid_of_two_pairs_by_hand() -> None:
    a, b, c, d = 2.0, -1.0, 0.5, 1.5
    expected = sum(math.log1p(math.exp(x)) for x in (-a, b, c, -d)) / 2.0
    found = SigmoidContrast()(torch.tensor([[a, b], [c, d]]), NONE)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_chance_is_log_batch_for_softmax() -> None:
    loss = SoftmaxContrast()(torch.zeros(7, 7), torch.eye(7, dtype=torch.bool))
    assert float(loss) == pytest.approx(math.log(7))


def test_gradients_in_closed_form() -> None:
    logits = torch.randn(5, 5, dtype=torch.float64).float().requires_grad_()
    own = torch.eye(5, dtype=torch.bool)
    (soft,) = torch.autograd.grad(SoftmaxContrast()(logits, own), logits)
    expected = (logits.softmax(1) + logits.softmax(0) - 2.0 * own.float()) / (2.0 * 5)
    torch.testing.assert_close(soft, expected)
    (sigmoid,) = torch.autograd.grad(SigmoidContrast()(logits, own), logits)
    torch.testing.assert_close(sigmoid, (logits.sigmoid() - own.float()) / 5)


@pytest.mark.parametrize("name", list(LOSSES))
def test_an_equal_text_is_no_negative(name: str) -> None:
    """Texts 0 and 1 are equal: driving picture 0 away from text 1 must not pay."""
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    logits = torch.randn(3, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](logits, same), logits)
    assert float(gradient[0, 1]) <= 0.0
    assert float(gradient[1, 0]) <= 0.0
    assert float(gradient[0, 2]) > 0.0


def test_softmax_leaves_equal_texts_out_of_its_sums() -> None:
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    logits = torch.randn(3, 3)
    one, two, three = logits.tolist()

    def lost(right: float, *wrong: float) -> float:
        return math.log(sum(math.exp(x) for x in (right, *wrong))) - right

    rows = lost(one[0], one[2]) + lost(two[1], two[2]) + lost(three[2], three[0], three[1])
    columns = lost(one[0], three[0]) + lost(two[1], three[1]) + lost(three[2], one[2], two[2])
    assert float(SoftmaxContrast()(logits, same)) == pytest.approx((rows + columns) / 6.0, abs=1e-6)


def test_a_batch_of_one_text_costs_softmax_nothing() -> None:
    assert float(SoftmaxContrast()(torch.randn(4, 4), torch.ones(4, 4, dtype=torch.bool))) == pytest.approx(0.0)


@pytest.mark.parametrize("name", list(LOSSES))
@given(seed=st.integers(0, 1000), count=st.integers(2, 6))
def test_the_order_of_the_pairs_is_no_matter(name: str, seed: int, count: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, count, generator=draw)
    ids = torch.randint(0, 2, (count, 3), generator=draw)
    order = torch.randperm(count, generator=draw)

    def loss(x: Tensor, texts: Tensor) -> Tensor:
        return LOSSES[name](x, same_texts(texts))

    torch.testing.assert_close(loss(logits[order][:, order], ids[order]), loss(logits, ids))


def test_same_texts_against_python() -> None:
    ids = torch.tensor([[1, 2], [1, 3], [1, 2]])
    assert same_texts(ids).tolist() == [[True, False, True], [False, True, False], [True, False, True]]
