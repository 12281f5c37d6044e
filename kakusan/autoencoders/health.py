"""Whether an autoencoder is well: how true its pictures are, and whether every channel of the latent is used."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.equivariance import Turn, equivariance_error
from kakusan.autoencoders.kl import KlAutoencoder, kl_divergence
from kakusan.autoencoders.vq import VqAutoencoder
from kakusan.metrics.fidelity import psnr
from kakusan.noise import Stream, normal

OFF = 0.1
"""Deviations by which latents are moved to see what the decoder forgives."""
DEAD_NATS, DEAD_DECIBELS = 0.01, 0.05
"""A channel is dead when it says less than so many nats for an element, or when the picture loses less without it."""
_CHANNELS_TRIED = 16


@dataclass(frozen=True)
class Health:
    """What was measured on some pictures.

    Args:
        psnr: mean over pictures of the decibels of the decoded mean.
        absolute: mean absolute error in model units.
        kl: nats for an element of each channel; empty where there is no KL.
        noise: by channel, the deviation that the encoder gives a latent over that of the channel over all pictures:
            what a model of drawn latents cannot tell apart. Empty where nothing is drawn.
        forgives: decibels of the PSNR that go when latents are off by a tenth of their deviation: what errors of a
            diffusion model will cost.
        lost: decibels of the PSNR that go when a channel is replaced by its mean over the pictures; empty beyond 16
            channels.
        dead: channels that say nothing.
        latent_range: least and most of the standardised latents.
        raw_range: the same in the decoder's own units.
        codes_used: share of the codebook that these pictures use; None without one.
        perplexity: exp of the entropy of the codes' use; None without one.
        turned: error of the latent of a picture turned by a quarter, over the latents' deviation; None where the
            pictures are not square.
        halved: the same for a picture of half the size; None where it cannot be halved.
        count: pictures.
    """

    psnr: float
    absolute: float
    kl: tuple[float, ...]
    noise: tuple[float, ...]
    forgives: float
    lost: tuple[float, ...]
    dead: tuple[int, ...]
    latent_range: tuple[float, float]
    raw_range: tuple[float, float]
    codes_used: float | None
    perplexity: float | None
    turned: float | None
    halved: float | None
    count: int

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def text(self) -> str:
        """One line for people."""
        said = [f"PSNR {self.psnr:.2f} dB on {self.count} pictures"]
        channels = len(self.kl) or len(self.lost)
        if self.kl:
            said.append("KL by channel " + _several(self.kl))
            said.append("noise " + _several(self.noise))
        if self.codes_used is not None:
            said.append(f"codes used {self.codes_used:.0%}, perplexity {self.perplexity:.0f}")
        said.append(f"dead channels {len(self.dead)} of {channels}" if channels else "")
        said.append(f"latents {self.latent_range[0]:+.1f} to {self.latent_range[1]:+.1f}")
        return ", ".join(part for part in said if part)


def _several(values: tuple[float, ...]) -> str:
    """All of a few numbers, the ends of many."""
    if len(values) <= 8:
        return " ".join(f"{value:.2g}" for value in values)
    return f"{min(values):.2g} to {max(values):.2g}"


@torch.no_grad()
def measure_health(autoencoder: Autoencoder, x: Tensor, *, batch: int = 64) -> Health:
    """Measure on pictures x (N, C, *size) in model units; the latent's mean and deviation should be measured first.

    Raises:
        ValueError: no pictures.
    """
    if len(x) == 0:
        raise ValueError("the health of an autoencoder is measured on at least one picture")
    was = autoencoder.training
    autoencoder.eval()
    try:
        z = torch.cat([autoencoder.encode(part.to(autoencoder.device)).cpu() for part in x.split(batch)])
        size = x.shape[2:]

        def decoded(latents: Tensor) -> Tensor:
            parts = latents.split(batch)
            return torch.cat(
                [autoencoder.decode(p.to(autoencoder.device), size=size).clamp(-1.0, 1.0).cpu() for p in parts]
            )

        made = decoded(z)
        whole = float(psnr(made, x).mean())
        lost = []
        for channel in range(z.shape[1] if z.shape[1] <= _CHANNELS_TRIED else 0):
            without = z.clone()
            without[:, channel] = z[:, channel].mean()
            lost.append(whole - float(psnr(decoded(without), x).mean()))
        kl, noise = _posterior(autoencoder, x, batch)
        used = _codes(autoencoder, x, batch)
        wide = [1, -1, *[1] * (z.dim() - 2)]
        raw = z * autoencoder.latent_std.cpu().view(wide) + autoencoder.latent_mean.cpu().view(wide)
        silent = {i for i, nats in enumerate(kl) if nats < DEAD_NATS}
        return Health(
            psnr=whole,
            absolute=float((made - x).abs().mean()),
            kl=tuple(kl),
            noise=tuple(noise),
            forgives=whole - float(psnr(decoded(z + OFF * _moved(z)), x).mean()),
            lost=tuple(lost),
            dead=tuple(sorted(silent | {i for i, decibels in enumerate(lost) if decibels < DEAD_DECIBELS})),
            latent_range=(float(z.min()), float(z.max())),
            raw_range=(float(raw.min()), float(raw.max())),
            codes_used=None if used is None else used[0],
            perplexity=None if used is None else used[1],
            turned=_equivariance(autoencoder, x[:batch], halve=False),
            halved=_equivariance(autoencoder, x[:batch], halve=True),
            count=len(x),
        )
    finally:
        autoencoder.train(was)


def _moved(z: Tensor) -> Tensor:
    """Standard normal of the shape of latents (N, C', *size), by their places in the set."""
    seeds = torch.zeros(len(z), dtype=torch.int64)
    return normal(seeds, Stream.LATENT, torch.arange(len(z)), shape=tuple(z.shape[1:]))


def _posterior(autoencoder: Autoencoder, x: Tensor, batch: int) -> tuple[list[float], list[float]]:
    """By channel: (nats of the KL for an element, root mean square deviation over that of the channel)."""
    if not isinstance(autoencoder, KlAutoencoder):
        return [], []
    total = torch.zeros(2, autoencoder.latent_channels, dtype=torch.float64)
    for part in x.split(batch):
        mean, std = autoencoder.raw_moments(part.to(autoencoder.device))
        assert std is not None
        for row, values in enumerate((kl_divergence(mean, std.log()), std.square())):
            total[row] += values.flatten(2).mean(2).sum(0).double().cpu()
    nats, squares = (total / len(x)).tolist()
    scales = autoencoder.latent_std.tolist()
    return nats, [math.sqrt(square) / scale for square, scale in zip(squares, scales, strict=True)]


def _codes(autoencoder: Autoencoder, x: Tensor, batch: int) -> tuple[float, float] | None:
    """(share of the codes in use, perplexity)."""
    if not isinstance(autoencoder, VqAutoencoder):
        return None
    count = torch.zeros(len(autoencoder.codebook))
    for part in x.split(batch):
        count += torch.bincount(autoencoder.numbers(part.to(autoencoder.device)).flatten(), minlength=len(count)).cpu()
    share = count / count.sum()
    entropy = -torch.special.xlogy(share, share).sum()
    return float((count > 0).float().mean()), float(entropy.exp())


def _equivariance(autoencoder: Autoencoder, x: Tensor, *, halve: bool) -> float | None:
    factor, size = autoencoder.factor, tuple(x.shape[2:])
    step = 2 * factor if halve else factor
    if len(size) != 2 or any(side % step for side in size) or (not halve and size[0] != size[1]):
        return None
    turn = Turn(0, (size[0] // step, size[1] // step)) if halve else Turn(1)
    return equivariance_error(autoencoder.encode, x.to(autoencoder.device), turn, factor=factor)
