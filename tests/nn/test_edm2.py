"""Laws of the magnitude-preserving U-Net: shapes, conditions, independence of samples, start at zero, storage."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.conditioning import Condition, TokenSet
from kakusan.nn import MagnitudePreservingUNet, count
from kakusan.nn.magnitude import Weighted, settle
from kakusan.specs import from_spec, to_spec
from kakusan.train.ema import Ema, EmaProfile


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(**arguments):
    torch.manual_seed(1)
    return MagnitudePreservingUNet(
        **{"channels": 2, "width": 8, "multipliers": (1, 2), "depth": 1, "attention_levels": (1,), **arguments}
    )


def awake(network):
    """The network with its gains, which start at zero, turned up."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
    return network.eval()


@settings(max_examples=15, deadline=None)
@given(
    size=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    channels=st.integers(1, 4),
    out_channels=st.one_of(st.none(), st.integers(1, 4)),
    batch=st.integers(1, 3),
    one_level=st.booleans(),
    middle=st.booleans(),
)
def test_any_shape_goes_in_and_comes_out(size, channels, out_channels, batch, one_level, middle):
    network = awake(
        small(channels=channels, out_channels=out_channels, rank=len(size), middle_attention=middle, depth=1)
    )
    with torch.no_grad():
        out = network(randn(batch, channels, *size), randn(1 if one_level else batch))
    assert out.shape == (batch, out_channels or channels, *size)
    assert out.isfinite().all()
    assert out.abs().max() > 0


def test_output_is_zero_at_the_start_and_the_gain_is_what_learns_first():
    network = small()
    out = network(randn(2, 2, 8, 8), randn(2))
    assert out.abs().max() == 0
    (out - randn(2, 2, 8, 8, seed=1)).square().sum().backward()
    moved = [name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert moved == ["gain"]


def test_gradients_reach_every_parameter_and_the_input():
    network = awake(small(condition_width=3, spatial_channels=1, augment_width=2))
    x = randn(2, 2, 8, 8).requires_grad_()
    cond = Condition(
        vector=randn(2, 3).requires_grad_(), spatial=randn(2, 1, 8, 8).requires_grad_(), augment=randn(2, 2)
    )
    network(x, randn(2), cond).square().sum().backward()
    tensors = {**dict(network.named_parameters()), "x": x, "vector": cond.vector, "spatial": cond.spatial}
    assert [name for name, t in tensors.items() if t.grad is None or not t.grad.abs().sum() > 0] == []


def test_there_are_no_biases():
    shapes = {name: p.dim() for name, p in small(condition_width=3).named_parameters()}
    assert {name.rsplit(".")[-1] for name in shapes} == {"weight", "gain"}
    assert {dim for name, dim in shapes.items() if name.endswith("gain")} == {0}


@pytest.mark.parametrize("size", [(64,), (32, 32), (12, 12, 12)])
def test_magnitudes_hold_through_the_whole_network(size):
    network = awake(small(rank=len(size), width=16, condition_width=4, multipliers=(1, 2, 2)))
    found = {}
    for name, module in network.named_modules():
        if type(module).__name__ == "_Layer":
            module.register_forward_hook(
                lambda _, __, out, name=name: found.update({name: float(out.square().mean() ** 0.5)})
            )
    vector = torch.nn.functional.normalize(randn(8, 4), dim=1)
    with torch.no_grad():
        told = network._embed(randn(8), Condition(vector=vector))
        out = network(randn(8, 2, *size), randn(8), Condition(vector=vector)) / network.gain
    assert float(told.square().mean() ** 0.5) == pytest.approx(1.0, abs=0.25)
    # Correlations between branches, borders and the modulation move it, but nothing compounds over the layers.
    assert len(found) == 8
    assert max(found.values()) < 2.0
    assert min(found.values()) > 0.5
    assert 0.4 < float(out.std()) < 2.0


@pytest.mark.parametrize("size", [(11,), (7, 5), (3, 4, 5)])
def test_a_sample_does_not_depend_on_its_batch(size):
    network = awake(small(rank=len(size), condition_width=3))
    x, c_noise, vector = randn(4, 2, *size), randn(4, seed=1), randn(4, 3, seed=2)
    with torch.no_grad():
        together = network(x, c_noise, Condition(vector=vector))
        for k in range(4):
            alone = network(x[k : k + 1], c_noise[k : k + 1], Condition(vector=vector[k : k + 1]))
            torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-5 * float(together.std()) + 1e-6)


def test_one_noise_level_or_condition_serves_the_whole_batch():
    network = awake(small(condition_width=3, spatial_channels=1))
    x, level = randn(4, 2, 8, 8), randn(1)
    one = Condition(vector=randn(1, 3), spatial=randn(1, 1, 8, 8))
    torch.testing.assert_close(network(x, level, one), network(x, level.expand(4), one.expand(4)), rtol=0, atol=1e-5)


def test_bfloat16_agrees_within_its_rounding():
    network = awake(small(condition_width=3))
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2, seed=1), Condition(vector=randn(2, 3))
    with torch.no_grad():
        exact = network(x, c_noise, cond)
        told = network._embed(c_noise, cond)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x, c_noise, cond).float()
            assert torch.equal(network._embed(c_noise, cond), told)
    # 8 bits of mantissa, half a unit of rounding in each of about 60 operations that add up at random.
    assert (rounded - exact).norm() / exact.norm() < 2**-9 * 60**0.5 * 2
    assert (rounded != exact).any()


def test_the_output_changes_with_every_input_told():
    network = awake(small(condition_width=3, spatial_channels=1, augment_width=2))
    x, c_noise = randn(1, 2, 8, 8), randn(1)
    parts = {"vector": randn(1, 3), "spatial": randn(1, 1, 8, 8), "augment": randn(1, 2)}
    base = network(x, c_noise, Condition(**parts))
    changed = {"c_noise": network(x, c_noise + 1, Condition(**parts))}
    changed |= {name: network(x, c_noise, Condition(**{**parts, name: part + 1})) for name, part in parts.items()}
    for name, out in changed.items():
        assert (out - base).abs().max() > 1e-3 * base.std(), name


def test_a_condition_is_never_ignored():
    x, c_noise = randn(2, 2, 8, 8), randn(2)
    plain, told = small(), small(condition_width=3)
    for network, cond, match in [
        (plain, Condition(vector=randn(2, 3)), "condition_width=3"),
        (plain, Condition(spatial=randn(2, 1, 8, 8)), "spatial_channels=1"),
        (plain, Condition(augment=randn(2, 2)), "augment_width=2"),
        (plain, Condition(tokens={"text": TokenSet(randn(2, 4, 3))}), "text"),
        (told, None, "needs a Condition.vector"),
        (told, Condition(vector=randn(2, 4)), r"\(2, 3\)"),
    ]:
        with pytest.raises(ValueError, match=match):
            network(x, c_noise, cond)


@pytest.mark.parametrize(
    "arguments", [{"rank": 4}, {"channels": 0}, {"width": 0}, {"multipliers": ()}, {"dropout": 1.0}]
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"\d|at least"):
        small(**arguments)


def test_stored_and_built_again_it_is_the_same():
    network = awake(small(condition_width=3, spatial_channels=1, head_width=4, dropout=0.1))
    twin = from_spec(to_spec(network), MagnitudePreservingUNet)
    twin.load_state_dict(network.state_dict())
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2), Condition(vector=randn(2, 3), spatial=randn(2, 1, 8, 8))
    assert torch.equal(twin.eval()(x, c_noise, cond), network(x, c_noise, cond))


@pytest.mark.parametrize("size", [(3,), (28, 28), (8, 8, 8)])
def test_for_data_fits_its_size(size):
    network = MagnitudePreservingUNet.for_data(1, size, width=4, depth=1)
    assert network(randn(1, 1, *size), randn(1)).shape == (1, 1, *size)
    assert network.factor <= max(1, min(size))


def test_it_can_be_counted():
    network = small(rank=1)
    assert count.flops(network, (2, 8), backward=True) > 2 * count.flops(network, (2, 8)) > 0


def test_dropout_acts_only_while_training():
    network = awake(small(dropout=0.5))
    x, c_noise = randn(1, 2, 8, 8), randn(1)
    assert torch.equal(network(x, c_noise), network(x, c_noise))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network(x, c_noise), network(x, c_noise))


def rows(network):
    """Mean square of the rows of every weight."""
    weights = [m.weight.detach() for m in network.modules() if isinstance(m, Weighted)]
    return torch.cat([w.square().flatten(1).mean(dim=1) for w in weights])


def trained(network, ema=None, *, steps=12, rate=0.1):
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.0, fused=True)
    x, c_noise = randn(4, 2, 8, 8), randn(4)
    for step in range(steps):
        optimizer.zero_grad()
        (network(x, c_noise) - randn(4, 2, 8, 8, seed=step)).square().mean().backward()
        optimizer.step()
        if ema is not None:
            ema.update()
    return network


def test_weights_cannot_grow_in_training():
    network = trained(small())
    assert float((rows(network) - 1.0).abs().max()) > 1e-3
    network(randn(1, 2, 8, 8), randn(1))
    torch.testing.assert_close(rows(network), torch.ones_like(rows(network)), rtol=2e-5, atol=0)


def test_evaluation_never_touches_the_weights():
    network = trained(small(), steps=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.eval()(randn(1, 2, 8, 8), randn(1))
    with torch.no_grad():
        network.train()(randn(1, 2, 8, 8), randn(1))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_averaged_weights_are_normalised_when_used_and_left_as_they_are():
    network = small()
    ema = Ema(network, {"a": EmaProfile(0.2)})
    trained(network, ema)
    average = ema.averages["a"]
    network.eval().load_state_dict({**network.state_dict(), **average})
    # Steps of 0.1 for weights of size 1: the average of directions that turn has another length than they have.
    assert float((rows(network) - 1.0).abs().max()) > 0.01
    x, c_noise = randn(4, 2, 8, 8), randn(4)
    out = network(x, c_noise)
    assert torch.equal(network.stem.weight, average["stem.weight"])
    settle(network)
    assert not torch.equal(network.stem.weight, average["stem.weight"])
    torch.testing.assert_close(network(x, c_noise), out, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = awake(small(dropout=0.3)).train()
        network.checkpointing = checkpointing
        torch.manual_seed(5)
        network(randn(2, 2, 8, 8), randn(2)).square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    assert all(torch.equal(g, gradients[1][name]) for name, g in gradients[0].items())
