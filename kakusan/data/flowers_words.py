"""Captions of `kakusan.data.flowers`, in English and Japanese."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kakusan.data.flowers_backdrop import BACKGROUNDS
from kakusan.data.flowers_species import HUES, KNOWN

if TYPE_CHECKING:
    from kakusan.data.flowers import Factors

_ONES = [
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_KANJI = "〇一二三四五六七八九"


def number_in_english(n: int) -> str:
    """0 to 99 in words ("no" for 0, as it stands before a noun)."""
    if n < 20:
        return _ONES[n]
    return _TENS[n // 10 - 2] + (f"-{_ONES[n % 10]}" if n % 10 else "")


def number_in_japanese(n: int) -> str:
    """0 to 99 in kanji."""
    if n < 10:
        return _KANJI[n]
    return (_KANJI[n // 10] if n >= 20 else "") + "十" + (_KANJI[n % 10] if n % 10 else "")


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def english(f: Factors) -> str:
    """One English sentence part that names every visible factor."""
    words = KNOWN[f.species].english
    several = f.flower_count > 1 and "{flowers}" not in words.head
    head = words.head.format(
        flowers=number_in_english(f.flower_count),
        petals=number_in_english(f.petal_count),
        form=words.form,
        hue=f.petal_hue,
    )
    subject = (
        f"{number_in_english(f.flower_count)} {words.name}s, each with {head}"
        if several
        else f"{_with_article(words.name)} with {head}"
    )
    if f.centre_hue:
        subject += " and " + words.middle.format(hue=f.centre_hue)
    leaves = f"{number_in_english(f.leaf_count)} {words.leaf[f.leaf_count != 1]}"
    return f"{subject}, {leaves}, before {BACKGROUNDS[f.background].english}"


def japanese(f: Factors) -> str:
    """The same in Japanese."""
    words = KNOWN[f.species].japanese
    several = f.flower_count > 1 and "{flowers}" not in words.head
    subject = words.head.format(
        flowers=number_in_japanese(f.flower_count),
        petals=number_in_japanese(f.petal_count),
        form=words.form,
        hue=HUES[f.petal_hue].japanese,
    )
    if f.centre_hue:
        subject += "と" + words.middle.format(hue=HUES[f.centre_hue].japanese)
    subject += f"をもつ{words.name}"
    if several:
        subject += f"が{number_in_japanese(f.flower_count)}輪"
    leaf, counter = words.leaf
    leaves = f"{leaf}は{number_in_japanese(f.leaf_count)}{counter}" if f.leaf_count else f"{leaf}はなし"
    return f"{subject}、{leaves}、背景は{BACKGROUNDS[f.background].japanese}"


LANGUAGES: Mapping[str, Callable[[Factors], str]] = {"en": english, "ja": japanese}
"""How to put factors into words, by language."""
