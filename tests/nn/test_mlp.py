"""Laws of the perceptron: shapes, conditions, independence of samples, start at zero, storage."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.conditioning import Condition, TokenSet
from kakusan.denoiser import Denoiser
from kakusan.nn import MLP
from kakusan.parameterizations import Eps
from kakusan.schedules import Cosine
from kakusan.specs import from_spec, to_spec


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def awake(network, scale=0.3):
    """The network with its zero-initialised layers moved off zero."""
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=source)
    return network.eval()


@settings(max_examples=30, deadline=None)
@given(
    dim=st.integers(1, 6),
    out_channels=st.one_of(st.none(), st.integers(1, 12)),
    width=st.integers(1, 20),
    depth=st.integers(1, 3),
    features=st.integers(0, 9),
    condition_width=st.integers(0, 3),
    batch=st.integers(1, 4),
    one_level=st.booleans(),
)
def test_any_shape_goes_in_and_comes_out(dim, out_channels, width, depth, features, condition_width, batch, one_level):
    network = awake(
        MLP(
            dim=dim,
            out_channels=out_channels,
            width=width,
            depth=depth,
            features=features,
            condition_width=condition_width,
        )
    )
    cond = Condition(vector=randn(batch, condition_width)) if condition_width else None
    out = network(randn(batch, dim), randn(1 if one_level else batch), cond)
    assert out.shape == (batch, out_channels or dim)
    assert out.isfinite().all()
    assert out.abs().max() > 0


def test_output_is_zero_at_the_start():
    assert MLP(width=8)(randn(5, 2), randn(5)).abs().max() == 0


def test_gradients_reach_every_parameter_and_the_input():
    network = awake(MLP(width=16, depth=2, condition_width=3))
    x, vector = randn(4, 2).requires_grad_(), randn(4, 3, seed=1).requires_grad_()
    network(x, randn(4), Condition(vector=vector)).square().sum().backward()
    tensors = {**dict(network.named_parameters()), "x": x, "vector": vector}
    assert [name for name, t in tensors.items() if t.grad is None or not t.grad.abs().sum() > 0] == []


def test_a_sample_does_not_depend_on_its_batch():
    network = awake(MLP(width=16, depth=2, condition_width=3))
    x, c_noise, vector = randn(7, 2), randn(7), randn(7, 3, seed=1)
    together = network(x, c_noise, Condition(vector=vector))
    alone = torch.cat(
        [network(x[i : i + 1], c_noise[i : i + 1], Condition(vector=vector[i : i + 1])) for i in range(7)]
    )
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4)


def test_one_level_and_one_condition_stand_for_all():
    network = awake(MLP(width=16, depth=2, condition_width=3))
    x, c_noise, vector = randn(5, 2), randn(1), randn(1, 3, seed=1)
    shared = network(x, c_noise, Condition(vector=vector))
    assert torch.allclose(shared, network(x, c_noise.expand(5), Condition(vector=vector.expand(5, 3))), atol=1e-5)


def test_the_level_and_the_condition_change_the_output():
    network = awake(MLP(width=16, depth=2, condition_width=3))
    x, here = randn(5, 2), Condition(vector=randn(1, 3))
    out = network(x, torch.zeros(1), here)
    assert not torch.allclose(out, network(x, torch.ones(1), here))
    assert not torch.allclose(out, network(x, torch.zeros(1), Condition(vector=randn(1, 3, seed=4))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_a_backbone_of_a_denoiser(dtype):
    denoiser = Denoiser(awake(MLP(width=16)).to(dtype), Cosine(), Eps())
    x = randn(6, 2).to(dtype)
    several = denoiser(x, torch.full((6,), 0.3))
    assert several.x0.shape == (6, 2)
    assert several.x0.dtype == dtype
    assert torch.allclose(several.x0, denoiser(x, 0.3).x0, atol=1e-4)


def test_bf16_agrees_with_fp32_within_its_rounding():
    network = awake(MLP(width=32, depth=2), scale=0.1)
    x, c_noise = randn(64, 2), randn(64)
    with torch.no_grad():
        exact = network(x, c_noise)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(x, c_noise).float()
    assert not torch.equal(rough, exact)
    # Eight bits of mantissa, through some ten layers.
    assert float((rough - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_it_is_stored_by_its_arguments():
    network = awake(MLP(dim=3, out_channels=6, width=12, depth=2, features=5, bandwidth=2.0, condition_width=1))
    again = from_spec(to_spec(network), MLP)
    again.load_state_dict(network.state_dict())
    x, cond = randn(4, 3), Condition(vector=randn(4, 1))
    assert torch.equal(network(x, randn(4), cond), again(x, randn(4), cond))


X, C = torch.zeros(4, 2), torch.zeros(4)
VECTOR = Condition(vector=torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("arguments", "x", "c_noise", "cond", "message"),
    [
        ({}, torch.zeros(4, 3), C, None, "takes points"),
        ({}, torch.zeros(4, 2, 2), C, None, "takes points"),
        ({}, X, torch.zeros(3), None, "c_noise"),
        ({}, X, torch.zeros(()), None, "c_noise"),
        ({}, X, C, VECTOR, "would ignore Condition.vector"),
        ({"condition_width": 3}, X, C, None, "needs a Condition.vector"),
        ({"condition_width": 2}, X, C, VECTOR, "Condition.vector must be"),
        ({"condition_width": 3}, X, C, Condition(vector=torch.zeros(3, 3)), "Condition.vector must be"),
        ({}, X, C, Condition(tokens={"text": TokenSet(torch.zeros(4, 1, 2))}), "would ignore"),
        ({}, X, C, Condition(spatial=torch.zeros(4, 1)), "would ignore"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, x, c_noise, cond, message):
    with pytest.raises(ValueError, match=message):
        MLP(width=8, depth=1, **arguments)(x, c_noise, cond)


@pytest.mark.parametrize(
    "arguments",
    [
        {"dim": 0},
        {"width": 0},
        {"depth": 0},
        {"out_channels": 0},
        {"features": -1},
        {"condition_width": -1},
        {"bandwidth": 0.0},
        {"bandwidth": float("inf")},
    ],
)
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        MLP(**arguments)
