"""Whether an autoencoder is well: how true its pictures are, and whether every channel of the latent is used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kakusan.autoencoders.base import Autoencoder
from kakusan.autoencoders.equivariance import Turn, equivariance_error
from kakusan.autoencoders.kl import KlAutoencoder, kl_divergence
from kakusan.autoencoders.vq import VqAutoencoder
from kakusan.metrics.fidelity import psnr

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
            said.append("KL by channel " + " ".join(f"{value:.2f}" for value in self.kl))
        if self.codes_used is not None:
            said.append(f"codes used {self.codes_used:.0%}, perplexity {self.perplexity:.0f}")
        said.append(f"dead channels {len(self.dead)} of {channels}" if channels else "")
        said.append(f"latents {self.latent_range[0]:+.1f} to {self.latent_range[1]:+.1f}")
        return ", ".join(part for part in said if part)


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
        kl = _kl_by_channel(autoencoder, x, batch)
        used = _codes(autoencoder, x, batch)
        wide = [1, -1, *[1] * (z.dim() - 2)]
        raw = z * autoencoder.latent_std.cpu().view(wide) + autoencoder.latent_mean.cpu().view(wide)
        silent = {i for i, nats in enumerate(kl) if nats < DEAD_NATS}
        return Health(
            psnr=whole,
            absolute=float((made - x).abs().mean()),
            kl=tuple(kl),
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


def _kl_by_channel(autoencoder: Autoencoder, x: Tensor, batch: int) -> list[float]:
    if not isinstance(autoencoder, KlAutoencoder):
        return []
    total = torch.zeros(autoencoder.latent_channels, dtype=torch.float64)
    for part in x.split(batch):
        mean, std = autoencoder.raw_moments(part.to(autoencoder.device))
        assert std is not None
        total += kl_divergence(mean, std.log()).flatten(2).mean(2).sum(0).double().cpu()
    return [float(value) for value in total / len(x)]


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
