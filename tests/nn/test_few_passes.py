"""Laws of the parts that save passes over memory: each is the formula it stands for, and so are its derivatives."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from token_networks import awake, randn, small

from kakusan.nn import SoftmaxAttention, UNet, attention, rotary
from kakusan.nn.blocks import Upsample
from kakusan.nn.modulation import modulated_norm
from kakusan.nn.norms import AdaptiveGroupNorm, GroupNorm
from kakusan.nn.tokens import SelfAttention

CPU = torch.device("cpu")


def units_written_out(x, length, rotation):
    unit = x / (x.square().mean(-1, keepdim=True) + rotary.EPS).sqrt() * length
    first, second = unit.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotation.to(x.dtype).unsqueeze(-3).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


def norm_written_out(x, scale, shift):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1.0 + scale) + shift


def in_halves(x):
    return x.unflatten(-1, (-1, 2)).mT.flatten(-2)


def laid_in_halves(q, k):
    """Queries, keys, and the queries once more as values, as `as_halves` orders them."""
    parts = [part for x in (q, k) for part in in_halves(x).chunk(2, dim=-1)]
    return torch.cat([part.flatten(2) for part in (*parts, q)], dim=-1)


def operands(count=5, heads=3, pairs=2):
    x, length = randn(2, count, heads, 2 * pairs).double(), randn(heads, 1, seed=1).double().exp()
    return x, length, rotary.rotations((count,), pairs, CPU)


@pytest.mark.parametrize("each", [False, True])
def test_units_are_their_formula(each):
    x, length, rotation = operands()
    rotation = rotation.expand(2, -1, -1, -1) if each else rotation
    expected = units_written_out(x, length, rotation)
    torch.testing.assert_close(rotary.turned_units(x, length, rotation), expected)
    other = randn(*x.shape, seed=2).double()
    halved = rotary.turned_halves(laid_in_halves(x, other), length.repeat(2, 1), rotation.double())
    torch.testing.assert_close(halved[0], in_halves(expected))
    torch.testing.assert_close(halved[1], in_halves(units_written_out(other, length, rotation)))
    assert torch.equal(halved[2], x)


def test_derivatives_of_units():
    x, length, rotation = operands()
    given = (x.requires_grad_(), length.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, length: rotary.turned_units(x, length, rotation), given, check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(lambda x, length: rotary.turned_units(x, length, rotation), given)
    qkv, lengths = (y.detach().requires_grad_() for y in (laid_in_halves(x, -x), length.repeat(2, 1)))
    assert torch.autograd.gradcheck(
        lambda qkv, lengths: rotary.turned_halves(qkv, lengths, rotation.double()), (qkv, lengths)
    )


def test_units_under_torch_func():
    x, length, rotation = operands()
    mapped = torch.vmap(lambda x: rotary.turned_units(x[None], length, rotation)[0])(x)
    torch.testing.assert_close(mapped, units_written_out(x, length, rotation))
    tangent = randn(*x.shape, seed=2).double()
    _, found = torch.func.jvp(lambda x: rotary.turned_units(x, length, rotation), (x,), (tangent,))
    _, expected = torch.func.jvp(lambda x: units_written_out(x, length, rotation), (x,), (tangent,))
    torch.testing.assert_close(found, expected)


def test_rows_in_halves_give_features_in_halves():
    weight, x = randn(3 * 3 * 8, 5), randn(2, 4, 5, seed=1)
    q, k, v = (x @ weight.T).unflatten(-1, (3, 3, 8)).unbind(2)
    found = x @ rotary.as_halves(weight, 3).T
    torch.testing.assert_close(found[..., :48], laid_in_halves(q, k)[..., :48])
    torch.testing.assert_close(found[..., 48:], v.flatten(2))


@pytest.mark.parametrize("rows", [1, 2])
def test_modulated_norm(rows):
    x, scale, shift = randn(2, 4, 6), randn(rows, 1, 6, seed=1), randn(rows, 1, 6, seed=2)
    given = tuple(y.double().requires_grad_() for y in (x, scale, shift))

    def norm(*given):
        return modulated_norm(*given, 1e-6)

    torch.testing.assert_close(norm(*given), norm_written_out(*given))
    assert torch.autograd.gradcheck(norm, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(norm, given)
    torch.testing.assert_close(torch.func.jacfwd(norm)(*given), torch.func.jacfwd(norm_written_out)(*given))


def relative(found, exact):
    return float(((found.double() - exact).norm() / exact.norm()).detach())


def apart(found, wanted, every):
    """Distance over size. In bfloat16 what is left of a sum that nearly cancels, beside all gradients, is rounding."""
    whole = torch.stack([gradient.norm() for gradient in every]).norm()
    return float(((found - wanted).norm() / torch.maximum(wanted.norm(), 1e-3 * whole)).detach())


@pytest.mark.parametrize("fused", [False, True])
def test_attention_of_bfloat16_and_its_gradients(fused, monkeypatch):
    monkeypatch.setattr(attention, "MULTIPLIES_TILES", fused)
    products = SoftmaxAttention(heads=2).products(32)
    given = [randn(2, 9, 2, 16, seed=s).mul(0.5).bfloat16().requires_grad_() for s in range(3)]
    exact = [y.detach().double().requires_grad_() for y in given]
    out, expected = products.mix(*given, None), products.mix(*exact, None)
    assert relative(out, expected) < 0.01
    with torch.no_grad():
        assert relative(products.mix(*given, None), expected) < 0.01
    gradient = randn(*out.shape, seed=5)
    found = torch.autograd.grad(out, given, gradient.bfloat16())
    wanted = torch.autograd.grad(expected, exact, gradient.bfloat16().double())
    assert max(relative(a, b) for a, b in zip(found, wanted, strict=True)) < 0.02


def test_derivatives_of_attention():
    given = [randn(1, 2, 3, 4, seed=s).double().requires_grad_() for s in range(3)]
    written_out = (given[0] @ given[1].mT).softmax(dim=-1) @ given[2]
    torch.testing.assert_close(attention._PlainAttention.apply(*given), written_out)
    assert torch.autograd.gradcheck(attention._PlainAttention.apply, given)
    assert torch.autograd.gradgradcheck(attention._PlainAttention.apply, given)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_group_norm_of_bfloat16_is_that_of_float32_rounded(adaptive, last):
    norm = AdaptiveGroupNorm(24) if adaptive else GroupNorm(24)
    extra = (randn(2, 48, seed=3).requires_grad_(),) if adaptive else ()
    x = (3.0 * randn(2, 24, 5, 7) + 20.0).bfloat16()
    x = (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()
    wide = x.detach().float().requires_grad_()
    out, expected = norm(x, *extra), norm(wide, *extra)
    assert out.dtype == torch.bfloat16
    # Half of the last of 8 bits, and what float32 sums in another order differ by: equal but for ties, which machines
    # break differently.
    torch.testing.assert_close(out.float(), expected, rtol=2**-8, atol=1e-4)
    gradient = randn(2, 24, 5, 7, seed=4).bfloat16()
    parameters = extra or tuple(norm.parameters())
    found = torch.autograd.grad(out, (x, *parameters), gradient)
    wanted = torch.autograd.grad(expected, (wide, *parameters), gradient.float())
    assert relative(found[0], wanted[0].double()) < 0.005
    for a, b in zip(found[1:], wanted[1:], strict=True):
        # With channels last they are sums of products in bfloat16, each rounded by at most 2^-9.
        assert relative(a, b.double()) < (2**-8 if last else 1e-4)


def unet(last):
    network = UNet(channels=2, width=8, multipliers=(1, 2), depth=1, attention_levels=(1,))
    network.channels_last = last
    return network


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("build", [small, lambda: unet(False), lambda: unet(True)])
def test_a_compiled_network_is_the_same_function(build, bfloat16):
    # Traced as for a compiler, run by torch's own operations: compilers are given other formulas.
    network = awake(build())
    compiled = torch.compile(network, backend="aot_eager", dynamic=False, fullgraph=True)
    x, c_noise = randn(2, 2, 8, 8), randn(2, seed=1)
    results = []
    for called in (network, compiled):
        network.zero_grad()
        with torch.autocast("cpu", enabled=bfloat16):
            out = called(x, c_noise)
        F.mse_loss(out.float(), x).backward()
        results.append([out.float(), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert len(results[0]) > 20
    for a, b in zip(*results, strict=True):
        if bfloat16:
            # Eight numbers lay a twentieth apart by rounding alone; all of them together 0.7% at most.
            assert apart(a, b, results[1][1:]) < 0.1
        else:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    found, wanted = (torch.cat([y.detach().flatten() for y in result]) for result in results)
    assert relative(found, wanted.double()) < (0.02 if bfloat16 else 1e-4)


@pytest.mark.parametrize("size", [(3,), (3, 4), (2, 3, 4)])
def test_upsampling_is_the_same_with_and_without_a_compiler(size):
    x = randn(2, 5, *size)
    assert torch.equal(torch.compile(Upsample(), backend="eager", dynamic=False)(x), Upsample()(x))


@pytest.mark.skipif(
    "KAKUSAN_TEST_COMPILER" not in os.environ, reason="takes a minute and needs a C++ compiler: KAKUSAN_TEST_COMPILER=1"
)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(
    "build", [lambda: small(width=32), lambda: UNet(channels=2, width=16, multipliers=(1, 2), depth=1)]
)
def test_gradients_of_the_real_compiler(build, bfloat16):
    network = awake(build())
    x, c_noise = randn(4, 2, 16, 16), randn(4, seed=1)
    found = []
    for called in (network, torch.compile(network, dynamic=False)):
        network.zero_grad()
        with torch.autocast("cpu", enabled=bfloat16):
            out = called(x, c_noise)
        F.mse_loss(out.float(), x).backward()
        found.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    assert len(found[0]) > 20
    for name, gradient in found[0].items():
        assert apart(found[1][name], gradient, found[0].values()) < (0.2 if bfloat16 else 1e-3), name


def test_positions_are_turned_alike_with_and_without_a_compiler():
    layer = awake(SelfAttention(16, SoftmaxAttention(heads=2)))
    x, rotation = randn(2, 6, 16), rotary.rotations((2, 3), 4, CPU)
    compiled = torch.compile(layer, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(x, rotation, None, None)[0], layer(x, rotation, None, None)[0])
    assert not torch.allclose(layer(x, None, None, None)[0], layer(x, rotation, None, None)[0])
