"""Law: the fast convolution is the direct one, and so are its derivatives of every order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.nn import winograd


def operands(batch, channels, out_channels, height, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    shapes = (batch, channels, height, width), (out_channels, channels, 3, 3), (out_channels,)
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


def direct(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=1)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    out_channels=st.integers(1, 5),
    height=st.integers(1, 37),
    width=st.integers(1, 37),
)
def test_equals_direct_convolution(batch, channels, out_channels, height, width):
    tensors = operands(batch, channels, out_channels, height, width)
    fast, slow = winograd.convolution(*tensors), direct(*tensors)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-11)
    probe = torch.randn(fast.shape, dtype=fast.dtype, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(
        torch.autograd.grad(fast, tensors, probe), torch.autograd.grad(slow, tensors, probe), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_gradcheck():
    tensors = operands(2, 2, 3, 5, 6)
    assert torch.autograd.gradcheck(winograd.convolution, tensors, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(winograd.convolution, tensors)


def test_rounding_in_float32_is_small():
    x, weight, bias = operands(4, 128, 128, 16, 16, torch.float32)
    exact = direct(x.double(), weight.double(), bias.double())
    error = (winograd.convolution(x, weight, bias) - exact).abs().max() / exact.std()
    assert error < 5e-5


def test_torch_func_transforms():
    x, weight, bias = (t.detach() for t in operands(2, 2, 3, 5, 6))
    batched = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.vmap(winograd.convolution, (0, None, None))(batched, weight, bias),
        torch.vmap(direct, (0, None, None))(batched, weight, bias),
    )
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(
            transform(lambda w: winograd.convolution(x, w, bias).square().sum())(weight),
            transform(lambda w: direct(x, w, bias).square().sum())(weight),
        )


@pytest.fixture
def forced():
    winograd.allow(True)
    yield
    winograd.allow(None)


@pytest.mark.usefixtures("forced")
def test_used_only_where_it_may_be():
    x, weight, _ = operands(8, 64, 64, 16, 16, torch.float32)
    assert winograd.pays(x, weight)
    assert not winograd.pays(x[:1], weight)
    assert not winograd.pays(x[:, :8], weight[:, :8])
    assert not winograd.pays(x.double(), weight.double())
    with torch.no_grad():
        assert not winograd.pays(x, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not winograd.pays(x, weight)
    winograd.allow(False)
    assert not winograd.pays(x, weight)
