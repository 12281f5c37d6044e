"""Painters of plain flowers for `kakusan.data.flowers_combinations`: any few petals, apart from each other."""

from __future__ import annotations

import numpy as np

from kakusan.data.flowers_drawing import Canvas, disc, lay, ring, tint
from kakusan.data.flowers_forms import Form, flame, rounded
from kakusan.data.flowers_parts import DEGREE, Batch, leaf, stem


def _plain(canvas: Canvas, b: Batch, *, form: Form, width: float, most: float) -> None:
    """Three to eight petals with gaps between them, the first one up, so that they can be counted on a few pixels."""
    stem(canvas, top=(b.x, b.y), bottom=(b.x, -1.15), sway=0.03 * b.die(1), width=0.05, colour=tint(b.leaf, deep=0.25))
    for k, angle in enumerate((24.0, 156.0)):
        leaf(
            canvas.frame.at(b.x, -1.0),
            (angle + 5.0 * b.die(2 + k)) * DEGREE,
            length=0.95 * (1.0 + 0.08 * b.die(6 + k)),
            width=0.22,
            colour=b.leaf,
            bend=0.2 if k else -0.2,
            weight=b.shown(b.leaves, k),
        )
    head = b.head(canvas)
    low, high = tint(b.petal, deep=0.3), tint(b.petal, light=0.3)
    for piece, shade in ring(
        head,
        b.count,
        phase=90.0 * DEGREE,
        form=form,
        length=1.0,
        width=np.minimum(width / b.count, most),
        jitter=b.details,
        wobble=(0.04, 0.04),
    ):
        lay(piece, base=low, tip=high, fade=0.7, cup=0.12, rim=0.1, shadow=0.35, reach=0.1, shade=0.04 * shade)
    disc(head, radius=0.28, colour=tint(b.centre, light=0.2), edge=tint(b.centre, deep=0.3), dome=0.3)


def round_petals(canvas: Canvas, b: Batch) -> None:
    """Petals with round ends."""
    _plain(canvas, b, form=rounded, width=1.75, most=0.42)


def pointed_petals(canvas: Canvas, b: Batch) -> None:
    """Petals with sharp ends."""
    _plain(canvas, b, form=flame, width=1.75, most=0.36)
