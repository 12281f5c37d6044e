"""What every autoencoder is: pictures to standardised latents and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from kakusan.autoencoders.networks import Decoder, Encoder, NetworkSize
from kakusan.nn.shapes import crop, pad

MEAN, STD = "latent_mean", "latent_std"

Noise = Callable[[Sequence[int]], Tensor]
"""Standard normal (B, *shape) for the shape of one latent."""


@dataclass(frozen=True)
class Code:
    """What the bottleneck made of pictures, in the decoder's own units.

    Args:
        latent: (B, C', *latent size), what the decoder gets.
        cost: (B,), what training minimises beside the reconstruction.
        health: plain tensors for people, such as the KL of each channel.
        weighted: whether the loss gives the cost a weight; else it has its own.
    """

    latent: Tensor
    cost: Tensor
    health: Mapping[str, Tensor] = field(default_factory=dict)
    weighted: bool = True


class Autoencoder(nn.Module, ABC):
    """Pictures (B, C, *size) in model units <-> latents (B, C', *ceil(size / factor)).

    Latents are standardised by the mean and the deviation of each channel over the training set, which are measured
    after training (`measure_latents`) and stored as buffers: over that set every channel has the mean 0 and the
    deviation 1, so `sigma_data` is 1 and nobody copies a scale.

    The network is convolutional and norms look at one place at a time, so it takes pictures of any size; sizes that the
    factor does not divide are padded at their end by repeating the edge, and `decode(z, size=...)` crops.

    A subclass is decorated with `kakusan.specs.register` and passes these arguments on.

    Args:
        channels: C of the pictures.
        factor: pixels a side of one place of the latent; a power of 2 from 2 on.
        latent_channels: C'.
        rank: number of spatial dimensions, 1, 2 or 3.
        coded: channels that the encoder makes.
        size: of the network.

    Raises:
        ValueError: numbers out of range.
    """

    kind: ClassVar[str]
    sigma_data: ClassVar[float] = 1.0

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self, *, channels: int, factor: int, latent_channels: int, rank: int, coded: int, size: NetworkSize
    ) -> None:
        super().__init__()
        if min(channels, latent_channels) < 1 or rank not in (1, 2, 3):
            raise ValueError(
                f"channels and latent_channels are at least 1 and rank is 1, 2 or 3; got {channels}, {latent_channels} "
                f"and {rank}"
            )
        self.channels, self.factor, self.latent_channels, self.rank = channels, factor, latent_channels, rank
        self.encoder = Encoder(channels, coded, factor=factor, rank=rank, size=size)
        self.decoder = Decoder(latent_channels, channels, factor=factor, rank=rank, size=size)
        self.register_buffer(MEAN, torch.zeros(latent_channels))
        self.register_buffer(STD, torch.ones(latent_channels))
        self.identity = ""
        """Hash of the folder it was loaded from; empty for one that is not stored."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.latent_mean.device

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(C', *latent size) of pictures of `shape` = (C, *size).

        Raises:
            ValueError: pictures of another number of channels or dimensions.
        """
        if len(shape) != self.rank + 1 or shape[0] != self.channels or min(shape) < 1:
            raise ValueError(
                f"this autoencoder takes pictures of {self.channels} channels and {self.rank} dimensions, got "
                f"{tuple(shape)}"
            )
        return (self.latent_channels, *(-(-side // self.factor) for side in shape[1:]))

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Standardised latents (B, C', *latent size) of pictures (B, C, *size) in model units.

        Args:
            x: the pictures.
            noise: standard normal of the shape of the latents draws from what the encoder says is likely, where it says
                that (KL); None gives its mean.

        Raises:
            ValueError: pictures or noise of another shape.
        """
        mean, std = self.moments(x)
        if noise is None or std is None:
            return mean
        if noise.shape != mean.shape:
            raise ValueError(f"the noise is {tuple(noise.shape)}, the latents are {tuple(mean.shape)}")
        return mean + std * noise

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(mean, deviation) of the standardised latents of pictures x, each (B, C', *latent size); the deviation is
        None where the encoder gives one latent for each picture."""
        self.latent_shape(x.shape[1:])
        mean, std = self.raw_moments(x)
        scale = self._wide(self.latent_std)
        return (mean - self._wide(self.latent_mean)) / scale, None if std is None else std / scale

    def decode(self, z: Tensor, *, size: Sequence[int] | None = None) -> Tensor:
        """Pictures (B, C, *size) in model units of standardised latents (B, C', *latent size).

        Args:
            z: the latents.
            size: of the pictures, where the factor does not divide it; the latent size times the factor when None.

        Raises:
            ValueError: latents of another shape, or a size that has others.
        """
        if z.dim() != self.rank + 2 or z.shape[1] != self.latent_channels or min(z.shape[2:]) < 1:
            raise ValueError(
                f"this autoencoder takes latents (B, {self.latent_channels}, *size) with {self.rank} dimensions, got "
                f"{tuple(z.shape)}"
            )
        if size is not None and self.latent_shape((self.channels, *size))[1:] != tuple(z.shape[2:]):
            raise ValueError(f"pictures of size {tuple(size)} do not have latents of size {tuple(z.shape[2:])}")
        x = self.decoder(self.settled(z * self._wide(self.latent_std) + self._wide(self.latent_mean)))
        return x if size is None else crop(x, size)

    def encoded(self, x: Tensor) -> Tensor:
        """What the encoder says of pictures (B, C, *size), in its own units: (B, coded, *latent size)."""
        found: Tensor = self.encoder(pad(x, self.factor))
        return found

    def settled(self, latent: Tensor) -> Tensor:
        """Latents in the decoder's own units as it is used to them: unchanged, or the nearest of a codebook."""
        return latent

    @abstractmethod
    def raw_moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(mean, deviation or None) of the latents of pictures x in the decoder's own units."""

    @abstractmethod
    def code(self, x: Tensor, noise: Noise) -> Code:
        """What training decodes and what that costs.

        Args:
            x: pictures (B, C, *size).
            noise: draws.
        """

    def after_step(self, *, seed: int, step: int, good: bool) -> None:
        """What is learnt without gradients, once after every step of training.

        Args:
            seed: of the run.
            step: its number.
            good: whether the step was taken; what it gathered is dropped when not.
        """

    @torch.no_grad()
    def measure_latents(self, batches: Callable[[], Iterable[Tensor]]) -> tuple[Tensor, Tensor]:
        """Measure and store the mean and the deviation of each channel; returns them, (C',) each.

        Args:
            batches: goes over the pictures, (B, C, *size) at a time; called twice.

        Raises:
            ValueError: no pictures, or latents that are not finite.
        """
        # Two passes: the difference of large sums would cost digits.
        mean = self._mean_of(batches, lambda flat: flat)
        centre = mean[:, None]
        std = self._mean_of(batches, lambda flat: (flat - centre).square()).sqrt()
        if not bool((mean + std).isfinite().all()):
            raise ValueError("the latents of the training pictures are not finite; train with a lower rate")
        # A channel that never moves keeps its size.
        std = std.where(std > 1e-6 * std.max().clamp_min(1e-12), torch.ones_like(std))
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)
        return self.latent_mean.clone(), self.latent_std.clone()

    def _mean_of(self, batches: Callable[[], Iterable[Tensor]], what: Callable[[Tensor], Tensor]) -> Tensor:
        """(C',) float64: the mean over pictures and places of `what` of the raw latents, given as (C', places)."""
        total, places = torch.zeros(self.latent_channels, dtype=torch.float64), 0
        for x in batches():
            flat = self.raw_moments(x.to(self.device))[0].double().cpu().transpose(0, 1).flatten(1)
            places += flat.shape[1]
            total += what(flat).sum(1)
        if places == 0:
            raise ValueError("there are no pictures to measure the latents of")
        return total / places

    def _wide(self, values: Tensor) -> Tensor:
        """(C',) for every place: (1, C', 1, ...)."""
        return values.view(1, -1, *[1] * self.rank)
