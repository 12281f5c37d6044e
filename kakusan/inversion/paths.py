"""Ways through the codes of given pictures: near one, and from one to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kakusan.inversion.base import Edit, Edited, Inversion, Side, kept_steps
from kakusan.inversion.drawn import Noising
from kakusan.inversion.mixing import between_codes, between_conditions, slerp, towards_noise
from kakusan.levels import Level
from kakusan.noise import Stream, normal
from kakusan.samplers import sample


@torch.no_grad()
def variations(
    way: Edit,
    source: Side,
    target: Side,
    x0: Tensor,
    levels: Sequence[Level],
    *,
    strength: float,
    seeds: Sequence[int],
    batch: int = 64,
) -> Edited:
    """Pictures (len(seeds), C, *spatial) near x0 (1, C, *spatial).

    An inversion turns the code of the picture towards the start noise of each seed by the share `strength`; any other
    way edits the picture over that share of the steps.

    Raises:
        ValueError: a strength outside [0, 1].
    """
    steps = len(levels) - 1
    start = steps - kept_steps(strength, steps)
    if start == steps:
        return Edited(x0.expand(len(seeds), *x0.shape[1:]), x0)
    parts = [seeds[place : place + batch] for place in range(0, len(seeds), batch)]
    if not isinstance(way, Inversion):
        found = [
            way.edit(source, target, x0.expand(len(part), *x0.shape[1:]), levels, start=start, seeds=part)
            for part in parts
        ]
        return Edited(torch.cat(found), x0)
    codes = way.codes(source, x0, levels, seeds=seeds[:1])
    size = source.denoiser.sigma_data
    found = [way.replay(target, towards_noise(codes[0], levels[0], part, strength, size), levels) for part in parts]
    return Edited(torch.cat(found), way.replay(source, codes[0], levels), max(code.residual for code in codes))


@torch.no_grad()
def between_noises(
    way: Inversion,
    ends: tuple[Side, Side],
    x0: Tensor,
    levels: Sequence[Level],
    *,
    shares: Sequence[float],
    seed: int,
    along: Callable[[float], Side] | None = None,
) -> Edited:
    """From the first picture of x0 (2, C, *spatial) to the second, along the arc between their codes.

    Args:
        way: an inversion.
        ends: the side of each picture; conditions are mixed along, and the denoiser of the first is followed.
        shares: of the way, 0 to 1.
        along: the side at a share of the way, in place of that mixture.
    """
    codes = [way.codes(side, x0[k : k + 1], levels, seeds=[seed]) for k, side in enumerate(ends)]
    back = [way.replay(side, code[0], levels) for side, code in zip(ends, codes, strict=True)]
    found = []
    for share in shares:
        side = _between(ends, share) if along is None else along(share)
        found.append(way.replay(side, between_codes(codes[0][0], codes[1][0], share), levels))
    return Edited(torch.cat(found), torch.cat(back), max(code.residual for part in codes for code in part))


@torch.no_grad()
def between_levels(
    way: Noising,
    ends: tuple[Side, Side],
    x0: Tensor,
    levels: Sequence[Level],
    *,
    strength: float,
    shares: Sequence[float],
    seed: int,
    along: Callable[[float], Side] | None = None,
) -> Tensor:
    """The same by noise: both pictures under noise, mixed, and sampled from there (Ho et al. 2020, section 4.4).

    The pictures are mixed on the line and their noises on the arc. The noise rises from none at either end to
    `strength` in the middle, so that the ends are the pictures themselves.
    """
    steps, found = len(levels) - 1, []
    seeds = [seed, seed + 1]
    first, second = normal(seeds, Stream.START, shape=x0.shape[1:], dtype=x0.dtype, device=x0.device).split(1)
    for share in shares:
        kept = round(kept_steps(strength, steps) * math.sin(math.pi * share))
        picture = torch.lerp(x0[:1], x0[1:], share)
        if kept == 0:
            found.append(picture)
            continue
        level, side = levels[steps - kept], _between(ends, share) if along is None else along(share)
        x = picture * level.alpha + slerp(first, second, share) * level.sigma
        grid = torch.tensor([float(here.t) for here in levels[steps - kept :]], dtype=torch.float64)
        found.append(
            sample(
                side.denoiser,
                way.sampler,
                grid,
                tuple(x.shape),
                side.cond,
                seeds=[seed],
                x_start=x,
                dtype=side.dtype,
                device=x.device,
            )
        )
    return torch.cat(found)


def _between(ends: tuple[Side, Side], share: float) -> Side:
    """The denoiser of the first end, with the conditions mixed."""
    side = ends[0]
    if side.cond is None or ends[1].cond is None:
        return side
    return replace(side, cond=between_conditions(side.cond, ends[1].cond, share))
