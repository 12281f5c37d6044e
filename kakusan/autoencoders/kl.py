"""The KL autoencoder: a latent is a Gaussian, held near the standard one by a small weight.

Kingma & Welling 2014 (arXiv 1312.6114); as the first stage of latent diffusion Rombach et al. 2022 (arXiv 2112.10752).
"""

from __future__ import annotations

from torch import Tensor

from kakusan.autoencoders.base import Autoencoder, Code, Noise
from kakusan.autoencoders.networks import NetworkSize
from kakusan.nn.norms import full_precision
from kakusan.specs import register

LOWEST, HIGHEST = -12.0, 4.0
"""Bounds of log sigma: beyond them a float32 exponential is of no use."""


def kl_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)) in nats, elementwise: (mean^2 + std^2 - 1) / 2 - log std."""
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0) - log_std


@register
class KlAutoencoder(Autoencoder):
    """`Autoencoder` whose encoder gives a mean and a deviation for every element of the latent.

    Args:
        channels: C of the pictures.
        factor: pixels a side of one place of the latent.
        latent_channels: C'.
        rank: number of spatial dimensions.
        size: of the network.
    """

    kind = "kl"

    def __init__(
        self,
        *,
        channels: int,
        factor: int = 4,
        latent_channels: int = 4,
        rank: int = 2,
        size: NetworkSize = NetworkSize(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(
            channels=channels,
            factor=factor,
            latent_channels=latent_channels,
            rank=rank,
            coded=2 * latent_channels,
            size=size,
        )

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.encoded(x).float().chunk(2, dim=1)
        return mean, log_std.clamp(LOWEST, HIGHEST)

    def raw_moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, log_std = self._posterior(x)
        return mean, log_std.exp()

    def code(self, x: Tensor, noise: Noise) -> Code:
        mean, log_std = self._posterior(x)
        with full_precision(x):
            latent = mean + log_std.exp() * noise(mean.shape[1:])
            nats = kl_divergence(mean, log_std).flatten(2)
        by_channel = nats.detach().mean(dim=(0, 2))
        return Code(latent, nats.sum(dim=(1, 2)) / x[0].numel(), {"kl": by_channel})
