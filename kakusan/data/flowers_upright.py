"""Painters of flowers seen from the side, for `kakusan.data.flowers`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kakusan.data.flowers_drawing import Canvas, Frame, Petal, disc, lay, paint_of, petal, tint
from kakusan.data.flowers_forms import Array, bell, flame, goblet, lance, mix, rounded, strap, unit
from kakusan.data.flowers_parts import DEGREE, Batch, blades, stem


def tulip(canvas: Canvas, b: Batch) -> None:
    foot = b.x + 0.12 * b.die(0)
    stem(
        canvas,
        top=(b.x, b.y - 0.5 * b.scale),
        bottom=(foot, -1.15),
        sway=0.05 * b.die(1),
        width=0.06,
        colour=tint(b.leaf, deep=0.1),
    )
    blades(canvas, b, foot, ((62.0, -0.22, 1.35), (118.0, 0.22, 1.35), (40.0, -0.3, 1.15)), width=0.17)
    cup = b.upright(canvas).at(0.0, -0.85)
    deep, bright = mix(tint(b.petal, deep=0.65), b.leaf, 0.15), tint(b.petal, light=0.25)
    # Three petals behind, then the two at the sides and the one in front.
    rows = (
        (-27.0, 1.62, 0.40, -0.30),
        (27.0, 1.62, 0.40, -0.30),
        (0.0, 1.72, 0.38, -0.30),
        (13.0, 1.62, 0.55, -0.06),
        (-13.0, 1.62, 0.55, -0.06),
        (0.0, 1.52, 0.46, 0.06),
    )
    for k, (lean, length, width, shade) in enumerate(rows):
        piece = petal(
            cup,
            (90.0 - lean + 2.0 * b.die(20 + k)) * DEGREE,
            form=goblet,
            length=length,
            width=width,
            bend=-0.10 * float(np.sign(lean)),
        )
        lay(piece, base=deep, tip=bright, fade=0.75, cup=0.32, rim=0.25, reach=0.18, shade=shade, veins=0.1)


def lotus(canvas: Canvas, b: Batch) -> None:
    water = canvas.frame.at(b.x + 0.1 * b.die(0), b.y - 0.60 * b.scale, scale=1.35 * b.scale, squash=0.26)
    for k, (x, y, size) in reversed(list(enumerate(((0.0, 0.0, 0.74), (-0.85, -0.55, 0.42), (0.9, -0.45, 0.38))))):
        pad = water.at(x, y, scale=size)
        weight = b.shown(b.leaves, k)
        disc(
            pad,
            radius=1.0,
            colour=tint(b.leaf, light=0.3),
            edge=tint(b.leaf, deep=0.5),
            dome=0.25,
            shadow=0.3,
            weight=weight,
        )
        fine = pad.fine(6.0)
        if fine is not None:
            part = pad.around(1.0)
            ribs = unit(np.cos(part.theta * 14.0) * 3.0 - 2.0) * unit((0.9 - part.r) * 3.0)
            part.canvas.paint(ribs * (0.25 * fine * weight), tint(b.leaf, light=0.6))
    cup = b.upright(canvas).at(0.0, -0.55)
    low, high = mix(tint(b.petal, light=0.9), paint_of(1.0, 0.9, 0.6), 0.3), b.petal
    outer = (b.count - 5.0) * 0.5
    for k in (0, 1, 2, 3):
        for side in (-1.0, 1.0):
            spread = side * (15.0 + 62.0 * (k + 0.5) / outer)
            piece = petal(cup, (90.0 - spread) * DEGREE, form=flame, length=1.38 - 0.08 * k, width=0.34)
            lay(
                piece,
                base=tint(low, deep=0.3),
                tip=tint(high, deep=0.25),
                fade=0.9,
                cup=0.25,
                shadow=0.4,
                shade=-0.10,
                veins=0.1,
                weight=b.shown(outer, k),
            )
    rows = (
        (0.0, 1.46, 0.42, -0.06),
        (-37.0, 1.24, 0.38, 0.0),
        (37.0, 1.24, 0.38, 0.0),
        (-17.0, 1.14, 0.40, 0.04),
        (17.0, 1.14, 0.40, 0.04),
    )
    for k, (lean, length, width, shade) in enumerate(rows):
        piece = petal(cup, (90.0 - lean + 3.0 * b.die(20 + k)) * DEGREE, form=flame, length=length, width=width)
        lay(piece, base=low, tip=high, fade=0.9, cup=0.25, rim=0.2, shadow=0.45, shade=shade, veins=0.1)


def bluebell(canvas: Canvas, b: Batch) -> None:
    side = np.where(b.die(0) < 0.0, np.float32(-1.0), np.float32(1.0))
    blades(canvas, b, b.x - 0.45 * side, ((70.0, -0.12, 1.25), (112.0, 0.15, 1.1), (48.0, -0.2, 1.0)), width=0.11)
    # The stem is an arch and the bells hang from it, the largest nearest the eye; `side` says which way it leans.
    plant = mirror(b.upright(canvas), side)
    green = tint(b.leaf, deep=0.2)
    arch = plant.at(0.10, 0.05, squash=1.06).within(-0.9, 0.9, -2.5, 0.9)
    rounding = np.sqrt(arch.x * arch.x + np.maximum(arch.y, 0.0) ** 2) - 0.76
    end = np.maximum(arch.x - 0.72, np.minimum(0.27 - arch.y, arch.x + 0.3))
    thickness = 0.045 - 0.02 * unit(arch.y)
    arch.canvas.paint(arch.edge(np.minimum(thickness - np.abs(rounding), -end)), green * (1.0 - 6.0 * rounding))
    # Where each bell hangs on the arch, in degrees from its far end; its size; its lean.
    places = ((104.0, 0.86, -6.0), (58.0, 0.82, 8.0), (24.0, 0.60, 22.0), (146.0, 0.62, -20.0), (82.0, 0.52, 0.0))
    for k, (place, size, lean) in reversed(list(enumerate(places))):
        x, y = 0.10 + 0.76 * math.cos(place * DEGREE), 0.05 + 0.81 * math.sin(place * DEGREE)
        hang = plant.at(x, y - 0.15 * size, angle=(-90.0 + lean + 6.0 * b.die(20 + k)) * DEGREE, scale=size)
        weight = b.shown(b.blooms, k)
        lay(
            petal(hang.at(-0.16), 0.0, form=strap, length=0.30, width=0.05),
            base=green,
            tip=green,
            shadow=0.0,
            weight=weight,
        )
        one_bell(hang, b, weight=weight)


def mirror(frame: Frame, side: Array) -> Frame:
    """The frame with its x axis turned round where `side` is -1."""
    return replace(
        frame,
        across=(side * frame.across[0], side * frame.across[1], side * frame.across[2]),
        light=(side * frame.light[0], frame.light[1]),
    )


def one_bell(frame: Frame, b: Batch, *, weight: Array) -> None:
    """A bell hanging along x with three recurved lobes at its mouth."""
    deep, bright = tint(b.petal, deep=0.35), tint(b.petal, light=0.35)
    for angle, bend in ((24.0, 0.5), (-24.0, -0.5), (0.0, 0.0)):
        lobe = petal(frame.at(0.62, 0.0), angle * DEGREE, form=lance, length=0.52, width=0.20, bend=bend)
        lay(lobe, base=b.petal, tip=bright, cup=0.3, rim=0.2, shadow=0.0, weight=weight)
    body = petal(frame, 0.0, form=bell, length=0.86, width=0.36)
    mouth = 0.86 * (1.0 - body.along) + 0.045 * np.cos(body.across * 9.0)
    body = Petal(body.frame, np.minimum(body.distance, mouth), body.along, body.across, body.light)
    lay(body, base=deep, tip=bright, hold=0.1, fade=1.1, cup=0.45, rim=0.2, shadow=0.45, reach=0.12, weight=weight)
    body.stain(unit(1.0 - np.abs(body.across) * 7.0) * (0.45 * weight), deep)


def iris(canvas: Canvas, b: Batch) -> None:
    foot = b.x + 0.1 * b.die(0)
    stem(
        canvas,
        top=(b.x, b.y - 0.2),
        bottom=(foot, -1.15),
        sway=0.04 * b.die(1),
        width=0.055,
        colour=tint(b.leaf, deep=0.1),
    )
    blades(canvas, b, foot, ((72.0, -0.12, 1.5), (108.0, 0.12, 1.5), (55.0, -0.2, 1.3)), width=0.13)
    head = b.upright(canvas)
    for k, (lean, bend, shade) in enumerate(((-26.0, -0.28, -0.1), (26.0, 0.28, -0.1), (0.0, 0.0, 0.04))):
        piece = petal(
            head.at(0.0, -0.12),
            (90.0 - lean + 3.0 * b.die(20 + k)) * DEGREE,
            form=rounded,
            length=1.16,
            width=0.40,
            bend=bend,
            waves=(0.02, 5.0, 3.0 * b.die(30 + k)),
        )
        lay(
            piece,
            base=tint(b.petal, deep=0.5),
            tip=tint(b.petal, light=0.4),
            cup=0.24,
            rim=0.25,
            shade=shade,
            veins=0.12,
        )
    # Three petals fall, each with a golden tongue.
    for k, (angle, bend) in enumerate(((200.0, -0.30), (-20.0, 0.30), (270.0, 0.0))):
        piece = petal(
            head.at(0.0, -0.05),
            (angle + 4.0 * b.die(23 + k)) * DEGREE,
            form=rounded,
            length=1.10 - 0.06 * (k == 2),
            width=0.44,
            bend=bend,
            waves=(0.025, 6.0, 3.0 * b.die(33 + k)),
        )
        lay(
            piece,
            base=tint(b.petal, deep=0.85),
            tip=tint(b.petal, light=0.15),
            hold=0.1,
            cup=0.2,
            rim=0.2,
            shadow=0.5,
            reach=0.2,
            veins=0.14,
        )
        tongue = unit((0.66 - piece.along) * 3.0) * unit((1.0 - np.abs(piece.across) * (2.2 + 2.4 * piece.along)) * 1.8)
        piece.stain(tongue, b.centre)
