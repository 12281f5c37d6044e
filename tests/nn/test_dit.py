"""Laws of the diffusion transformer: shapes, conditions, start at zero, independence of samples, masks, storage."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_networks import ATTENTION, TOKENS, awake, randn, small, token_sets

from kakusan.conditioning import Condition, TokenSet
from kakusan.nn import ContextTokens, CrossTokens, DiT, Route, SoftmaxAttention, UNet, count
from kakusan.nn.blocks import Block
from kakusan.nn.patch import from_patches, to_patches
from kakusan.nn.transformer import TransformerBlock
from kakusan.specs import from_spec, to_spec


@settings(max_examples=20, deadline=None)
@given(
    size=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    patch=st.integers(1, 3),
    channels=st.integers(1, 3),
    out_channels=st.none() | st.integers(1, 3),
    batch=st.integers(1, 3),
    one_level=st.booleans(),
    attention=st.sampled_from(ATTENTION),
    registers=st.integers(0, 2),
    bottleneck=st.sampled_from([0, 3]),
)
def test_any_shape_goes_in_and_comes_out(
    size, patch, channels, out_channels, batch, one_level, attention, registers, bottleneck
):
    parts = {"attention": attention, "registers": registers, "bottleneck": bottleneck}
    network = awake(small(channels=channels, out_channels=out_channels, rank=len(size), patch=patch, **parts))
    out = network(randn(batch, channels, *size), randn(1 if one_level else batch))
    assert out.shape == (batch, out_channels or channels, *size)
    assert out.isfinite().all()
    assert out.abs().max() > 0


@pytest.mark.parametrize("size", [(6,), (4, 6), (2, 4, 6)])
def test_patches_are_cut_and_joined_exactly(size):
    x = randn(2, 3, *size)
    tokens = to_patches(x, 2).flatten(2).mT
    grid = [side // 2 for side in size]
    assert torch.equal(from_patches(tokens.mT.unflatten(2, grid), 2), x)
    # The first token is the patch at the first corner.
    corner = x[(slice(None), slice(None), *[slice(2)] * len(size))]
    assert torch.equal(tokens[:, 0], corner.flatten(1))


@pytest.mark.parametrize("tokens", [None, *TOKENS])
@pytest.mark.parametrize("attention", ATTENTION)
def test_gradients_reach_every_parameter_and_the_input(attention, tokens):
    network = small(
        attention=attention, tokens=tokens, condition_width=3, spatial_channels=1, augment_width=2, registers=1,
        bottleneck=4, value_residual=True,
    )  # fmt: skip
    network = awake(network)
    x = randn(2, 2, 4, 6).requires_grad_()
    cond = replace(
        token_sets(2) if tokens else Condition(), vector=randn(2, 3), spatial=randn(2, 1, 4, 6), augment=randn(2, 2)
    )
    cond = cond.map(lambda part: part.requires_grad_() if part.is_floating_point() else part)
    network(x, randn(2), cond).square().sum().backward()
    parts = {f"condition {i}": part for i, part in enumerate(cond.tensors()) if part.is_floating_point()}
    tensors = {**dict(network.named_parameters()), "x": x, **parts}
    assert [name for name, t in tensors.items() if t.grad is None or not t.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("tokens", [None, *TOKENS])
def test_output_is_zero_at_the_start_and_blocks_change_nothing(tokens):
    network = small(tokens=tokens, registers=1, value_residual=True)
    cond = token_sets(2) if tokens else None
    assert network(randn(2, 2, 5, 4), randn(2), cond).abs().max() == 0
    x = randn(2, 7, 16)
    still = network.transformer(x, torch.zeros(1, 3, 6, 16), tokens=cond.tokens if cond else None)
    assert torch.equal(still, x)


@pytest.mark.parametrize("size", [(11,), (7, 5), (3, 4, 5)])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("tokens", TOKENS)
def test_a_sample_does_not_depend_on_its_batch(size, attention, tokens):
    network = awake(small(rank=len(size), attention=attention, tokens=tokens, condition_width=3, registers=1))
    x, c_noise = randn(4, 2, *size), randn(4, seed=1)
    cond = replace(token_sets(4), vector=randn(4, 3, seed=2))
    with torch.no_grad():
        together = network(x, c_noise, cond)
        for k in range(4):
            one = slice(k, k + 1)
            alone = network(x[one], c_noise[one], cond.map(lambda part, one=one: part[one]))
            torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-5 * float(together.std()) + 1e-6)


@pytest.mark.parametrize("tokens", TOKENS)
def test_one_noise_level_or_condition_serves_the_whole_batch(tokens):
    network = awake(small(tokens=tokens, condition_width=3, spatial_channels=1))
    x, level = randn(4, 2, 4, 4), randn(1)
    one = replace(token_sets(1), vector=randn(1, 3), spatial=randn(1, 1, 4, 4))
    torch.testing.assert_close(network(x, level, one), network(x, level.expand(4), one.expand(4)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("tokens", TOKENS)
def test_masked_tokens_change_nothing(attention, tokens):
    network = awake(small(attention=attention, tokens=tokens))
    x, c_noise, cond = randn(3, 2, 4, 4), randn(3), token_sets(3)
    text = cond.tokens["text"]
    wild = TokenSet(torch.where(text.mask[..., None], text.values, 1e3 * randn(3, 4, 3, seed=9)), text.mask)
    base = network(x, c_noise, cond)
    torch.testing.assert_close(network(x, c_noise, Condition(tokens={**cond.tokens, "text": wild})), base)
    # And they are as good as absent: sample 0 has one real token.
    short = {"text": TokenSet(text.values[:1, :1]), "image": TokenSet(cond.tokens["image"].values[:1])}
    torch.testing.assert_close(network(x[:1], c_noise[:1], Condition(tokens=short)), base[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("tokens", TOKENS)
def test_a_sample_without_any_real_token_is_finite(attention, tokens):
    network = awake(small(attention=attention, tokens=tokens))
    nothing = {
        name: TokenSet(part.values, torch.zeros(part.values.shape[:2], dtype=torch.bool))
        for name, part in token_sets(2).tokens.items()
    }
    assert network(randn(2, 2, 4, 4), randn(2), Condition(tokens=nothing)).isfinite().all()


@pytest.mark.parametrize("tokens", TOKENS)
def test_the_output_changes_with_every_input_told(tokens):
    network = awake(small(tokens=tokens, condition_width=3, spatial_channels=1, augment_width=2))
    x, c_noise = randn(1, 2, 4, 4), randn(1)
    cond = replace(token_sets(1), vector=randn(1, 3), spatial=randn(1, 1, 4, 4))
    sets = cond.tokens
    base = network(x, c_noise, cond)
    changed = {
        "c_noise": network(x, c_noise + 1, cond),
        "vector": network(x, c_noise, replace(cond, vector=cond.vector + 1)),
        "spatial": network(x, c_noise, replace(cond, spatial=cond.spatial + 1)),
        "augment": network(x, c_noise, replace(cond, augment=torch.ones(1, 2))),
    }
    for name in sets:
        other = TokenSet(-sets[name].values, sets[name].mask)
        changed[name] = network(x, c_noise, replace(cond, tokens={**sets, name: other}))
    for name, out in changed.items():
        assert (out - base).abs().max() > 1e-3 * base.std(), name


def test_a_condition_is_never_ignored():
    x, c_noise = randn(2, 2, 4, 4), randn(2)
    plain, told = small(), small(tokens=TOKENS[0], condition_width=3)
    sets, vector = token_sets(2).tokens, randn(2, 3)
    text = sets["text"].values
    refused = [
        (plain, Condition(vector=vector), "condition_width=3"),
        (plain, Condition(spatial=randn(2, 1, 4, 4)), "spatial_channels=1"),
        (plain, Condition(tokens=sets), "ignore the tokens"),
        (told, Condition(tokens=sets), "needs a Condition.vector"),
        (told, Condition(vector=vector), r"misses \['image', 'text'\]"),
        (told, Condition(vector=vector, tokens={**sets, "sound": sets["text"]}), "sound"),
        (told, Condition(vector=vector, tokens={**sets, "text": TokenSet(randn(2, 4, 4))}), r"\(2, L, 3\)"),
        (told, Condition(vector=vector, tokens={**sets, "text": TokenSet(randn(3, 4, 3))}), r"\(2, L, 3\)"),
        (told, Condition(vector=vector, tokens={**sets, "text": TokenSet(text, torch.ones(2, 4))}), "boolean"),
        (told, Condition(vector=vector, tokens={**sets, "text": TokenSet(text, torch.ones(2, 5) > 0)}), "boolean"),
    ]
    for network, cond, match in refused:
        with pytest.raises(ValueError, match=match):
            network(x, c_noise, cond)


@pytest.mark.parametrize("tokens", [None, *TOKENS])
@pytest.mark.parametrize("attention", ATTENTION)
def test_bfloat16_agrees_within_its_rounding(attention, tokens):
    network = awake(small(attention=attention, tokens=tokens, value_residual=True), scale=0.1)
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2, seed=1), token_sets(2) if tokens else None
    with torch.no_grad():
        exact = network(x, c_noise, cond)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x, c_noise, cond).float()
    # 8 bits of mantissa, half a unit of rounding in each of about 40 operations that add up at random.
    assert (rounded - exact).norm() / exact.norm() < 2**-9 * 40**0.5 * 2
    assert (rounded != exact).any()


@pytest.mark.parametrize("parts", [{}, {"tokens": TOKENS[0]}, {"tokens": TOKENS[1], "route": Route(1, 2)}])
@pytest.mark.parametrize("attention", ATTENTION)
def test_stored_and_built_again_it_is_the_same(attention, parts):
    network = awake(small(attention=attention, registers=1, value_residual=True, bottleneck=3, **parts))
    twin = from_spec(to_spec(network), DiT)
    twin.load_state_dict(network.state_dict())
    x, c_noise, cond = randn(2, 2, 6, 6), randn(2), token_sets(2) if "tokens" in parts else None
    assert torch.equal(twin.eval()(x, c_noise, cond), network(x, c_noise, cond))


@pytest.mark.parametrize(
    "arguments",
    [
        {"rank": 4},
        {"channels": 0},
        {"out_channels": 0},
        {"patch": 0},
        {"width": 1},
        {"depth": 0},
        {"registers": -1},
        {"bottleneck": -1},
        {"mlp_ratio": 0.0},
        {"dropout": 1.0},
        {"attention": SoftmaxAttention(heads=3)},
        {"rank": 3, "attention": SoftmaxAttention(heads=4)},
        {"route": Route(1, 9)},
    ],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"\d"):
        small(**arguments)


@pytest.mark.parametrize("kind", [CrossTokens, ContextTokens])
@pytest.mark.parametrize("widths", [{}, {"text": 0}, {"type": 3}, {"a.b": 3}])
def test_wrong_token_sets_are_refused(kind, widths):
    with pytest.raises(ValueError, match="token set"):
        kind(widths)


def test_for_data_has_sensible_sizes():
    assert DiT.for_data(1, (9,), width=16)(randn(1, 1, 9), randn(1)).shape == (1, 1, 9)
    network = DiT.for_data(3, (32, 32))
    assert (network.transformer.depth, network.transformer.pairs) == (8, 32)
    assert 9.5e6 < count.parameters(network) < 10e6
    with pytest.raises(ValueError, match="size"):
        DiT.for_data(1, ())


def test_a_network_can_be_built_and_traced_without_memory():
    with torch.device("meta"):
        network = small(tokens=TOKENS[0], rank=1)
        cond = token_sets(2)
    cond = Condition(tokens={name: TokenSet(part.values.to("meta")) for name, part in cond.tokens.items()})
    x = torch.empty(2, 2, 7, device="meta")
    assert network(x, torch.empty(2, device="meta"), cond).shape == x.shape
    # Tables made meanwhile do not stay behind in place of real ones.
    assert awake(small(rank=1))(randn(2, 2, 7), randn(2)).isfinite().all()


def test_counted_arithmetic_is_that_of_its_matrices():
    width, depth, tokens, inputs = 24, 2, 12, 8
    network = DiT(channels=2, width=width, depth=depth, attention=SoftmaxAttention(heads=2))
    hidden = 64  # 2/3 of 4 * 24
    block = 4 * width**2 + 3 * width * hidden
    once = 256 * width + width**2 + width * (6 * depth + 2) * width
    products = 2 * tokens**2 * width
    expected = 2 * (tokens * (depth * block + 2 * inputs * width) + depth * products + once)
    assert count.flops(network, (2, 6, 8)) == expected
    assert 2.5 * expected < count.flops(network, (2, 6, 8), backward=True) <= 3 * expected


@pytest.mark.parametrize("make", [small, lambda **_: UNet(channels=2, width=8, multipliers=(1, 2), dropout=0.3)])
def test_checkpointing_gives_the_same_gradients_dropout_included(make):
    network = awake(make(dropout=0.3, value_residual=True, route=Route(1, 2))).train()
    x, c_noise, gradients = randn(2, 2, 8, 8), randn(2), []
    calls = []
    kind = TransformerBlock if isinstance(network, DiT) else Block
    blocks = [part for part in network.modules() if isinstance(part, kind)]
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    for on in (False, True):
        network.checkpointing = on
        network.zero_grad()
        torch.manual_seed(5)
        network(x, c_noise).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
    assert len(calls) == 3 * len(blocks), "once plainly, then forward and again backward"
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, rtol=1e-5, atol=1e-6, msg=name)
