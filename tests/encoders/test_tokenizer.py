import pickle
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.flowers import caption, sample_factors
from kakusan.encoders.tokenizer import BEGIN, END, MARKS, PAD, Tokenizer

CAPTIONS = [caption(sample_factors(1, index), language) for index in range(64) for language in ("en", "ja")]
TOKENIZER = Tokenizer.train(CAPTIONS, size=700)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_every_text_round_trips_up_to_normalisation(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == TOKENIZER.normalise(text)
    assert all(MARKS <= number < TOKENIZER.size for number in ids)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_pieces_hold_every_token_once_and_their_places_lie_in_the_text(text: str) -> None:
    pieces = TOKENIZER.pieces(text)
    assert [number for piece in pieces for number in piece.ids] == TOKENIZER.encode(text)
    assert all(0 <= piece.start <= piece.end <= len(text) for piece in pieces)


@pytest.mark.parametrize("text", ["🌹👩‍🌾🏳️‍🌈", "五枚の赤い花びら", "Ünïcödé", "\ud800", "<end> <pad>", "1234"])
def test_texts_of_many_kinds_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == TOKENIZER.normalise(text)
    assert not {PAD, BEGIN, END} & set(TOKENIZER.encode(text))


def test_spelling_that_means_the_same_gives_the_same_tokens() -> None:
    assert TOKENIZER.encode("  A ＲＥＤ\n rose ") == TOKENIZER.encode("a red rose")
    assert TOKENIZER.encode("ﾊﾞﾗ") == TOKENIZER.encode("バラ")


def test_a_word_is_the_same_token_at_the_beginning_as_in_the_middle() -> None:
    assert TOKENIZER.encode("a rose with petals")[-1:] == TOKENIZER.encode("petals")


def test_training_is_a_function_of_the_texts_and_the_json_holds_everything() -> None:
    assert Tokenizer.train(CAPTIONS, size=700).json == TOKENIZER.json
    for again in (Tokenizer(TOKENIZER.json), pickle.loads(pickle.dumps(TOKENIZER))):
        assert again.encode(CAPTIONS[1]) == TOKENIZER.encode(CAPTIONS[1])
        assert (again.size, again.json) == (TOKENIZER.size, TOKENIZER.json)


def test_numbers_and_colours_do_not_melt_into_their_nouns() -> None:
    texts = ["五枚の赤い花びら"] * 100
    pieces = Tokenizer.train(texts, size=400).pieces(texts[0])
    assert [piece.text for piece in pieces] == ["五", "枚", "の", "赤", "い", "花", "びら"]


def test_pieces_that_training_never_showed_are_named() -> None:
    assert TOKENIZER.unknown(CAPTIONS[0]) == TOKENIZER.unknown(CAPTIONS[1]) == TOKENIZER.unknown("") == ()
    assert TOKENIZER.unknown("a red Spaceship 🚀 spaceship") == ("spaceship", "🚀")
    assert len(TOKENIZER.unknown("x" * 1000)[0]) < 40


def test_words_of_the_captions_become_few_tokens_and_the_size_is_kept() -> None:
    assert TOKENIZER.size <= 700
    assert len(TOKENIZER.encode("yellow petals")) == 2
    assert Tokenizer.train([], size=300).size == 256 + MARKS


@pytest.mark.parametrize("letter", ["a", "🌹", "赤い", "word "])
def test_ten_thousand_characters_are_fast(letter: str) -> None:
    began = time.monotonic()
    TOKENIZER.encode(letter * (10000 // len(letter)))
    assert time.monotonic() - began < 2.0


def test_errors_are_for_people() -> None:
    with pytest.raises(ValueError, match="at least 259"):
        Tokenizer.train(["a"], size=10)
    with pytest.raises(ValueError, match="not a tokenizer"):
        Tokenizer('{"bpe": 1}')
    with pytest.raises(ValueError, match="outside the vocabulary"):
        TOKENIZER.decode([10**6])
