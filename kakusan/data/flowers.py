"""Flowers drawn by code: the picture set that comes with kakusan.

Every picture is a pure function of (seed, index): its factors are drawn first, then painted, at any size. Nothing is
downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from kakusan.data.captions import Caption
from kakusan.data.flowers_backdrop import BACKGROUNDS, Rgb, backdrop
from kakusan.data.flowers_drawing import Canvas
from kakusan.data.flowers_forms import Array
from kakusan.data.flowers_parts import Batch
from kakusan.data.flowers_species import HUES, KNOWN
from kakusan.data.flowers_species import SPECIES as KINDS
from kakusan.data.flowers_words import LANGUAGES
from kakusan.specs import suggestion

if TYPE_CHECKING:
    from kakusan.data.source import ArrayPictures

T = TypeVar("T")

SPECIES: tuple[str, ...] = tuple(KINDS)
"""The names of the classes, in the order of their labels."""

SPLITS = {"train": 0x6B616B7573616E01, "held-out": 0x6B616B7573616E02}
"""The seed of each split: a counter-based generator gives unrelated streams under different keys."""

_SAMPLES = 65536
"""Samples worked on at once: few enough that the arrays stay in the cache."""


@dataclass(frozen=True)
class Factors:
    """Everything a picture of a flower is made from.

    Colours are sRGB triples. `petal_count` is that of one flower, `flower_count` above 1 a spray of them; `centre_hue`
    is empty when no centre is seen. `x`, `y` is the flower's middle and `scale` its radius, where the shorter side of
    the picture is [-1, 1] and y points up. `rotation` is in radians, `tilt` the flower's height over its width, `light`
    the direction to the light in radians, `brightness` a factor on all light. `detail` is the key of what has no name,
    such as the jitter of petals and the lights of the background.
    """

    species: str
    petal_count: int
    petal_form: str
    petal_hue: str
    petal_rgb: Rgb
    centre_hue: str
    centre_rgb: Rgb
    flower_count: int
    leaf_count: int
    leaf_rgb: Rgb
    background: str
    x: float
    y: float
    scale: float
    rotation: float
    tilt: float
    light: float
    brightness: float
    detail: int


class Dice:
    """Uniform numbers from a Philox key. numpy promises its raw bits for ever, but not its distributions."""

    def __init__(self, first: int, second: int, count: int) -> None:
        mask = (1 << 64) - 1
        self.bits = np.random.Philox(key=np.array([first & mask, second & mask], np.uint64)).random_raw(count)
        self.values = (self.bits >> np.uint64(11)) * 2.0**-53
        self._next = iter(self.values.tolist())

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._next)

    def choose(self, options: Sequence[T]) -> T:
        return options[int(next(self._next) * len(options))]

    def near(self, rgb: Rgb, spread: float) -> Rgb:
        # Mostly lighter or darker as a whole, so that white stays white.
        whole = self.uniform(-spread, spread)
        red, green, blue = (min(max(round(v + whole + 0.5 * self.uniform(-spread, spread)), 0), 255) for v in rgb)
        return red, green, blue


def sample_factors(seed: int, index: int, species: str | None = None) -> Factors:
    """The factors of picture `index` under `seed`; the species goes round `SPECIES` with the index unless given.

    Raises:
        ValueError: an unknown species.
    """
    name = SPECIES[index % len(SPECIES)] if species is None else species
    if name not in KINDS:
        raise ValueError(f"no species {name!r}{suggestion(name, list(SPECIES))}; the species are {', '.join(SPECIES)}")
    kind, dice = KINDS[name], Dice(seed, index, 32)
    petal_hue, centre_hue = dice.choose(kind.hues), dice.choose(kind.centres or ("",))
    return Factors(
        species=name,
        petal_count=dice.choose(kind.counts),
        petal_form=kind.petal_form,
        petal_hue=petal_hue,
        petal_rgb=dice.near(HUES[petal_hue].rgb, 10.0),
        centre_hue=centre_hue,
        centre_rgb=dice.near(HUES[centre_hue or petal_hue].rgb, 8.0),
        flower_count=dice.choose(kind.blooms),
        leaf_count=dice.choose(kind.leaves),
        leaf_rgb=dice.near(dice.choose(((74, 138, 56), (52, 120, 62), (98, 150, 58))), 8.0),
        background=dice.choose(kind.backgrounds),
        x=dice.uniform(-0.10, 0.10),
        y=dice.uniform(*kind.heights),
        scale=dice.uniform(*kind.sizes),
        rotation=dice.uniform(-kind.turn, kind.turn),
        tilt=dice.uniform(*kind.tilt),
        light=dice.uniform(1.6, 2.8),
        brightness=dice.uniform(0.9, 1.1),
        detail=int(dice.bits[31]),
    )


def draw(factors: Factors, size: int | tuple[int, int] = 64) -> NDArray[np.uint8]:
    """Paint one picture: (H, W, 3) uint8. `size` is the side of a square, or (H, W)."""
    return draw_batch([factors], size)[0]


def draw_batch(factors: Sequence[Factors], size: int | tuple[int, int] = 64) -> NDArray[np.uint8]:
    """Paint many pictures: (N, H, W, 3) uint8, each as it is alone.

    Raises:
        ValueError: a size below one pixel, or factors with unknown names.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"a picture needs at least one pixel a side, got {height}x{width}")
    for f in factors:
        for what, word, known in (("species", f.species, KNOWN), ("background", f.background, BACKGROUNDS)):
            if word not in known:
                raise ValueError(f"no {what} {word!r}{suggestion(word, list(known))}")
    out = np.empty((len(factors), height, width, 3), np.uint8)
    several, rows = max(1, _SAMPLES // (4 * height * width)), max(1, _SAMPLES // (4 * width))
    groups: dict[str, list[int]] = {}
    for i, f in enumerate(factors):
        groups.setdefault(f.species, []).append(i)
    for members in groups.values():
        for start in range(0, len(members), several):
            chosen = members[start : start + several]
            batch = [factors[i] for i in chosen]
            arrays = _arrays(batch)
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                out[chosen, top:bottom] = _paint(batch, arrays, (height, width), top, bottom)
    return out


def _numbers(values: Sequence[float]) -> Array:
    return np.asarray(values, np.float32)[:, None, None]


def _colours(values: Sequence[Rgb]) -> Array:
    return np.ascontiguousarray(((np.asarray(values, np.float32) / np.float32(255.0)) ** 2).T)[:, :, None, None]


def _arrays(factors: Sequence[Factors]) -> Batch:
    details = np.stack([Dice(f.detail, 0, 240).values for f in factors]).astype(np.float32)
    return Batch(
        x=_numbers([f.x for f in factors]),
        y=_numbers([f.y for f in factors]),
        scale=_numbers([f.scale for f in factors]),
        rotation=_numbers([f.rotation for f in factors]),
        tilt=_numbers([f.tilt for f in factors]),
        count=_numbers([f.petal_count for f in factors]),
        blooms=_numbers([f.flower_count for f in factors]),
        leaves=_numbers([f.leaf_count for f in factors]),
        petal=_colours([f.petal_rgb for f in factors]),
        centre=_colours([f.centre_rgb for f in factors]),
        leaf=_colours([f.leaf_rgb for f in factors]),
        details=2.0 * details.reshape(len(factors), 80, 3) - 1.0,
    )


def _paint(
    factors: Sequence[Factors], arrays: Batch, size: tuple[int, int], top: int, bottom: int
) -> NDArray[np.uint8]:
    """Rows [top, bottom) of a batch of one species: (N, rows, W, 3) uint8."""
    height, width = size
    short = min(size)
    # Four samples a pixel, on top of edges that are one sample soft.
    x = (np.arange(2 * width, dtype=np.float32) + np.float32(0.5 - width)) / np.float32(short)
    y = (np.float32(height - 0.5) - np.arange(2 * top, 2 * bottom, dtype=np.float32))[:, None] / np.float32(short)
    light = _numbers([f.light for f in factors])
    shape = (len(factors), len(y), len(x))
    canvas = Canvas(
        x,
        y,
        1.0 / short,
        np.zeros((3, *shape), np.float32),
        np.zeros(shape, np.float32),
        (np.cos(light), np.sin(light)),
    )
    KNOWN[factors[0].species].paint(canvas, arrays)
    behind = backdrop(
        [f.background for f in factors],
        [Dice(f.detail, 1, 96).uniform for f in factors],
        0.5 * (x[::2] + x[1::2]),
        0.5 * (y[::2] + y[1::2]),
    )
    behind *= 1.0 - _halve(canvas.alpha)
    behind += _halve(canvas.colour)
    behind *= _numbers([f.brightness for f in factors])
    pixels = np.sqrt(np.clip(behind, 0.0, 1.0)) * np.float32(255.0)
    return np.moveaxis(np.rint(pixels).astype(np.uint8), 0, -1)


def _halve(fine: Array) -> Array:
    return 0.25 * (fine[..., ::2, ::2] + fine[..., 1::2, ::2] + fine[..., ::2, 1::2] + fine[..., 1::2, 1::2])


def caption(factors: Factors, language: str = "en") -> str:
    """What the picture shows, in English ("en") or Japanese ("ja").

    Raises:
        ValueError: another language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"captions are written in {' or '.join(LANGUAGES)}, not in {language!r}")
    return LANGUAGES[language](factors)


GENERATOR_VERSION = 1
"""Raised whenever the pictures change: a run started on others then refuses to go on."""


def pictures(size: int | tuple[int, int] = 32, num: int = 6000, split: str = "train") -> ArrayPictures:
    """The data set: `num` flowers, species in turn, with labels, names, and captions in English and in Japanese.

    Raises:
        ValueError: an unknown split, or no pictures.
    """
    from kakusan.data.source import ArrayPictures
    from kakusan.data.spec import DataSpec

    if split not in SPLITS:
        raise ValueError(
            f"the flowers have no split {split!r}{suggestion(split, list(SPLITS))}; known are {list(SPLITS)}"
        )
    if num < 1:
        raise ValueError(f"a data set needs at least one picture, got num={num}")
    factors = [sample_factors(SPLITS[split], index) for index in range(num)]
    stored = np.ascontiguousarray(np.moveaxis(draw_batch(factors, size), -1, 1))
    return ArrayPictures(
        DataSpec.measure(stored, classes=SPECIES, mode="RGB"),
        stored,
        labels=[index % len(SPECIES) for index in range(num)],
        names=[f"flowers:{split}/{index}" for index in range(num)],
        texts=[[Caption(caption(f, language), language) for language in LANGUAGES] for f in factors],
        # By what is drawn, not by the pixels: those may differ by a rounding between machines, and a run may move.
        fingerprint=f"flowers {GENERATOR_VERSION} {split} {num} {size}",
    )
