"""Curves for `kakusan.data.flowers_drawing`: mixing, smooth steps, and the outlines of petals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
"""float32 everywhere here; numpy's annotations promise no more than a float."""
Number: TypeAlias = Array | float
PI = float(np.pi)


def mix(first: Array, second: Array, amount: Number) -> Array:
    """`first` at amount 0, `second` at 1."""
    return first + (second - first) * amount


def unit(x: Array) -> Array:
    """Clipped to [0, 1]."""
    return np.clip(x, 0.0, 1.0)


def smooth(x: Array, low: Number, high: Number) -> Array:
    """0 below `low`, 1 above `high` (the reverse when low > high), with a smooth cubic between."""
    t = unit((x - low) * (1.0 / (high - low)))
    return t * t * (3.0 - 2.0 * t)


def angle_of(x: Array, y: Array) -> Array:
    """Angle of (x, y) in (-pi, pi], within 1e-3; several times faster than `np.arctan2` on float32."""
    ax, ay = np.abs(x), np.abs(y)
    ratio = np.minimum(ax, ay) / (np.maximum(ax, ay) + 1e-12)
    square = ratio * ratio
    angle = ((-0.0464964749 * square + 0.15931422) * square - 0.327622764) * square * ratio + ratio
    angle += (ay > ax) * (0.5 * PI - 2.0 * angle)
    angle += (x < 0) * (PI - 2.0 * angle)
    return np.copysign(angle, y)


Form: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""Squared half-width of a petal along its length s in [0, 1], negative outside, and its derivative in s."""


def rounded(s: Array) -> tuple[Array, Array]:
    """Narrow base, round end: s sqrt(1 - s), widest at two thirds."""
    size = np.abs(s)
    return 6.75 * s * size * (1.0 - s), 6.75 * size * (2.0 - 3.0 * s)


def fan(s: Array) -> tuple[Array, Array]:
    """Wedge with a wide, gently round end: s sqrt(1 - s^4)."""
    size = np.abs(s)
    square = s * size
    fourth = square * size * size
    return 2.598 * square * (1.0 - fourth), 2.598 * size * (2.0 - 6.0 * fourth)


def oval(s: Array) -> tuple[Array, Array]:
    """Ellipse."""
    return 4.0 * s * (1.0 - s), 4.0 - 8.0 * s


def strap(s: Array) -> tuple[Array, Array]:
    """Parallel sides and round ends: 1 - (2 s - 1)^4."""
    x = 2.0 * s - 1.0
    cube = x * x * x
    return 1.0 - cube * x, -8.0 * cube


def pointed(s: Array) -> tuple[Array, Array]:
    """Round base, sharp tip: sqrt(s) (1 - s), widest at one third."""
    rest = 1.0 - s
    size = np.abs(rest)
    return 6.75 * s * rest * size, 6.75 * size * (1.0 - 3.0 * s)


def lance(s: Array) -> tuple[Array, Array]:
    """Sharp at both ends: s (1 - s)."""
    rest = 1.0 - s
    size, start = np.abs(rest), np.abs(s)
    return 16.0 * s * start * rest * size, 32.0 * start * size * (1.0 - 2.0 * s)


def flame(s: Array) -> tuple[Array, Array]:
    """Sharp at both ends with a drawn-out tip: s (1 - s) sqrt(1.25 - s)."""
    rest = 1.0 - s
    size, start, taper = np.abs(rest), np.abs(s), np.maximum(1.25 - s, 0.1)
    return 20.3 * s * start * rest * size * taper, 20.3 * start * size * (2.0 * (rest - s) * taper - s * rest)


def goblet(s: Array) -> tuple[Array, Array]:
    """Full belly and a short point: sqrt(s (1 + 1.3 s)) (1 - s)."""
    rest = 1.0 - s
    size = np.abs(rest)
    belly = np.maximum(1.0 + 1.3 * s, 0.1)
    return 5.0 * s * rest * size * belly, 5.0 * size * ((1.0 - 3.0 * s) * belly + 1.3 * s * rest)


def bell(s: Array) -> tuple[Array, Array]:
    """A tube that is round above, narrows a little and flares to its mouth at s = 1."""
    return s * (3.42 + s * (5.0 * s - 7.42)), 3.42 + s * (15.0 * s - 14.84)
