"""The pairs that are made from one's own pictures, and one that comes with the data."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.nn.norms import full_precision
from kakusan.noise import Draws
from kakusan.operators import Downsample, GaussianBlur, Gray, Operator
from kakusan.pairs.base import Pair
from kakusan.pairs.shapes import random_holes
from kakusan.specs import register


@register
@dataclass(frozen=True)
class Shrunk(Pair):
    """A picture shrunk by a whole factor: the model enlarges (Saharia et al. 2021, SR3, arXiv 2104.07636).

    Args:
        factor: a divisor of every side.
        kernel: of the shrinking: box, bicubic or lanczos. What is seen is the least-norm picture that shrinks to the
            small one, which for box is every pixel repeated.
    """

    factor: int = 4
    kernel: str = "box"

    # A cascade feeds the model with drawn pictures, which have faults that shrunk ones have not (Ho et al. 2021).
    usual_noise = 0.4

    def check(self, shape: Sequence[int]) -> None:
        _shrinking(tuple(shape), self.factor, self.kernel)

    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        return _shrinking(tuple(shape), self.factor, self.kernel).measured

    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, None]:
        with full_precision(x0):
            return _shrinking(tuple(x0.shape[1:]), self.factor, self.kernel)(x0), None

    def placed(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        with full_precision(y):
            return _shrinking(tuple(shape), self.factor, self.kernel).pinv(y)

    def fitted(self, x0: Tensor, y: Tensor, known: Tensor | None = None) -> Tensor:
        return _projected(_shrinking(tuple(x0.shape[1:]), self.factor, self.kernel), x0, y)


@register
@dataclass(frozen=True)
class GrayOnly(Pair):
    """The gray of a picture: the model finds the colours (Rec. 601 luma for three channels, the mean for others)."""

    def check(self, shape: Sequence[int]) -> None:
        _gray(tuple(shape))

    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        self.check(shape)
        return (1, *shape[1:])

    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, None]:
        return gray(x0), None

    def fitted(self, x0: Tensor, y: Tensor, known: Tensor | None = None) -> Tensor:
        return _projected(_gray(tuple(x0.shape[1:])), x0, y)


@register
@dataclass(frozen=True)
class Edges(Pair):
    """How steep the gray of a picture is at each place: black where it is flat, white where it is steep.

    Args:
        gain: white is a change of 1 / gain of the range from black to white in one pixel.
    """

    gain: float = 4.0

    def __post_init__(self) -> None:
        if not 0.0 < self.gain < math.inf:
            raise ValueError(f"the gain of edges is a positive number, got {self.gain}")

    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (1, *shape[1:])

    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, None]:
        return (self.gain * steepness(gray(x0)) - 1.0).clamp(max=1.0), None


@register
@dataclass(frozen=True)
class Sketch(Pair):
    """Dark lines on white paper: a difference of Gaussians under a soft threshold, as draughtsmen's lines are found
    (Winnemoeller et al. 2012, "XDoG", Computers & Graphics 36, eq. 5).

    Args:
        std: of the finer Gaussian in pixels; the other has 1.6 times as much.
        sharpness: of the threshold, for a difference of one range from black to white.
    """

    std: float = 0.7
    sharpness: float = 16.0

    def __post_init__(self) -> None:
        if not (0.0 < self.std < 1000.0 and 0.0 < self.sharpness < math.inf):
            raise ValueError(f"std and sharpness of a sketch are positive numbers, got {self.std} and {self.sharpness}")

    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (1, *shape[1:])

    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, None]:
        light = gray(x0)
        with full_precision(x0):
            fine, coarse = (_blur(tuple(light.shape[1:]), std)(light) for std in (self.std, 1.6 * self.std))
            # A side of an edge that is darker than what is around it is a line; all else stays paper.
            darker = (0.5 * self.sharpness * (coarse - fine)).clamp_min(0.0)
        return 1.0 - 2.0 * darker.tanh(), None


@register
@dataclass(frozen=True)
class Blurred(Pair):
    """A Gaussian blur.

    Args:
        std: of the kernel, in pixels.
    """

    std: float = 1.5

    def __post_init__(self) -> None:
        if not 0.0 < self.std < 1000.0:
            raise ValueError(f"the standard deviation of a blur is in pixels, above 0 and below 1000; got {self.std}")

    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, None]:
        with full_precision(x0):
            return _blur(tuple(x0.shape[1:]), self.std)(x0), None


@register
@dataclass(frozen=True)
class Masked(Pair):
    """A picture with a hole: a random box, or one to four random strokes.

    Args:
        least: least side of a box, as a fraction of the picture's.
        most: most.
    """

    least: float = 0.25
    most: float = 0.75

    masks = True

    def __post_init__(self) -> None:
        if not 0.0 < self.least <= self.most <= 1.0:
            raise ValueError(f"the sides of boxes are fractions, 0 < least <= most <= 1; got {self.least}, {self.most}")

    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        holes = random_holes(x0.shape[2:], draws, least=self.least, most=self.most, device=x0.device)
        return x0, (~holes).to(x0)

    def fitted(self, x0: Tensor, y: Tensor, known: Tensor | None = None) -> Tensor:
        if known is None:
            raise ValueError("give the mask that says what is known")
        return torch.where(known.expand_as(x0) > 0.0, y.expand_as(x0).to(x0), x0)


@register
@dataclass(frozen=True)
class Noisy(Pair):
    """The picture itself, under the noise that training puts on every condition: the model takes it away."""

    usual_noise = 0.7
    noisy_itself = True

    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, None]:
        return x0, None


@register
@dataclass(frozen=True)
class Brought(Pair):
    """A second picture for each one, from a folder with the same file names: depth, segments, another season.

    Args:
        depth: channels of the second pictures.
    """

    depth: int = 1

    brought = True

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"pictures have at least one channel, got {self.depth}")

    def expects(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (self.depth, *shape[1:])

    def made(self, x0: Tensor, draws: Draws) -> tuple[Tensor, None]:
        raise ValueError(
            "the second picture of this pair is not made from the first: it comes from the folder that --pair-source "
            "named in training; bring it yourself"
        )


def gray(x: Tensor) -> Tensor:
    """(B, C, *spatial) -> (B, 1, *spatial) in the range of x."""
    if x.shape[1] == 1:
        return x
    with full_precision(x):
        return _gray(tuple(x.shape[1:]))(x)


def steepness(x: Tensor) -> Tensor:
    """The length of the gradient of x (B, C, *spatial) per pixel, by central differences; the border is repeated."""
    total = torch.zeros_like(x)
    for dim in range(2, x.dim()):
        side = x.shape[dim]
        after = torch.cat([x.narrow(dim, min(1, side - 1), max(1, side - 1)), x.narrow(dim, side - 1, 1)], dim)
        before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, max(1, side - 1))], dim)
        total = total + (0.5 * (after.narrow(dim, 0, side) - before.narrow(dim, 0, side))).square()
    return total.sqrt()


def _projected(operator: Operator, x0: Tensor, y: Tensor) -> Tensor:
    """x0 + A^+ (y - A x0)."""
    with full_precision(x0):
        return x0 + operator.pinv(y.to(x0) - operator(x0))


@functools.lru_cache(maxsize=32)
def _shrinking(shape: tuple[int, ...], factor: int, kernel: str) -> Downsample:
    return Downsample(shape, factor, kernel=kernel)


@functools.lru_cache(maxsize=32)
def _blur(shape: tuple[int, ...], std: float) -> Operator:
    return GaussianBlur(shape, std)


@functools.lru_cache(maxsize=32)
def _gray(shape: tuple[int, ...]) -> Gray:
    return Gray(shape)


PAIRS: dict[str, Pair] = {
    "upscale-2": Shrunk(factor=2),
    "upscale-4": Shrunk(factor=4),
    "gray": GrayOnly(),
    "edges": Edges(),
    "sketch": Sketch(),
    "blurred": Blurred(),
    "masked": Masked(),
    "noisy": Noisy(),
    "given": Brought(),
}
