"""Laws of the texts about flowers: what is named is said, what is left out is not, in both languages alike."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kakusan.data.captions import language_of
from kakusan.data.flowers_backdrop import BACKGROUNDS
from kakusan.data.flowers_combinations import ATTRIBUTES, SEEN, UNSEEN, factors_of, values_of
from kakusan.data.flowers_prompts import FORMS, STYLES, evaluation_prompts, prompt, texts
from kakusan.data.flowers_species import HUES
from kakusan.data.flowers_words import number_in_english, number_in_japanese

WAYS = [(language, style) for language, (_, styles) in STYLES.items() for style in range(len(styles))]
subsets = st.sets(st.sampled_from(list(ATTRIBUTES)))


def said(text: str) -> dict[str, int | str]:
    """What a text names, found by looking for words, with no knowledge of how it was made."""
    found: dict[str, int | str] = {}
    japanese = "花" in text
    for name in BACKGROUNDS:
        words = BACKGROUNDS[name].japanese if japanese else BACKGROUNDS[name].english
        if words in text:
            found["background"] = name
            text = text.replace(words, " ")
    if japanese:
        return found | _said_in_japanese(text)
    if match := re.search(r"\b(\w+) leaf\b|\b(\w+) leaves\b", text):
        word = match[1] or match[2]
        found["leaf_count"] = next(n for n in range(10) if word in (number_in_english(n), str(n)))
    if match := re.search(r"\b(\w+) centre", text):
        found["centre_hue"] = match[1]
        text = text.replace(match[0], " ")
    for word in re.findall(r"[\w-]+", text):
        if word in HUES:
            found["petal_hue"] = word
        if word in FORMS:
            found["petal_form"] = word
    numbers = {number_in_english(n): n for n in range(1, 20)} | {str(n): n for n in range(1, 20)}
    if match := re.search(rf"\b({'|'.join(numbers)})(?: \w+){{0,2}} petals", text):
        found["petal_count"] = numbers[match[1]]
    return found


def _said_in_japanese(text: str) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    numbers = {number_in_japanese(n): n for n in range(1, 20)} | {str(n): n for n in range(1, 20)}
    if match := re.search(r"葉(?:は)?(なし|[0-9一二三四五六七八九]+)(?:枚)?", text):
        found["leaf_count"] = 0 if match[1] == "なし" else numbers[match[1]]
        text = text.replace(match[0], " ")
    for name, hue in HUES.items():
        for pattern in (f"{hue.japanese}中心", f"中心は{hue.japanese}"):
            if pattern in text:
                found["centre_hue"] = name
                text = text.replace(pattern, " ")
    for name, form in FORMS.items():
        if form in text:
            found["petal_form"] = name
            text = text.replace(form, "")
    if match := re.search(r"花びら(?:が)?([0-9一二三四五六七八九]+)枚", text):
        found["petal_count"] = numbers[match[1]]
    for name, hue in HUES.items():
        if f"{hue.japanese}花" in text:
            found["petal_hue"] = name
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**5), subsets, st.sampled_from(WAYS))
def test_a_prompt_says_what_it_is_given_and_nothing_else(index: int, without, way) -> None:
    values = values_of(factors_of("held-out", index))
    named = {name: value for name, value in values.items() if name not in without}
    text = prompt(values, way[0], style=way[1], without=without)
    assert said(text) == named, text
    assert text == prompt(named, way[0], style=way[1])
    assert text == text.strip()
    assert not re.search(r"  |, ,|、、|\{|\}|、$|,$|^、|^,", text), text
    for article, letter in re.findall(r"\b(an?) (\w)", text):
        assert (article == "an") == (letter in "aeiou"), text


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**5), st.sampled_from(list(ATTRIBUTES)), st.sampled_from(WAYS), st.data())
def test_changing_one_value_changes_one_word(index: int, name: str, way, data) -> None:
    values = values_of(factors_of("held-out", index))
    other = data.draw(st.sampled_from([v for v in ATTRIBUTES[name] if v != values[name]]))
    one, two = prompt(values, way[0], style=way[1]), prompt({**values, name: other}, way[0], style=way[1])
    before, after = said(one), said(two)
    assert {n for n in before if before[n] != after[n]} == {name}
    assert before.keys() == after.keys()


def test_texts_of_a_picture() -> None:
    for index in range(60):
        values = values_of(factors_of("train", index))
        found = texts(factors_of("train", index))
        assert found == texts(factors_of("train", index))
        assert [language_of(text) for text in found] == ["en"] * 4 + ["ja"] * 4
        assert found[0] == prompt(values)
        for start in (0, 4):
            assert said(found[start]) == said(found[start + 1]) == values
            assert len(values) - 2 <= len(said(found[start + 2])) < len(values)
            assert 1 <= len(said(found[start + 3])) <= 3
        assert all(said(text).items() <= values.items() for text in found)


def test_every_way_and_every_word_is_in_the_training_texts() -> None:
    everything = [text for index in range(300) for text in texts(factors_of("train", index))]
    for language, (_, styles) in STYLES.items():
        shown = {text for text in everything if language_of(text) == language}
        for style in range(len(styles)):
            same = {prompt(values_of(factors_of("train", i)), language, style=style) for i in range(300)}
            assert len(same & shown) > 10
    for name, values in ATTRIBUTES.items():
        assert {said(text).get(name) for text in everything} == {None, *values}


def test_no_training_text_names_an_unseen_pair() -> None:
    for index in range(500):
        for text in texts(factors_of("train", index)):
            named = said(text)
            assert (named.get("petal_hue"), named.get("petal_count")) not in UNSEEN


def test_prompts_of_an_evaluation() -> None:
    found = evaluation_prompts(UNSEEN, 70, seen=False, seed=3)
    english, japanese = found[:70], found[70:]
    assert {w.language for w in english} == {"en"}
    assert [w.values for w in english] == [w.values for w in japanese]
    assert all(said(w.text) == w.values for w in found)
    pairs = [(w.values["petal_hue"], w.values["petal_count"]) for w in english]
    assert all(pairs.count(pair) == 10 for pair in UNSEEN)
    for pair in UNSEEN:
        assert {w.style for w, p in zip(english, pairs, strict=True) if p == pair} == set(range(5))
    assert all(a != b for a, b in itertools.pairwise(pairs))
    assert found == evaluation_prompts(UNSEEN, 70, seen=False, seed=3)
    one = found[0]
    assert said(one.dropping("petal_count").text) == {k: v for k, v in one.values.items() if k != "petal_count"}
    assert said(one.changing("background", "sky").text)["background"] == "sky"
    with pytest.raises(ValueError, match="names no"):
        one.dropping("background").changing("background", "sky")
    assert len(evaluation_prompts(SEEN, 3, seen=True, languages=["ja"], styles=[2])) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prompt({}, "fr"), "en or ja"),
        (lambda: prompt({}, style=9), "5 styles"),
        (lambda: prompt({"petal_hue": "rde"}), "did you mean 'red'"),
        (lambda: prompt({}, without=["hue"]), "no attribute"),
        (lambda: evaluation_prompts((), 3, seen=True), "nothing to ask for"),
        (lambda: evaluation_prompts(SEEN, 1, seen=True, languages=["fr"]), "en or ja"),
    ],
)
def test_what_makes_no_prompt_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
