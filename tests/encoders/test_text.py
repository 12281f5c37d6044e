import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.flowers import caption, sample_factors
from kakusan.encoders.base import TextEncoder
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import BEGIN, END, PAD, Tokenizer
from kakusan.encoders.weighting import token_weights, weighted
from kakusan.specs import from_spec, to_spec

CAPTIONS = [caption(sample_factors(1, index), language) for index in range(48) for language in ("en", "ja")]
TOKENIZER = Tokenizer.train(CAPTIONS, size=700)


@pytest.fixture(scope="module")
def tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(tokenizer=TOKENIZER.json, width=16, depth=2, heads=2, length=40, vector_width=8).eval()


def test_tokens_are_begin_text_end_padding(tower: TextTower) -> None:
    ids = tower.tokens(["a red rose", ""])
    assert ids.shape == (2, 40)
    assert ids[0, :6].tolist() == [BEGIN, *TOKENIZER.encode("a red rose"), END]
    assert ids[1].tolist() == [BEGIN, END] + [PAD] * 38


@torch.no_grad()
def test_padding_changes_no_bit(tower: TextTower) -> None:
    ids = tower.tokens(["a rose with five petals", "", "赤い花"])
    whole = tower(ids)
    for length in (int(whole.mask.sum(1).max()), 24, 33):
        part = tower(ids[:, :length])
        assert torch.equal(part.vector, whole.vector)
        assert torch.equal(part.values, whole.values[:, :length])
    assert whole.values[:, length:].abs().max() == 0.0
    before = tower.table.weight.data[PAD].clone()
    tower.table.weight.data[PAD] = 1000.0
    assert torch.equal(tower(ids).vector, whole.vector)
    tower.table.weight.data[PAD] = before


@torch.no_grad()
def test_a_text_alone_is_as_in_any_batch(tower: TextTower) -> None:
    together = tower(tower.tokens(CAPTIONS[:6]))
    for row, text in enumerate(CAPTIONS[:6]):
        alone = tower(tower.tokens([text]))
        torch.testing.assert_close(alone.vector[0], together.vector[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.values[0], together.values[row], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_and_words_matter(tower: TextTower) -> None:
    vectors = tower(tower.tokens(["a red rose", "rose red a", "a blue rose", ""])).vector
    assert vectors.isfinite().all()
    assert torch.cdist(vectors, vectors).fill_diagonal_(1.0).min() > 1e-3


def test_no_gradient_reaches_the_padding(tower: TextTower) -> None:
    ids = tower.tokens(["a rose"])
    ids[0, 4:] = PAD
    tower.zero_grad()
    tower(ids).vector.sum().backward()
    assert tower.table.weight.grad is not None
    assert tower.table.weight.grad[PAD].abs().max() == 0.0
    assert tower.table.weight.grad[BEGIN].abs().max() > 0.0


def test_long_texts_are_cut_with_the_end_kept_and_said(tower: TextTower) -> None:
    text = "a red rose " * 50
    ids = tower.tokens([text])[0]
    assert ids[-1] == END
    report = tower.report(text)
    count = len(TOKENIZER.encode(text))
    assert (report.tokens, report.cut) == (count, count - 38)
    assert f"its last {count - 38} of {count}" in report.notes()[0]
    assert max(place for word in tower.words(text) for place in word.tokens) == 38
    assert tower.report("a red rose").notes() == []


@pytest.mark.parametrize("text", ["a" * 10000, "🌹" * 10000, "五枚の赤い" * 2000])
def test_ten_thousand_characters(tower: TextTower, text: str) -> None:
    began = time.monotonic()
    assert tower.tokens([text])[0, -1] == END
    assert tower.report(text).cut > 0
    tower.words(text)
    assert time.monotonic() - began < 6.0


def test_words(tower: TextTower) -> None:
    def texts(text: str) -> list[str]:
        return [word.text for word in tower.words(text)]

    assert texts("  A violet-blue Rose, 12 petals 🌹") == ["A", "violet-blue", "Rose", ",", "12", "petals", "🌹"]
    assert texts("五枚の赤い花びらをもつバラが三輪、背景は青空") == [
        "五枚", "の", "赤い", "花びら", "を", "もつ", "バラ", "が", "三輪", "、", "背景", "は", "青空",
    ]  # fmt: skip
    # Signs that look like particles, at the beginning of a word.
    assert texts("とがった花びら、とても") == ["とがった", "花びら", "、", "とても"]
    assert texts("五枚のとがった花びらと花にはとがったバラ") == [
        "五枚", "の", "とがった", "花びら", "と", "花", "に", "は", "とがった", "バラ",
    ]  # fmt: skip
    assert texts("") == texts("  ") == []


def test_weights_fall_on_the_tokens_of_single_characters(tower: TextTower) -> None:
    text = " A　ＲＥＤ rose🌹 と五枚"
    spans = tower.offsets(text)
    assert len(spans) == int((tower.tokens([text]) != PAD).sum())
    shown = [text[start:end] for start, end in spans]
    assert (shown[0], shown[-1]) == ("", "")
    letters = [place for start, end in dict.fromkeys(spans) for place in range(start, end)]
    assert letters == [place for place, letter in enumerate(text) if not letter.isspace()]
    prompt = weighted("五枚の(赤:2)いバラ")
    weights = token_weights(tower, prompt)
    spans = tower.offsets(prompt.text)
    assert {prompt.text[slice(*spans[place])] for place in (weights == 2.0).nonzero().flatten().tolist()} == {"赤"}


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_words_own_disjoint_places_in_order(tower: TextTower, text: str) -> None:
    places = [place for word in tower.words(text) for place in word.tokens]
    count = min(len(TOKENIZER.encode(text)), 38)
    assert places == sorted(set(places))
    assert set(places) <= set(range(1, count + 1))
    assert all(word.text in text for word in tower.words(text))


def test_a_tower_is_stored_by_plain_values(tower: TextTower) -> None:
    again = from_spec(to_spec(tower), TextEncoder)
    again.load_state_dict(tower.state_dict())
    ids = tower.tokens(CAPTIONS[:2])
    assert torch.equal(again.eval()(ids).vector, tower(ids).vector)


def test_more_tokens_than_fit_are_refused(tower: TextTower) -> None:
    with pytest.raises(ValueError, match="expected token numbers"):
        tower(torch.zeros(1, 41, dtype=torch.int64))
