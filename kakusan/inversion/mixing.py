"""Between two noises, two codes or two conditions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.inversion.base import WIDE, Code
from kakusan.levels import Level
from kakusan.noise import Stream, normal


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation of each sample (B, C, *spatial): along the arc from a (share 0) to b (share 1).

    Noise has almost one length in many dimensions, and a straight line between two of them leaves it (Shoemake 1985).
    Lengths that differ are interpolated linearly. Samples in almost one direction are mixed on the line, and those in
    opposite directions have no arc.

    Raises:
        ValueError: shapes that differ, or opposite directions.
    """
    if a.shape != b.shape:
        raise ValueError(f"two noises of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be mixed")
    if share in (0.0, 1.0):
        return b if share else a
    flat_a, flat_b = a.flatten(1).to(torch.float64), b.flatten(1).to(torch.float64)
    size_a, size_b = (x.norm(dim=1, keepdim=True).clamp_min(1e-300) for x in (flat_a, flat_b))
    unit_a, unit_b = flat_a / size_a, flat_b / size_b
    cosine = (unit_a * unit_b).sum(1, keepdim=True).clamp(-1.0, 1.0)
    if bool((cosine < -1.0 + 1e-9).any()):
        raise ValueError("two opposite noises have no arc between them; take another seed")
    angle = cosine.arccos()
    sine = angle.sin()
    near = sine < 1e-6
    safe = torch.where(near, torch.ones_like(sine), sine)
    first = torch.where(near, torch.full_like(angle, 1.0 - share), ((1.0 - share) * angle).sin() / safe)
    second = torch.where(near, torch.full_like(angle, share), (share * angle).sin() / safe)
    mixed = (first * unit_a + second * unit_b) * torch.lerp(size_a, size_b, share)
    return mixed.view(a.shape).to(a.dtype)


def between_codes(a: Code, b: Code, share: float) -> Code:
    """`slerp` of two codes of one level; partner and maps go with the samples."""
    second = None if a.second is None or b.second is None else slerp(a.second, b.second, share)
    maps = None if a.maps is None or b.maps is None else _maps(a.maps, b.maps, share)
    return Code(slerp(a.x, b.x, share), second, maps, max(a.residual, b.residual))


def towards_noise(code: Code, level: Level, seeds: Sequence[int], share: float, sigma_data: float) -> Code:
    """A code (1, C, *spatial) of `level` on its way to the start noise of each seed, (len(seeds), C, *spatial).

    Share 0 is the code itself, 1 where sampling with that seed would start.
    """
    size = (float(level.alpha) ** 2 * sigma_data**2 + float(level.sigma) ** 2) ** 0.5
    drawn = normal(list(seeds), Stream.START, shape=code.x.shape[1:], dtype=WIDE, device=code.x.device) * size
    second = None if code.second is None else slerp(code.second.expand_as(drawn), drawn, share)
    return Code(slerp(code.x.expand_as(drawn), drawn, share), second, code.maps, code.residual)


def _maps(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Each step's map for itself."""
    return slerp(a.flatten(0, 1), b.flatten(0, 1), share).view(a.shape)


def between_conditions(a: Condition, b: Condition, share: float) -> Condition:
    """On the line between two conditions: vectors, tokens and maps alike; a mask keeps what either shows."""

    def mix(mine: Tensor, theirs: Tensor) -> Tensor:
        return mine | theirs if mine.dtype == torch.bool else torch.lerp(mine, theirs, share)

    if share in (0.0, 1.0):
        return b if share else a
    return a.combine(b, mix)
