"""The vector-quantised autoencoder: every place of the latent is one of a codebook.

van den Oord et al. 2017 (arXiv 1711.00937), with the codebook as averages of what it stands for (their appendix A.1)
and codes that nobody uses set anew (Dhariwal et al. 2020, arXiv 2005.00341, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kakusan.autoencoders.base import Autoencoder, Code, Noise
from kakusan.autoencoders.networks import NetworkSize
from kakusan.noise import Stream, uniform
from kakusan.specs import register

_AT_ONCE = 2**22
"""Distances in memory at once."""


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """Number of the nearest code (N,) of each vector (N, D), by the square distance to codes (K, D).

    |v - c|^2 up to |v|^2, which is the same for all codes of a vector.
    """
    half = 0.5 * codes.square().sum(1)
    found = [(part @ codes.T - half).argmax(1) for part in vectors.split(max(1, _AT_ONCE // len(codes)))]
    return torch.cat(found) if found else vectors.new_zeros(0, dtype=torch.int64)


def straight_through(latent: Tensor, quantised: Tensor) -> Tensor:
    """`quantised` forward; backward the gradient passes to `latent` as if nothing had been done."""
    return latent + (quantised - latent).detach()


@register
class VqAutoencoder(Autoencoder):
    """`Autoencoder` whose decoder knows only the vectors of a codebook.

    `encode` gives what the encoder says, before it is quantised, and `decode` takes the nearest codes first: diffusion
    then works on continuous latents and its small errors are corrected (Rombach et al. 2022, arXiv 2112.10752, section
    3.1). `numbers` gives the codes themselves.

    Args:
        channels: C of the pictures.
        factor: pixels a side of one place of the latent.
        latent_channels: C', the length of a code.
        rank: number of spatial dimensions.
        codes: how many.
        commitment: weight of the encoder's distance to its codes.
        decay: of the averages that the codes are.
        size: of the network.
    """

    kind = "vq"

    usage: Tensor

    def __init__(
        self,
        *,
        channels: int,
        factor: int = 4,
        latent_channels: int = 4,
        rank: int = 2,
        codes: int = 1024,
        commitment: float = 0.25,
        decay: float = 0.98,
        size: NetworkSize = NetworkSize(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(
            channels=channels,
            factor=factor,
            latent_channels=latent_channels,
            rank=rank,
            coded=latent_channels,
            size=size,
        )
        if codes < 2 or not 0.0 < decay < 1.0 or commitment < 0.0:
            raise ValueError(
                f"a codebook has at least 2 codes, a decay in (0, 1) and a commitment of at least 0; got {codes}, "
                f"{decay} and {commitment}"
            )
        self.commitment, self.decay = commitment, decay
        # A parameter without a gradient: averages of the weights then hold the codes that went with them.
        self.codebook = nn.Parameter(torch.randn(codes, latent_channels), requires_grad=False)
        self.register_buffer("usage", torch.zeros(codes))
        self._gathered: list[tuple[Tensor, Tensor, Tensor]] = []

    def raw_moments(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.encoded(x).float(), None

    def numbers(self, x: Tensor) -> Tensor:
        """The codes of pictures x (B, C, *size): (B, *latent size) int64."""
        latent = self.raw_moments(x)[0]
        return nearest(_rows(latent), self.codebook).view(len(latent), *latent.shape[2:])

    def settled(self, latent: Tensor) -> Tensor:
        return self._quantised(latent, nearest(_rows(latent), self.codebook))

    def _quantised(self, latent: Tensor, numbers: Tensor) -> Tensor:
        return self.codebook[numbers].view(len(latent), *latent.shape[2:], -1).movedim(-1, 1)

    def code(self, x: Tensor, noise: Noise) -> Code:
        latent = self.encoded(x).float()
        rows = _rows(latent.detach())
        numbers = nearest(rows, self.codebook)
        if self.training and torch.is_grad_enabled():
            self._gather(rows, numbers)
        quantised = self._quantised(latent, numbers)
        apart = (latent - quantised.detach()).square().flatten(1).mean(1)
        share = torch.bincount(numbers, minlength=len(self.codebook)) / len(numbers)
        return Code(straight_through(latent, quantised), self.commitment * apart, {"codes": share}, weighted=False)

    def _gather(self, rows: Tensor, numbers: Tensor) -> None:
        count = torch.bincount(numbers, minlength=len(self.codebook)).to(rows.dtype)
        total = torch.zeros_like(self.codebook).index_add_(0, numbers, rows)
        # Parts of one batch add up; a few of their vectors are enough to begin anew from.
        self._gathered.append((count, total, rows[:: max(1, len(rows) // 4096)]))

    @torch.no_grad()
    def after_step(self, *, seed: int, step: int, good: bool) -> None:
        """Move every code to the running mean of what it stands for; codes of less than a hundredth of their share
        begin anew at a vector of this step."""
        gathered, self._gathered = self._gathered, []
        if not gathered or not good:
            return
        count = torch.stack([c for c, _, _ in gathered]).sum(0)
        total = torch.stack([t for _, t, _ in gathered]).sum(0)
        rows = torch.cat([r for _, _, r in gathered])
        if not bool(total.isfinite().all()):
            return
        first = not bool(self.usage.any())
        old = self.usage.unsqueeze(1) * self.codebook
        self.usage.mul_(self.decay).add_(count, alpha=1.0 - self.decay)
        moved = (self.decay * old + (1.0 - self.decay) * total) / self.usage.clamp_min(1e-12).unsqueeze(1)
        used = self.usage > 1e-6
        self.codebook.data[used] = moved[used]
        share = float(count.sum()) / len(count)
        dead = torch.arange(len(count)) if first else (self.usage.cpu() < 0.01 * share).nonzero().flatten()
        if len(dead):
            u = uniform(dead + (seed << 20), Stream.RESAMPLE, step)
            chosen = (u * len(rows)).long().clamp_max(len(rows) - 1)
            self.codebook.data[dead] = rows[chosen]
            self.usage[dead] = share


def _rows(latent: Tensor) -> Tensor:
    """(B, C', *size) -> (B * places, C')."""
    return latent.movedim(1, -1).reshape(-1, latent.shape[1])
