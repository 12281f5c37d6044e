"""Laws of token sets in the U-Net: start, masks, order, independence, precision, storage, control branches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_networks import awake, randn, token_sets

from kakusan.conditioning import Condition, TokenSet
from kakusan.nn import (
    ContextTokens,
    ConvNeXtBlocks,
    CrossTokens,
    LinearAttention,
    MagnitudePreservingUNet,
    ResidualBlocks,
    SoftmaxAttention,
    UNet,
    count,
)
from kakusan.nn.control import Controlled
from kakusan.nn.tokens import KeysAndValues, MapCrossAttention
from kakusan.specs import from_spec, to_spec

SETS = CrossTokens({"text": 3, "image": 5})
ATTENTION = [SoftmaxAttention(heads=2), LinearAttention(heads=2)]
SIZES = [(11,), (7, 5), (3, 4, 5)]


def small(**arguments):
    return UNet(**{"channels": 2, "width": 8, "multipliers": (1, 2), "depth": 1, "tokens": SETS, **arguments})


def with_text(cond, values=None, mask=None):
    """The condition with another text."""
    return Condition(tokens={**cond.tokens, "text": TokenSet(values, mask)})


def readers(network):
    return [name for name, _, layer in network.layers() if layer.cross is not None]


@settings(max_examples=15, deadline=None)
@given(
    size=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    batch=st.integers(1, 3),
    one_condition=st.booleans(),
    levels=st.none() | st.lists(st.integers(0, 1), max_size=2, unique=True),
    blocks=st.sampled_from([ResidualBlocks(), ConvNeXtBlocks(kernel=3, expansion=2)]),
    attention=st.sampled_from(ATTENTION),
)
def test_any_shape_goes_in_and_comes_out(size, batch, one_condition, levels, blocks, attention):
    network = awake(small(rank=len(size), token_levels=levels, blocks=blocks, attention=attention))
    x = randn(batch, 2, *size)
    out = network(x, randn(batch), token_sets(1 if one_condition else batch))
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.abs().max() > 0


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("size", SIZES)
def test_before_training_tokens_change_nothing_to_the_bit(size, attention):
    shape = {"rank": len(size), "attention": attention, "attention_levels": (1,)}
    torch.manual_seed(0)
    without = small(tokens=None, **shape)
    torch.manual_seed(0)
    told = small(token_levels=(0, 1), **shape)
    # The same numbers come first, and the rest is what reads tokens.
    extra = set(told.state_dict()) - set(without.state_dict())
    assert extra
    assert all("cross" in name or name.startswith("context.") for name in extra)
    for name, value in without.state_dict().items():
        assert torch.equal(told.state_dict()[name], value), name
    # Off its zero start everywhere but where tokens enter.
    awake(without)
    told.load_state_dict(without.state_dict(), strict=False)
    x, c_noise = randn(2, 2, *size), randn(2)
    out = without(x, c_noise)
    assert out.abs().max() > 0
    assert torch.equal(told.eval()(x, c_noise, token_sets(2)), out)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_reach_every_parameter_and_every_token(masked):
    network = awake(small(token_levels=(0, 1), attention_levels=(1,)))
    cond = token_sets(2, masked=masked)
    cond = cond.map(lambda part: part.requires_grad_() if part.is_floating_point() else part)
    network(randn(2, 2, 8, 8), randn(2), cond).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    for part in cond.tokens.values():
        told = part.values.grad.abs().sum(2) > 0
        assert torch.equal(told, torch.ones_like(told) if part.mask is None else part.mask)


def test_at_the_start_gradients_reach_what_lets_tokens_in():
    torch.manual_seed(0)
    network = small()
    awake(network.head)
    network(randn(2, 2, 8, 8), randn(2), token_sets(2)).square().sum().backward()
    cross = [layer.cross for _, _, layer in network.layers() if layer.cross is not None]
    assert cross
    assert all(layer.out.weight.grad.abs().sum() > 0 for layer in cross)


@pytest.mark.parametrize("size", SIZES)
def test_a_sample_does_not_depend_on_its_batch(size):
    network = awake(small(rank=len(size), condition_width=3, token_levels=(0, 1)))
    x, c_noise = randn(4, 2, *size), randn(4, seed=1)
    cond = replace(token_sets(4), vector=randn(4, 3, seed=2))
    with torch.no_grad():
        together = network(x, c_noise, cond)
        for k in range(4):
            one = slice(k, k + 1)
            alone = network(x[one], c_noise[one], cond.map(lambda part, one=one: part[one]))
            torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-5 * float(together.std()) + 1e-6)


def test_what_stands_in_padding_changes_no_bit():
    network = awake(small(token_levels=(0, 1)))
    x, c_noise, cond = randn(3, 2, 8, 8), randn(3), token_sets(3)
    text = cond.tokens["text"]
    wild = torch.where(text.mask[..., None], text.values, 1e6 * randn(3, 4, 3, seed=9))
    base = network(x, c_noise, cond)
    assert torch.equal(network(x, c_noise, with_text(cond, wild, text.mask)), base)
    # Padding is as good as absent: sample 0 has one real token.
    one = cond.map(lambda part: part[:1])
    short = network(x[:1], c_noise[:1], with_text(one, text.values[:1, :1]))
    torch.testing.assert_close(short, base[:1], rtol=0, atol=1e-5)
    assert (network(x, c_noise, with_text(cond, wild)) - base).abs().max() > 1e-3


def test_the_order_of_tokens_and_of_sets_changes_nothing():
    network = awake(small(token_levels=(0, 1)))
    x, c_noise, cond = randn(3, 2, 8, 8), randn(3), token_sets(3)
    text, order = cond.tokens["text"], [2, 0, 3, 1]
    turned = Condition(
        tokens={"image": cond.tokens["image"], "text": TokenSet(text.values[:, order], text.mask[:, order])}
    )
    torch.testing.assert_close(network(x, c_noise, turned), network(x, c_noise, cond), rtol=0, atol=1e-5)


def test_without_any_real_token_it_is_the_network_without_tokens():
    network = awake(small())
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2), token_sets(2)
    nothing = Condition(
        tokens={
            name: TokenSet(1e3 * part.values, torch.zeros(part.values.shape[:2], dtype=torch.bool))
            for name, part in cond.tokens.items()
        }
    )
    bare = small(tokens=None).eval()
    bare.load_state_dict({name: value for name, value in network.state_dict().items() if name in bare.state_dict()})
    assert torch.equal(network(x, c_noise, nothing), bare(x, c_noise))
    assert (network(x, c_noise, cond) - bare(x, c_noise)).abs().max() > 1e-3
    empty = Condition(tokens={name: TokenSet(part.values[:, :0]) for name, part in cond.tokens.items()})
    torch.testing.assert_close(network(x, c_noise, empty), bare(x, c_noise), rtol=0, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("places", [(3,), (8, 9)])
def test_attention_is_what_its_definition_says_whichever_way_it_is_computed(monkeypatch, heads, places):
    """With few places, with many, and by the fused kernel: softmax of cosines by a temperature, with a null token."""
    layer = awake(MapCrossAttention(8, heads))
    x, kv = randn(2, 8, *places), torch.cat([randn(2, 5, 16, seed=1), torch.zeros(2, 1, 16)], dim=1)
    mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1]]) > 0
    d = 8 // heads
    expected = x.clone()
    for b in range(2):
        normed = layer.norm(x[b : b + 1])[0].flatten(1)
        q = layer.q.weight @ normed
        mixed = torch.zeros(8, q.shape[1])
        for h in range(heads):
            rows = slice(h * d, (h + 1) * d)
            k, v = kv[b, mask[b], :8][:, rows], kv[b, mask[b], 8:][:, rows]
            # Root mean square 1 on both sides, over sqrt(d): sqrt(d) times the cosine.
            cosine = torch.nn.functional.normalize(k, dim=1) @ torch.nn.functional.normalize(q[rows], dim=0)
            weights = (d**0.5 * layer.log_scale[h].exp() * cosine).softmax(0)
            mixed[rows] = (weights.T @ v).T
        expected[b] += (layer.out.weight @ mixed).view(8, *places)
    torch.testing.assert_close(layer(x, kv, mask), expected, rtol=1e-4, atol=1e-4)
    plain = layer(x, kv, mask)
    monkeypatch.setattr("kakusan.nn.tokens.CPU_PLAIN_LIMIT", 0)
    torch.testing.assert_close(layer(x, kv, mask), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
def test_bfloat16_agrees_within_its_rounding(attention):
    network = awake(small(attention=attention, token_levels=(0, 1), attention_levels=(1,)), scale=0.1)
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2, seed=1), token_sets(2)
    with torch.no_grad():
        exact = network(x, c_noise, cond)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x, c_noise, cond).float()
    # As in test_unet: half a unit of rounding in each of about 40 operations that add up at random.
    assert (rounded - exact).norm() / exact.norm() < 2**-9 * 40**0.5 * 2
    assert (rounded != exact).any()


def test_checkpointing_gives_the_same_gradients():
    network = awake(small(token_levels=(0, 1), dropout=0.3)).train()
    x, c_noise, cond, gradients = randn(2, 2, 8, 8), randn(2), token_sets(2), []
    for on in (False, True):
        network.checkpointing = on
        network.zero_grad()
        torch.manual_seed(5)
        network(x, c_noise, cond).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, rtol=1e-5, atol=1e-6, msg=name)


def test_kernels_with_channels_last_change_rounding_only():
    network = awake(small(token_levels=(0, 1)))
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2), token_sets(2)
    base = network(x, c_noise, cond)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x, c_noise, cond), base, rtol=0, atol=1e-5)


def test_levels_are_those_asked_for():
    every = ["down 0.0", "down 1.0", "middle.0", "up 1.0", "up 0.0"]
    assert readers(small(tokens=None)) == []
    assert readers(small()) == ["middle.0"]
    assert readers(small(attention_levels=(1,))) == every[1:4]
    assert readers(small(attention_levels=(1,), token_levels=(0,))) == [every[0], every[2], every[4]]
    assert readers(small(token_levels=(0, 1))) == every
    assert readers(UNet.for_data(3, (32, 32), width=8, depth=1, tokens=SETS)) == [
        "down 1.0", "down 2.0", "middle.0", "up 2.0", "up 1.0",
    ]  # fmt: skip


def test_keys_and_values_of_all_layers_are_those_of_each_by_itself():
    together = KeysAndValues({"text": 3, "image": 5}, 6, (8, 4, 8))
    tokens = token_sets(3).tokens
    parts, mask = together(tokens, 3)
    context, real = together.sets(tokens, 3)
    assert mask[:, :-1].equal(real)
    assert mask[:, -1].all()
    start = 0
    for part, channels in zip(parts, (8, 4, 8), strict=True):
        own = context @ together.product.weight[start : start + 2 * channels].T
        torch.testing.assert_close(part[:, :-1], own)
        assert part[:, -1].abs().max() == 0
        start += 2 * channels
    first, _ = together.first(2)(tokens, 3)
    assert len(first) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, parts, strict=False))


def test_a_control_branch_beside_it_reads_the_text_too():
    base = awake(small(token_levels=(0, 1), condition_width=3))
    network = Controlled(base=base, spatial_channels=1)
    x, c_noise = randn(2, 2, 7, 5), randn(2)
    cond = replace(token_sets(2), vector=randn(2, 3))
    told = replace(cond, spatial=randn(2, 1, 7, 5))
    assert torch.equal(network(x, c_noise, told), base(x, c_noise, cond))
    awake(network.branch)
    learning = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert not any(name.startswith("base.") for name in learning)
    assert {f"branch.{name}" for name, _ in network.branch.named_parameters()} == set(learning)
    branch = network.branch(x, c_noise, cond, told.spatial)
    network(x, c_noise, told).square().sum().backward()
    assert [name for name, p in learning.items() if p.grad is None or not p.grad.abs().sum() > 0] == []
    turned = replace(cond, tokens={**cond.tokens, "text": replace(cond.tokens["text"], values=randn(2, 4, 3, seed=5))})
    changed = network.branch(x, c_noise, turned, told.spatial)
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(branch, changed, strict=True))
    with pytest.raises(ValueError, match="misses"):
        network(x, c_noise, replace(told, tokens={}))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"tokens": ContextTokens({"text": 3})}, "CrossTokens"),
        ({"token_levels": (2,)}, "levels are 0 to 1"),
        ({"tokens": None, "token_levels": (0,)}, "without tokens"),
    ],
)
def test_wrong_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        small(**arguments)


def test_tokens_are_never_ignored():
    x, c_noise, sets = randn(2, 2, 8, 8), randn(2), token_sets(2).tokens
    refused = [
        (small(tokens=None), Condition(tokens=sets), "ignore the tokens"),
        (MagnitudePreservingUNet(channels=2, width=8, depth=1), Condition(tokens=sets), "ignore the tokens"),
        (small(), None, "misses"),
        (small(), Condition(tokens={"text": sets["text"]}), r"misses \['image'\]"),
        (small(), Condition(tokens={**sets, "text": TokenSet(randn(2, 4, 4))}), r"\(2, L, 3\)"),
    ]
    for network, cond, match in refused:
        with pytest.raises(ValueError, match=match):
            network(x, c_noise, cond)


def test_stored_and_built_again_it_is_the_same():
    network = awake(small(token_levels=(0,)))
    twin = from_spec(to_spec(network), UNet)
    twin.load_state_dict(network.state_dict())
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2), token_sets(2)
    assert torch.equal(twin.eval()(x, c_noise, cond), network(x, c_noise, cond))


def test_a_model_stored_before_there_were_tokens_is_read():
    spec = to_spec(small(tokens=None))
    older = {name: value for name, value in spec.items() if not name.startswith("token")}
    assert len(older) == len(spec) - 2
    assert from_spec(older, UNet).token_widths == {}


def test_reading_can_be_traced_without_a_break():
    layer = awake(MapCrossAttention(8, 2))
    mask = torch.tensor([[1, 1, 0, 1, 0, 1]]) > 0
    explained = torch._dynamo.explain(layer)(randn(1, 8, 4, 4), randn(1, 6, 16), mask)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_the_cost_of_reading_is_a_few_hundredths_of_the_arithmetic():
    parts = {"channels": 3, "width": 64, "attention_levels": (1, 2)}
    cross = UNet(**parts, tokens=CrossTokens({"text": 128}))
    cond = Condition(tokens={"text": TokenSet(torch.zeros(1, 32, 128))})
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        cross(torch.zeros(1, 3, 32, 32), torch.zeros(1), cond)
    plain = count.flops(UNet(**parts), (3, 32, 32))
    assert 1.0 < counter.get_total_flops() / plain < 1.06
