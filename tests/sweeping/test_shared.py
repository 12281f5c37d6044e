"""Equal rows are evaluated once, and nobody can tell from the result."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.noise import Stream, normal
from kakusan.pipeline import load
from kakusan.sweeping.shared import Shared, equal_rows, sharing
from kakusan.tasks.own_pictures import counted


class Rows(nn.Module):
    """A network that sees each row alone, and remembers how many it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None) -> Tensor:
        self.seen.append(len(x))
        out = x * 2.0 + c_noise.view(-1, 1, 1)
        return out if cond is None or cond.vector is None else out + cond.vector.sum(1).view(-1, 1, 1)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.lists(st.integers(0, 1), min_size=12, max_size=12),
    st.booleans(),
)
def test_the_result_is_that_of_the_network(rows: list[int], labels: list[int], many: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 20, generator=generator)[rows]
    cond = Condition(vector=torch.randn(2, 5, generator=generator)[labels[: len(rows)]])
    c_noise = torch.tensor([float(row % 2) for row in rows]) if many else torch.tensor([0.3])
    network, shared = Rows(), Rows()
    assert torch.equal(Shared(shared)(x, c_noise, cond), network(x, c_noise, cond))
    assert shared.seen == [len(set(zip(rows, labels, strict=False)))]


def test_rows_that_differ_only_at_their_end_are_different() -> None:
    x = torch.zeros(3, 50)
    x[1, -1] = 1.0
    assert equal_rows([x]).tolist() == [0, 1, 0]
    # Equal numbers with different bits are not the same to a network that divides by them.
    assert equal_rows([torch.tensor([[0.0], [-0.0]])]).tolist() == [0, 1]
    assert equal_rows([torch.full((2, 9), float("nan"))]).tolist() == [0, 0]
    assert equal_rows([torch.zeros(2, 9), torch.tensor([[1], [2]])]).tolist() == [0, 1]
    assert equal_rows([torch.zeros(2, 9), torch.tensor([[True], [False]])]).tolist() == [0, 1]


def test_the_pipeline_itself_is_left_alone(trained: Path) -> None:
    pipeline = load(trained)
    request = pipeline.request(labels=["red"] * 4, seeds=[5] * 4, guidance_scale=[0.0, 1.0, 2.0, 3.0], num_steps=4)
    before = set(pipeline.model.state_dict())
    with counted(pipeline) as cost:
        together = sharing(pipeline).run(request)
    # Four steps with and without the label; in the first all four start from one picture of noise.
    assert cost.evaluations == 2 + 3 * 8
    assert cost.passes == 4
    assert set(pipeline.model.state_dict()) == before
    with counted(pipeline) as cost:
        alone = pipeline.run(request)
    assert cost.evaluations == 4 * 8
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("draw", [0, 3])
def test_noise_of_one_seed_is_drawn_once_and_is_the_same(draw: int) -> None:
    seeds = [7, 3, 7, 7, -1]
    together = normal(seeds, Stream.STEP, draw, shape=(3, 4))
    alone = torch.cat([normal([seed], Stream.STEP, draw, shape=(3, 4)) for seed in seeds])
    assert torch.equal(together, alone)
    # Another number of the draw for each is another noise, whatever the seed.
    each = normal([7, 7], Stream.STEP, torch.tensor([0, 1]), shape=(3,))
    assert not torch.equal(each[0], each[1])
