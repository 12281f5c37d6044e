"""Weights in prompts: what is read, on which tokens it falls, and what it does to them."""

import time
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kakusan.encoders.base import TextEncoder, TextFeatures, Word
from kakusan.encoders.spans import Span, trimmed, word_spans, words_of
from kakusan.encoders.weighting import MOST, Weighted, apply_weights, escaped, token_weights, weighted

LOW = round(1 / 1.1, 6)


def loud(text: str) -> list[tuple[str, float]]:
    """The parts that do not weigh 1, with their weights."""
    found = weighted(text)
    return [(found.text[start:end], weight) for start, end, weight in found.spans]


@pytest.mark.parametrize(
    ("prompt", "text", "parts"),
    [
        ("a red flower", "a red flower", []),
        ("a (round petals:1.3)", "a round petals", [("round petals", 1.3)]),
        ("(red) [blue]", "red blue", [("red", 1.1), ("blue", LOW)]),
        ("((red))", "red", [("red", 1.21)]),
        ("[[red]]", "red", [("red", round(1 / 1.21, 6))]),
        ("([red])", "red", []),
        ("(a (b:2) c:0.5)", "a b c", [("a ", 0.5), (" c", 0.5)]),
        ("(a (b:3) c:0.5)", "a b c", [("a ", 0.5), ("b", 1.5), (" c", 0.5)]),
        ("(a:1)", "a", []),
        ("(a:0)(b:-.5)", "ab", [("a", 0.0), ("b", -0.5)]),
        ("( a : +1.5 )", " a ", [(" a ", 1.5)]),
        ("（赤い花：1.3）", "赤い花", [("赤い花", 1.3)]),
        ("（赤い花：１．３）が［青い］", "赤い花が青い", [("赤い花", 1.3), ("青い", LOW)]),
        ("（赤い花:1.3)", "赤い花", [("赤い花", 1.3)]),
        ("(flower: red)", "flower: red", [("flower: red", 1.1)]),
        ("(a:b:1.2)", "a:b", [("a:b", 1.2)]),
        (r"\(red\) \[x\] a\\b a\b \\", r"(red) [x] a\b a\b " + "\\", []),
        (r"(a\:1.3)", "a:1.3", [("a:1.3", 1.1)]),
        (r"(a\):1.2)", "a)", [("a)", 1.2)]),
        ("(b:1e3)", "b:1e3", [("b:1e3", 1.1)]),
    ],
)
def test_the_syntax(prompt: str, text: str, parts: list[tuple[str, float]]) -> None:
    assert weighted(prompt).text == text
    assert loud(prompt) == parts
    assert weighted(prompt).notes == ()


@pytest.mark.parametrize(
    ("prompt", "text", "parts", "note"),
    [
        ("a :( face", "a :( face", [], "a bracket without a partner is plain text"),
        ("a)) b", "a)) b", [], "2 brackets without a partner are plain text"),
        ("(a [b) c]", "a [b c]", [("a [b", 1.1)], "2 brackets without a partner are plain text"),
        ("((a)", "(a", [("a", 1.1)], "a bracket without a partner is plain text"),
        ("f() of ( :1.2)", "f() of ( :1.2)", [], "brackets around nothing are plain text"),
        ("[a:0.5]", "a:0.5", [("a:0.5", LOW)], "a weight can be given in round brackets only: (word:0.8)"),
        ("(a:99)", "a", [("a", MOST)], "weights beyond 10 were taken as 10"),
        ("((a:9):-9)", "a", [("a", -MOST)], "weights beyond 10 were taken as 10"),
    ],
)
def test_what_is_said(prompt: str, text: str, parts: list[tuple[str, float]], note: str) -> None:
    found = weighted(prompt)
    assert (found.text, loud(prompt), found.notes) == (text, parts, (note,))


PROMPTS = st.text(st.sampled_from("ab 赤1.3:：()[]（）［］\\-") | st.characters(), max_size=40)


@given(text=PROMPTS)
def test_every_text_is_a_prompt(text: str) -> None:
    found = weighted(text)
    assert weighted(text) == found
    end = 0
    for start, stop, weight in found.spans:
        assert end <= start < stop <= len(found.text)
        assert weight != 1.0
        assert abs(weight) <= MOST
        end = stop
    # Nothing is added, and what is left stands in its order.
    letters = iter(text)
    assert all(letter in letters for letter in found.text)
    if not set(text) & set("()[]（）［］\\"):
        assert found == Weighted(text)


@given(text=PROMPTS)
def test_what_is_escaped_is_said_as_it_is(text: str) -> None:
    assert weighted(escaped(text)) == Weighted(text)


@given(text=PROMPTS, weight=st.sampled_from([0.0, 0.5, 1.3, -2.0]))
def test_a_weight_around_anything_weighs_all_of_it(text: str, weight: float) -> None:
    found = weighted(f"x ({escaped(text)}:{weight}) y")
    if text.strip():
        assert found == Weighted(f"x {text} y", ((2, 2 + len(text), weight),))


@pytest.mark.parametrize("text", ["(" * 10_000, "(" * 5_000 + "a" + ")" * 5_000, "(a:9)" * 2_000, "a:" * 5_000 + ")"])
def test_ten_thousand_signs_take_no_time(text: str) -> None:
    start = time.process_time()
    weighted(text)
    assert time.process_time() - start < 1.0
    deep = weighted("(" * 500 + "a" + ":999999)" * 500)
    assert deep.spans == ((0, 1, MOST),)
    # Infinity times nothing would be no number.
    assert weighted("(" * 500 + "(a:0)" + ":999999)" * 500).spans == ((0, 1, 0.0),)


class Letters(TextEncoder):
    """Two characters are a token; the features of a token are drawn from its number. One mark before, one behind."""

    width = vector_width = 4
    length, pad = 16, 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))

    def spans(self, text: str) -> list[Span]:
        pieces = [(place, min(place + 2, len(text))) for place in range(0, len(text), 2)][: self.length - 2]
        return [(0, 0), *(trimmed(text, piece) for piece in pieces), (0, 0)]

    def tokens(self, texts: Sequence[str]) -> Tensor:
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            spans = self.spans(text)
            row[0], row[len(spans) - 1] = 1, 2
            for place, (start, end) in enumerate(spans[1:-1], 1):
                row[place] = 3 + sum(map(ord, text[start:end])) % 497
        return ids

    def words(self, text: str) -> list[Word]:
        return words_of(text, self.spans(text))

    def forward(self, ids: Tensor) -> TextFeatures:
        mask = ids != 0
        values = self.table[ids] * mask[..., None]
        return TextFeatures(values, mask, values.sum(1))


class Exact(Letters):
    def offsets(self, text: str) -> list[Span]:
        return self.spans(text)


def test_weights_fall_on_the_tokens_of_their_characters() -> None:
    prompt = weighted("ab (cdefg:2) hi")
    assert prompt.text == "ab cdefg hi"
    # Tokens: "ab", " c", "de", "fg", " h", "i" after the mark of the beginning.
    assert token_weights(Exact(), prompt).tolist() == [1, 1, 2, 2, 2, 1, 1, *[1] * 9]
    half = weighted("abc(d:3)")
    assert token_weights(Exact(), half).tolist()[:4] == [1, 1, 2, 1]
    assert token_weights(Exact(), weighted("ab")).tolist() == [1.0] * 16
    # What was cut has no token to weigh.
    assert token_weights(Exact(), weighted("ab" * 20 + "(cd:2)")).tolist() == [1.0] * 16


def test_without_offsets_the_words_say_which_tokens() -> None:
    prompt = weighted("abcd (efgh:2) abcd")
    assert token_weights(Letters(), prompt).tolist() == [1, 1, 1, 2, 2, 2, 1, 1, *[1] * 8]
    assert [w.text for w in Letters().words(prompt.text)] == ["abcd", "efgh", "abcd"]
    assert len(word_spans(prompt.text)) == 3
    # The second of two equal words is found where it stands.
    assert token_weights(Letters(), weighted("abcd (abcd:2)")).tolist()[:6] == [1, 1, 1, 2, 2, 2]


def features(*texts: str) -> TextFeatures:
    return Letters()(Letters().tokens(texts))


def test_weights_move_tokens_along_the_line_from_the_empty_text() -> None:
    found, empty = features("abcdef", "gh"), features("")
    weights = torch.ones(2, 16)
    weights[0, 1:4] = torch.tensor([0.0, 0.5, 3.0])
    moved = apply_weights(found, empty, weights)
    # The empty text is its two marks: the first token stands against the second of them, and so do all after it.
    end = empty.values[0, 1]
    assert torch.equal(moved.values[0, 1], end)
    torch.testing.assert_close(moved.values[0, 2], (end + found.values[0, 2]) / 2)
    torch.testing.assert_close(moved.values[0, 3], 3 * found.values[0, 3] - 2 * end)
    assert torch.equal(moved.values[0, 4:], found.values[0, 4:])
    assert torch.equal(moved.values[1], found.values[1])
    assert moved.vector is found.vector
    assert moved.mask is found.mask


@given(seed=st.integers(0, 1000))
def test_one_changes_no_bit_and_zero_is_the_empty_text(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 5, 3, generator=draw) * 10.0 ** torch.randint(-9, 9, (2, 5, 1), generator=draw)
    mask = torch.arange(5)[None] < torch.randint(2, 6, (2, 1), generator=draw)
    found = TextFeatures(values, mask, values.mean(1))
    empty = TextFeatures(torch.randn(1, 7, 3, generator=draw), torch.ones(1, 7, dtype=torch.bool), values[:1].mean(1))
    assert torch.equal(apply_weights(found, empty, torch.ones(9)).values, values)
    none = apply_weights(found, empty, torch.zeros(2, 5)).values
    assert torch.equal(none, torch.where(mask[..., None], empty.values[:, :5].expand(2, -1, -1), values))
    # Half of half the way is a quarter of it.
    half = apply_weights(apply_weights(found, empty, torch.full((5,), 0.5)), empty, torch.full((5,), 0.5))
    torch.testing.assert_close(half.values, apply_weights(found, empty, torch.full((5,), 0.25)).values)


def test_padding_stays_and_wrong_shapes_are_refused() -> None:
    found, empty = features("abcd"), features("")
    moved = apply_weights(found, empty, torch.full((16,), 2.0))
    assert not moved.values[~moved.mask].any()
    for wrong in (torch.ones(3, 16), torch.ones(1, 4), torch.ones(1, 1, 16)):
        with pytest.raises(ValueError, match=r"expected weights \(1, 16\)"):
            apply_weights(found, empty, wrong)


def test_a_row_that_was_shortened_takes_the_weights_of_its_length() -> None:
    encoder, prompt = Exact(), weighted("(ab:2)cd")
    ids, nothing = encoder.tokens([prompt.text]), encoder.tokens([""])
    weights = token_weights(encoder, prompt)
    long = apply_weights(encoder(ids), encoder(nothing), weights)
    short = apply_weights(encoder(ids[:, :4]), encoder(nothing[:, :2]), weights)
    torch.testing.assert_close(short.values, long.values[:, :4])
