"""Weights of parts of a prompt: `(round petals:1.3)`, `(word)`, `[word]`, and what they do to the features of a text.

The syntax is the one that people know from other programs. A weight moves the features of a token along the line from
those of the empty text: 0 is the empty text's, 1 the token's own, more is beyond it. Nothing is normalised afterwards,
so a weight says the same in every prompt.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.encoders.base import TextEncoder, TextFeatures
from kakusan.encoders.spans import Span

STRONGER = 1.1
"""Of `(word)`; `[word]` is its inverse."""
MOST = 10.0
"""Weights are kept within this, both ways."""
_HUGE = 1e12

# Full-width signs are what a Japanese keyboard writes; both kinds mean the same and may be mixed.
_OPEN = {"(": "round", "（": "round", "[": "square", "［": "square"}
_CLOSE = {")": "round", "）": "round", "]": "square", "］": "square"}
_COLONS = ":："
_ESCAPE = "\\"
_SPECIAL = frozenset([*_OPEN, *_CLOSE, *_COLONS, _ESCAPE])
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]{1,6}(?:\.[0-9]{0,6})?|\.[0-9]{1,6}))\s*")


@dataclass(frozen=True)
class Weighted:
    """A text without the signs of weights.

    Args:
        text: what the encoder reads.
        spans: (start, end, weight) of characters of `text`, in order, without overlaps; all others weigh 1.
        notes: a sentence for each thing worth saying.
    """

    text: str
    spans: tuple[tuple[int, int, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Sign:
    """A character of what was written; `plain` where it was escaped."""

    text: str
    plain: bool


def weighted(text: str) -> Weighted:
    r"""What a prompt says and how loud.

    `(x:1.3)` weighs x by 1.3, `(x)` by 1.1, `[x]` by 1 / 1.1; inside of each other they multiply. `\(`, `\)`, `\[`,
    `\]`, `\:` and `\\` are the sign itself. Brackets without a partner, or around nothing, are plain text.

    Args:
        text: anything; there are no errors.
    """
    signs = _read(text)
    pairs, notes = _match(signs)
    # How many signs that can be seen stand before each place.
    seen = list(itertools.accumulate((not sign.text.isspace() for sign in signs), initial=0))
    silent, begin, finish = [False] * len(signs), {}, {}
    for opening, closing in pairs:
        factor, end = _factor(signs, opening, closing)
        if seen[end] == seen[opening + 1]:
            notes.append("brackets around nothing are plain text")
            continue
        if _looks_like_weight(signs, opening, closing):
            notes.append("a weight can be given in round brackets only: (word:0.8)")
        silent[opening] = True
        silent[end : closing + 1] = [True] * (closing + 1 - end)
        begin[opening], finish[closing] = factor, opening
    factors, stack = [], [1.0]
    for place in range(len(signs)):
        if place in begin:
            stack.append(max(-_HUGE, min(_HUGE, stack[-1] * begin[place])))
        if place in finish:
            stack.pop()
        factors.append(stack[-1])
    return _written(signs, factors, silent, notes)


def escaped(text: str) -> str:
    """A prompt that says exactly `text`, whatever signs are in it."""
    return "".join(_ESCAPE + letter if letter in _SPECIAL else letter for letter in text)


def _read(text: str) -> list[_Sign]:
    signs, place = [], 0
    while place < len(text):
        escape = text[place] == _ESCAPE and place + 1 < len(text) and text[place + 1] in _SPECIAL
        place += escape
        signs.append(_Sign(text[place], escape))
        place += 1
    return signs


def _match(signs: Sequence[_Sign]) -> tuple[list[tuple[int, int]], list[str]]:
    """Pairs of places of brackets, inner ones first, and what to say of those without a partner."""
    waiting: list[tuple[str, int]] = []
    # How many of each kind wait, so that a closing bracket without a partner is told at once.
    counts = {"round": 0, "square": 0}
    pairs, alone = [], 0
    for place, sign in enumerate(signs):
        if sign.plain:
            continue
        if sign.text in _OPEN:
            waiting.append((_OPEN[sign.text], place))
            counts[_OPEN[sign.text]] += 1
        elif sign.text in _CLOSE:
            if not counts[_CLOSE[sign.text]]:
                alone += 1
                continue
            # What was opened inside and never closed is plain text.
            while True:
                kind, opening = waiting.pop()
                counts[kind] -= 1
                if kind == _CLOSE[sign.text]:
                    break
                alone += 1
            pairs.append((opening, place))
    alone += len(waiting)
    notes = [
        f"{alone} brackets without a partner are plain text"
        if alone > 1
        else "a bracket without a partner is plain text"
    ]
    return pairs, notes if alone else []


def _factor(signs: Sequence[_Sign], opening: int, closing: int) -> tuple[float, int]:
    """The weight of a pair of brackets, and where what it holds ends."""
    square = _OPEN[signs[opening].text] == "square"
    found = None if square else _number(signs, opening, closing)
    if found is not None:
        return found
    return (1.0 / STRONGER if square else STRONGER), closing


def _number(signs: Sequence[_Sign], opening: int, closing: int) -> tuple[float, int] | None:
    """A weight written at the end of brackets, and the place of its colon."""
    # A number is short: looking further back would make long texts slow.
    for place in range(closing - 1, max(opening, closing - 40), -1):
        sign = signs[place]
        if sign.text in _COLONS:
            said = "".join(s.text for s in signs[place + 1 : closing])
            number = _NUMBER.fullmatch(unicodedata.normalize("NFKC", said))
            return None if sign.plain or number is None else (float(number[1]), place)
    return None


def _looks_like_weight(signs: Sequence[_Sign], opening: int, closing: int) -> bool:
    return _OPEN[signs[opening].text] == "square" and _number(signs, opening, closing) is not None


def _written(signs: Sequence[_Sign], factors: Sequence[float], silent: Sequence[bool], notes: list[str]) -> Weighted:
    """The text that is left, with runs of equal weight."""
    text: list[str] = []
    spans: list[tuple[int, int, float]] = []
    held = False
    for sign, factor, gone in zip(signs, factors, silent, strict=True):
        if gone:
            continue
        # 1.1 and its inverse have a product beside 1, which is no weight.
        weight = round(max(-MOST, min(MOST, factor)), 6)
        held |= abs(factor) > MOST
        if weight != 1.0:
            place = len(text)
            if spans and spans[-1][1] == place and spans[-1][2] == weight:
                spans[-1] = (spans[-1][0], place + 1, weight)
            else:
                spans.append((place, place + 1, weight))
        text.append(sign.text)
    if held:
        notes.append(f"weights beyond {MOST:g} were taken as {MOST:g}")
    return Weighted("".join(text), tuple(spans), tuple(dict.fromkeys(notes)))


def token_weights(encoder: TextEncoder, prompt: Weighted) -> Tensor:
    """The weight of every token of the row that `encoder.tokens([prompt.text])` makes: (length,) float32.

    The weight of a token is the mean of those of its characters, found by `encoder.offsets` where it has them, else by
    its words, whose tokens then share one. Marks, padding and what was cut weigh 1.
    """
    weights = torch.ones(encoder.length)
    if not prompt.spans:
        return weights
    letters = [1.0] * len(prompt.text)
    for start, end, weight in prompt.spans:
        letters[start:end] = [weight] * (end - start)
    for place, (start, end) in _tokens(encoder, prompt.text):
        if start < end:
            part = letters[start:end]
            # All alike is the rule, and then nothing is rounded.
            weights[place] = part[0] if len(set(part)) == 1 else sum(part) / len(part)
    return weights


def _tokens(encoder: TextEncoder, text: str) -> list[tuple[int, Span]]:
    """Places of tokens with their characters."""
    offsets = getattr(encoder, "offsets", None)
    if offsets is not None:
        return list(enumerate(offsets(text)))
    found, place = [], 0
    for word in encoder.words(text):
        start = text.find(word.text, place)
        if start < 0:
            continue
        place = start + len(word.text)
        found += [(token, (start, place)) for token in word.tokens]
    return found


def apply_weights(features: TextFeatures, empty: TextFeatures, weights: Tensor) -> TextFeatures:
    """Features whose tokens are louder or softer: `empty + weight * (values - empty)` for each token.

    A token stands against the token at its place in the empty text; where the empty text has ended, against its last
    one. The vector of the whole text, which has no tokens to weigh, stays. Weight 1 changes no bit, weight 0 gives
    those of the empty text.

    Args:
        features: of B texts, values (B, L, width).
        empty: of the empty text, B = 1 or B.
        weights: (B, L) or (L,); longer ones are cut to L, since a row may be shorter than the encoder's `length`.

    Raises:
        ValueError: weights of another shape.
    """
    values, mask = features.values, features.mask
    batch, length = mask.shape
    weights = weights.to(values).expand(batch, -1) if weights.dim() == 1 else weights.to(values)
    if weights.dim() != 2 or weights.shape[0] != batch or weights.shape[1] < length:
        raise ValueError(f"expected weights ({batch}, {length}), got {tuple(weights.shape)}")
    weights = torch.where(mask, weights[:, :length], 1.0)[..., None]
    nothing = _stretched(empty, length).to(values).expand(batch, -1, -1)
    moved = torch.lerp(nothing, values, weights)
    moved = torch.where(weights == 0.0, nothing, torch.where(weights == 1.0, values, moved))
    return TextFeatures(moved, mask, features.vector)


def _stretched(empty: TextFeatures, length: int) -> Tensor:
    """Values of the empty text (B, length, width), its last real token in place of what it has not."""
    last = empty.mask.sum(1, keepdim=True) - 1
    places = torch.arange(length, device=empty.mask.device)[None].minimum(last)
    return empty.values.gather(1, places[..., None].expand(-1, -1, empty.values.shape[2]))
