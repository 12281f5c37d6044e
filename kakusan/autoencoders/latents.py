"""Latents as data: a model of them is trained, sampled and edited as one of pictures is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.cache import LatentCache
from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.noise import Stream, normal, uniform
from kakusan.specs import register

_AT_ONCE = 32


@register
@dataclass(frozen=True, kw_only=True, eq=False)
class LatentSpec(DataSpec):
    """What the latents of an autoencoder are, and the way from stored pictures to them and back.

    Its model space is that of standardised latents: `to_model` encodes, `to_stored` and `to_pil` decode. Whoever holds
    a spec need not know which it is.

    Args:
        pixels: the spec of the pictures.
        autoencoder: between both; its weights lie beside the model's.
        identity: hash of the folder that it came from.
    """

    pixels: DataSpec
    autoencoder: Autoencoder
    identity: str = ""

    @classmethod
    def of(cls, pixels: DataSpec, autoencoder: Autoencoder) -> LatentSpec:
        """The latents of pictures of the spec `pixels`.

        Raises:
            ValueError: pictures that the autoencoder does not take, or are changed while training goes on.
        """
        if pixels.augment:
            raise ValueError("latents are encoded once, so pictures cannot be changed at random: leave augment at 0")
        channels, *size = autoencoder.latent_shape(pixels.shape)
        return cls(
            channels=channels,
            size=tuple(size),
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            mode="",
            bits=pixels.bits,
            classes=pixels.classes,
            fit=pixels.fit,
            pixels=pixels,
            autoencoder=autoencoder,
            identity=autoencoder.identity,
        )

    @property
    def pictured(self) -> DataSpec:
        return self.pixels

    def networks(self) -> Mapping[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def to_model(self, stored: Tensor) -> Tensor:
        """Stored pictures (B, C, *pixels) -> standardised latents (B, C', *size); latents stay as they are."""
        if stored.is_floating_point():
            return stored.to(torch.float32)
        return self.encoded(self.pixels.to_model(stored))

    def encoded(self, x: Tensor) -> Tensor:
        """Pictures (B, C, *pixels) in [-1, 1] -> standardised latents (B, C', *size), the encoder's means."""
        with torch.no_grad():
            device = self.autoencoder.device
            parts = x.detach().split(_AT_ONCE)
            return torch.cat([self.autoencoder.encode(part.to(device)).float().to(x.device) for part in parts])

    def snap(self, x: Tensor) -> Tensor:
        """Latents have no nearest ones that can be stored: unchanged."""
        return x

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

    def check(self, stored: Tensor) -> None:
        """Refuse a batch that is neither latents nor stored pictures of this spec.

        Raises:
            ValueError: saying what it is.
        """
        if not stored.is_floating_point():
            self.pixels.check(stored)
            return
        self._check_shape(stored)
        if not bool(stored.isfinite().all()):
            raise ValueError("latents that are not finite; delete the latents in the cache, they are made again")


class LatentPictures:
    """The latents of a data set, in its place.

    `pixels` is the data set itself. Labels, captions and names are its own.
    """

    def __init__(self, pictures: Pictures, autoencoder: Autoencoder, cache: LatentCache) -> None:
        self.pixels, self.cache = pictures, cache
        self.spec = LatentSpec.of(pictures.spec, autoencoder)
        self.labels, self.captions, self.texts = pictures.labels, pictures.captions, pictures.texts
        self.notes = tuple(pictures.notes)
        said = f"latents {pictures.fingerprint} {autoencoder.identity}"
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.pixels)

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

    def name(self, index: int) -> str:
        """What to call one picture in messages."""
        return self.pixels.name(index)

    def digest(self, index: int) -> str:
        """Hash of one picture's content."""
        return self.pixels.digest(index)


def in_pixels(pictures: Pictures) -> Pictures:
    """The pictures themselves, also of latents."""
    return pictures.pixels if isinstance(pictures, LatentPictures) else pictures
