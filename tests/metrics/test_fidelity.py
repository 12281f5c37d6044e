"""PSNR and SSIM against their closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kakusan.metrics.fidelity import psnr, ssim


def pictures(count=2, side=16, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


@given(st.floats(1e-3, 0.5), st.floats(0.5, 4.0))
def test_psnr_of_a_constant_error(error, span):
    x = pictures()
    found = psnr(x + error, x, span=span)
    torch.testing.assert_close(found, torch.full_like(found, 20.0 * math.log10(span / error)), rtol=0.0, atol=1e-3)


def test_each_picture_is_measured_by_itself():
    x = pictures(3)
    worse = x + torch.tensor([0.0, 0.1, 0.2]).view(-1, 1, 1, 1)
    assert psnr(worse, x).tolist() == sorted(psnr(worse, x).tolist(), reverse=True)
    assert float(psnr(worse, x)[0]) == pytest.approx(100.0)
    torch.testing.assert_close(psnr(worse[1:2], x[1:2]), psnr(worse, x)[1:2])
    torch.testing.assert_close(ssim(worse[1:2], x[1:2]), ssim(worse, x)[1:2])


@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_ssim_of_flat_pictures_compares_their_means(a, b):
    low = 0.02**2
    found = ssim(torch.full((1, 1, 12, 12), a), torch.full((1, 1, 12, 12), b))
    assert float(found) == pytest.approx((2 * a * b + low) / (a * a + b * b + low), abs=1e-5)


@given(st.floats(0.1, 1.0))
def test_ssim_of_a_weaker_contrast(factor):
    # With every window's mean at zero only variances and the covariance count.
    x = torch.tensor([1.0, -1.0]).repeat(8)
    x = (x.view(1, 1, -1, 1) * x.view(1, 1, 1, -1)).double() * 0.8
    high = 0.06**2
    weights = torch.exp(-0.5 * (torch.arange(11) - 5).double().square() / 1.5**2)
    signs = torch.tensor([1.0, -1.0]).repeat(6)[:11].double()
    mean = float((weights / weights.sum() * signs).sum()) ** 2 * 0.8
    variance = 0.64 - mean**2
    light = (2 * factor * mean**2 + 0.02**2) / ((1 + factor**2) * mean**2 + 0.02**2)
    expected = light * (2 * factor * variance + high) / ((1 + factor**2) * variance + high)
    assert float(ssim(factor * x, x)) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_symmetric_bounded_and_one_for_equal_pictures():
    x, y = pictures(2, seed=1), pictures(2, seed=2)
    torch.testing.assert_close(ssim(x, y), ssim(y, x))
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64))
    assert float(ssim(x, y).abs().max()) < 0.2
    assert ssim(pictures(1, side=7), pictures(1, side=7, seed=3)).shape == (1,)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_pictures_of_other_shapes_are_refused(measure):
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(pictures(2), pictures(2, side=8))
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(pictures(3), pictures(2))
