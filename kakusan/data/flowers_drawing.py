"""Painting a batch of pictures with numpy: frames, petals, leaves, discs and light.

Everything is a function of a point in the plane, with edges as soft as one sample, so a picture is the same at every
size. Colours are light with gamma 2 (the square of the stored value): it mixes as light does and costs one square root
to leave.

Shapes: N pictures, (N, h, w) samples, colours (3, N, 1, 1), one number a picture (N, 1, 1); all float32. The shorter
side of a picture spans [-1, 1] and y points up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from kakusan.data.flowers_forms import PI, Array, Form, Number, angle_of, mix, smooth, unit


def tint(colour: Array, *, light: float = 0.0, deep: float = 0.0) -> Array:
    """A colour mixed with white by `light`, and made darker, richer and warmer by `deep`, both in [0, 1]."""
    share = colour / (colour.max(axis=0, keepdims=True) + 1e-6)
    saturation = np.minimum(2.0 - 2.0 * share.min(axis=0, keepdims=True), 1.0)
    rich = colour * (0.35 + 0.65 * share) * 0.55
    # Red and yellow things turn towards red in their shadows, not towards olive.
    rich[1:2] *= 1.0 - 0.3 * share[:1] * saturation
    shaded = mix(colour, rich, deep)
    return mix(shaded, np.ones_like(shaded), light * light)


def paint_of(red: float, green: float, blue: float) -> Array:
    """A fixed colour in light, (3, 1, 1, 1)."""
    return np.array([red, green, blue], np.float32)[:, None, None, None]


@dataclass(frozen=True)
class Canvas:
    """What has been painted of the subject so far, or a rectangle of it.

    `x` (w,) and `y` (h, 1) are the samples' places, `pixel` the distance between two, `colour` (3, N, h, w) is
    premultiplied by `alpha` (N, h, w), `light` is the direction to the light, (N, 1, 1) each.
    """

    x: Array
    y: Array
    pixel: float
    colour: Array
    alpha: Array
    light: tuple[Array, Array]

    @property
    def frame(self) -> Frame:
        """The picture's own frame."""
        one = np.ones_like(self.light[0])
        return Frame(self, (one, 0.0 * one, 0.0 * one), (0.0 * one, one, 0.0 * one), one, self.light)

    def crop(self, left: float, right: float, bottom: float, top: float) -> Canvas:
        """The samples inside a rectangle, sharing memory."""
        columns = slice(*np.searchsorted(self.x, (left, right)))
        rows = slice(*np.searchsorted(-self.y[:, 0], (-top, -bottom)))
        return replace(
            self,
            x=self.x[columns],
            y=self.y[rows],
            colour=self.colour[:, :, rows, columns],
            alpha=self.alpha[:, rows, columns],
        )

    def paint(self, coverage: Array, colour: Array) -> None:
        """Lay `colour` (3, N, h or 1, w or 1) over what is there where `coverage` (N, h, w) says."""
        keep = 1.0 - coverage
        colours, alpha = self.colour, self.alpha
        colours *= keep
        colours += colour * coverage
        alpha *= keep
        alpha += coverage

    def cast(self, distance: Array, *, reach: Number, strength: Number) -> None:
        """Soft shadow, on what is painted, of a shape with signed `distance` (positive inside)."""
        near = unit(1.0 + distance * (1.0 / reach))
        colours = self.colour
        colours *= 1.0 - near * near * strength


Row: TypeAlias = tuple[Array, Array, Array]


@dataclass(frozen=True)
class Frame:
    """Coordinates of one thing in a picture, in its own units: an affine map of the canvas's samples.

    `across` and `up` are the rows (factor of x, factor of y, constant), `size` the picture length of one unit, `light`
    the direction to the light in these axes.
    """

    canvas: Canvas
    across: Row
    up: Row
    size: Array
    light: tuple[Array, Array]

    def at(
        self, x: Number = 0.0, y: Number = 0.0, *, angle: Number = 0.0, scale: Number = 1.0, squash: Number = 1.0
    ) -> Frame:
        """The frame with its origin at (x, y), turned by `angle`, one unit of which is `scale` of mine.

        `squash` below 1 flattens it along its own y axis, as a tilted disc looks.
        """
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        (xx, xy, x0), (yx, yy, y0) = self.across, self.up
        x0, y0 = x0 - x, y0 - y
        k, m = np.float32(1.0 / scale), np.float32(1.0 / (scale * squash))
        light = (self.light[0] * c + self.light[1] * s, self.light[1] * c - self.light[0] * s)
        return Frame(
            self.canvas,
            ((xx * c + yx * s) * k, (xy * c + yy * s) * k, (x0 * c + y0 * s) * k),
            ((yx * c - xx * s) * m, (yy * c - xy * s) * m, (y0 * c - x0 * s) * m),
            self.size / k,
            light,
        )

    def within(self, left: Number, right: Number, bottom: Number, top: Number) -> Frame:
        """The same frame on the part of the canvas that holds this rectangle of mine in every picture of the batch."""
        (xx, xy, x0), (yx, yy, y0) = self.across, self.up
        p, q, half_p, half_q = (
            0.5 * (left + right) - x0,
            0.5 * (bottom + top) - y0,
            0.5 * (right - left),
            0.5 * (top - bottom),
        )
        inverse = 1.0 / (xx * yy - xy * yx)
        x, y = (yy * p - xy * q) * inverse, (xx * q - yx * p) * inverse
        inverse = np.abs(inverse)
        half_x, half_y = (
            (np.abs(yy) * half_p + np.abs(xy) * half_q) * inverse,
            (np.abs(xx) * half_q + np.abs(yx) * half_p) * inverse,
        )
        edge = 2.0 * self.canvas.pixel
        return replace(
            self,
            canvas=self.canvas.crop(
                float((x - half_x).min()) - edge,
                float((x + half_x).max()) + edge,
                float((y - half_y).min()) - edge,
                float((y + half_y).max()) + edge,
            ),
        )

    def around(self, radius: Number) -> Frame:
        """The same frame on the part of the canvas that holds this circle about my origin."""
        return self.within(-radius, radius, -radius, radius)

    @cached_property
    def pixel(self) -> Array:
        """Distance between two samples."""
        return np.float32(self.canvas.pixel) / self.size

    @cached_property
    def x(self) -> Array:
        """(N, h, w)."""
        return (self.across[0] * self.canvas.x + self.across[2]) + self.across[1] * self.canvas.y

    @cached_property
    def y(self) -> Array:
        """(N, h, w)."""
        return (self.up[0] * self.canvas.x + self.up[2]) + self.up[1] * self.canvas.y

    @cached_property
    def r(self) -> Array:
        """Distance from the origin, (N, h, w)."""
        return np.sqrt(self.x * self.x + self.y * self.y + 1e-9)

    @cached_property
    def theta(self) -> Array:
        """Angle about the origin, (N, h, w)."""
        return angle_of(self.x, self.y)

    def edge(self, distance: Array) -> Array:
        """Share of each sample that is inside, from the signed distance to the edge."""
        return unit(distance * (1.0 / self.pixel) + 0.5)

    def fine(self, lines: float) -> Array | None:
        """How much of a pattern of `lines` a unit the samples can carry, (N, 1, 1); None when nothing."""
        amount = unit(1.6 - 4.0 * lines * self.pixel)
        return amount if amount.any() else None


@dataclass(frozen=True)
class Petal:
    """A petal or leaf at every sample of `frame`.

    The signed distance to its edge (positive inside), the place along it (0 base, 1 tip) and across (-1 to 1), and the
    light along and across its axis.
    """

    frame: Frame
    distance: Array
    along: Array
    across: Array
    light: tuple[Array, Array]

    @cached_property
    def coverage(self) -> Array:
        """Share of each sample that is inside."""
        return self.frame.edge(self.distance)

    def stain(self, amount: Array, colour: Array) -> None:
        """Colour the petal by `amount` in [0, 1]."""
        self.frame.canvas.paint(amount * self.coverage, colour)


def outline(
    u: Array, v: Array, *, form: Form, length: Number, width: Number, notch: float = 0.0, ruffle: Number = 0.0
) -> tuple[Array, Array, Array]:
    """Signed distance, along and across of a petal whose axis is u and whose greatest half-width is `width`.

    `notch` cuts the tip in by about that share of the length; `ruffle` shifts the place along, so it waves the edge.
    """
    along = u * (1.0 / length)
    across = v * (1.0 / width)
    s = along
    if notch:
        inside = unit(1.0 - np.abs(across) * 2.4)
        s = s + notch * inside * np.abs(along)
    if not isinstance(ruffle, float):
        s = s + ruffle * along
    p, dp = form(s)
    dp *= 0.5 / length
    slope = across * (1.0 / width)
    gradient = dp * dp
    gradient += slope * slope
    gradient += 2.5e-5
    distance = p - across * across
    distance *= 0.5
    distance /= np.sqrt(gradient)
    return distance, along, across


def petal(
    frame: Frame,
    angle: Number,
    *,
    form: Form,
    length: Number,
    width: Number,
    notch: float = 0.0,
    bend: Number = 0.0,
    waves: tuple[float, float, Number] | None = None,
) -> Petal:
    """One petal from the origin towards `angle`. `bend` curves it sideways; `waves` = (height, number across, phase)
    ruffles its end."""
    turned = frame.at(angle=angle)
    # Room for the bend, the waves and the shadow beside it.
    side = width + np.abs(bend) * np.square(length) + 0.2
    turned = turned.within(-0.2, length * 1.08 + 0.2, -side, side)
    u, v = turned.x, turned.y
    if not isinstance(bend, float) or bend != 0.0:
        v = v + bend * u * np.abs(u)
    ruffle: Number = 0.0
    if waves is not None:
        ruffle = waves[0] * np.sin(v * (waves[1] / width) + waves[2])
    distance, along, across = outline(u, v, form=form, length=length, width=width, notch=notch, ruffle=ruffle)
    return Petal(turned, distance, along, across, turned.light)


def ring(
    frame: Frame,
    count: Array,
    *,
    phase: Number,
    form: Form,
    length: float,
    width: Number,
    jitter: Array,
    notch: float = 0.0,
    wobble: tuple[float, float] = (0.25, 0.08),
) -> Iterator[tuple[Petal, Array]]:
    """`count` (N, 1, 1) petals evenly about the origin, as three petals at every sample.

    `jitter` (N, P, 3) in [-1, 1], P at least `count`, moves each petal's angle (by `wobble[0]` of the spacing) and
    length (by `wobble[1]`). Yields, back to front, the petal and its own shade in [-1, 1].
    """
    frame = frame.around(length * (1.05 + wobble[1]) + 0.2)
    spacing = (2.0 * PI) / count
    turned = (frame.theta - phase) * (1.0 / spacing)
    nearest = np.floor(turned + 0.5)
    away = 1.0 / frame.r
    lit = (
        (frame.x * frame.light[0] + frame.y * frame.light[1]) * away,
        (frame.x * frame.light[1] - frame.y * frame.light[0]) * away,
    )
    table = np.ascontiguousarray(np.moveaxis(jitter, 2, 0), np.float32)
    rows = np.arange(table.shape[1], dtype=np.int32)[:, None, None] * table.shape[2]
    for offset in (1.0, -1.0, 0.0):
        k = nearest + offset
        index = (k - count * np.floor((k + 0.5) * (1.0 / count))).astype(np.int32) + rows
        shift, size, shade = (part.reshape(-1).take(index) for part in table)
        angle = (turned - k - wobble[0] * shift) * spacing
        u, v = frame.r * np.cos(angle), frame.r * np.sin(angle)
        distance, along, across = outline(
            u, v, form=form, length=length * (1.0 + wobble[1] * size), width=width, notch=notch
        )
        yield Petal(frame, distance, along, across, lit), shade


def lay(
    piece: Petal,
    *,
    base: Array,
    tip: Array,
    hold: float = 0.0,
    fade: float = 1.0,
    cup: float = 0.2,
    rise: float = 0.0,
    rim: float = 0.0,
    shadow: float = 0.45,
    reach: float = 0.16,
    shade: Number = 0.0,
    veins: float = 0.0,
    weight: Number = 1.0,
) -> None:
    """Paint a petal, coloured from `base` to `tip` between the places `hold` and `fade` along it.

    `cup` lights its cross-section, `rise` its length and `rim` its edge; `shadow` and `reach` darken what lies under
    its edge; `shade` makes it lighter or darker as a whole; `veins` draws fine lines where the samples can carry them;
    `weight` 0 leaves it out.
    """
    canvas = piece.frame.canvas
    if canvas.alpha.size == 0 or not np.any(weight):
        return
    if shadow:
        canvas.cast(piece.distance, reach=reach, strength=shadow * weight)
    light = piece.across * (cup * piece.light[1])
    light += 1.0 + shade
    if rise:
        light += (piece.along - 0.4) * (rise * piece.light[0])
    fine = piece.frame.fine(10.0) if veins else None
    if fine is not None:
        waver = np.sin(piece.across * (15.0 + 3.0 * piece.along)) * np.sin(piece.across * 41.0 + 2.0 * piece.along)
        light -= (veins * fine) * waver * waver * unit(1.2 - piece.along)
    if rim:
        light += rim * unit(1.0 - piece.distance * 14.0)
    coverage = piece.coverage * weight
    keep = 1.0 - coverage
    light *= coverage
    colours, alpha = canvas.colour, canvas.alpha
    colours *= keep
    colours += base * light
    light *= smooth(piece.along, hold, fade)
    colours += (tip - base) * light
    alpha *= keep
    alpha += coverage


def disc(
    frame: Frame,
    *,
    radius: Number,
    colour: Array,
    edge: Array,
    dome: float = 0.35,
    shadow: float = 0.4,
    reach: float = 0.14,
    weight: Number = 1.0,
) -> None:
    """A domed disc at the origin, `colour` in the middle and `edge` at its rim."""
    frame = frame.around(radius + reach)
    if frame.canvas.alpha.size == 0 or not np.any(weight):
        return
    distance = radius - frame.r
    if shadow:
        frame.canvas.cast(distance, reach=reach, strength=shadow * weight)
    inverse = 1.0 / radius
    light = 1.0 + (dome * inverse) * (frame.x * frame.light[0] + frame.y * frame.light[1])
    body = mix(colour, edge, smooth(frame.r * inverse, 0.35, 1.05))
    body *= light
    frame.canvas.paint(frame.edge(distance) * weight, body)
