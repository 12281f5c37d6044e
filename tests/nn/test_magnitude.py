"""Laws of the magnitude-preserving layers: variance 1 in, variance 1 out; weights count by direction, cannot grow."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kakusan.nn import winograd
from kakusan.nn.magnitude import (
    RESIDUAL_BALANCE,
    SILU_MAGNITUDE,
    CosineAttention,
    MPConv,
    MPFourier,
    MPLinear,
    mp_cat,
    mp_silu,
    mp_sum,
    pixel_norm,
    settle,
)
from kakusan.train.muon import Muon


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mean_square(x):
    return float(x.detach().double().square().mean())


def test_silu_has_the_magnitude_of_a_standard_normal_by_quadrature():
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
    exact = float(torch.trapezoid(nn.functional.silu(x).square() * density, x)) ** 0.5
    assert pytest.approx(exact, abs=1e-9) == SILU_MAGNITUDE
    assert float(torch.trapezoid(mp_silu(x).square() * density, x)) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("share", [0.0, RESIDUAL_BALANCE, 0.5, 1.0])
def test_sums_keep_variance_in_closed_form(share):
    # The coefficients on (1, 0) and (0, 1): the variance for independent inputs is the sum of their squares.
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    a, b = float(mp_sum(one, zero, share)), float(mp_sum(zero, one, share))
    assert a * a + b * b == pytest.approx(1.0, abs=1e-12)
    assert b / (a + b) == pytest.approx(share)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (4, 12), (30, 2)])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_concatenation_keeps_variance_and_shares_influence_out_fairly(m, n, share):
    both = mp_cat(torch.ones(1, m, 1, dtype=torch.float64), torch.ones(1, n, 1, dtype=torch.float64), share)
    assert mean_square(both) == pytest.approx(1.0, abs=1e-12)
    norms = both[:, :m].norm(), both[:, m:].norm()
    assert float(norms[1] / (norms[0] + norms[1])) == pytest.approx(share)


@pytest.mark.parametrize("size", [(7,), (5, 3), (2, 3, 4)])
def test_pixel_norm_brings_every_position_to_magnitude_one(size):
    x = randn(3, 6, *size) * torch.logspace(-2, 3, 3).view(3, *[1] * (len(size) + 1))
    squares = pixel_norm(x).double().square().mean(dim=1)
    torch.testing.assert_close(squares, torch.ones_like(squares), rtol=2e-3, atol=0)
    assert torch.equal(pixel_norm(torch.zeros(1, 4, 3)), torch.zeros(1, 4, 3))


@pytest.mark.parametrize("width", [2, 64, 256])
def test_fourier_features_have_magnitude_one_and_tell_levels_apart(width):
    features = MPFourier(width)
    levels = torch.linspace(-5, 5, 41)
    out = features(levels)
    assert out.shape == (41, width)
    torch.testing.assert_close(out.square().mean(dim=1), torch.ones(41), rtol=1e-5, atol=0)
    near, far = (float((features(torch.tensor([d])) - features(torch.zeros(1))).norm()) for d in (0.01, 1.0))
    assert 0 < near < 0.1 * far
    assert features.state_dict() == {}
    assert MPFourier(width - 1)(levels).shape == (41, width - 1)


def test_fourier_frequencies_are_normal():
    turns = MPFourier(4096, bandwidth=0.5).frequencies.double() / (2 * math.pi)
    assert float(turns.square().mean()) ** 0.5 == pytest.approx(0.5, rel=2e-3)
    assert float((turns < 0.5).double().mean()) == pytest.approx(math.erf(0.5**0.5), abs=1e-3)


def layers(rank):
    return [MPConv(rank, 24, 40), MPConv(rank, 24, 40, 1), MPConv(rank, 24, 10, 5)]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_preserve_magnitude_exactly(rank):
    # The variance of an output for white noise of variance 1 is the squared norm of its row: the response to impulses.
    for layer in layers(rank):
        with torch.no_grad():
            layer.weight.mul_(randn(len(layer.weight)).exp().view(-1, *[1] * (rank + 1)))
        rows = layer.eval().unit_weight().detach().double().flatten(1)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows), dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("rank", "side"), [(1, 601), (2, 35), (3, 13)])
def test_convolutions_preserve_magnitude_on_a_large_sample(rank, side):
    for layer in layers(rank):
        with torch.no_grad():
            out = layer.eval()(randn(4, 24, *[side] * rank, seed=1))
        edge = layer.kernel // 2
        inner = out[(..., *[slice(edge, side - edge)] * rank)]
        # As many independent values as channels and positions, give or take the overlap of neighbouring windows.
        assert mean_square(inner) == pytest.approx(1.0, abs=0.06)


def test_linear_preserves_magnitude():
    layer = MPLinear(64, 50)
    assert mean_square(layer(randn(4000, 64))) == pytest.approx(1.0, abs=0.02)


def test_attention_keeps_the_magnitude_of_what_it_attends_to():
    attention = CosineAttention(32, 4).eval()
    same = pixel_norm(randn(1, 32, 1)).expand(1, 32, 9)
    with torch.no_grad():
        q, k, v = pixel_norm(attention.qkv(same).view(1, 3, 4, 8, 9), dim=3).unbind(1)
        # Values that agree are passed on whole, whatever the weights of attention.
        torch.testing.assert_close(attention._mix(q, k, v), v, rtol=1e-5, atol=1e-6)
        # And whatever the input's size, logits are bounded.
        big = attention.qkv(100.0 * randn(2, 32, 9)).view(2, 3, 4, 8, 9)
        q, k, _ = pixel_norm(big, dim=3).unbind(1)
        assert float((q.transpose(-1, -2) @ k).abs().max()) / 8**0.5 <= 8**0.5 * (1 + 1e-5)


def test_plain_and_fused_attention_agree(monkeypatch):
    attention, x = CosineAttention(16, 2).eval(), randn(2, 16, 5, 3)
    with torch.no_grad():
        plain = attention(x)
        monkeypatch.setattr("kakusan.nn.magnitude.CPU_PLAIN_LIMIT", 0)
        torch.testing.assert_close(attention(x), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_scaling_a_weight_changes_nothing(training):
    x = randn(2, 6, 5, 5)
    for layer, given in ((MPConv(2, 6, 4), x), (MPLinear(6, 4), x[:, :, 0, 0])):
        layer.train(training)
        before = layer(given)
        for factor in (1e-3, 7.0, 1e4):
            with torch.no_grad():
                layer.weight.mul_(factor)
            torch.testing.assert_close(layer(given), before, rtol=1e-5, atol=1e-6)


def test_gradients_are_at_right_angles_to_the_rows():
    layer = MPConv(2, 6, 4)
    layer(randn(2, 6, 5, 5)).square().sum().backward()
    inner = (layer.weight.grad * layer.weight.detach()).flatten(1).sum(dim=1)
    sizes = layer.weight.grad.flatten(1).norm(dim=1) * layer.weight.detach().flatten(1).norm(dim=1)
    assert float((inner / sizes).abs().max()) < 1e-5
    assert float(sizes.min()) > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.SGD(p, lr=10.0),
        lambda p: torch.optim.AdamW(p, lr=0.3, weight_decay=0.0, fused=True),
        lambda p: torch.optim.AdamW(p, lr=0.3, weight_decay=0.0, foreach=True),
        lambda p: Muon(p, lr=3.0),
    ],
    ids=["sgd", "adamw-fused", "adamw-foreach", "muon"],
)
def test_weights_cannot_grow(build):
    layer = MPConv(2, 6, 4)
    plain = nn.Parameter(layer.weight.detach().clone())
    optimizer, free = build([layer.weight]), build([plain])
    x = randn(2, 6, 5, 5)
    for _ in range(30):
        settle(layer)
        for loss, which in ((layer(x).sum(), optimizer), (nn.functional.conv2d(x, plain).sum(), free)):
            which.zero_grad()
            loss.backward()
            which.step()
    settle(layer)
    squares = layer.weight.detach().square().flatten(1).mean(dim=1)
    torch.testing.assert_close(squares, torch.ones(4), rtol=2e-5, atol=0)
    assert mean_square(plain) > 2.0 * mean_square(layer.weight)


def test_settling_twice_is_settling_once_bit_for_bit():
    layer = MPConv(2, 7, 5)
    with torch.no_grad():
        layer.weight.mul_(5.0)
    settle(layer)
    once = layer.weight.detach().clone()
    settle(layer)
    assert torch.equal(layer.weight, once)
    assert mean_square(once) == pytest.approx(1.0, abs=1e-5)


def test_settling_between_two_uses_in_one_graph_is_allowed():
    layer, x = MPLinear(4, 4), randn(3, 4)
    gradients = []
    for times in (1, 2):
        layer.weight.grad = None
        settle(layer)
        y = layer(x)
        if times == 2:
            settle(layer)
        (layer(y).square().sum() + layer(x).sum()).backward()
        gradients.append(layer.weight.grad)
    assert torch.equal(*gradients)
    assert float(gradients[0].abs().sum()) > 0


def test_compiled_it_settles_in_place_all_the_same():
    layer = MPLinear(3, 2)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            settle(self)
            return self.layer(x)

    layer.weight.data.mul_(3.0)
    x = torch.randn(4, 3)
    expected = F.linear(x, layer.unit_weight())
    torch.testing.assert_close(torch.compile(Network(), backend="eager")(x), expected)
    torch.testing.assert_close(layer.weight.square().mean(1), torch.ones(2))


def test_the_fast_convolution_is_the_same_layer():
    layer, x = MPConv(2, 64, 64), randn(8, 64, 16, 16)
    outputs = []
    try:
        for allowed in (False, True):
            winograd.allow(allowed)
            outputs.append(layer(x).detach())
    finally:
        winograd.allow(None)
    assert 0 < float((outputs[1] - outputs[0]).norm() / outputs[0].norm()) < 1e-5


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="choose a divisor of 8"):
        CosineAttention(8, 3)
    with pytest.raises(ValueError, match="width >= 1"):
        MPFourier(0)
