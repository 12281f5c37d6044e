"""Muon: the update of torch's own on matrices, kernels as matrices, and singular values near one."""

import pytest
import torch
from torch import nn

from kakusan.train.muon import Muon, orthogonalise
from kakusan.train.optim import OptimSettings


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_steps_are_those_of_torch_within_the_rounding_of_bfloat16(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([ours], lr=0.01, momentum=0.9, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    moved = (theirs.detach() - start).norm()
    assert float(moved) > 0.1
    assert float((ours.detach() - theirs.detach()).norm() / moved) < 0.02


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 1, 5)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    turned = orthogonalise(matrices, torch.float64)
    values = torch.linalg.svdvals(turned)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    core = u.mT @ turned @ v.mT
    torch.testing.assert_close(core, torch.diag_embed(torch.diagonal(core, dim1=-2, dim2=-1)), atol=1e-9, rtol=0.0)


def test_a_kernel_moves_as_its_matrix_does() -> None:
    start, slope = torch.randn(2, 6, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    kernel, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    kernel.grad, matrix.grad = slope, slope.flatten(1)
    for p in (kernel, matrix):
        Muon([p], lr=0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_every_parameter_has_one_optimizer_and_tables_are_not_turned() -> None:
    module = nn.ModuleDict({"table": nn.Embedding(5, 4), "conv": nn.Conv2d(2, 3, 3), "norm": nn.GroupNorm(1, 3)})
    tables = {id(module["table"].weight)}
    turned, rest = OptimSettings(optimizer="muon").build(module.parameters(), tables)
    assert isinstance(turned, Muon)
    found = [[p.dim() for group in o.param_groups for p in group["params"]] for o in (turned, rest)]
    assert found[0] == [4]
    assert sorted(found[1]) == [1, 1, 1, 2]


def test_vectors_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="give vectors to AdamW"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)
    with pytest.raises(ValueError, match="no optimizer 'muom'.*muon"):
        OptimSettings(optimizer="muom")
