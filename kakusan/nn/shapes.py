"""What backbones share about shapes: levels for a size, padding, and refusing what does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.conditioning import Condition


class Shaped(Protocol):
    """A backbone as the checks see it; `token_widths`, where it has them, names its token sets."""

    channels: int
    rank: int
    condition_width: int
    spatial_channels: int
    augment_width: int


def levels_for(size: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Rank, multipliers and attention levels of a U-Net for data of `size`, unless `arguments` says otherwise.

    The lowest resolution is about 8, channels double once, and attention runs where no side exceeds 16.
    """
    if not size or min(size) < 1:
        raise ValueError(f"size must hold 1 to 3 positive numbers, got {tuple(size)}")
    levels = min(5, max(2, 1 + round(math.log2(min(size) / 8)))) if min(size) >= 4 else 1
    derived: dict[str, Any] = {
        "rank": len(size),
        "multipliers": (1, *[2] * (levels - 1)),
    }
    levels = len(arguments.get("multipliers", derived["multipliers"]))
    derived["attention_levels"] = tuple(level for level in range(levels) if max(size) <= 16 * 2**level)
    return {**derived, **arguments}


def pad(x: Tensor, factor: int) -> Tensor:
    """x (B, C, *spatial) with its edge repeated at the end until `factor` divides every side."""
    missing = [-side % factor for side in x.shape[2:]]
    if not any(missing):
        return x
    return F.pad(x, [n for side in reversed(missing) for n in (0, side)], mode="replicate")


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """x (B, C, *spatial) without what `pad` added at the end: the inverse of it, for data of `size`."""
    for dim, side in enumerate(size, start=2):
        x = x.narrow(dim, 0, side)
    return x


def with_spatial(x: Tensor, cond: Condition | None) -> Tensor:
    """x (B, C, *spatial) with the channels of `Condition.spatial` behind its own, where there are any."""
    if cond is None or cond.spatial is None:
        return x
    return torch.cat([x, cond.spatial.to(x.dtype).expand(len(x), *cond.spatial.shape[1:])], dim=1)


def check_input(network: Shaped, x: Tensor, c_noise: Tensor, cond: Condition | None) -> None:
    """Refuse inputs of another shape, and conditions that are missing, unexpected or of another width."""
    if x.dim() != network.rank + 2 or x.shape[1] != network.channels or min(x.shape[2:]) < 1:
        raise ValueError(
            f"this network takes (B, {network.channels}, *spatial) with {network.rank} spatial dimensions, "
            f"got {tuple(x.shape)}"
        )
    if c_noise.dim() != 1 or len(c_noise) not in (1, len(x)):
        raise ValueError(f"c_noise must be ({len(x)},) or (1,), got {tuple(c_noise.shape)}")
    cond = Condition() if cond is None else cond
    check_tokens(cond, getattr(network, "token_widths", {}), len(x))
    _check_part("vector", cond.vector, "condition_width", network.condition_width, len(x), ())
    if cond.augment is not None:
        _check_part("augment", cond.augment, "augment_width", network.augment_width, len(x), ())
    spatial = tuple(x.shape[2:])
    _check_part("spatial", cond.spatial, "spatial_channels", network.spatial_channels, len(x), spatial)


def check_tokens(cond: Condition, widths: Mapping[str, int], batch: int) -> None:
    """Raise unless the condition has exactly these token sets, in shapes that fit.

    Raises:
        ValueError: missing, unexpected, of another width or batch, or a mask of another shape.
    """
    unexpected, missing = sorted(set(cond.tokens) - set(widths)), sorted(set(widths) - set(cond.tokens))
    if unexpected:
        raise ValueError(f"this network would ignore the tokens {unexpected}; it was built for {sorted(widths)}")
    if missing:
        raise ValueError(f"this network was built with the token sets {sorted(widths)} and misses {missing}")
    for name, width in widths.items():
        values, mask = cond.tokens[name].values, cond.tokens[name].mask
        if values.dim() != 3 or values.shape[2] != width or len(values) not in (1, batch):
            raise ValueError(f"the tokens {name!r} must be ({batch}, L, {width}), got {tuple(values.shape)}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != values.shape[:2]):
            raise ValueError(
                f"the mask of the tokens {name!r} must be boolean {tuple(values.shape[:2])}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )


def _check_part(
    name: str, part: Tensor | None, argument: str, width: int, batch: int, spatial: tuple[int, ...]
) -> None:
    """Raise unless the condition has this part exactly when the network takes it, in the right shape."""
    if part is None:
        if width:
            raise ValueError(f"this network was built with {argument}={width} and needs a Condition.{name}, got none")
        return
    if not width:
        raise ValueError(f"this network would ignore Condition.{name}: build it with {argument}={part.shape[1]}")
    if part.shape[1:] != (width, *spatial) or len(part) not in (1, batch):
        expected = (batch, width, *spatial)
        raise ValueError(f"Condition.{name} must be {expected} ({argument}={width}), got {tuple(part.shape)}")


def check_arguments(
    channels: int,
    out_channels: int | None,
    rank: int,
    width: int,
    multipliers: Sequence[int],
    depth: int,
    attention_levels: Sequence[int],
    dropout: float,
) -> None:
    """Refuse a U-Net that cannot be built."""
    if rank not in (1, 2, 3):
        raise ValueError(f"rank is the number of spatial dimensions, 1, 2 or 3; got {rank}")
    sizes = {"channels": channels, "out_channels": channels if out_channels is None else out_channels}
    for name, value in {**sizes, "width": width, "depth": depth}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers must name at least one level, each at least 1; got {tuple(multipliers)}")
    unknown = [level for level in attention_levels if not 0 <= level < len(multipliers)]
    if unknown:
        raise ValueError(f"attention_levels {unknown} do not exist: the levels are 0 to {len(multipliers) - 1}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is a probability in [0, 1), got {dropout}")
