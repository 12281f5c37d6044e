"""Where the channels of maps (B, C, *spatial) lie in memory: first, as shapes say, or last, as neighbours.

Convolutions of CPUs that multiply tiles of bfloat16 (AMX) want channels last and turn maps around for themselves on the
way in and out: half of their time. Everything between them then has to be as fast there as with channels first.
"""

from __future__ import annotations

import torch
from torch import Tensor

# How torch calls it that channels lie last, by the dimensions of a map. It has no name for signals.
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
# A private name of torch, so its absence means no. Not asked anew by each pass: compilers cannot look into it.
MULTIPLIES_TILES = bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
# Numbers of bfloat16 in a row of a tile.
TILE = 32


def channels_lie_last(x: Tensor) -> bool:
    """Whether the channels of a map are neighbours in memory, and its places are not."""
    return x.dim() in FORMATS and x.movedim(1, -1).is_contiguous() and not x.is_contiguous()


def laid(x: Tensor, last: bool | None) -> Tensor:
    """A map as a network wants it: channels last or first; None takes what was measured to be faster for pictures."""
    if last is None:
        last = MULTIPLIES_TILES and x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.dim() == 4
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last and x.dim() in FORMATS else x.contiguous()


def spare_columns(count: int, x: Tensor) -> int:
    """By how many columns to widen a matrix of `count` columns that multiplies `x`, so that its products are fast.

    In bfloat16, CPUs that multiply tiles took 7.0 ms for 1360 columns and 3.1 for 1376.
    """
    rounds = x.dtype == torch.bfloat16 or (x.device.type == "cpu" and torch.is_autocast_enabled("cpu"))
    return -count % TILE if MULTIPLIES_TILES and x.device.type == "cpu" and rounds else 0


def over(x: Tensor, of: Tensor) -> Tensor:
    """One number for each sample and channel (B, C), as a factor of the map `of`."""
    return x.reshape(*x.shape, *[1] * (of.dim() - 2))


def as_tokens(x: Tensor) -> Tensor:
    """(B, C, *spatial) -> (B, L, C), without a copy where channels lie last."""
    return x.flatten(2).mT


def as_map(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, L, C) -> (B, C, *spatial) with the places of `like`, channels last where the tokens are contiguous."""
    return tokens.unflatten(1, like.shape[2:]).movedim(-1, 1)
