"""Laws of token sets in the magnitude-preserving U-Net: magnitudes, masks, hand computation, maps, storage, choices."""

from __future__ import annotations

import math

import pytest
import torch
from token_networks import randn, token_sets

from kakusan.building import build_backbone
from kakusan.conditioning import Condition, TokenSet
from kakusan.config import ModelSettings
from kakusan.data.spec import DataSpec
from kakusan.nn import ContextTokens, CrossTokens, MagnitudePreservingUNet
from kakusan.nn.attended import recorded
from kakusan.nn.magnitude_tokens import MPCrossAttention
from kakusan.specs import from_spec, to_spec

SETS = CrossTokens({"text": 3, "image": 5})


def small(**arguments):
    torch.manual_seed(1)
    parts = {"channels": 2, "width": 8, "multipliers": (1, 2), "depth": 1, "attention_levels": (1,), "head_width": 4}
    network = MagnitudePreservingUNet(**{**parts, "tokens": SETS, "token_levels": (0, 1), **arguments})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gain"):
                parameter.fill_(0.7)
    return network.eval()


@pytest.mark.parametrize(("size", "loudness"), [((64,), 1.0), ((32, 32), 1e-3), ((32, 32), 1e3), ((12, 12, 12), 1.0)])
def test_magnitudes_hold_however_large_the_features_of_a_text_are(size, loudness):
    network = small(rank=len(size), width=16, multipliers=(1, 2, 2), token_levels=(0, 1, 2))
    found = {}
    for name, module in network.named_modules():
        if type(module).__name__ == "_Layer":
            module.register_forward_hook(
                lambda _, __, out, name=name: found.update({name: float(out.square().mean() ** 0.5)})
            )
    cond = token_sets(8)
    cond = Condition(tokens={n: TokenSet(part.values * loudness, part.mask) for n, part in cond.tokens.items()})
    with torch.no_grad():
        out = network(randn(8, 2, *size), randn(8), cond) / network.gain
    # The bounds of test_edm2.
    assert len(found) == 8
    assert max(found.values()) < 2.0
    assert min(found.values()) > 0.5
    assert 0.4 < float(out.std()) < 2.0


def test_with_tokens_it_starts_with_the_numbers_it_has_without():
    told, without = small(), small(tokens=None, token_levels=None)
    extra = set(told.state_dict()) - set(without.state_dict())
    assert extra
    assert all("cross" in name or name.startswith("context.") for name in extra)
    assert all(torch.equal(told.state_dict()[name], value) for name, value in without.state_dict().items())


def test_what_stands_in_padding_changes_no_bit_and_texts_do():
    network, cond = small(), token_sets(3)
    x, c_noise, text = randn(3, 2, 7, 5), randn(3), cond.tokens["text"]
    base = network(x, c_noise, cond)
    wild = torch.where(text.mask[..., None], text.values, 1e6 * randn(3, 4, 3, seed=9))
    other = Condition(tokens={**cond.tokens, "text": TokenSet(wild, text.mask)})
    assert torch.equal(network(x, c_noise, other), base)
    open_text = Condition(tokens={**cond.tokens, "text": TokenSet(wild)})
    assert (network(x, c_noise, open_text) - base).abs().max() > 1e-3
    with torch.no_grad():
        alone = network(x[1:2], c_noise[1:2], cond.map(lambda part: part[1:2]))
    torch.testing.assert_close(alone[0], base[1], rtol=0, atol=1e-5 * float(base.detach().std()) + 1e-6)


def test_an_attention_of_one_head_by_hand():
    layer, x, kv = MPCrossAttention(4, 1), randn(1, 4, 3), randn(1, 6, 8, seed=1)
    mask = torch.tensor([[True, False, True, True, True, True]])

    def unit(rows):
        return rows / rows.square().mean(-1, keepdim=True).sqrt()

    def turned(conv, rows):
        weight = conv.weight[:, :, 0]
        return rows @ (weight / weight.norm(dim=1, keepdim=True)).T

    q, (k, v) = unit(turned(layer.q, x[0].T)), (unit(part) for part in kv[0][mask[0]].split(4, dim=1))
    mixed = turned(layer.out, (q @ k.T / 2.0).softmax(1) @ v)
    expected = (0.7 * x[0].T + 0.3 * mixed) / math.hypot(0.7, 0.3)
    torch.testing.assert_close(layer(x, kv, mask)[0].T, expected)


def test_gradients_reach_every_parameter_and_every_real_token():
    network, cond = small(), token_sets(2)
    cond = cond.map(lambda part: part.requires_grad_() if part.is_floating_point() else part)
    network.train()
    network(randn(2, 2, 8, 8), randn(2), cond).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    text = cond.tokens["text"]
    assert torch.equal(text.values.grad.abs().sum(2) > 0, text.mask)


def test_maps_of_attention_sum_to_one_and_padding_has_none():
    network, cond = small(), token_sets(3)
    with torch.no_grad(), recorded(network) as maps:
        watched = network(randn(3, 2, 7, 5), randn(3), cond)
    assert torch.equal(network(randn(3, 2, 7, 5), randn(3), cond), watched)
    text, image, nothing = maps.of("text"), maps.of("image"), maps.nothing()
    torch.testing.assert_close(text.sum(1) + image.sum(1) + nothing, torch.ones(3, 7, 5))
    assert text[~cond.tokens["text"].mask].abs().max() == 0
    assert maps.layers == ("down 0.0", "down 1.0", "middle.0", "up 1.0", "up 0.0")


def test_stored_and_built_again_it_is_the_same_and_wrong_tokens_are_refused():
    network = small()
    twin = from_spec(to_spec(network), MagnitudePreservingUNet)
    twin.load_state_dict(network.state_dict())
    x, c_noise, cond = randn(2, 2, 8, 8), randn(2), token_sets(2)
    assert torch.equal(twin.eval()(x, c_noise, cond), network(x, c_noise, cond))
    older = {name: value for name, value in to_spec(network).items() if not name.startswith("token")}
    assert from_spec(older, MagnitudePreservingUNet).token_widths == {}
    with pytest.raises(ValueError, match="misses"):
        network(x, c_noise)
    with pytest.raises(ValueError, match="CrossTokens in place"):
        small(tokens=ContextTokens({"text": 3}))


def test_the_settings_of_a_run_lead_to_it():
    spec = DataSpec(channels=3, size=(32, 32), mean=(0.0,) * 3, std=(0.5,) * 3, mode="RGB")
    made = build_backbone(ModelSettings(backbone="edm2", width=8), spec, condition_width=4, tokens=SETS)
    assert isinstance(made, MagnitudePreservingUNet)
    levels = {level for _, level, layer in made.layers() if layer.cross is not None}
    assert levels == {1, 2}
