"""Laws of maps whose channels lie last in memory: every part is the same function there, and stays there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from token_networks import awake, randn, token_sets
from torch import Tensor, nn

from kakusan.encoders.image import ConvolutionalTower
from kakusan.nn import LinearAttention, SoftmaxAttention, UNet, layout, norms, transformer
from kakusan.nn.attention import units
from kakusan.nn.blocks import Conv1x1, ConvNeXtBlocks, Downsample, ResidualBlocks, Upsample
from kakusan.nn.layout import channels_lie_last, laid
from kakusan.nn.noisy_classifier import NoisyConvNet
from kakusan.nn.norms import AdaptiveGroupNorm, GroupNorm
from kakusan.nn.tokens import CrossTokens, MapCrossAttention
from kakusan.nn.transformer import SwiGlu


def last(x: Tensor) -> Tensor:
    return laid(x, True)


def relative(found: Tensor, exact: Tensor) -> float:
    return float(((found.double() - exact.double()).norm() / exact.double().norm()).detach())


def normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 3, eps: float = 1e-2) -> Tensor:
    """Group norm from its definition."""
    parts = x.reshape(len(x), groups, -1)
    mean, variance = parts.mean(-1, keepdim=True), parts.var(-1, keepdim=True, unbiased=False)
    unit = ((parts - mean) / (variance + eps).sqrt()).view(x.shape)
    rows = [-1, x.shape[1], *[1] * (x.dim() - 2)]
    return unit * weight.view(rows) + bias.view(rows)


def norm_of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return norms._per_sample_group_norm(last(x), 3, weight, bias, 1e-2)


def norm_operands(rows: int, size: tuple[int, ...] = (2, 3)) -> tuple[Tensor, Tensor, Tensor]:
    x = randn(2, 6, *size) + 2.0 * randn(1, 6, *[1] * len(size), seed=3)
    return tuple(y.double().requires_grad_() for y in (x, randn(rows, 6, seed=1), randn(rows, 6, seed=2)))  # type: ignore[return-value]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("size", [(2, 3), (2, 1, 3)])
def test_group_norm_is_its_formula_and_so_are_its_derivatives(rows: int, size: tuple[int, ...]) -> None:
    given = norm_operands(rows, size)
    assert channels_lie_last(last(given[0]))
    torch.testing.assert_close(norm_of(*given), normalised(*given))
    assert torch.autograd.gradcheck(norm_of, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(norm_of, given)


@pytest.mark.parametrize("rows", [1, 2])
def test_group_norm_under_torch_func(rows: int) -> None:
    given = tuple(y.detach() for y in norm_operands(rows))
    for argnums in range(3):
        found = torch.func.jacfwd(norm_of, argnums=argnums)(*given)
        torch.testing.assert_close(found, torch.func.jacrev(normalised, argnums=argnums)(*given))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("side", [4, 32])
@pytest.mark.parametrize("far", [0.0, 20.0])
def test_group_norm_of_bfloat16_is_as_exact_as_its_format(adaptive: bool, side: int, far: float) -> None:
    # Beyond 1024 places by torch's kernel; far from zero, where squares hold little but the mean.
    norm = AdaptiveGroupNorm(24) if adaptive else GroupNorm(24)
    extra = (randn(2, 48, seed=3).requires_grad_(),) if adaptive else ()
    x = last((3.0 * randn(2, 24, side, side) + far).bfloat16()).requires_grad_()
    wide = x.detach().double().contiguous().requires_grad_()
    exact = norm.double() if not adaptive else norm
    expected = (
        exact(wide, *(y.double() for y in extra))
        if adaptive
        else F.group_norm(wide, norm.groups, exact.weight, exact.bias, norm.eps)
    )
    gradient = (randn(*x.shape, seed=4) + 0.5).bfloat16()
    wanted = torch.autograd.grad(expected, (wide, *(extra or tuple(exact.parameters()))), gradient.double())
    norm.float()
    out = norm(x, *extra)
    assert channels_lie_last(out)
    # Rounded twice at most, to 8 bits.
    assert relative(out, expected) < 2**-8
    found = torch.autograd.grad(out, (x, *(extra or tuple(norm.parameters()))), last(gradient))
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) < 2**-7


def test_group_norm_far_from_zero_is_that_of_channels_first() -> None:
    norm, x = GroupNorm(24), randn(2, 24, 6, 7) + 3000.0
    exact = F.group_norm(x.double(), norm.groups, eps=norm.eps)
    # The mean has seven digits. A difference of squares would have none left.
    assert relative(norm(last(x)), exact) < 1e-3
    assert relative(norm(x), exact) < 1e-3


def test_group_norm_of_a_flat_map_is_its_shift() -> None:
    # The variance is a difference of equal numbers, and never below zero.
    norm = GroupNorm(8)
    flat = last(torch.full((2, 8, 32, 32), 7.3))
    for x in (flat, flat.bfloat16()):
        assert norm(x).float().abs().max() < 0.05


def test_units() -> None:
    x, length = randn(2, 3, 2, 4).double().requires_grad_(), randn(2, 1, seed=1).double().exp().requires_grad_()

    def made(x: Tensor, length: Tensor) -> Tensor:
        return units(x, length, eps=1e-2)

    def formula(x: Tensor, length: Tensor) -> Tensor:
        return x / (x.square().sum(-1, keepdim=True) + 1e-2).sqrt() * length

    torch.testing.assert_close(made(x, length), formula(x, length))
    assert torch.autograd.gradcheck(made, (x, length), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(made, (x, length))
    torch.testing.assert_close(torch.vmap(made, (0, None))(x, length), formula(x, length))
    compiled = torch.compile(made, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(x, length), formula(x, length))


def same_both_ways(layer: nn.Module, x: Tensor, *rest: Any) -> None:
    results = []
    for given in (x, last(x)):
        given = given.detach().requires_grad_()
        layer.zero_grad()
        out = layer(given, *rest)
        assert channels_lie_last(out) == channels_lie_last(given)
        out.square().sum().backward()
        assert given.grad is not None
        results.append([out, given.grad, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
    assert len(results[0]) >= 2
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 6), (2, 3, 4)])
@pytest.mark.parametrize("attention", [SoftmaxAttention(heads=2), LinearAttention(heads=2)])
@pytest.mark.parametrize("identity", [False, True])
def test_attention_of_a_map(size: tuple[int, ...], attention: Any, identity: bool) -> None:
    layer = awake(attention.build(16))
    layer.identity = identity
    same_both_ways(layer, randn(2, 16, *size))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_a_map_to_tokens(masked: bool) -> None:
    layer = awake(MapCrossAttention(16, 2))
    kv = torch.cat([randn(2, 5, 32, seed=1), torch.zeros(2, 1, 32)], dim=1)
    mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1]]) > 0
    same_both_ways(layer, randn(2, 16, 4, 6), kv, mask if masked else None)


@pytest.mark.parametrize("blocks", [ResidualBlocks(), ConvNeXtBlocks(kernel=3)])
def test_blocks(blocks: Any) -> None:
    layer = awake(blocks.build(2, 8, 16, dropout=0.0))
    same_both_ways(layer, randn(2, 8, 5, 6), randn(2, layer.modulation_width, seed=1))
    same_both_ways(Conv1x1(8, 4), randn(2, 8, 5, 6))


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)])
def test_changes_of_size_leave_channels_where_they_are(size: tuple[int, ...]) -> None:
    x = last(randn(2, 5, *size))
    down = Downsample(len(size))
    assert channels_lie_last(down(last(randn(2, 5, *[4] * len(size)))))
    torch.testing.assert_close(down(x), down(x.contiguous()))
    for upsample in (Upsample(), torch.compile(Upsample(), backend="eager", dynamic=False)):
        out = upsample(x)
        assert channels_lie_last(out)
        assert torch.equal(out, Upsample()(x.contiguous()))


def unet(rank: int = 2, **arguments: Any) -> UNet:
    network = UNet(channels=1, rank=rank, width=8, multipliers=(1, 2), depth=1, attention_levels=(1,), **arguments)
    return awake(network)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_network_is_the_same_function_and_gives_channels_first(rank: int) -> None:
    # One channel: its memory says nothing of where channels lie. Odd sizes: padded and cropped.
    network = unet(rank, tokens=CrossTokens({"text": 3, "image": 5}))
    x, c_noise, cond = randn(2, 1, *[7] * rank), randn(2, seed=1), token_sets(2)
    seen: list[bool] = []
    network.middle[0].register_forward_hook(lambda *of: seen.append(channels_lie_last(of[2])))
    outs = []
    for network.channels_last in (False, True):
        outs.append(network(x, c_noise, cond))
    # In three dimensions torch has convolutions that always give channels first, which it may choose.
    assert seen in {1: [[False, False]], 2: [[False, True]], 3: [[False, True], [False, False]]}[rank]
    assert all(out.is_contiguous() for out in outs)
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tiles", [False, True])
def test_networks_choose_by_the_machine_and_the_number_format(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MULTIPLIES_TILES", tiles)
    picture, volume = randn(2, 4, 8, 8), randn(2, 4, 4, 4, 4)
    assert channels_lie_last(laid(picture.bfloat16(), None)) == tiles
    assert not channels_lie_last(laid(picture, None))
    assert not channels_lie_last(laid(volume.bfloat16(), None))
    assert channels_lie_last(laid(volume, True))
    assert not channels_lie_last(laid(last(picture.bfloat16()), False))
    assert laid(randn(2, 4, 8), True).is_contiguous()
    network = unet()
    x, c_noise = randn(2, 1, 8, 8), randn(2, seed=1)
    with torch.no_grad(), torch.autocast("cpu"):
        rounded = network(x, c_noise)
    assert relative(rounded, network(x, c_noise)) < 0.05


@pytest.mark.parametrize("hidden", [32, 40])
def test_matrices_are_widened_to_whole_tiles_and_give_the_same(hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = SwiGlu(16, hidden), randn(2, 5, 16)
    seen, gradients = [], []
    for tiles in (False, True):
        monkeypatch.setattr(layout, "MULTIPLIES_TILES", tiles)
        assert layout.spare_columns(hidden, x) == 0
        assert layout.spare_columns(hidden, x.bfloat16()) == (24 if tiles and hidden == 40 else 0)
        layer.zero_grad()
        with torch.autocast("cpu"):
            assert layout.spare_columns(hidden, x) == (24 if tiles and hidden == 40 else 0)
            seen.append(layer(x))
        seen[-1].float().square().sum().backward()
        gradients.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    assert relative(seen[1], seen[0]) < 2**-8
    assert [g.shape for g in gradients[1]] == [p.shape for p in layer.parameters()]
    assert all(relative(b, a) < 2**-6 for a, b in zip(*gradients, strict=True))


def test_the_gate_that_compilers_are_given() -> None:
    def written_out(both: Tensor) -> Tensor:
        gate, value = both.chunk(2, dim=-1)
        return F.silu(gate) * value

    both = randn(3, 8).double().requires_grad_()
    torch.testing.assert_close(transformer._TracedGate.apply(both), written_out(both))
    assert torch.autograd.gradcheck(transformer._TracedGate.apply, (both,))


def tower() -> nn.Module:
    return awake(ConvolutionalTower(channels=1, vector_width=8, width=8))


@pytest.mark.parametrize("build", [lambda: awake(NoisyConvNet(channels=1, classes=3, sigma_data=0.5, width=8)), tower])
def test_networks_that_look_at_pictures_take_either_layout(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build()
    rest = (randn(2, seed=1),) if isinstance(network, NoisyConvNet) else ()
    x = randn(2, 1, 16, 16)
    exact = network(x, *rest)
    for tiles in (False, True):
        monkeypatch.setattr(layout, "MULTIPLIES_TILES", tiles)
        with torch.autocast("cpu"):
            assert relative(network(x, *rest), exact) < 0.05
