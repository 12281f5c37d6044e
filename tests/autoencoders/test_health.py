"""Health beside closed forms: an autoencoder whose noise, errors and forgiveness are known."""

import math

import pytest
import torch
import torch.nn.functional as F

from kakusan.autoencoders.health import measure_health
from kakusan.autoencoders.kl import KlAutoencoder
from kakusan.autoencoders.networks import NetworkSize
from kakusan.metrics.fidelity import psnr

SCALE, UNSURE, OFFSET = 3.0, 0.6, 0.05


class Known(KlAutoencoder):
    """Latents are means of squares of 2 x 2 pixels times `SCALE`, and all pictures come out too bright."""

    def __init__(self) -> None:
        super().__init__(channels=3, factor=2, latent_channels=3, size=NetworkSize(width=4))

    def _posterior(self, x):
        mean = SCALE * F.avg_pool2d(x, 2)
        return mean, torch.full_like(mean, math.log(UNSURE))

    def decode(self, z, *, size=None):
        wide = z * self.latent_std.view(1, -1, 1, 1) + self.latent_mean.view(1, -1, 1, 1)
        return F.interpolate(wide / SCALE, scale_factor=2, mode="nearest") + OFFSET


def test_noise_and_what_errors_cost_are_the_closed_forms() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.05, 0.1, 0.2]).view(1, 3, 1, 1)
    x = F.interpolate(spread * torch.randn(64, 3, 8, 8, generator=generator), scale_factor=2, mode="nearest")
    autoencoder = Known()
    autoencoder.measure_latents(lambda: [x])
    health = measure_health(autoencoder, x)
    deviations = x.transpose(0, 1).flatten(1).std(1, unbiased=False)
    assert health.noise == pytest.approx((UNSURE / (SCALE * deviations)).tolist(), rel=1e-4)
    assert health.psnr == pytest.approx(float(psnr(x + OFFSET, x).mean()), abs=1e-3)
    worse = OFFSET**2 + float((0.1 * deviations).square().mean())
    assert health.forgives == pytest.approx(10.0 * math.log10(worse / OFFSET**2), rel=0.02)
    latents = SCALE * F.avg_pool2d(x, 2)
    nats = 0.5 * (latents.square() + UNSURE**2 - 1.0) - math.log(UNSURE)
    assert health.kl == pytest.approx(nats.mean(dim=(0, 2, 3)).tolist(), rel=1e-4)
    assert "noise" in health.text()
