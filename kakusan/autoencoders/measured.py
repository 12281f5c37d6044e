"""Measurements of pictures, as a model of latents sees them.

What was measured is linear in pixels and not in latents, so it is not brought to the latent grid: a predicted latent is
decoded, corrected among pixels, and the change is encoded again. Methods that know only masks get the latent cells that
hold nothing but known pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.autoencoders.latents import LatentSpec
from kakusan.autoencoders.networks import fold
from kakusan.nn.shapes import pad
from kakusan.noise import Stream, normal
from kakusan.operators import Identity, Mask, Measurement
from kakusan.operators.seams import continued

STEADY = 1.0
"""A latent that moves by less than this (of its deviation over the data) whatever lies in the hole is known. Stricter
ones leave too few: on flowers at a factor of 4, 3 of 44 cells at 0.1, and 3 dB less in the hole (docs/latents.md)."""


@dataclass(frozen=True, kw_only=True)
class Decoded(Measurement):
    """A measurement of the pictures behind latents.

    Args:
        operator: a mask of the latent cells that are known, or the identity where there are none such.
        y: latents (1, C', *size), right where they are known.
        noise_std: of the measurement, in model units of pixels.
        pixels: what was measured.
        spec: the way between both.
        cells: how many latent cells are known.
        owned: how many hold known pixels only, whether or not the encoder looks beyond them.
    """

    pixels: Measurement
    spec: LatentSpec
    cells: int = 0
    owned: int = 0

    def towards(self, x0: Tensor, ratio: Tensor | float) -> Tensor:
        """Latents whose decoded pictures fit better: z + E(P(D(z))) - E(D(z)), with the proximal step P among pixels.

        The difference of two codes leaves latents alone that the measurement says nothing of, however badly the
        autoencoder restores them. Of an orthogonal transform it is the proximal step itself.
        """
        # A latent has the deviation 1 over the data where a pixel has `sigma_data`.
        ratio = ratio / self.spec.pixels.sigma_data**2
        decoded = self.spec.decoded(x0)
        fitting = self.pixels.towards(decoded, ratio)
        both = self.spec.made(torch.cat([fitting, decoded]))
        return x0 + (both[: len(x0)] - both[len(x0) :])


def fitted(x: Tensor, pixels: Measurement) -> Tensor:
    """Decoded pictures (B, C, *size) brought nearer to what was measured, by as much as a decoder misses.

    It is the mean of the posterior of normal pictures around x, whose variance is what the misfit says beyond the noise
    of the measurement. A measurement without noise is then met as it is.
    """
    operator = pixels.operator
    trace = float(operator.singular(x).square().expand(operator.shape).sum())
    missed = float(pixels.residual(x).flatten(1).square().sum(1).mean()) - pixels.noise_std**2 * pixels.y[0].numel()
    variance = max(missed, 0.0) / trace
    return pixels.towards(x, pixels.noise_std**2 / variance) if variance > 0.0 else x


def decoded(spec: LatentSpec, pixels: Measurement) -> Decoded:
    """A measurement of pictures for a model of latents.

    Of a mask, a cell of the latent grid is known where every pixel under it is, and where the encoder says the same
    whatever lies in the hole: an encoder looks far beyond a cell, but mostly not hard. The receptive field of the
    networks here would leave next to nothing of a small picture, so its effect is measured instead: the hole is filled
    smoothly, with black, with white and with noise, and a cell whose latents differ by more than `STEADY` is unknown.

    Args:
        spec: of the latents.
        pixels: one measurement, G = 1.
    """
    operator = pixels.operator
    first = spec.made(operator.pinv(pixels.y))
    if not isinstance(operator, Mask) or isinstance(operator, Identity):
        return Decoded(Identity(spec.shape), first, pixels.noise_std, pixels=pixels, spec=spec)
    seen = (operator.seen(pixels.y) > 0.0).expand(operator.shape)
    unknown = (~seen.all(0, keepdim=True)).unsqueeze(0).to(pixels.y)
    owned = fold(pad(unknown, spec.autoencoder.factor), spec.autoencoder.factor).amax(1) == 0.0
    y = pixels.y
    noise = normal([0], Stream.MEASUREMENT, shape=operator.shape).to(y)
    fills = [continued(y, seen), torch.full_like(y, -1.0), torch.ones_like(y), noise.clamp(-1.0, 1.0)]
    codes = spec.made(torch.cat([torch.where(seen, y, fill) for fill in fills]))
    moved = (codes.amax(0) - codes.amin(0)).square().mean(0, keepdim=True).sqrt()
    known = owned & (moved < STEADY)
    if not bool(known.any()):
        return Decoded(
            Identity(spec.shape), codes[:1], pixels.noise_std, pixels=pixels, spec=spec, owned=int(owned.sum())
        )
    mask = Mask(known, spec.shape)
    return Decoded(
        mask,
        mask(codes[:1]),
        pixels.noise_std,
        pixels=pixels,
        spec=spec,
        cells=int(known.sum()),
        owned=int(owned.sum()),
    )
