"""Laws of the U-Net: shapes, conditions, independence of samples, start at zero, precision, storage."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.conditioning import Condition, TokenSet
from kakusan.nn import ConvNeXtBlocks, LinearAttention, ResidualBlocks, SoftmaxAttention, UNet, count, winograd
from kakusan.specs import from_spec, to_spec


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def awake(network, scale=0.2):
    """The network with its zero-initialised layers moved off zero."""
    source = generator(3)
    with torch.no_grad():
        for parameter in network.parameters():
            size = scale * float(parameter.std(correction=0).clamp(min=0.1))
            parameter += size * torch.randn(parameter.shape, generator=source)
    return network.eval()


def small(**arguments):
    return UNet(**{"channels": 2, "width": 8, "attention_levels": (1,), **arguments})


BLOCKS = [ResidualBlocks(), ConvNeXtBlocks(kernel=5, expansion=2)]
ATTENTION = [SoftmaxAttention(heads=2), LinearAttention(heads=2)]


@settings(max_examples=20, deadline=None)
@given(
    size=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    channels=st.integers(1, 5),
    out_channels=st.one_of(st.none(), st.integers(1, 5)),
    batch=st.integers(1, 3),
    one_level=st.booleans(),
    blocks=st.sampled_from(BLOCKS),
    attention=st.sampled_from(ATTENTION),
)
def test_any_shape_goes_in_and_comes_out(size, channels, out_channels, batch, one_level, blocks, attention):
    network = awake(
        small(channels=channels, out_channels=out_channels, rank=len(size), blocks=blocks, attention=attention)
    )
    x = randn(batch, channels, *size)
    out = network(x, randn(1 if one_level else batch))
    assert out.shape == (batch, out_channels or channels, *size)
    assert out.isfinite().all()
    assert out.abs().max() > 0


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("attention", ATTENTION)
def test_gradients_reach_every_parameter_and_the_input(blocks, attention):
    network = awake(small(blocks=blocks, attention=attention, condition_width=3, spatial_channels=1))
    x = randn(2, 2, 8, 8).requires_grad_()
    cond = Condition(vector=randn(2, 3).requires_grad_(), spatial=randn(2, 1, 8, 8).requires_grad_())
    network(x, randn(2), cond).square().sum().backward()
    tensors = {**dict(network.named_parameters()), "x": x, "vector": cond.vector, "spatial": cond.spatial}
    assert [name for name, t in tensors.items() if t.grad is None or not t.grad.abs().sum() > 0] == []


def test_output_is_zero_at_the_start():
    assert UNet(channels=3, width=8, attention_levels=(1,))(randn(2, 3, 8, 8), randn(2)).abs().max() == 0


@pytest.mark.parametrize("size", [(11,), (8, 8), (7, 5), (3, 4, 5)])
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_sample_does_not_depend_on_its_batch(size, attention):
    network = awake(small(rank=len(size), attention=attention, condition_width=3))
    x, c_noise, vector = randn(5, 2, *size), randn(5, seed=1), randn(5, 3, seed=2)
    with torch.no_grad():
        together = network(x, c_noise, Condition(vector=vector))
        for k in range(5):
            alone = network(x[k : k + 1], c_noise[k : k + 1], Condition(vector=vector[k : k + 1]))
            torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-5 * float(together.std()) + 1e-6)


def test_one_noise_level_or_condition_serves_the_whole_batch():
    network = awake(small(condition_width=3, spatial_channels=1))
    x, level = randn(4, 2, 8, 8), randn(1)
    one = Condition(vector=randn(1, 3), spatial=randn(1, 1, 8, 8))
    torch.testing.assert_close(network(x, level, one), network(x, level.expand(4), one.expand(4)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_bfloat16_agrees_within_its_rounding(blocks, attention):
    network = awake(small(blocks=blocks, attention=attention, condition_width=3), scale=0.1)
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2, seed=1), Condition(vector=randn(2, 3))
    with torch.no_grad():
        exact = network(x, c_noise, cond)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x, c_noise, cond).float()
    # 8 bits of mantissa, half a unit of rounding in each of about 40 operations that add up at random.
    bound = 2**-9 * 40**0.5 * 2
    assert (rounded - exact).norm() / exact.norm() < bound
    assert (rounded != exact).any()


def test_the_noise_level_embedding_is_float32_under_autocast():
    network = awake(small(condition_width=3))
    c_noise, vector = randn(2), randn(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = network.embedding(c_noise, vector)
    assert torch.equal(inside, network.embedding(c_noise, vector))


def test_the_output_changes_with_every_input_told():
    network = awake(small(condition_width=3, spatial_channels=1))
    x, c_noise = randn(1, 2, 8, 8), randn(1)
    cond = Condition(vector=randn(1, 3), spatial=randn(1, 1, 8, 8))
    base = network(x, c_noise, cond)
    changed = {
        "c_noise": network(x, c_noise + 1, cond),
        "vector": network(x, c_noise, Condition(vector=cond.vector + 1, spatial=cond.spatial)),
        "spatial": network(x, c_noise, Condition(vector=cond.vector, spatial=cond.spatial + 1)),
    }
    for name, out in changed.items():
        assert (out - base).abs().max() > 1e-3 * base.std(), name


def test_a_condition_is_never_ignored():
    x, c_noise = randn(2, 2, 8, 8), randn(2)
    plain, told = small(), small(condition_width=3, spatial_channels=1)
    vector, spatial = randn(2, 3), randn(2, 1, 8, 8)
    refused = [
        (plain, Condition(vector=vector), "condition_width=3"),
        (plain, Condition(spatial=spatial), "spatial_channels=1"),
        (plain, Condition(tokens={"text": TokenSet(randn(2, 4, 3))}), "text"),
        (told, None, "needs a Condition.vector"),
        (told, Condition(vector=vector), "needs a Condition.spatial"),
        (told, Condition(vector=randn(2, 4), spatial=spatial), r"\(2, 3\)"),
        (told, Condition(vector=randn(3, 3), spatial=spatial), r"\(2, 3\)"),
        (told, Condition(vector=vector, spatial=randn(2, 1, 4, 4)), r"\(2, 1, 8, 8\)"),
    ]
    for network, cond, match in refused:
        with pytest.raises(ValueError, match=match):
            network(x, c_noise, cond)


def test_wrong_inputs_are_refused():
    network = small()
    for x, c_noise in [
        (randn(2, 3, 8, 8), randn(2)),
        (randn(2, 2, 8), randn(2)),
        (randn(2, 2, 0, 8), randn(2)),
        (randn(2, 2, 8, 8), randn(3)),
        (randn(2, 2, 8, 8), randn(2, 1)),
    ]:
        with pytest.raises(ValueError, match=r"must be|takes"):
            network(x, c_noise)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rank": 4},
        {"channels": 0},
        {"width": 0},
        {"depth": 0},
        {"multipliers": ()},
        {"multipliers": (1, 0)},
        {"attention_levels": (3,)},
        {"dropout": 1.0},
        {"attention": SoftmaxAttention(heads=3)},
    ],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"\d|at least"):
        small(**arguments)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("attention", ATTENTION)
def test_stored_and_built_again_it_is_the_same(blocks, attention):
    network = awake(small(blocks=blocks, attention=attention, condition_width=3, multipliers=(1, 3)))
    twin = from_spec(to_spec(network), UNet)
    twin.load_state_dict(network.state_dict())
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2), Condition(vector=randn(2, 3))
    assert torch.equal(twin.eval()(x, c_noise, cond), network(x, c_noise, cond))


@pytest.mark.parametrize("size", [(3,), (64,), (8, 8), (28, 28), (32, 32), (64, 48), (8, 8, 8)])
def test_for_data_fits_its_size(size):
    network = UNet.for_data(1, size, width=8)
    assert network(randn(1, 1, *size), randn(1)).shape == (1, 1, *size)
    assert network.factor <= max(1, min(size))


def test_for_data_passes_arguments_on():
    network = UNet.for_data(1, (8, 8), width=8, multipliers=(1, 1, 1), attention_levels=(), condition_width=2)
    assert network.factor == 4
    with pytest.raises(ValueError, match="size"):
        UNet.for_data(1, ())


def test_dropout_acts_only_while_training():
    network = awake(small(dropout=0.5))
    x, c_noise = randn(1, 2, 8, 8), randn(1)
    assert torch.equal(network(x, c_noise), network(x, c_noise))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network(x, c_noise), network(x, c_noise))


def test_plain_and_fused_attention_agree(monkeypatch):
    network = awake(small())
    x, c_noise = randn(2, 2, 8, 8), randn(2)
    plain = network(x, c_noise)
    monkeypatch.setattr("kakusan.nn.attention.CPU_PLAIN_LIMIT", 0)
    torch.testing.assert_close(network(x, c_noise), plain, rtol=0, atol=1e-5 * float(plain.detach().std()) + 1e-6)


def test_fast_convolution_changes_training_by_rounding_only():
    network = awake(UNet(channels=1, width=64, multipliers=(1,), depth=1, middle_attention=False)).train()
    x, c_noise = randn(8, 1, 16, 16), randn(8)
    gradients = []
    try:
        for allowed in (False, True):
            winograd.allow(allowed)
            network.zero_grad()
            network(x, c_noise).square().mean().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    finally:
        winograd.allow(None)
    assert 0 < (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 1e-4


def test_counts():
    network = UNet(channels=2, rank=1, width=8, multipliers=(1,), depth=1, middle_attention=False)
    assert count.parameters(network) == sum(p.numel() for p in network.parameters())
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv1d)]
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    expected = sum(2 * m.weight.numel() * 10 for m in layers) + sum(2 * m.weight.numel() for m in linear)
    assert count.flops(network, (2, 10)) == expected
    assert 2.5 * expected < count.flops(network, (2, 10), backward=True) <= 3 * expected


def test_counted_attention_is_what_runs():
    with_attention, without = small(width=16), small(width=16, attention_levels=(), middle_attention=False)
    tokens, channels, blocks = 16, 32, 5
    projections = 2 * tokens * channels * 4 * channels
    products = 2 * 2 * tokens * tokens * channels
    lowest = 2 * 4 * channels * 4 * channels + 2 * 2 * 4 * 4 * channels
    difference = count.flops(with_attention, (2, 8, 8)) - count.flops(without, (2, 8, 8))
    assert difference == (blocks - 1) * (projections + products) + lowest
