"""The colours and species that `kakusan.data.flowers` knows, with their names in English and Japanese."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kakusan.data import flowers_open as front
from kakusan.data import flowers_plain as plain
from kakusan.data import flowers_upright as side
from kakusan.data.flowers_backdrop import Rgb
from kakusan.data.flowers_drawing import Canvas
from kakusan.data.flowers_parts import Batch


@dataclass(frozen=True)
class Hue:
    """A colour name: its sRGB value and the Japanese words that stand before a noun."""

    rgb: Rgb
    japanese: str


HUES: Mapping[str, Hue] = {
    "white": Hue((246, 244, 240), "白い"),
    "cream": Hue((252, 232, 180), "クリーム色の"),
    "yellow": Hue((252, 208, 32), "黄色い"),
    "orange": Hue((250, 136, 20), "オレンジ色の"),
    "peach": Hue((252, 172, 132), "淡い橙色の"),
    "scarlet": Hue((232, 52, 28), "緋色の"),
    "red": Hue((206, 24, 40), "赤い"),
    "pink": Hue((240, 112, 158), "ピンクの"),
    "pale pink": Hue((252, 196, 214), "淡いピンクの"),
    "magenta": Hue((206, 36, 138), "赤紫の"),
    "purple": Hue((122, 52, 176), "紫の"),
    "lilac": Hue((186, 150, 226), "薄紫の"),
    "violet-blue": Hue((88, 80, 214), "青紫の"),
    "blue": Hue((44, 84, 216), "青い"),
    "sky-blue": Hue((112, 172, 246), "水色の"),
    "brown": Hue((92, 52, 22), "茶色い"),
    "dark": Hue((44, 22, 36), "黒っぽい"),
}


@dataclass(frozen=True)
class Words:
    """How a species is spoken of: `head` says what is counted and coloured, `middle` what the centre is.

    `head` may use {flowers}, {petals}, {form} and {hue}, `middle` {hue}; the Japanese head ends before the noun.
    """

    name: str
    form: str
    head: str = "{petals} {form} {hue} petals"
    middle: str = "a {hue} centre"
    leaf: tuple[str, str] = ("leaf", "leaves")


@dataclass(frozen=True)
class Species:
    """One kind of flower and the ranges its factors are drawn from.

    `hues` of the petals and `centres` (none when no centre is seen); `counts` of petals, `blooms` of flowers and of
    `leaves`. `turn` is half the range of its rotation in radians, no more than its symmetry can show; `tilt` is its
    height over its width, `sizes` its radius, `heights` where its middle is.
    """

    name: str
    paint: Callable[[Canvas, Batch], None]
    petal_form: str
    hues: tuple[str, ...]
    centres: tuple[str, ...]
    counts: tuple[int, ...]
    backgrounds: tuple[str, ...]
    english: Words
    japanese: Words
    blooms: tuple[int, ...] = (1,)
    leaves: tuple[int, ...] = (0, 1, 2, 3)
    turn: float = 0.63
    tilt: tuple[float, float] = (0.86, 1.0)
    sizes: tuple[float, float] = (0.62, 0.74)
    heights: tuple[float, float] = (0.02, 0.16)


def _ja(
    name: str,
    form: str,
    head: str = "{form}{hue}花びら{petals}枚",
    middle: str = "{hue}中心",
    leaf: tuple[str, str] = ("葉", "枚"),
) -> Words:
    return Words(name, form, head, middle, leaf)


_ALL = ("sky", "meadow", "dusk", "bokeh", "studio", "paper", "mist", "night")
_DAY = ("sky", "meadow", "bokeh", "paper", "mist", "studio")

SPECIES: Mapping[str, Species] = {
    species.name: species
    for species in (
        Species(
            "rose",
            front.rose,
            "layered",
            ("red", "pink", "peach", "cream"),
            (),
            (12, 15, 18),
            _ALL,
            Words("rose", "layered"),
            _ja("バラ", "重なり合う"),
        ),
        Species(
            "daisy",
            front.daisy,
            "strap",
            ("white",),
            ("yellow",),
            (13, 15, 17, 19, 21),
            ("sky", "meadow", "dusk", "bokeh", "studio", "night"),
            Words("daisy", "slender"),
            _ja("ヒナギク", "細長い"),
        ),
        Species(
            "sunflower",
            front.sunflower,
            "pointed",
            ("yellow",),
            ("brown",),
            (26, 28, 30, 32, 34),
            _ALL,
            Words("sunflower", "pointed"),
            _ja("ヒマワリ", "とがった"),
            sizes=(0.68, 0.78),
        ),
        Species(
            "tulip",
            side.tulip,
            "cupped",
            ("red", "yellow", "purple", "orange"),
            (),
            (6,),
            _ALL,
            Words("tulip", "cupped"),
            _ja("チューリップ", "カップ形の"),
            leaves=(1, 2, 3),
            turn=0.12,
            sizes=(0.56, 0.66),
            heights=(0.16, 0.26),
        ),
        Species(
            "poppy",
            front.poppy,
            "crinkled",
            ("scarlet", "orange"),
            ("dark",),
            (4, 5, 6),
            _DAY,
            Words("poppy", "crinkled"),
            _ja("ポピー", "しわのある"),
            leaves=(0, 1, 2),
        ),
        Species(
            "lily",
            front.lily,
            "recurved",
            ("white", "pink", "orange"),
            ("brown",),
            (6,),
            _ALL,
            Words("lily", "curved", middle="{hue} anthers"),
            _ja("ユリ", "反り返った", middle="{hue}おしべ"),
            turn=0.53,
            sizes=(0.66, 0.76),
        ),
        Species(
            "lotus",
            side.lotus,
            "flame",
            ("pink", "pale pink"),
            (),
            (9, 11, 13),
            ("water", "mist", "dusk", "night"),
            Words("lotus", "pointed", leaf=("floating leaf", "floating leaves")),
            _ja("ハス", "とがった", leaf=("浮き葉", "枚")),
            leaves=(1, 2, 3),
            turn=0.06,
            sizes=(0.66, 0.78),
            heights=(-0.02, 0.1),
        ),
        Species(
            "cherry blossom",
            front.blossom,
            "notched",
            ("pale pink",),
            ("yellow",),
            (5,),
            ("sky", "bokeh", "dusk", "night"),
            Words("cherry blossom", "notched"),
            _ja("桜", "先の割れた"),
            leaves=(0, 1, 2),
            heights=(0.0, 0.12),
            sizes=(0.66, 0.78),
        ),
        Species(
            "bluebell",
            side.bluebell,
            "bell",
            ("violet-blue",),
            (),
            (6,),
            ("meadow", "bokeh", "mist", "paper"),
            Words("bluebell", "nodding", head="{flowers} {form} {hue} bells"),
            _ja("ブルーベル", "釣り鐘形の", head="{form}{hue}花{flowers}輪"),
            blooms=(3, 4, 5),
            leaves=(1, 2, 3),
            turn=0.1,
            sizes=(0.72, 0.82),
            heights=(0.02, 0.12),
        ),
        Species(
            "pansy",
            front.pansy,
            "rounded",
            ("purple", "yellow", "lilac"),
            ("dark",),
            (5,),
            _DAY,
            Words("pansy", "rounded", middle="a {hue} face"),
            _ja("パンジー", "丸い", middle="{hue}模様"),
            leaves=(0, 1, 2),
            turn=0.25,
        ),
        Species(
            "hibiscus",
            front.hibiscus,
            "ruffled",
            ("scarlet", "pink", "yellow"),
            ("red",),
            (5,),
            _ALL,
            Words("hibiscus", "ruffled"),
            _ja("ハイビスカス", "波打つ"),
            sizes=(0.68, 0.78),
        ),
        Species(
            "marigold",
            front.marigold,
            "frilled",
            ("orange", "yellow"),
            (),
            (44, 48, 52, 56),
            _ALL,
            Words("marigold", "frilled"),
            _ja("マリーゴールド", "縮れた"),
        ),
        Species(
            "forget-me-not",
            front.forget_me_not,
            "round",
            ("sky-blue",),
            ("yellow",),
            (5,),
            ("meadow", "bokeh", "studio", "paper"),
            Words("forget-me-not", "round", middle="a {hue} eye"),
            _ja("ワスレナグサ", "丸い"),
            blooms=(4, 5, 6, 7),
            leaves=(0, 1, 2),
            sizes=(0.6, 0.68),
        ),
        Species(
            "morning glory",
            front.morning_glory,
            "trumpet",
            ("blue", "magenta", "purple"),
            ("cream",),
            (5,),
            _DAY,
            Words(
                "morning glory", "joined", head="one {hue} trumpet of {petals} {form} petals", middle="a {hue} throat"
            ),
            _ja("アサガオ", "ラッパ形につながった"),
            sizes=(0.64, 0.74),
        ),
        Species(
            "iris",
            side.iris,
            "falling",
            ("purple", "violet-blue"),
            ("yellow",),
            (6,),
            ("meadow", "mist", "paper", "dusk"),
            Words("iris", "drooping", middle="{hue} tongues"),
            _ja("アヤメ", "垂れた", middle="{hue}斑"),
            leaves=(1, 2, 3),
            turn=0.1,
            sizes=(0.6, 0.68),
            heights=(0.14, 0.24),
        ),
        Species(
            "orchid",
            front.orchid,
            "broad",
            ("white", "magenta", "pale pink"),
            ("magenta",),
            (5,),
            ("studio", "bokeh", "mist", "night"),
            Words("orchid", "broad", middle="a {hue} lip"),
            _ja("コチョウラン", "幅広い", middle="{hue}唇弁"),
            leaves=(0, 1, 2),
            turn=0.18,
        ),
    )
}

ROUND, POINTED = "round-petalled flower", "pointed-petalled flower"

PLAIN: Mapping[str, Species] = {
    species.name: species
    for species in (
        Species(
            name,
            paint,
            form,
            ("white", "yellow", "orange", "red", "pink", "purple", "blue"),
            ("yellow", "white", "dark"),
            (3, 4, 5, 6, 8),
            ("sky", "dusk", "paper", "night"),
            Words("flower", form, head="{petals} {form} {hue} petals"),
            _ja("花", japanese),
            leaves=(0, 1, 2),
            turn=0.12,
            tilt=(0.95, 1.0),
            sizes=(0.76, 0.84),
            heights=(0.10, 0.16),
        )
        for name, paint, form, japanese in (
            (ROUND, plain.round_petals, "round", "丸い"),
            (POINTED, plain.pointed_petals, "pointed", "とがった"),
        )
    )
}
"""Flowers of no kind in particular, whose factors are free of each other: for `kakusan.data.flowers_combinations`."""

KNOWN: Mapping[str, Species] = {**SPECIES, **PLAIN}
"""All that can be painted."""
