"""Words as spans of characters."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kakusan.encoders.spans import trimmed, word_spans, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red, round flower!", ["a", "red", ",", "round", "flower", "!"]),
        ("don't half-open_petals 42", ["don't", "half-open_petals", "42"]),
        ("五枚の花びらをもつ赤い花", ["五枚の", "花びらをもつ", "赤い", "花"]),
        ("ピンクのチューリップ、青", ["ピンク", "の", "チューリップ", "、", "青"]),
        ("5枚 red花", ["5", "枚", "red", "花"]),
        ("🌸🌸 (x)", ["🌸", "🌸", "(", "x", ")"]),
        ("été Ωμέγα", ["été", "Ωμέγα"]),
        (" \t\n", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in word_spans(text)] == words


@given(text=st.text(max_size=50))
def test_words_are_all_that_is_not_white_space(text: str) -> None:
    spans = word_spans(text)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    covered = {place for start, end in spans for place in range(start, end)}
    left = [text[place] for place in range(len(text)) if place not in covered]
    assert all(letter.isspace() for letter in left)


def test_a_token_belongs_to_the_word_of_which_it_holds_most() -> None:
    text = "red flower 花"
    spans = [(0, 0), (0, 2), (2, 6), (6, 10), (11, 12), (11, 12), (0, 0)]
    words = words_of(text, spans)
    assert [(word.text, word.tokens) for word in words] == [("red", (1,)), ("flower", (2, 3)), ("花", (4, 5))]
    assert words_of(text, [(0, 0), (0, 3)])[0].tokens == (1,)
    assert words_of(text, []) == []
    assert words_of(text, [(2, 5)])[0].text == "red"


def test_white_space_is_trimmed() -> None:
    assert trimmed(" a b ", (0, 5)) == (1, 4)
    assert trimmed("a  b", (1, 3)) == (0, 0)
