"""Augmentation that the network is told about, so that samples stay as the data are (Karras et al. 2022, EDM).

The transformations of arXiv 2206.00364, appendix F.2 and table 6: mirrors, scaling, rotation, stretching and
translation, each applied with the same probability on its own and all together as one map of coordinates. What was
done goes to the network as nine numbers (`Condition.augment`); without them, at sampling, it means "nothing was done".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.noise import Stream, uniform

LABELS = (
    "mirrored left to right",
    "mirrored top to bottom",
    "scale",
    "cos(rotation) - 1",
    "sin(rotation)",
    "stretch along the sides",
    "stretch along the diagonals",
    "shift right",
    "shift down",
)
"""What the numbers of an augmentation label (B, 9) say; all are zero for a picture as it is."""

# A half-band filter that interpolates polynomials of degree 7 exactly (Deslauriers & Dubuc 1989): the value midway
# between samples from the four on each side, nearest first.
_HALFWAY = (1225 / 2048, -245 / 2048, 49 / 2048, -5 / 2048)
_REACH = 2 * len(_HALFWAY) - 1
# Coordinates within this of a pixel, in pixels, are that pixel: cos(90 degrees) is not zero in floating point.
_ON_PIXEL = 1e-6


@dataclass(frozen=True)
class Transformations:
    """What happens to each of B pictures, in this order; every field is (B,) float64, zeros change nothing.

    Args:
        mirror_x: 1 to mirror left to right.
        mirror_y: 1 to mirror top to bottom.
        scale: natural logarithm of the enlargement.
        rotation: radians, from right towards down.
        stretch: natural logarithm of the enlargement along one direction; across it the picture shrinks by as much.
        direction: of the stretch, radians from right towards down.
        right: shift in pixels.
        down: shift in pixels.
    """

    mirror_x: Tensor
    mirror_y: Tensor
    scale: Tensor
    rotation: Tensor
    stretch: Tensor
    direction: Tensor
    right: Tensor
    down: Tensor

    @classmethod
    def of(cls, count: int, **given: float | Tensor) -> Transformations:
        """`count` pictures left as they are but for the `given` fields."""
        zeros = torch.zeros(count, dtype=torch.float64)
        named = {name: torch.as_tensor(value, dtype=torch.float64).expand(count) for name, value in given.items()}
        return cls(**{**dict.fromkeys(cls.__dataclass_fields__, zeros), **named})

    def source(self) -> tuple[Tensor, Tensor]:
        """(matrix (B, 2, 2), offset (B, 2)): the place (x, y) that an output place shows is `matrix @ place - offset`.

        Places are pixels from the middle of the picture.
        """
        mirror = _diagonal(1.0 - 2.0 * self.mirror_x, 1.0 - 2.0 * self.mirror_y)
        shrink = _diagonal((-self.scale).exp(), (-self.scale).exp())
        stretch = _rotation(self.direction) @ _diagonal((-self.stretch).exp(), self.stretch.exp())
        matrix = mirror @ shrink @ _rotation(-self.rotation) @ stretch @ _rotation(-self.direction)
        shift = torch.stack([self.right, self.down], -1)
        return matrix, (matrix @ shift[:, :, None])[:, :, 0]


@dataclass(frozen=True)
class Augmentation:
    """EDM's pipeline.

    Args:
        probability: of each transformation, on its own; 0 is the identity. EDM uses 0.12 to 0.15.
        scale: standard deviation of log2 of the enlargement.
        stretch: of log2 of the stretch; half of the stretches run along an axis, half along any direction.
        shift: of the shift in each direction, as a fraction of the picture's side.
        whole: fraction of the shifts that are rounded to whole pixels, which loses nothing.

    Raises:
        ValueError: a probability outside [0, 1], or a negative size.
    """

    probability: float
    scale: float = 0.2
    stretch: float = 0.2
    shift: float = 0.125
    whole: float = 0.5

    def __post_init__(self) -> None:
        if not (0.0 <= self.probability <= 1.0 and 0.0 <= self.whole <= 1.0):
            raise ValueError(f"probability and whole lie between 0 and 1, got {self.probability} and {self.whole}")
        sizes = (self.scale, self.stretch, self.shift)
        if not all(0.0 <= size < math.inf for size in sizes):
            raise ValueError(f"scale, stretch and shift are 0 or more, got {sizes}")

    def __call__(self, x: Tensor, seed: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, C, H, W), changed, and their labels (B, 9) float32 on the same device.

        Everything is keyed by (seed, number of the sample in the training): a picture is changed in the same way alone
        and in any batch.

        Raises:
            ValueError: not pictures of two spatial dimensions.
        """
        _check_pictures(x)
        done, label = self.draw(seed, numbers, x.shape[2:])
        return transform(x, done), label.to(device=x.device, dtype=torch.float32)

    def draw(self, seed: int, numbers: Tensor, size: Sequence[int]) -> tuple[Transformations, Tensor]:
        """What happens to the samples with these numbers (B,), pictures of `size` (H, W); and labels (B, 9) float64."""
        seeds = torch.full_like(numbers, seed, dtype=torch.int64)
        u = iter(uniform(seeds, Stream.TRANSFORM, numbers, shape=(14,)).unbind(1))

        def chosen(value: Tensor) -> Tensor:
            return torch.where(next(u) < self.probability, value, torch.zeros_like(value))

        mirror_x, mirror_y = ((next(u) < 0.5 * self.probability).double() for _ in range(2))
        scale = chosen(torch.special.ndtri(next(u)))
        rotation = chosen((2.0 * next(u) - 1.0) * math.pi)
        stretch = chosen(torch.special.ndtri(next(u)))
        direction = (2.0 * next(u) - 1.0) * math.pi
        direction = torch.where(next(u) < 0.5, direction, torch.zeros_like(direction))
        units = torch.tensor([self.shift * size[1], self.shift * size[0]], dtype=torch.float64)
        shift = torch.stack([torch.special.ndtri(next(u)) for _ in range(2)], -1) * units
        shift = torch.where((next(u) < self.whole)[:, None], shift.round(), shift)
        right, down = (shift * chosen(torch.ones_like(scale))[:, None]).unbind(-1)
        done = Transformations(
            mirror_x,
            mirror_y,
            scale * self.scale * math.log(2.0),
            rotation,
            stretch * self.stretch * math.log(2.0),
            direction,
            right,
            down,
        )
        label = [mirror_x, mirror_y, scale, rotation.cos() - 1.0, rotation.sin()]
        # The double angle, where EDM has the single one: to stretch along a line is to shrink across it, whichever way
        # the line points. By the single angle a stretch and a shrinking along one line may have the same label.
        label += [stretch * (2.0 * direction).cos(), stretch * (2.0 * direction).sin()]
        # A picture one pixel wide has units all the same; only a shift of size 0 has none.
        label += [right / units[0], down / units[1]] if self.shift else [right, down]
        return done, torch.stack(label, -1)


def transform(x: Tensor, done: Transformations) -> Tensor:
    """Pictures (B, C, H, W) after their transformations, each resampled once; beyond its edges a picture is mirrored.

    A map that takes pixels to pixels (none, mirrors, quarter turns of pictures whose sides are both odd or both even,
    whole shifts, and what is made of them) copies them: nothing is lost. Every other picture is interpolated to twice
    its resolution by a half-band filter, read there at the places that twice the output's resolution asks for,
    linearly, and brought down by the same filter. So what the output cannot show (the picture was shrunk) is removed
    before it turns into false patterns, for shrinking down to half, and what both can show is left nearly alone.

    Raises:
        ValueError: not pictures of two spatial dimensions.
    """
    _check_pictures(x)
    matrix, offset = done.source()
    middle = torch.tensor([(x.shape[3] - 1) / 2.0, (x.shape[2] - 1) / 2.0], dtype=torch.float64)
    # From here on places count from the middle of the first pixel.
    offset = matrix @ middle + offset - middle
    on_pixels = (offset - offset.round()).abs().amax(1) < _ON_PIXEL
    turns = matrix.round()
    on_pixels &= ((matrix - turns).abs().amax((1, 2)) * max(x.shape[2:]) < _ON_PIXEL) & (
        (turns.abs().sum(1) == 1).all(1) & (turns.abs().sum(2) == 1).all(1)
    )
    still = on_pixels & (turns == torch.eye(2, dtype=torch.float64)).all(2).all(1) & (offset.round() == 0).all(1)
    out = x
    for rows, change in ((on_pixels & ~still, _copied), (~on_pixels, _resampled)):
        index = rows.nonzero().flatten()
        if len(index):
            there = index.to(x.device)
            out = out.index_copy(0, there, change(x.index_select(0, there), matrix[index], offset[index]))
    return out


def _copied(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Pixels taken from where the maps say; their places are whole numbers but for rounding."""
    height, width = x.shape[2:]
    places = _places(torch.arange(height).double(), torch.arange(width).double(), matrix, offset)
    column, row = (_mirrored(p.round(), side - 1).long() for p, side in zip(places, (width, height), strict=True))
    index = (row * width + column).flatten(1).to(x.device)
    return x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1)).view_as(x)


def _resampled(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Pictures read at twice the resolution and brought down again."""
    height, width = x.shape[2:]
    fine = _doubled(_doubled(x, 3), 2)
    matrix, offset = (part.to(device=x.device, dtype=x.dtype) for part in (matrix, offset))
    rows, columns = (
        torch.arange(-_REACH, 2 * side - 1 + _REACH, device=x.device, dtype=x.dtype) / 2.0 for side in (height, width)
    )
    places = _places(rows, columns, matrix, offset)
    # grid_sample counts from -1 at the first sample of an axis to 1 at the last.
    grid = [_mirrored(p, s - 1) * (2.0 / max(s - 1, 1)) - 1.0 for p, s in zip(places, (width, height), strict=True)]
    read = F.grid_sample(fine, torch.stack(grid, -1), mode="bilinear", padding_mode="border", align_corners=True)
    return _halved(_halved(read, 3), 2)


def _places(rows: Tensor, columns: Tensor, matrix: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Source (x, y), each (B, rows, columns), of every output place."""
    x, y = (
        matrix[:, i, 0, None, None] * columns + (matrix[:, i, 1, None] * rows - offset[:, i, None])[:, :, None]
        for i in range(2)
    )
    return x, y


def _mirrored(place: Tensor, last: int) -> Tensor:
    """Places on an axis that is mirrored at the middles of its first and its last sample."""
    if last == 0:
        return torch.zeros_like(place)
    return last - (place.remainder(2 * last) - last).abs()


def _doubled(x: Tensor, dim: int) -> Tensor:
    """Twice the resolution: n samples become 2 n - 1, the old ones kept.

    Sums are written out sample by sample, so that a picture's rounding does not depend on its batch.
    """
    side = x.shape[dim]
    index = torch.arange(side - 1, device=x.device)
    between = torch.zeros_like(x.narrow(dim, 0, side - 1))
    for step, weight in enumerate(_HALFWAY):
        left = x.index_select(dim, _mirrored(index - step, side - 1))
        right = x.index_select(dim, _mirrored(index + 1 + step, side - 1))
        between = between + (left + right) * weight
    pairs = torch.stack([x.narrow(dim, 0, side - 1), between], dim + 1).flatten(dim, dim + 1)
    return torch.cat([pairs, x.narrow(dim, side - 1, 1)], dim)


def _halved(x: Tensor, dim: int) -> Tensor:
    """Half the resolution: the half-band filter as a low-pass, at every second sample, `_REACH` away from both ends."""
    count = (x.shape[dim] - 2 * _REACH + 1) // 2

    def every_second(start: int) -> Tensor:
        return x.narrow(dim, start, 2 * count - 1).unfold(dim, 1, 2).squeeze(-1)

    out = every_second(_REACH) * 0.5
    for step, weight in enumerate(_HALFWAY):
        sides = every_second(_REACH - 1 - 2 * step) + every_second(_REACH + 1 + 2 * step)
        out = out + sides * (0.5 * weight)
    return out


def _rotation(angle: Tensor) -> Tensor:
    """(B,) -> (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([first, second], -1))


def _check_pictures(x: Tensor) -> None:
    if x.dim() != 4 or not x.is_floating_point() or min(x.shape[2:]) < 1:
        raise ValueError(
            f"augmentation turns and moves pictures, floats (B, C, H, W); got {tuple(x.shape)} of {x.dtype}; for other "
            "data leave augment at 0"
        )
