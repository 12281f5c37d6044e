"""Latents as data: a model of them is trained, sampled and edited as one of pictures is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.cache import LatentCache
from kakusan.data.derived import DerivedPictures, DerivedSpec
from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.noise import Stream, normal, uniform
from kakusan.specs import register

_AT_ONCE = 32


@register
@dataclass(frozen=True, kw_only=True, eq=False)
class LatentSpec(DerivedSpec):
    """What the latents of an autoencoder are, and the way from stored pictures to them and back.

    Its model space is that of standardised latents: `to_model` encodes, `to_stored` and `to_pil` decode. Whoever holds
    a spec need not know which it is.

    Args:
        pixels: the spec of the pictures.
        autoencoder: between both; its weights lie beside the model's.
        identity: hash of the folder that it came from.
    """

    autoencoder: Autoencoder
    identity: str = ""
    noun = "latents"
    damaged = "delete the latents in the cache, they are made again"

    @classmethod
    def of(cls, pixels: DataSpec, autoencoder: Autoencoder) -> LatentSpec:
        """The latents of pictures of the spec `pixels`.

        Raises:
            ValueError: pictures that the autoencoder does not take, or are changed while training goes on.
        """
        shape = autoencoder.latent_shape(pixels.shape)
        return cls._of(pixels, shape, fit=pixels.fit, autoencoder=autoencoder, identity=autoencoder.identity)

    def networks(self) -> Mapping[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def made(self, x: Tensor) -> Tensor:
        """Pictures (B, C, *pixels) in [-1, 1] -> standardised latents (B, C', *size), the encoder's means."""
        with torch.no_grad():
            device = self.autoencoder.device
            parts = x.detach().split(_AT_ONCE)
            return torch.cat([self.autoencoder.encode(part.to(device)).float().to(x.device) for part in parts])

    def decoded(self, z: Tensor) -> Tensor:
        """Latents (B, C', *size) -> pictures (B, C, *pixels) in [-1, 1] and beyond."""
        with torch.no_grad():
            device, size = self.autoencoder.device, self.pixels.size
            parts = z.detach().to(torch.float32).split(_AT_ONCE)
            return torch.cat([self.autoencoder.decode(part.to(device), size=size).to(z.device) for part in parts])

    def to_stored(self, x: Tensor) -> Tensor:
        return self.pixels.to_stored(self.decoded(x))

    def to_pil(self, x: Tensor) -> list[Image.Image]:
        self._check_shape(x)
        return self.pixels.to_pil(self.decoded(x))


class LatentPictures(DerivedPictures):
    """The latents of a data set, in its place."""

    def __init__(self, pictures: Pictures, autoencoder: Autoencoder, cache: LatentCache) -> None:
        super().__init__(pictures, "latents", autoencoder.identity)
        self.cache = cache
        self.spec = LatentSpec.of(pictures.spec, autoencoder)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Latents (n, C', *size) float32, the encoder's mean of each picture as it is."""
        return self.cache.read(indices)

    def seen(self, indices: Tensor, seed: int, numbers: Tensor) -> Tensor:
        """What training sees of pictures (n,) at the places `numbers` (n,) of a run: mirrored at random where the data
        are, and drawn where the encoder says how sure it is.
        """
        seeds = torch.full_like(numbers, seed)
        mirrored = uniform(seeds, Stream.AUGMENT, numbers) < 0.5 if self.cache.mirrored else None
        noise = normal(seeds, Stream.LATENT, numbers, shape=self.cache.shape) if self.cache.draws else None
        return self.cache.read(indices, mirrored=mirrored, noise=noise)


def in_pixels(pictures: Pictures) -> Pictures:
    """The pictures themselves, also of latents."""
    return pictures.pixels if isinstance(pictures, LatentPictures) else pictures
