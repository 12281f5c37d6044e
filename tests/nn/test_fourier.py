"""Fourier features: what the backbone is given, and waves that tell the levels of the data apart."""

import math

import pytest
import torch

from kakusan import specs
from kakusan.nn import FourierFeatures, UNet, level_frequencies


class Last(torch.nn.Module):
    """Returns its last channel, and remembers what it saw."""

    condition_width = 5

    def forward(self, x, c_noise, cond):
        self.seen = x
        return x[:, -1:]


def test_the_backbone_sees_the_input_and_its_waves():
    inner = Last()
    x = torch.randn(2, 1, 3, 3)
    wrapper = FourierFeatures(backbone=inner, frequencies=(2.0, 5.0))
    out = wrapper(x, torch.zeros(2))
    torch.testing.assert_close(
        inner.seen, torch.cat([x, (2 * x).sin(), (2 * x).cos(), (5 * x).sin(), (5 * x).cos()], 1)
    )
    assert out.shape == x.shape
    assert wrapper.condition_width == 5


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_waves_of_one_step_stand_still_over_the_levels_and_those_of_two_alternate(levels):
    sigma_data = 0.6
    one, two = level_frequencies(levels, sigma_data)
    x = torch.linspace(-1.0, 1.0, levels, dtype=torch.float64) / sigma_data
    torch.testing.assert_close((one * (x - x[0])).cos(), torch.ones(levels, dtype=torch.float64))
    torch.testing.assert_close((two * (x - x[0])).cos(), (-1.0) ** torch.arange(levels, dtype=torch.float64))


def test_vdm_s_own_frequencies_are_those_of_eight_bits():
    # 2^7 pi and 2^8 pi (Kingma et al. 2021, appendix C) to the difference between 255 and 256 steps.
    two, one = 2**7 * math.pi, 2**8 * math.pi
    assert level_frequencies(256, 1.0) == pytest.approx((one, two), rel=0.005)


def test_bad_frequencies_are_refused():
    for bad in ((), (1.0, 0.0), (-2.0,)):
        with pytest.raises(ValueError, match="positive"):
            FourierFeatures(backbone=Last(), frequencies=bad)


def test_stored_and_built_again():
    network = FourierFeatures(backbone=UNet(channels=3, out_channels=1, width=8, multipliers=(1,)), frequencies=(2.0,))
    again = specs.from_spec(specs.to_spec(network), torch.nn.Module)
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(again(x, torch.zeros(1)), network(x, torch.zeros(1)))
