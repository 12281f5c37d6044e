"""What the painters of `kakusan.data.flowers` share: a batch of factors, stems and leaves, stamens and small marks.

A painter paints a batch of flowers of one species on a canvas, back to front. A flower's own frame has its head in the
unit circle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kakusan.data.flowers_drawing import Canvas, Frame, Petal, petal, tint
from kakusan.data.flowers_forms import Array, Form, Number, mix, pointed, unit

DEGREE = float(np.pi / 180.0)


@dataclass(frozen=True)
class Batch:
    """The factors of N flowers of one species: one number a picture (N, 1, 1), colours (3, N, 1, 1).

    `details` (N, 80, 3) in [-1, 1] is for small things that have no name.
    """

    x: Array
    y: Array
    scale: Array
    rotation: Array
    tilt: Array
    count: Array
    blooms: Array
    leaves: Array
    petal: Array
    centre: Array
    leaf: Array
    details: Array

    def die(self, k: int) -> Array:
        """The k-th small thing, (N, 1, 1) in [-1, 1]."""
        return self.details[:, k // 3, k % 3][:, None, None]

    def head(self, canvas: Canvas) -> Frame:
        """The frame of a flower seen from the front: tilted back, then turned in its plane."""
        return canvas.frame.at(self.x, self.y, scale=self.scale, squash=self.tilt).at(angle=self.rotation)

    def upright(self, canvas: Canvas) -> Frame:
        """The frame of a flower seen from the side."""
        return canvas.frame.at(self.x, self.y, angle=self.rotation, scale=self.scale)

    def shown(self, numbers: Array, k: int) -> Array:
        """1 where thing `k` is among the first `numbers`, else 0: (N, 1, 1)."""
        return (numbers > k + 0.5).astype(np.float32) if k else np.minimum(numbers, 1.0)


def leaf(
    frame: Frame,
    angle: Number,
    *,
    length: Number,
    width: Number,
    colour: Array,
    bend: Number = 0.0,
    form: Form = pointed,
    weight: Number = 1.0,
) -> None:
    """A leaf from the origin, its two halves lit differently and parted by a pale rib."""
    if not np.any(weight):
        return
    piece = petal(frame, angle, form=form, length=length, width=width, bend=bend)
    canvas = piece.frame.canvas
    canvas.cast(piece.distance, reach=0.12, strength=0.35 * weight)
    light = np.clip(piece.across * 6.0, -1.0, 1.0) * (0.3 * piece.light[1]) + (0.94 + 0.12 * piece.along)
    fine = piece.frame.fine(10.0)
    if fine is not None:
        light += 0.07 * fine * np.sin(piece.along * 34.0 - np.abs(piece.across) * 5.0)
    rib = unit(1.0 - np.abs(piece.across) * 7.0) * unit(1.1 - piece.along)
    canvas.paint(piece.coverage * weight, colour * light + 0.1 * rib)


def stem(
    canvas: Canvas, *, top: tuple[Array, Array], bottom: tuple[Array, float], sway: Array, width: float, colour: Array
) -> None:
    """A stem in the picture from `bottom` to `top`, bowed sideways by `sway`."""
    reach = np.abs(sway) + width + 0.1
    frame = canvas.crop(
        float((np.minimum(top[0], bottom[0]) - reach).min()),
        float((np.maximum(top[0], bottom[0]) + reach).max()),
        -9.0,
        float(top[1].max()),
    ).frame
    height = np.maximum(top[1] - bottom[1], 0.05)
    t = (frame.y - bottom[1]) * (1.0 / height)
    axis = bottom[0] + (top[0] - bottom[0]) * t + (4.0 * sway) * t * (1.0 - t)
    slope = ((top[0] - bottom[0]) + (4.0 * sway) * (1.0 - 2.0 * t)) * (1.0 / height)
    side = (frame.x - axis) / np.sqrt(1.0 + slope * slope)
    distance = np.minimum(width - np.abs(side), (1.0 - t) * height)
    frame.canvas.cast(distance, reach=0.06, strength=0.3)
    light = 1.0 + 0.5 * np.clip(side * (1.0 / width), -1.0, 1.0) * frame.light[0]
    frame.canvas.paint(frame.edge(distance), colour * light)


def foliage(canvas: Canvas, b: Batch, *, width: float = 0.34, length: float = 0.95, thick: float = 0.055) -> None:
    """A stem from the flower down out of the picture and up to four leaves beside it."""
    foot = b.x + 0.18 * b.die(0)
    stem(
        canvas, top=(b.x, b.y), bottom=(foot, -1.15), sway=0.07 * b.die(1), width=thick, colour=tint(b.leaf, deep=0.25)
    )
    for k, (angle, up) in enumerate(((28.0, 0.62), (152.0, 0.62), (-14.0, 0.25), (194.0, 0.25))):
        origin = canvas.frame.at(mix(foot, b.x, up * 0.4), -1.0 + up * 0.45)
        leaf(
            origin,
            (angle + 9.0 * b.die(2 + k)) * DEGREE,
            length=length * (1.0 + 0.12 * b.die(6 + k)),
            width=width * 0.62,
            colour=b.leaf,
            bend=0.28 if k % 2 else -0.28,
            weight=b.shown(b.leaves, k),
        )


def blades(
    canvas: Canvas, b: Batch, foot: Array, shapes: tuple[tuple[float, float, float], ...], *, width: float
) -> None:
    """Long leaves from the ground, one for each (angle in degrees, bend, length)."""
    ground = canvas.frame.at(foot, -1.12)
    for k, (angle, bend, length) in enumerate(shapes):
        leaf(
            ground,
            (angle + 6.0 * b.die(2 + k)) * DEGREE,
            length=length,
            width=width,
            colour=b.leaf,
            bend=bend,
            weight=b.shown(b.leaves, k),
        )


def stamens(
    frame: Frame,
    *,
    count: float,
    radius: float,
    size: float,
    colour: Array,
    phase: Number,
    filament: Array | None = None,
) -> None:
    """A ring of anthers at `radius`, on filaments from the origin when these have a colour."""
    frame = frame.around(radius + 2.5 * size)
    spacing = 2.0 * np.pi / count
    turned = (frame.theta - phase) * (1.0 / spacing)
    side = frame.r * ((turned - np.floor(turned + 0.5)) * spacing)
    if filament is not None:
        line = np.minimum(0.25 * size - np.abs(side), radius - frame.r)
        frame.canvas.paint(0.8 * frame.edge(line), filament)
    distance = size - np.sqrt((frame.r - radius) ** 2 + side * side)
    frame.canvas.cast(distance, reach=size, strength=0.25)
    frame.canvas.paint(frame.edge(distance), colour * (1.0 + (0.4 / size) * distance))


def florets(frame: Frame, *, radius: float, colour: Array, turns: float, strength: float = 0.55) -> None:
    """Crossing spirals of dots on a centre, where the samples can carry them."""
    fine = frame.fine(16.0)
    if fine is None:
        return
    frame = frame.around(radius)
    swirl = np.sqrt(frame.r * (1.0 / radius)) * 26.0
    pattern = np.sin(turns * frame.theta + swirl) * np.sin((turns - 5.0) * frame.theta - swirl)
    frame.canvas.paint(unit(pattern * 1.5) * unit((radius - frame.r) * 12.0) * (strength * fine), colour)


def freckles(piece: Petal, colour: Array) -> None:
    """Spots on the inner half of a petal, where the samples can carry them."""
    fine = piece.frame.fine(14.0)
    if fine is not None:
        dots = np.sin(piece.along * 42.0 + 6.0 * piece.across) * np.sin(piece.across * 13.0 + 20.0 * piece.along)
        piece.stain(unit(dots * 6.0 - 3.6) * unit(1.4 - 2.4 * piece.along) * (0.7 * fine), colour)
