"""Laws of recorded attention: sums, hand computation, no side effects, rows, evaluations, sizes, a planted answer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from token_networks import awake, randn, small, token_sets

from kakusan.conditioning import Condition, TokenSet
from kakusan.nn import (
    ContextTokens,
    CrossTokens,
    DiT,
    FourierFeatures,
    LinearAttention,
    MagnitudePreservingUNet,
    Patched,
    Route,
    SoftmaxAttention,
    UNet,
)
from kakusan.nn.attended import readers, recorded
from kakusan.nn.control import Controlled

SETS = {"text": 3, "image": 5}


def unet(**arguments):
    parts = {"channels": 2, "width": 8, "multipliers": (1, 2), "depth": 1, "token_levels": (0, 1)}
    return awake(UNet(**{**parts, "tokens": CrossTokens(SETS), **arguments}))


def cross(**arguments):
    return awake(small(tokens=CrossTokens(SETS), **arguments))


def joined(**arguments):
    return awake(small(tokens=ContextTokens(SETS), registers=2, **arguments))


MAKERS = [unet, cross, joined]


def run(network, cond, *, size=(7, 5), seed=0, **recording):
    with torch.no_grad(), recorded(network, **recording) as maps:
        network(randn(cond.batch, 2, *size, seed=seed), randn(cond.batch), cond)
    return maps


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("size", [(11,), (7, 5), (3, 4, 5)])
def test_shares_of_a_place_sum_to_one_and_padding_has_none(make, size):
    network, cond = make(rank=len(size)), token_sets(3)
    maps = run(network, cond, size=size)
    text, image, nothing = maps.of("text"), maps.of("image"), maps.nothing()
    assert text.shape == (3, 4, *size)
    assert image.shape == (3, 2, *size)
    torch.testing.assert_close(text.sum(1) + image.sum(1) + nothing, torch.ones(3, *size))
    assert min(float(text.min()), float(image.min())) >= 0
    mask = cond.tokens["text"].mask
    assert text[~mask].abs().max() == 0
    assert text[mask].flatten(1).amax(1).min() > 0
    for name in maps.layers:
        one = maps.layer(name)
        assert (len(one), *one.shape[1:3]) == (3, 1, 7)
        torch.testing.assert_close(one.sum(2), torch.ones_like(one[:, :, 0]))


@pytest.mark.parametrize("make", [*MAKERS, lambda: cross(attention=LinearAttention(heads=2))])
def test_recording_changes_no_bit_and_leaves_nothing_behind(make):
    network, cond = make(), token_sets(2)
    x, c_noise = randn(2, 2, 8, 8), randn(2)
    before = network(x, c_noise, cond)
    kept = {name: dict(module.__dict__) for name, module in network.named_modules()}
    with recorded(network) as maps:
        during = network(x, c_noise, cond)
    assert torch.equal(during, before)
    assert torch.equal(network(x, c_noise, cond), before)
    assert maps.evaluations == 1
    for name, module in network.named_modules():
        assert module.__dict__.keys() == kept[name].keys()
        assert not module._forward_pre_hooks
        assert not module._forward_hooks


@pytest.mark.parametrize("fused", [False, True])
def test_weights_of_the_unet_are_those_of_its_definition(monkeypatch, fused):
    if fused:
        monkeypatch.setattr("kakusan.nn.tokens.CPU_PLAIN_LIMIT", 0)
    network, cond = unet(multipliers=(1,), token_levels=(0,)), token_sets(2)
    inputs = {}
    name, _, layer = next(iter(network.layers()))
    hook = layer.cross.register_forward_pre_hook(lambda _, args: inputs.update(zip("xkm", args, strict=True)))
    maps = run(network, cond, size=(4, 4), heads=True)
    hook.remove()
    found = maps.layer(name)
    heads = layer.cross.heads
    assert found.shape == (2, heads, 7, 4, 4)
    q = layer.cross.q.weight @ layer.cross.norm(inputs["x"]).flatten(2)
    k = inputs["k"][..., :8]
    for b in range(2):
        for h in range(heads):
            rows = slice(h * 8 // heads, (h + 1) * 8 // heads)
            cosine = F.normalize(k[b, :, rows], dim=1) @ F.normalize(q[b, rows], dim=0)
            logits = (8 / heads) ** 0.5 * layer.cross.log_scale[h].exp() * cosine
            logits[~inputs["m"][b]] = -torch.inf
            torch.testing.assert_close(found[b, h].flatten(1), logits.softmax(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [cross, joined])
@pytest.mark.parametrize("attention", [SoftmaxAttention(heads=2), LinearAttention(heads=2)])
def test_weights_of_a_transformer_make_what_its_attention_makes(make, attention):
    """Weights times values, computed here, are the mixture that the network computed."""
    network, cond = make(attention=attention, depth=1), token_sets(2)
    core, name = readers(network).layers[0].module, readers(network).layers[0].name
    seen = {}

    class Spy:
        heads, scaled = core.products.heads, core.products.scaled

        def __getattr__(self, attribute):
            return getattr(attention.products(16), attribute)

        def mix(self, q, k, v, mask):
            seen.update(v=v, mixed=attention.products(16).mix(q, k, v, mask))
            return seen["mixed"]

        def weights(self, q, k, mask):
            seen["weights"] = attention.products(16).weights(q, k, mask)
            return seen["weights"]

    core.products = Spy()
    maps = run(network, cond, size=(6, 4), heads=True)
    expected = torch.einsum("bhlm,bmhd->blhd", seen["weights"], seen["v"])
    torch.testing.assert_close(expected, seen["mixed"], rtol=0, atol=1e-5)
    # Six places, and behind them two registers and the tokens where these are part of the sequence.
    places = seen["weights"][:, :, :6]
    text = places[..., -6:] if make is joined else places[..., :6]
    found = maps.layer(name)
    torch.testing.assert_close(found[:, :, :6].flatten(3).mT, text)
    torch.testing.assert_close(found[:, :, 6].flatten(2), places.sum(-1) - text.sum(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_maps_of_a_sample_do_not_depend_on_its_batch(make):
    network, cond = make(), token_sets(3)
    x, c_noise = randn(3, 2, 7, 5), randn(3)
    with torch.no_grad(), recorded(network) as together:
        network(x, c_noise, cond)
    for k in range(3):
        with torch.no_grad(), recorded(network) as alone:
            network(x[k : k + 1], c_noise[k : k + 1], cond.map(lambda part, k=k: part[k : k + 1]))
        torch.testing.assert_close(alone.of()[0], together.of()[k], rtol=0, atol=1e-5)


def test_rows_heads_and_evaluations_are_those_chosen():
    network, cond = unet(), token_sets(2)
    guided = cond.cat(token_sets(2, seed=7))
    inputs = [(randn(4, 2, 7, 5, seed=k), randn(4, seed=k)) for k in range(3)]

    def all_three(**recording):
        with torch.no_grad(), recorded(network, **recording) as maps:
            for k, (x, c_noise) in enumerate(inputs):
                # Guidance over an interval: the last evaluation has the conditional half only.
                half = slice(2) if k == 2 and "rows" in recording else slice(4)
                network(x[half], c_noise[half], cond if half == slice(2) else guided)
        return maps

    each = all_three(each=True, heads=True)
    assert each.layer("middle.0").shape == (3, 4, 1, 7, 4, 3)
    assert each.of().shape == (3, 4, 4, 7, 5)
    assert each.nothing().shape == (3, 4, 7, 5)
    assert each.levels == pytest.approx([float(c[0]) for _, c in inputs])
    for rows in (slice(2), range(2), [0, 1]):
        torch.testing.assert_close(all_three(rows=rows).of(), each.of()[:, :2].mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(all_three(evaluations=(0, 2)).of(), each.of()[[0, 2]].mean(0), rtol=0, atol=1e-6)
    few = each.of(layers=["up 0.0"])
    torch.testing.assert_close(few, each.layer("up 0.0").mean(2)[:, :, :4, :7, :5], rtol=0, atol=1e-6)
    assert all_three(evaluations=[1]).evaluations == 1


@pytest.mark.parametrize("make", MAKERS)
def test_texts_of_different_lengths_are_added_token_by_token(make):
    """Guidance fills a text up to the length of a longer negative one, and in other evaluations it stands alone."""
    network, (short, long) = make(), (token_sets(1), token_sets(1, seed=3))
    more = long.tokens["text"].filled(6)
    long = Condition(tokens={**long.tokens, "text": more})
    each = [run(network, cond, seed=k) for k, cond in enumerate((short, long, short))]
    with torch.no_grad(), recorded(network) as maps:
        for k, cond in enumerate((short, long, short)):
            network(randn(1, 2, 7, 5, seed=k), randn(1), cond)
    assert maps.of().shape == (1, 6, 7, 5)
    expected = sum(F.pad(one.of(), (0, 0, 0, 0, 0, 6 - one.of().shape[1])) for one in each) / 3
    torch.testing.assert_close(maps.of(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(maps.of("image"), sum(one.of("image") for one in each) / 3, rtol=0, atol=1e-6)
    torch.testing.assert_close(maps.nothing(), sum(one.nothing() for one in each) / 3, rtol=0, atol=1e-6)


def test_memory_does_not_grow_with_evaluations():
    network, cond = unet(), token_sets(1)
    with torch.no_grad(), recorded(network) as maps:
        for k in range(5):
            network(randn(1, 2, 7, 5, seed=k), randn(1), cond)
    assert all(len(kept) == 1 for kept in maps._sums.values())
    assert all(kept[0].dtype == torch.float32 and kept[0].device.type == "cpu" for kept in maps._sums.values())


def test_wrapped_networks_are_recorded_in_pixels_of_the_whole():
    inner = unet(channels=8)
    patched, cond = Patched(backbone=inner, patch=2), token_sets(2)
    maps = run(patched, cond, size=(7, 10))
    assert maps.of().shape == (2, 4, 7, 10)
    assert maps.layer("down 0.0").shape[-2:] == (4, 6)
    torch.testing.assert_close(maps.of().sum(1) + maps.of("image").sum(1) + maps.nothing(), torch.ones(2, 7, 10))
    waves = FourierFeatures(backbone=unet(channels=6, out_channels=2), frequencies=[1.0])
    assert run(waves, cond).of().shape == (2, 4, 7, 5)
    beside = Controlled(base=unet(), spatial_channels=1)
    told = Condition(tokens=cond.tokens, spatial=randn(2, 1, 7, 5))
    assert run(beside, told).of().shape == (2, 4, 7, 5)


def test_activations_computed_again_for_a_gradient_are_not_counted_twice():
    network, cond = unet(), token_sets(2)
    x, c_noise = randn(2, 2, 7, 5), randn(2)
    plain = run(network, cond).of()
    network.checkpointing = True
    with recorded(network) as maps:
        network(x, c_noise, cond).square().sum().backward()
    torch.testing.assert_close(maps.of(), plain, rtol=0, atol=1e-6)


def test_bfloat16_maps_agree_within_rounding():
    for make in MAKERS:
        network, cond = make(), token_sets(2)
        exact = run(network, cond).of()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = run(network, cond).of()
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).abs().max() < 0.05


def test_what_cannot_be_recorded_is_said():
    for bare in (small(), UNet(channels=2, width=8), MagnitudePreservingUNet(channels=2, width=8, depth=1)):
        with pytest.raises(ValueError, match="reads no tokens"), recorded(bare):
            pass
    network, cond = unet(), token_sets(2)
    with recorded(network) as empty, pytest.raises(ValueError, match="already"), recorded(network):
        pass
    with pytest.raises(ValueError, match="nothing was recorded"):
        empty.of()
    maps = run(network, cond)
    with pytest.raises(ValueError, match="no token set 'words'; there are text, image"):
        maps.of("words")
    with pytest.raises(ValueError, match="no layer 'left'"):
        maps.of(layers=["left"])
    with pytest.raises(ValueError, match="at least one layer"):
        maps.of(layers=[])
    with torch.no_grad(), recorded(network):
        network(randn(2, 2, 7, 5), randn(2), cond)
        with pytest.raises(ValueError, match="rows="):
            network(randn(1, 2, 7, 5), randn(1), token_sets(1))
        with pytest.raises(ValueError, match="one by one"):
            network(randn(2, 2, 8, 8), randn(2), cond)
    assert readers(network).layers[0].module.watch is None
    routed = cross(route=Route(1, 2)).train()
    with pytest.raises(ValueError, match=r"eval\(\)"):
        run(routed, cond)
    # The network's own word on a wrong condition comes first.
    with recorded(network), pytest.raises(ValueError, match="misses"):
        network(randn(2, 2, 7, 5), randn(2), None)


def planted(count, source):
    """Pictures of four quarters, each with a mark; of four tokens the one with that mark says the quarter's value.

    Returns x, what is wanted, the condition and the number of the right token at each place.
    """
    marks = torch.rand(count, 4, generator=source).argsort(1)
    order = torch.rand(count, 4, generator=source).argsort(1)
    values = torch.randn(count, 4, generator=source)

    def paint(quarters):
        return quarters.view(count, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)

    x = torch.cat([paint((marks == mark).float()) for mark in range(4)], dim=1)
    tokens = torch.cat([F.one_hot(order, 4).float(), values.gather(1, order)[..., None]], dim=2)
    mask = (torch.arange(6) < 4).expand(count, 6)
    cond = Condition(tokens={"text": TokenSet(F.pad(tokens, (0, 0, 0, 2)), mask)})
    right = paint(order.argsort(1).gather(1, marks).float())[:, 0].long()
    return x, paint(values.gather(1, marks)), cond, right


@pytest.mark.parametrize("kind", ["unet", "cross", "joined"])
def test_a_trained_network_looks_where_the_answer_stands(kind):
    torch.manual_seed(0)
    network = {
        "unet": lambda: UNet(
            channels=4, out_channels=1, width=16, multipliers=(1,), depth=1, middle_attention=False,
            tokens=CrossTokens({"text": 5}), token_levels=(0,),
        ),
        "cross": lambda: DiT(channels=4, out_channels=1, width=32, depth=2, tokens=CrossTokens({"text": 5})),
        "joined": lambda: DiT(channels=4, out_channels=1, width=32, depth=2, tokens=ContextTokens({"text": 5})),
    }[kind]()  # fmt: skip
    source, optimizer = torch.Generator().manual_seed(1), torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        x, wanted, cond, _ = planted(16, source)
        optimizer.zero_grad()
        (network(x, torch.zeros(1), cond) - wanted).square().mean().backward()
        optimizer.step()
    network.eval()
    x, wanted, cond, right = planted(16, source)
    with torch.no_grad(), recorded(network) as maps:
        error = (network(x, torch.zeros(1), cond) - wanted).square().mean()
    assert error < 0.3
    found = maps.of()[:, :4]
    assert (found.argmax(1) == right).float().mean() > 0.9
    share = found.gather(1, right[:, None]).mean()
    assert share > 2 * (found.sum(1).mean() - share) / 3, "the right token has twice what another has"
