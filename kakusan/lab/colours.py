"""Colours of the lab: one scale for densities and one circle for angles, both even to the eye.

Both are made in OKLab (Ottosson 2020), where equal steps look equal. The density scale only darkens, so it reads
without colour. On the circle lightness and the blue-yellow axis turn with different phases, so that two angles that
look alike in hue to a colour-blind reader differ in lightness.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kakusan.report import style

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

Floats = npt.NDArray[np.float64]

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _from_oklab(lab: Floats) -> Floats:
    """sRGB (N, 3) in [0, 1]."""
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T).clip(0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1.0 / 2.4) - 0.055)


def _to_oklab(colour: str) -> Floats:
    encoded = np.array(style.rgb(colour)) / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    lab: Floats = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    return lab


def ramp(*, dark: bool = False) -> Floats:
    """The scale of densities, sRGB (256, 3) in [0, 1]: from the paper through indigo, even in lightness.

    Args:
        dark: for a reader's dark setting, from dark paper to light.
    """
    stops = ("#16181d", "#2f5d8c", "#7fb0e0", "#f2f6fb") if dark else (style.PAPER, "#7ba3cd", style.INDIGO, "#12263f")
    anchors = np.stack([_to_oklab(colour) for colour in stops])
    light = np.linspace(anchors[0, 0], anchors[-1, 0], 256)
    # Interpolated over lightness itself, hence even in it.
    sign = 1.0 if dark else -1.0
    return _from_oklab(np.stack([np.interp(sign * light, sign * anchors[:, 0], anchors[:, k]) for k in range(3)], 1))


@functools.cache
def density_scale() -> ListedColormap:
    """`ramp` for matplotlib."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(ramp(), name="kakusan-density")


def circle(angles: Floats) -> list[str]:
    """A colour "#rrggbb" for each angle in radians."""
    lab = np.stack([0.60 + 0.11 * np.cos(angles - 2.6), 0.14 * np.cos(angles), 0.14 * np.sin(angles)], 1)
    return ["#" + "".join(f"{round(255 * v):02x}" for v in row) for row in _from_oklab(lab).tolist()]


def by_angle(points: Tensor) -> list[str]:
    """A colour for each point (B, 2) by its direction from the origin."""
    values = torch.atan2(points[:, 1], points[:, 0]).to(torch.float64)
    return circle(np.asarray(values.tolist()) + math.pi / 6.0)
