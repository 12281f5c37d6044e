"""Both languages say everything, with the same blanks to fill; pictures get Japanese only where a font has it."""

import dataclasses
import string

import pytest

from kakusan.data.toys import TOYS
from kakusan.lab import ENGLISH, JAPANESE, LANGUAGES, Lab, figure_words
from kakusan.report import style
from kakusan.schedules import Rectified, VarianceExploding


def blanks(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def texts(words):
    found = {}
    for field in dataclasses.fields(words):
        value = getattr(words, field.name)
        if isinstance(value, str):
            found[field.name] = value
        elif field.name in ("titles", "page"):
            found |= {f"{field.name}.{key}": text for key, text in value.items()}
        elif field.name == "seen":
            found |= {f"seen.{k}": text for k, text in enumerate(value)}
    return found


def test_both_languages_say_everything_with_the_same_blanks():
    english, japanese = texts(ENGLISH), texts(JAPANESE)
    assert english.keys() == japanese.keys()
    for place, text in english.items():
        assert text
        assert blanks(text) == blanks(japanese[place]), place


def test_every_label_of_a_run_is_known_in_japanese():
    lab = Lab("mixture", TOYS["mixture"], Rectified(), num_steps=2, points=4)
    labels = {run.label for run in (*lab.trajectories, *(run for run, _ in lab.families))}
    assert labels - {lab.sampler_name} == set(JAPANESE.labels)


def test_pictures_fall_back_to_english_without_a_font(monkeypatch):
    monkeypatch.setattr("kakusan.lab.words.japanese_font", lambda: None)
    assert figure_words(JAPANESE) is ENGLISH
    assert figure_words(ENGLISH) is ENGLISH
    monkeypatch.setattr("kakusan.lab.words.japanese_font", lambda: "font.ttf")
    assert {name: figure_words(words) for name, words in LANGUAGES.items()} == LANGUAGES


@pytest.mark.parametrize("words", LANGUAGES.values(), ids=list(LANGUAGES))
def test_figures_say_the_words(words, monkeypatch):
    monkeypatch.setattr("kakusan.lab.words.japanese_font", lambda: "font.ttf")
    lab = Lab("mixture", TOYS["mixture"], VarianceExploding(), num_steps=2, points=4, words=words)
    for name, figure in lab.figures().items():
        said = [text.get_text() for text in figure.texts]
        assert words.titles[name].format(name="mixture") in said
        if name != "errors":
            assert words.shown_rescaled in said


def test_only_text_that_needs_it_is_set_in_the_font_of_the_system(monkeypatch):
    monkeypatch.setattr(style, "_japanese_family", lambda: ["Some Gothic"])
    figure = style.figure(100, 100)
    plain, kanji = figure.text(0.1, 0.1, "steps σ √"), figure.text(0.1, 0.5, "密度 $p_t$")
    style.use_bundled_font(figure)
    assert plain.get_fontfamily() == ["DejaVu Sans"]
    assert kanji.get_fontfamily() == ["DejaVu Sans", "Some Gothic"]
