"""Soft backgrounds for `kakusan.data.flowers`: three colours from bottom to top, and round lights over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kakusan.data.flowers_forms import Array, mix, smooth, unit

Rgb: TypeAlias = tuple[int, int, int]
Light: TypeAlias = tuple[float, float, float, float, float, float, float, float]
"""x, y, radius, stretch along x, hardness of the edge in [0, 1], and the light added in r, g, b."""
Uniform: TypeAlias = Callable[[float, float], float]
"""Draws the next number between two bounds."""

LIGHTS = 9


@dataclass(frozen=True)
class Background:
    """One kind of background.

    `stops` are choices of sRGB colours at the bottom, at the horizon and at the top; `horizon` the range of its height;
    `softness` how far the lower colour reaches into the middle one; `vignette` how much the corners darken.
    """

    english: str
    japanese: str
    stops: tuple[tuple[Rgb, Rgb, Rgb], ...]
    horizon: tuple[float, float]
    softness: float
    lights: Callable[[Uniform], list[Light]]
    vignette: float = 0.25


def clouds(draw: Uniform) -> list[Light]:
    lights: list[Light] = []
    for _ in range(2):
        x, y = draw(-1.0, 1.0), draw(0.1, 0.9)
        for k in range(3):
            white = draw(0.16, 0.30)
            lights.append(
                (x + 0.3 * (k - 1), y + draw(-0.06, 0.06), draw(0.16, 0.26), 2.0, 0.0, white, white, 0.8 * white)
            )
    return lights


def sunlit_grass(draw: Uniform) -> list[Light]:
    lights: list[Light] = []
    for _ in range(7):
        bright = draw(0.05, 0.15)
        lights.append((draw(-1.1, 1.1), draw(-1.0, 0.1), draw(0.12, 0.28), 1.0, 0.4, bright, bright, 0.25 * bright))
    return lights


def low_sun(draw: Uniform) -> list[Light]:
    x, y = draw(-0.8, 0.8), draw(-0.5, 0.1)
    return [(x, y, 1.1, 1.2, 0.0, 0.30, 0.16, 0.02), (x, y, 0.5, 1.0, 0.0, 0.3, 0.22, 0.08)]


def discs_of_light(draw: Uniform) -> list[Light]:
    lights: list[Light] = []
    for _ in range(LIGHTS):
        bright, warm = draw(0.05, 0.20), draw(0.3, 1.0)
        lights.append(
            (draw(-1.1, 1.1), draw(-1.0, 1.1), draw(0.12, 0.3), 1.0, 0.75, bright * warm, bright, 0.45 * bright)
        )
    return lights


def glow(draw: Uniform) -> list[Light]:
    bright = draw(0.03, 0.08)
    return [(draw(-0.3, 0.3), draw(-0.1, 0.4), 1.3, 1.1, 0.0, bright, bright, 1.1 * bright)]


def haze(draw: Uniform) -> list[Light]:
    return [(draw(-0.9, 0.9), draw(-0.4, 0.6), draw(0.5, 0.8), 1.8, 0.0, 0.12, 0.12, 0.10) for _ in range(3)]


def moon(draw: Uniform) -> list[Light]:
    side, x, y = draw(-1.0, 1.0), draw(0.55, 0.8), draw(0.6, 0.8)
    x = x if side > 0 else -x
    return [
        (x, y, 1.3, 1.0, 0.0, 0.07, 0.10, 0.16),
        (x, y, 0.45, 1.0, 0.0, 0.12, 0.13, 0.14),
        (x, y, 0.16, 1.0, 0.85, 0.66, 0.62, 0.42),
    ]


def ripples(draw: Uniform) -> list[Light]:
    lights: list[Light] = []
    for _ in range(8):
        bright = draw(0.03, 0.10)
        lights.append(
            (
                draw(-1.0, 1.0),
                draw(-1.0, 0.1),
                draw(0.03, 0.06),
                draw(5.0, 10.0),
                0.0,
                bright,
                1.2 * bright,
                1.2 * bright,
            )
        )
    return lights


def nothing(draw: Uniform) -> list[Light]:
    return []


BACKGROUNDS: Mapping[str, Background] = {
    "sky": Background(
        "a blue sky",
        "青空",
        (((214, 234, 246), (176, 214, 244), (74, 140, 220)), ((228, 238, 242), (190, 220, 240), (96, 160, 226))),
        (-0.7, -0.4),
        0.6,
        clouds,
        0.1,
    ),
    "meadow": Background(
        "a green meadow",
        "緑の草原",
        (((62, 112, 40), (150, 190, 90), (206, 228, 226)), ((48, 100, 44), (128, 178, 84), (214, 226, 196))),
        (-0.05, 0.3),
        0.8,
        sunlit_grass,
    ),
    "dusk": Background(
        "a dusk sky",
        "夕暮れの空",
        (((250, 176, 96), (226, 118, 122), (70, 64, 128)), ((252, 196, 120), (214, 124, 148), (86, 74, 146))),
        (-0.4, -0.1),
        0.7,
        low_sun,
    ),
    "bokeh": Background(
        "soft green lights",
        "やわらかな緑の光",
        (((22, 58, 40), (40, 92, 58), (92, 142, 84)), ((18, 56, 56), (36, 88, 80), (104, 150, 110))),
        (-0.2, 0.2),
        0.9,
        discs_of_light,
    ),
    "studio": Background(
        "a dark studio",
        "暗いスタジオ",
        (((16, 15, 20), (26, 25, 33), (18, 18, 25)), ((20, 16, 14), (36, 30, 27), (20, 18, 18))),
        (-0.4, 0.0),
        0.7,
        glow,
        0.5,
    ),
    "paper": Background(
        "pale paper",
        "淡い色の紙",
        (((226, 214, 192), (240, 232, 216), (246, 240, 228)), ((208, 214, 208), (226, 230, 224), (238, 240, 234))),
        (-0.5, -0.2),
        0.8,
        nothing,
        0.18,
    ),
    "mist": Background(
        "a morning mist",
        "朝もや",
        (((118, 148, 140), (182, 200, 196), (224, 226, 220)), ((134, 140, 166), (190, 192, 210), (228, 222, 226))),
        (-0.3, 0.0),
        0.9,
        haze,
        0.12,
    ),
    "night": Background(
        "a moonlit night",
        "月夜",
        (((14, 26, 52), (22, 40, 80), (10, 18, 48)), ((22, 22, 50), (36, 36, 82), (16, 16, 46))),
        (-0.4, -0.1),
        0.8,
        moon,
        0.35,
    ),
    "water": Background(
        "still water",
        "静かな水面",
        (((22, 70, 84), (58, 122, 132), (160, 200, 196)), ((26, 58, 92), (66, 112, 142), (176, 196, 208))),
        (0.0, 0.3),
        0.5,
        ripples,
    ),
}


def backdrop(names: Sequence[str], draws: Sequence[Uniform], x: Array, y: Array) -> Array:
    """The backgrounds called `names`, (3, N, h, w), at the places `x` (w,) and `y` (h, 1).

    Each draws its own numbers from `draws`.
    """
    n = len(names)
    stops, lights = np.zeros((3, 3, n, 1, 1), np.float32), np.zeros((LIGHTS, 8, n, 1, 1), np.float32)
    lights[:, 2:4] = 1.0
    facts = np.zeros((3, n, 1, 1), np.float32)
    for i, (name, draw) in enumerate(zip(names, draws, strict=True)):
        kind = BACKGROUNDS[name]
        chosen = kind.stops[min(int(draw(0.0, 1.0) * len(kind.stops)), len(kind.stops) - 1)]
        for stop, rgb in enumerate(chosen):
            stops[stop, :, i, 0, 0] = [min(max(v + draw(-6.0, 6.0), 0.0) / 255.0, 1.0) ** 2 for v in rgb]
        facts[:, i, 0, 0] = draw(*kind.horizon), kind.softness, kind.vignette
        for k, light in enumerate(kind.lights(draw)):
            lights[k, :, i, 0, 0] = light
    horizon, softness, vignette = facts
    height = y - horizon
    column = mix(stops[0], stops[1], smooth(height, -softness, 0.25 * softness))
    column = mix(column, stops[2], unit(height * (1.0 / (1.05 - horizon))))
    out = np.repeat(column, len(x), axis=3)
    for px, py, radius, stretch, hard, red, green, blue in lights:
        if red.any():
            across, up = (x - px) * (1.0 / (radius * stretch)), (y - py) * (1.0 / radius)
            near = unit((1.0 - across * across - up * up) * (1.0 / (1.0 - 0.92 * hard)))
            near *= near * (1.0 - hard) + hard
            out += np.stack([red, green, blue]) * near
    out *= unit(1.0 - (0.5 * vignette) * (x * x + y * y))
    return out
