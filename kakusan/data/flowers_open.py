"""Painters of flowers seen from the front, for `kakusan.data.flowers`."""

from __future__ import annotations

import numpy as np

from kakusan.data.flowers_drawing import Canvas, disc, lay, paint_of, petal, ring, tint
from kakusan.data.flowers_forms import fan, flame, lance, mix, oval, rounded, smooth, strap, unit
from kakusan.data.flowers_parts import DEGREE, Batch, florets, foliage, freckles, leaf, stamens

GOLD, AMBER, WHITE = paint_of(1.0, 0.72, 0.06), paint_of(0.85, 0.42, 0.02), paint_of(0.95, 0.95, 0.93)


def daisy(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.26, length=0.8)
    head = b.head(canvas)
    low, high = tint(b.petal, deep=0.35), tint(b.petal, light=0.5)
    for piece, shade in ring(head, b.count, phase=0.0, form=strap, length=1.0, width=2.5 / b.count, jitter=b.details):
        lay(piece, base=low, tip=high, fade=0.6, cup=0.16, shadow=0.5, reach=0.12, shade=0.06 * shade, veins=0.1)
    disc(head, radius=0.31, colour=tint(b.centre, light=0.3), edge=tint(b.centre, deep=0.8), dome=0.4)
    florets(head, radius=0.3, colour=tint(b.centre, light=0.5), turns=13.0)


def sunflower(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.46, length=0.9, thick=0.075)
    head = b.head(canvas)
    half = b.count * 0.5
    deep, bright = tint(b.petal, deep=0.75), tint(b.petal, light=0.2)
    for layer, size in enumerate((1.0, 0.93)):
        for piece, shade in ring(
            head,
            half,
            phase=layer * np.pi / half,
            form=lance,
            length=size,
            width=3.0 / b.count,
            jitter=b.details[:, 8 * layer :],
            wobble=(0.22, 0.07),
        ):
            lay(
                piece,
                base=deep,
                tip=bright,
                hold=0.3,
                fade=0.8,
                reach=0.14,
                shade=0.06 * shade - (0.0 if layer else 0.22),
                veins=0.16,
            )
    disc(head, radius=0.46, colour=tint(b.centre, deep=0.6), edge=tint(b.centre, light=0.2), dome=0.25, reach=0.2)
    florets(head, radius=0.45, colour=tint(b.centre, light=0.45), turns=21.0)
    disc(head, radius=0.2, colour=tint(b.centre, light=0.25), edge=tint(b.centre, deep=0.3), dome=0.2, shadow=0.0)
    florets(head, radius=0.2, colour=tint(b.centre, deep=0.9), turns=13.0)


def poppy(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.22, length=0.75, thick=0.035)
    head = b.head(canvas)
    deep, bright = tint(b.petal, deep=0.6), tint(b.petal, light=0.2)
    spacing = 2.0 * np.pi / b.count
    for k in (0, 2, 4, 1, 3, 5):
        piece = petal(
            head,
            (k + 0.06 * b.die(20 + k)) * spacing,
            form=fan,
            length=1.0 + 0.06 * b.die(26 + k),
            width=3.9 / b.count**1.1,
            waves=(0.035, 7.0, 3.0 * b.die(32 + k)),
        )
        lay(
            piece,
            base=deep,
            tip=bright,
            hold=0.15,
            fade=0.95,
            cup=0.22,
            rise=0.3,
            rim=0.2,
            shadow=0.55,
            reach=0.2,
            shade=0.05 * b.die(38 + k),
            veins=0.14,
            weight=b.shown(b.count, k),
        )
    eye = head.around(0.5)
    blotch = unit((0.46 - eye.r) * 5.0) * (0.6 + 0.4 * np.cos(b.count * eye.theta))
    eye.canvas.paint(blotch * 0.9, tint(b.centre, deep=0.9))
    stamens(head, count=16.0, radius=0.30, size=0.045, colour=tint(b.centre, light=0.1), phase=b.die(44))
    disc(head, radius=0.17, colour=paint_of(0.42, 0.48, 0.18), edge=paint_of(0.12, 0.2, 0.06))
    florets(head, radius=0.16, colour=paint_of(0.7, 0.75, 0.4), turns=9.0)


def blossom(canvas: Canvas, b: Batch) -> None:
    branch = canvas.frame.at(b.x - 0.2, b.y - 0.55, angle=18.0 * b.die(0) * DEGREE)
    twig = branch.within(-2.5, 2.5, -0.35, 0.35)
    thick = 0.085 - 0.03 * twig.x
    side = twig.y - 0.06 * np.sin(twig.x * 3.0 + 2.0 * b.die(1))
    light = 1.0 + 0.9 * np.clip(side / thick, -1.0, 1.0)
    twig.canvas.paint(twig.edge(thick - np.abs(side)), paint_of(0.10, 0.045, 0.035) * light)
    for k, (place, angle) in enumerate(((0.75, 50.0), (-0.75, 120.0), (0.95, -40.0))):
        leaf(
            branch.at(place, 0.0),
            (angle + 12.0 * b.die(2 + k)) * DEGREE,
            length=0.55,
            width=0.15,
            colour=b.leaf,
            weight=b.shown(b.leaves, k),
        )
    head = b.head(canvas)
    low, high = tint(b.petal, deep=0.6), tint(b.petal, light=0.5)
    for k in range(5):
        piece = petal(
            head, (k * 72.0 + 4.0 * b.die(20 + k)) * DEGREE, form=rounded, length=1.12, width=0.47, notch=0.30
        )
        lay(
            piece,
            base=low,
            tip=high,
            hold=0.05,
            fade=0.6,
            cup=0.12,
            rise=0.12,
            shadow=0.35,
            reach=0.12,
            shade=0.03 * b.die(26 + k),
            veins=0.06,
        )
    eye = head.around(0.4)
    eye.canvas.paint(unit(1.0 - eye.r * 2.8) * 0.85, tint(b.petal, deep=1.0) * paint_of(1.0, 0.28, 0.42))
    stamens(head, count=15.0, radius=0.36, size=0.04, colour=b.centre, phase=b.die(32), filament=WHITE)
    disc(head, radius=0.10, colour=b.centre, edge=tint(b.centre, deep=0.5))


def lily(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.24, length=1.0, thick=0.045)
    head = b.head(canvas)
    throat = paint_of(0.42, 0.55, 0.12)
    low, high = mix(throat, tint(b.petal, light=0.2), 0.4), tint(b.petal, light=0.25)
    for layer in range(2):
        for k in range(3):
            angle = (k * 120.0 + 60.0 * layer + 6.0 * b.die(20 + 3 * layer + k)) * DEGREE
            piece = petal(head, angle, form=flame, length=1.14, width=0.28 + 0.08 * layer, bend=0.10 * b.die(26 + k))
            lay(
                piece,
                base=low,
                tip=high,
                fade=0.5,
                cup=0.28,
                rise=-0.25,
                rim=0.12,
                shadow=0.5,
                shade=-0.12 * (1 - layer),
            )
            piece.stain(
                unit(1.0 - np.abs(piece.across) * 5.0) * unit(1.0 - piece.along) * 0.55, tint(b.petal, deep=0.9)
            )
            freckles(piece, tint(b.petal, deep=1.0) * paint_of(0.55, 0.1, 0.1))
    stamens(
        head,
        count=6.0,
        radius=0.50,
        size=0.075,
        colour=b.centre,
        phase=0.5 + 0.3 * b.die(32),
        filament=mix(throat, WHITE, 0.6),
    )


def hibiscus(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.46, length=0.85)
    head = b.head(canvas)
    deep, bright = tint(b.petal, deep=0.5), tint(b.petal, light=0.25)
    for k in range(5):
        piece = petal(
            head,
            (k * 72.0 + 4.0 * b.die(20 + k)) * DEGREE,
            form=fan,
            length=1.04 + 0.04 * b.die(26 + k),
            width=0.60,
            waves=(0.03, 6.0, 3.0 * b.die(32 + k)),
            bend=0.25,
        )
        lay(
            piece,
            base=deep,
            tip=bright,
            hold=0.1,
            fade=0.9,
            cup=0.24,
            rise=0.2,
            rim=0.2,
            shadow=0.5,
            reach=0.2,
            shade=0.04 * b.die(38 + k),
            veins=0.16,
        )
        piece.stain(unit(1.6 - 3.6 * piece.along - 0.5 * np.abs(piece.across)) * 0.92, tint(b.centre, deep=0.6))
    # The column of stamens leans to the lower right in every picture, however the flower is turned.
    column = head.at(angle=(-60.0 + 40.0 * b.die(46)) * DEGREE - b.rotation)
    lay(
        petal(column, 0.0, form=strap, length=0.80, width=0.055, bend=0.15),
        base=tint(b.petal, light=0.3),
        tip=paint_of(0.95, 0.75, 0.25),
        cup=0.4,
        shadow=0.55,
        reach=0.13,
    )
    for k in range(7):
        place = 0.48 + 0.055 * k
        side = (0.0 if k == 6 else 0.075 if k % 2 else -0.075) - 0.15 * place * place
        disc(column.at(place, side), radius=0.052, colour=GOLD, edge=AMBER, shadow=0.25, reach=0.06)


def pansy(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.4, length=0.75, thick=0.04)
    head = b.upright(canvas)
    back, front = (
        (tint(b.petal, deep=0.85), tint(b.petal, deep=0.35)),
        (tint(b.petal, deep=0.1), tint(b.petal, light=0.28)),
    )
    # The two upper petals stand behind; the lower one lies over the two at the sides and carries the largest blotch.
    shapes = ((62.0, 1.05, 0.62), (118.0, 1.05, 0.62), (4.0, 0.92, 0.52), (176.0, 0.92, 0.52), (270.0, 0.98, 0.74))
    for k, (angle, length, width) in enumerate(shapes):
        piece = petal(
            head,
            (angle + 4.0 * b.die(20 + k)) * DEGREE,
            form=rounded if k < 4 else fan,
            length=length * (1.0 + 0.04 * b.die(26 + k)),
            width=width,
            waves=(0.02, 5.0, 3.0 * b.die(32 + k)),
        )
        base, tip = back if k < 2 else front
        lay(piece, base=base, tip=tip, hold=0.2, cup=0.12, rise=0.1, rim=0.2, shadow=0.5, reach=0.2, veins=0.05)
        if k > 1:
            size = 1.9 if k < 4 else 1.75
            fringe = 0.12 * np.cos(piece.across * 22.0) if head.fine(10.0) is not None else 0.0
            blotch = unit((size + fringe - 3.0 * piece.along - 0.55 * np.abs(piece.across)) * 1.6)
            piece.stain(blotch * 0.95, tint(b.centre, deep=0.75))
    disc(head.at(0.0, -0.10), radius=0.15, colour=GOLD, edge=AMBER, shadow=0.0)


def rose(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.5, length=0.85)
    head = b.head(canvas)
    deep, bright = tint(b.petal, deep=0.9), tint(b.petal, light=0.25)
    each = b.count / 3.0
    spacing = 2.0 * np.pi / each
    for layer, (size, width, lift) in enumerate(((1.0, 0.60, 0.0), (0.76, 0.48, 0.03), (0.54, 0.36, 0.06))):
        nest = head.at(0.0, lift)
        for k in (0, 2, 4, 1, 3, 5):
            angle = (k + 0.5 * layer + 0.10 * b.die(20 + 6 * layer + k)) * spacing
            piece = petal(
                nest, angle, form=fan, length=size * (1.0 + 0.04 * b.die(40 + 6 * layer + k)), width=width * 5.0 / each
            )
            lay(
                piece,
                base=deep,
                tip=bright,
                hold=0.4,
                cup=0.15,
                rise=0.15,
                rim=0.35,
                shadow=0.6,
                reach=0.2 * size,
                shade=0.04 * b.die(58 + k) - 0.04 * layer,
                weight=b.shown(each, k),
            )
    heart = head.at(0.0, 0.07)
    disc(heart, radius=0.30, colour=tint(b.petal, deep=0.6), edge=tint(b.petal, light=0.2), dome=0.1, shadow=0.6)
    heart = heart.around(0.3)
    line = unit((np.sin(heart.r * 30.0 - heart.theta) - 0.1) * 1.4) * unit((0.28 - heart.r) * 20.0)
    heart.canvas.paint(line * 0.85, tint(b.petal, deep=1.0) * 0.7)


def marigold(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.24, length=0.8)
    head = b.head(canvas)
    deep, bright = tint(b.petal, deep=0.9), tint(b.petal, light=0.2)
    for layer, (size, share) in enumerate(((1.0, 0.0), (0.80, 0.28), (0.59, 0.23), (0.38, 0.17))):
        # The outermost ring holds the rest, so that the count is exact.
        number = (
            np.round(b.count * share) if layer else b.count - sum(np.round(b.count * s) for s in (0.28, 0.23, 0.17))
        )
        for piece, shade in ring(
            head,
            number,
            phase=0.7 * layer + b.die(50),
            form=fan,
            length=size,
            width=size * 3.5 / number,
            jitter=b.details[:, 4 * layer :],
            notch=0.16,
            wobble=(0.25, 0.09),
        ):
            lay(piece, base=deep, tip=bright, hold=0.5, cup=0.22, rim=0.3, shadow=0.6, reach=0.14, shade=0.08 * shade)
    disc(head, radius=0.13, colour=tint(b.petal, deep=0.4), edge=tint(b.petal, deep=0.9))


def forget_me_not(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.3, length=0.75, thick=0.035)
    cluster = b.upright(canvas)
    places = ((0.0, 0.0), (0.60, 0.32), (-0.58, 0.36), (-0.52, -0.42), (0.55, -0.44), (0.02, 0.72), (0.03, -0.75))
    low, high = tint(b.petal, light=0.6), tint(b.petal, light=0.15)
    for k in reversed(range(7)):
        x, y = places[k]
        weight = b.shown(b.blooms, k)
        small = cluster.at(x + 0.05 * b.die(4 + k), y + 0.05 * b.die(11 + k), angle=0.6 * b.die(18 + k), scale=0.46)
        if not weight.any():
            continue
        for piece, _ in ring(small, b.count, phase=0.0, form=rounded, length=1.0, width=0.50, jitter=b.details):
            lay(
                piece,
                base=low,
                tip=high,
                hold=0.3,
                fade=0.9,
                cup=0.14,
                rim=0.1,
                shadow=0.35,
                shade=0.06 * b.die(25 + k),
                weight=weight,
            )
        disc(small, radius=0.25, colour=b.centre, edge=tint(b.centre, deep=0.4), shadow=0.0, weight=weight)
        disc(small, radius=0.09, colour=AMBER * 0.4, edge=AMBER * 0.6, shadow=0.0, weight=weight)


def morning_glory(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.5, length=0.8, thick=0.035)
    head = b.head(canvas).around(1.05)
    lobes = np.cos(5.0 * head.theta)
    edge = 0.965 + 0.022 * lobes
    distance = edge - head.r
    inner = head.r / edge
    body = mix(tint(b.petal, light=0.2), tint(b.petal, deep=0.35), smooth(inner, 0.95, 0.35))
    body = mix(WHITE, body, smooth(inner, 0.12, 0.62))
    # Five pale bands run from the throat to the rim, where the petals have grown together.
    band = unit((lobes - 0.80 - 0.10 * inner) * 6.0) * unit(1.25 - inner)
    body = mix(body, WHITE, band * 0.75)
    light = 1.0 - 0.12 * unit(0.75 - np.abs(lobes - 0.55)) * inner
    light -= (0.22 * (0.8 - inner) / head.r) * (head.x * head.light[0] + head.y * head.light[1])
    light += 0.3 * unit(1.0 - distance * 12.0)
    head.canvas.paint(head.edge(distance), body * light)
    throat = head.around(0.2)
    throat.canvas.paint(unit(1.0 - throat.r * 5.5), tint(b.centre, light=0.4))
    disc(head.at(0.02, -0.02), radius=0.055, colour=WHITE, edge=WHITE * 0.8, shadow=0.3)


def orchid(canvas: Canvas, b: Batch) -> None:
    foliage(canvas, b, width=0.34, length=0.85, thick=0.04)
    head = b.upright(canvas)
    low, high = tint(b.petal, light=0.35), tint(b.petal, light=0.15)
    for k, angle in enumerate((90.0, 218.0, 322.0)):
        piece = petal(head, (angle + 4.0 * b.die(20 + k)) * DEGREE, form=oval, length=1.04, width=0.30)
        lay(piece, base=low, tip=tint(high, deep=0.15), cup=0.15, rise=0.1, rim=0.1, shadow=0.4, veins=0.16)
    for k, angle in enumerate((12.0, 168.0)):
        piece = petal(head, (angle + 4.0 * b.die(23 + k)) * DEGREE, form=fan, length=1.10, width=0.62)
        lay(piece, base=low, tip=high, cup=0.12, rise=0.12, rim=0.1, shadow=0.5, reach=0.2, veins=0.16)
    for angle, length, width in ((215.0, 0.36, 0.17), (325.0, 0.36, 0.17), (270.0, 0.62, 0.20)):
        piece = petal(head.at(0.0, 0.02), angle * DEGREE, form=rounded, length=length, width=width)
        lay(piece, base=tint(b.centre, light=0.25), tip=b.centre, cup=0.25, rim=0.2, shadow=0.5, reach=0.12)
    disc(head, radius=0.10, colour=paint_of(1.0, 0.85, 0.35), edge=AMBER)
