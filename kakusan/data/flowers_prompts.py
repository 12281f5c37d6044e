"""Texts about plain flowers, built from factors: English and Japanese, in several orders, naming any of the factors.

The same builder makes the texts of the training pictures and the prompts of an evaluation, so leaving a factor out or
changing one word is a change of its arguments and not of a string.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from kakusan.data.captions import Caption
from kakusan.data.flowers import Dice, Factors
from kakusan.data.flowers_backdrop import BACKGROUNDS
from kakusan.data.flowers_combinations import ATTRIBUTES, check_values, sample_plain, values_of
from kakusan.data.flowers_species import HUES, PLAIN, POINTED, ROUND
from kakusan.data.flowers_words import number_in_english, number_in_japanese

FORMS: Mapping[str, str] = {PLAIN[name].petal_form: PLAIN[name].japanese.form for name in (ROUND, POINTED)}
"""English word of a petal form -> Japanese."""


@dataclass(frozen=True)
class Parts:
    """The pieces of a text in one language; empty where the factor is not named."""

    hue: str
    count: str
    digit: str
    form: str
    centre: str
    leaves: str
    digit_leaves: str
    background: str


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _english(values: Mapping[str, int | str]) -> Parts:
    leaves = values.get("leaf_count")
    leaf = "leaf" if leaves == 1 else "leaves"
    return Parts(
        hue=str(values.get("petal_hue", "")),
        count=number_in_english(int(values["petal_count"])) if "petal_count" in values else "",
        digit=str(values.get("petal_count", "")),
        form=str(values.get("petal_form", "")),
        centre=f"{values['centre_hue']} centre" if "centre_hue" in values else "",
        leaves="" if leaves is None else f"{number_in_english(int(leaves))} {leaf}",
        digit_leaves="" if leaves is None else f"{leaves if leaves else 'no'} {leaf}",
        background=BACKGROUNDS[str(values["background"])].english if "background" in values else "",
    )


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)


def _listed(things: Sequence[str]) -> str:
    things = [thing for thing in things if thing]
    return ", ".join(things[:-1]) + " and " + things[-1] if len(things) > 1 else "".join(things)


def _petals(p: Parts, *, hue: bool = False, digit: bool = False) -> str:
    colour = p.hue if hue else ""
    return _words(p.digit if digit else p.count, p.form, colour, "petals") if p.count or p.form or colour else ""


def _comma(*clauses: str) -> str:
    return ", ".join(clause for clause in clauses if clause)


def _a(noun: str) -> str:
    return _article(noun) if noun else ""


def _with(head: str, things: Sequence[str]) -> str:
    rest = _listed(things)
    return f"{head} with {rest}" if rest else head


def _flower_first(p: Parts) -> str:
    said = _with(_article(_words(p.hue, "flower")), (_petals(p), _a(p.centre)))
    return _comma(said, p.leaves, p.background and f"before {p.background}")


def _petals_coloured(p: Parts) -> str:
    said = _with("a flower", (_petals(p, hue=True), _a(p.centre), p.leaves))
    return _words(said, p.background and f"in front of {p.background}")


def _background_first(p: Parts) -> str:
    said = _with(_article(_words(p.hue, "flower")), (_petals(p, digit=True), _a(p.centre), p.digit_leaves))
    return _comma(p.background and f"before {p.background}", said)


def _keywords(p: Parts) -> str:
    return _comma(_words(p.hue, "flower"), _petals(p, digit=True), p.centre, p.digit_leaves, p.background)


def _backwards(p: Parts) -> str:
    said = _with(_article(_words(p.hue, "flower")), (p.leaves, _a(p.centre), _petals(p)))
    return _words(said, p.background and f"against {p.background}")


def _japanese(values: Mapping[str, int | str]) -> Parts:
    leaves = values.get("leaf_count")
    count = values.get("petal_count")
    return Parts(
        hue=HUES[str(values["petal_hue"])].japanese if "petal_hue" in values else "",
        count="" if count is None else f"{number_in_japanese(int(count))}枚",
        digit="" if count is None else f"{count}枚",
        form=FORMS[str(values["petal_form"])] if "petal_form" in values else "",
        centre=f"{HUES[str(values['centre_hue'])].japanese}中心" if "centre_hue" in values else "",
        leaves="" if leaves is None else f"葉は{number_in_japanese(int(leaves))}枚" if leaves else "葉はなし",
        digit_leaves="" if leaves is None else f"葉{leaves}枚" if leaves else "葉なし",
        background=BACKGROUNDS[str(values["background"])].japanese if "background" in values else "",
    )


def _ja_petals(p: Parts, *, hue: bool = False, digit: bool = False) -> str:
    colour = p.hue if hue else ""
    return f"{p.form}{colour}花びら{p.digit if digit else p.count}" if p.count or p.form or colour else ""


def _ja_with(things: Sequence[str], noun: str) -> str:
    rest = "と".join(thing for thing in things if thing)
    return f"{rest}をもつ{noun}" if rest else noun


def _ja_comma(*clauses: str) -> str:
    return "、".join(clause for clause in clauses if clause)


def _ja_flower(p: Parts) -> str:
    said = _ja_with((_ja_petals(p), p.centre), f"{p.hue}花")
    return _ja_comma(said, p.leaves, p.background and f"背景は{p.background}")


def _ja_coloured(p: Parts) -> str:
    said = _ja_with((p.centre, _ja_petals(p, hue=True)), "花")
    return _ja_comma(said, p.leaves, p.background and f"背景は{p.background}")


def _ja_background_first(p: Parts) -> str:
    said = _ja_with((_ja_petals(p, digit=True), p.centre), f"{p.hue}花")
    return _ja_comma(p.background and f"{p.background}の前", said, p.leaves)


def _ja_keywords(p: Parts) -> str:
    return _ja_comma(f"{p.hue}花", _ja_petals(p, digit=True), p.centre, p.digit_leaves, p.background)


def _ja_counted(p: Parts) -> str:
    petals = (p.count or p.form) and f"{p.form}花びら" + (f"が{p.count}" if p.count else "")
    centre = p.centre and f"中心は{p.centre.removesuffix('中心').removesuffix('の')}"
    return _ja_comma(f"{p.hue}花", petals, centre, p.leaves, p.background and f"{p.background}を背に")


STYLES: Mapping[str, tuple[Callable[[Mapping[str, int | str]], Parts], tuple[Callable[[Parts], str], ...]]] = {
    "en": (_english, (_flower_first, _petals_coloured, _background_first, _keywords, _backwards)),
    "ja": (_japanese, (_ja_flower, _ja_coloured, _ja_background_first, _ja_keywords, _ja_counted)),
}
"""Language -> the words of the factors, and the ways to put them together; the first way names them plainly."""

SHORTEST = 1
"""A short text names at least so many factors."""


def prompt(
    values: Mapping[str, int | str], language: str = "en", *, style: int = 0, without: Collection[str] = ()
) -> str:
    """A text that names `values` (fields of `Factors`), as far as they are given.

    Args:
        values: attribute -> value, any of `kakusan.data.flowers_combinations.ATTRIBUTES`.
        language: "en" or "ja".
        style: which way of `STYLES` to put it.
        without: attributes to leave out.

    Raises:
        ValueError: an unknown language, style, attribute or value.
    """
    if language not in STYLES:
        raise ValueError(f"prompts are written in {' or '.join(STYLES)}, not in {language!r}")
    parts_of, styles = STYLES[language]
    if not 0 <= style < len(styles):
        raise ValueError(f"there are {len(styles)} styles, from 0 on, not {style}")
    check_values(values)
    for name in without:
        if name not in ATTRIBUTES:
            check_values({name: ""})
    return styles[style](parts_of({name: value for name, value in values.items() if name not in without}))


def texts(factors: Factors) -> tuple[Caption, ...]:
    """What training reads of a picture: in each language two texts that name all factors, one that names most of them
    and one that names a few. The first is English, in the plainest order; which others is drawn from the picture's key.
    """
    values = values_of(factors)
    dice = Dice(factors.detail, 2, 64)
    found: list[Caption] = []
    for language, (_, styles) in STYLES.items():
        full = int(dice.uniform(1, len(styles)))
        chosen: list[tuple[int, tuple[str, ...]]] = [(0, ()), (full, ())]
        for least, most in ((1, 2), (3, len(ATTRIBUTES) - SHORTEST)):
            names = list(ATTRIBUTES)
            left_out: list[str] = []
            for _ in range(int(dice.uniform(least, most + 1))):
                left_out.append(names.pop(int(dice.uniform(0, len(names)))))
            chosen.append((int(dice.uniform(0, len(styles))), tuple(left_out)))
        found += [Caption(prompt(values, language, style=s, without=w), language) for s, w in chosen]
    return tuple(found)


@dataclass(frozen=True)
class Wanted:
    """A prompt and what its picture must show.

    Args:
        text: the prompt.
        language: of the text.
        style: its wording, a place in `STYLES`.
        values: what it names.
        seen: whether training showed the pair of petal hue and count.
    """

    text: str
    language: str
    style: int
    values: Mapping[str, int | str]
    seen: bool

    def dropping(self, name: str) -> Wanted:
        """The same prompt without one attribute."""
        values = {key: value for key, value in self.values.items() if key != name}
        return replace(self, values=values, text=prompt(values, self.language, style=self.style))

    def changing(self, name: str, value: int | str) -> Wanted:
        """The same prompt with another value of one attribute.

        Raises:
            ValueError: no such attribute or value, or one that the prompt does not name.
        """
        if name not in self.values:
            raise ValueError(f"the prompt {self.text!r} names no {name}")
        values = {**self.values, name: value}
        return replace(self, values=values, text=prompt(values, self.language, style=self.style))


def evaluation_prompts(
    pairs: Sequence[tuple[str, int]],
    num: int,
    *,
    seen: bool,
    languages: Sequence[str] = tuple(STYLES),
    styles: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Wanted]:
    """`num` prompts that name all factors, for each language in turn: the pairs go round, the rest is drawn.

    Prompt k of one language wants the same factors as prompt k of another, so that languages are compared on equal
    terms.

    Args:
        pairs: (petal hue, petal count) to ask for.
        num: prompts in each language.
        seen: whether training showed these pairs.
        languages: which.
        styles: wordings, in turn; all when not given.
        seed: of the factors.

    Raises:
        ValueError: no pairs, no prompts, or an unknown language or style.
    """
    if not pairs or num < 1:
        raise ValueError(f"there is nothing to ask for: {len(pairs)} pairs, {num} prompts")
    # In steps that share no factor with their number, so that neighbours differ in colour and in count.
    step = next(s for s in range(5, 6 + len(pairs)) if math.gcd(s, len(pairs)) == 1)
    found = []
    for language in languages:
        ways = range(len(STYLES[language][1])) if language in STYLES and styles is None else styles or (0,)
        for k in range(num):
            factors = sample_plain(seed, k, [pairs[k * step % len(pairs)]])
            style = ways[(k % len(pairs) + k // len(pairs)) % len(ways)]
            values = values_of(factors)
            found.append(Wanted(prompt(values, language, style=style), language, style, values, seen))
    return found
