"""Words of a text as spans of characters, and which tokens belong to which."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kakusan.encoders.base import Word

Span = tuple[int, int]

# Japanese has no spaces. What is written in kanji, with the hiragana that end it, is read as one piece; so is a run of
# katakana or of hiragana. The marks of prolonged sound and of repetition go with what they follow.
_KANJI = r"[\u3005-\u3007\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_HIRAGANA, _KATAKANA = r"[\u3041-\u309f]", r"[\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]"
_OTHER = r"[^\W_\u3005-\u3007\u303b\u3041-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f]"
_WORD = re.compile(rf"{_KANJI}+{_HIRAGANA}*|{_KATAKANA}+|{_HIRAGANA}+|{_OTHER}+(?:['’_-]{_OTHER}+)*|\S")


def word_spans(text: str) -> list[Span]:
    """The words of a text, in order; a sign that belongs to none is one of its own."""
    return [match.span() for match in _WORD.finditer(text)]


def trimmed(text: str, span: Span) -> Span:
    """A span without the white space at its ends; (0, 0) when nothing is left."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else (0, 0)


def words_of(text: str, offsets: Sequence[Span]) -> list[Word]:
    """The words of a text that have tokens, with the places of these.

    A token that reaches into several words belongs to the one of which it holds most, the first of equals.

    Args:
        text: as it was written.
        offsets: the characters of each token, (0, 0) for marks.
    """
    spans = word_spans(text)
    tokens: list[list[int]] = [[] for _ in spans]
    first = 0
    for place, (start, end) in enumerate(offsets):
        if start == end:
            continue
        while first < len(spans) and spans[first][1] <= start:
            first += 1
        best, most = -1, 0
        for number in range(first, len(spans)):
            if spans[number][0] >= end:
                break
            shared = min(end, spans[number][1]) - max(start, spans[number][0])
            if shared > most:
                best, most = number, shared
        if best >= 0:
            tokens[best].append(place)
    return [Word(text[slice(*span)], tuple(places)) for span, places in zip(spans, tokens, strict=True) if places]
