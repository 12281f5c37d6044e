"""Rotations and scales of pictures and of latents: what an autoencoder should not care about.

Kouzelis et al. 2025, "EQ-VAE: equivariance regularized latent space for improved generative image modeling", arXiv
2502.09509: a latent that was turned or made smaller is to decode to the picture turned or made smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.noise import Stream, uniform


@dataclass(frozen=True)
class Turn:
    """A rotation by quarter turns and a change of scale, for pictures and latents alike.

    Args:
        quarters: counter-clockwise quarter turns, 0 to 3.
        size: (H, W) of the latent afterwards, before it is turned; None leaves it.
    """

    quarters: int = 0
    size: tuple[int, int] | None = None

    def __call__(self, x: Tensor, *, factor: int = 1) -> Tensor:
        """x (B, C, H, W): a latent, or a picture when `factor` is that of the autoencoder."""
        if self.size is not None:
            # Means over what each new place covers, as far as places are divided: no detail is turned into a pattern.
            x = F.interpolate(x, size=tuple(factor * side for side in self.size), mode="area")
        return torch.rot90(x, self.quarters, (2, 3)) if self.quarters else x

    @classmethod
    def drawn(cls, size: tuple[int, int], *, seed: int, number: int, least: float = 0.25) -> Turn:
        """A turn of chance for latents of `size`: each number of quarters alike (none or two where a picture is not
        square), the scale even between `least` and 1."""
        u = uniform([seed], Stream.TRANSFORM, number, shape=(2,))[0].tolist()
        quarters = int(4 * u[0]) if size[0] == size[1] else 2 * int(2 * u[0])
        scale = least + (1.0 - least) * u[1]
        smaller = tuple(max(1, round(side * scale)) for side in size)
        return cls(quarters, None if smaller == tuple(size) else (smaller[0], smaller[1]))


def equivariance_error(encode: Callable[[Tensor], Tensor], x: Tensor, turn: Turn, *, factor: int) -> float:
    """How far the latent of a changed picture is from the changed latent, over the deviation of the latents: a share.

    Args:
        encode: pictures (B, C, H, W) -> latents (B, C', H / factor, W / factor).
        x: the pictures; the factor divides their sides.
        turn: the change.
        factor: of the autoencoder.
    """
    with torch.no_grad():
        mine, other = encode(turn(x, factor=factor)), turn(encode(x))
        spread = (other - other.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
        return float(((mine - other).square().mean() / spread.clamp_min(1e-12)).sqrt())
