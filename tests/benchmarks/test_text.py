"""The benchmark of words: a pipeline that draws true flowers with a known share of wrong ones gets that share back."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from kakusan.data.flowers_combinations import ATTRIBUTES, SEEN, UNSEEN
from kakusan.metrics.attributes import Rate, Reading
from kakusan.recipes.designs import write_drawing

LARGEST = {name: len(values) - 1 for name, values in ATTRIBUTES.items()}


@pytest.fixture(scope="module")
def text():
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("text")
    finally:
        sys.path.remove(folder)


class Written:
    """A reader without error, for pictures whose pixels say their factors."""

    hash = "none"
    accuracy = {name: Rate(1, 1) for name in ATTRIBUTES}

    def read(self, x: torch.Tensor) -> Reading:
        numbers = ((x[:, 0, 0, : len(ATTRIBUTES)] + 1.0) * 127.5).round().long().tolist()
        told = {name: [*values, None] for name, values in ATTRIBUTES.items()}
        values = {n: tuple(told[n][row[k]] for row in numbers) for k, n in enumerate(ATTRIBUTES)}
        return Reading(values, {name: torch.ones(len(x)) for name in ATTRIBUTES})

    def scores(self, x: torch.Tensor, wanted):
        return Reading({n: tuple(w[n] for w in wanted) for n in ATTRIBUTES}, {}).scores(wanted)


def picture(values, seed: int) -> Image.Image:
    """What is not named is a matter of the seed."""
    found = Image.new("RGB", (8, 8))
    for k, (name, known) in enumerate(ATTRIBUTES.items()):
        number = known.index(values[name]) if name in values else (seed * 7 + k) % len(known)
        found.putpixel((k, 0), (number, 0, 0))
    return found


def faithful(wanted, seed: int):
    return [picture(w.values, seed + k) for k, w in enumerate(wanted)]


def measured(text, sample, **options):
    groups = text.ask(sample, Written(), num=70, batch=13, seed=0)
    effects = text.change_words(sample, Written(), num=28, batch=13, seed=0)
    facts = {"device": "cpu", "threads": 2, "data": "flowers:words", "samples": 5, **options}
    return groups, effects, [text.Trained("run", facts.pop("minutes", 50.0), **facts)]


def missed(text, found) -> list[str]:
    return [line for line, met in text.verdicts(*found) if not met]


def test_what_draws_true_flowers_meets_every_bar(text) -> None:
    found = measured(text, faithful)
    seen, unseen = found[0]
    assert {(w.values["petal_hue"], w.values["petal_count"]) for w in seen.wanted} == set(SEEN)
    assert {(w.values["petal_hue"], w.values["petal_count"]) for w in unseen.wanted} == set(UNSEEN)
    assert {w.language for w in seen.wanted} == {"en", "ja"}
    assert seen.scores.all_right == Rate(140, 140)
    assert missed(text, found) == []


def test_a_known_share_of_wrong_colours_comes_back(text) -> None:
    def sometimes(wanted, seed: int):
        made = faithful(wanted, seed)
        for k, w in enumerate(wanted):
            if (seed + k) % 5 == 0 and not w.seen:
                known = ATTRIBUTES["petal_hue"]
                other = known[(known.index(w.values["petal_hue"]) + 1) % len(known)]
                made[k] = picture({**w.values, "petal_hue": other}, seed + k)
        return made

    found = measured(text, sometimes)
    assert found[0][1].scores.attributes["petal_hue"] == Rate(112, 140)
    assert found[0][1].scores.all_right == Rate(112, 140)
    assert found[0][1].scores.attributes["petal_count"] == Rate(140, 140)
    lines = missed(text, found)
    assert len(lines) == 2
    assert all(line.startswith("unseen pairs") and "petal colour, 80.0 %" in line for line in lines)


def test_japanese_alone_may_fail(text) -> None:
    def english_only(wanted, seed: int):
        return [picture(w.values if w.language == "en" else {}, seed + k) for k, w in enumerate(wanted)]

    lines = missed(text, measured(text, english_only))
    assert [line.partition(":")[0] for line in lines[:2]] == ["seen pairs, Japanese", "unseen pairs, Japanese"]


def test_words_that_do_nothing_or_too_much_are_found(text) -> None:
    def deaf_to_count(wanted, seed: int):
        return [picture({**w.values, "petal_count": 5}, seed + k) for k, w in enumerate(wanted)]

    def clumsy(wanted, seed: int):
        """Leaving out the background changes everything."""
        kept = [w.values if "background" in w.values else {} for w in wanted]
        return [picture(values, seed + k) for k, values in enumerate(kept)]

    first: list[dict] = []

    def stubborn(wanted, seed: int):
        """It keeps to the number of petals that it was asked for first."""
        if not first:
            first.extend(dict(w.values) for w in wanted)
        counts = [{"petal_count": old["petal_count"]} for old in first]
        kept = [w.values | (old if "petal_count" in w.values else {}) for w, old in zip(wanted, counts, strict=True)]
        return [picture(values, seed + k) for k, values in enumerate(kept)]

    effects = text.change_words(stubborn, Written(), num=28, batch=56, seed=0)
    assert [e.attribute for e in effects if not e.kept] == ["petal_count"]
    deaf = {e.attribute: e for e in measured(text, deaf_to_count)[1]}
    assert not deaf["petal_count"].kept
    assert deaf["petal_hue"].kept
    assert [e.attribute for e in measured(text, clumsy)[1] if not e.kept] == ["background"]


def test_the_same_starts_with_and_without_a_word(text) -> None:
    used = []

    def watched(wanted, seed: int):
        used.append([(seed + k) for k in range(len(wanted))])
        return faithful(wanted, seed)

    text.change_words(watched, Written(), num=4, batch=8, seed=3)
    assert len(used) == 1 + 2 * len(ATTRIBUTES)
    assert all(seeds == used[0] for seeds in used)


@pytest.mark.parametrize(
    "facts",
    [{"minutes": 61.0}, {"threads": 4}, {"device": "cuda", "threads": None}, {"data": "flowers"}],
)
def test_training_that_breaks_the_terms_is_told(text, facts) -> None:
    assert len(missed(text, measured(text, faithful, **facts))) == 1


def test_time_of_training_comes_from_the_run(text, tmp_path: Path) -> None:
    rows = [{"kind": "step", "seconds": 30.0, "wait": 6.0, "samples": 32 * k} for k in (1, 2, 3)]
    rows.insert(1, {"kind": "held-out", "loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="no run folder"):
        text.trained(tmp_path)
    (tmp_path / "env.json").write_text(json.dumps({"device": "cpu", "runtime": {"threads": 2}}))
    (tmp_path / "config.toml").write_text('[data]\nsource = "flowers:words"\n')
    found = text.trained(tmp_path)
    assert (found.minutes, found.samples, found.threads, found.data) == (pytest.approx(1.8), 96, 2, "flowers:words")
    # An autoencoder keeps its settings in place of its surroundings.
    (tmp_path / "env.json").rename(tmp_path / "settings.json")
    assert text.trained(tmp_path).threads is None
    (tmp_path / "config.toml").write_text('[data]\nsource = "flowers:words"\n[run]\nthreads = 1\n')
    found = text.trained(tmp_path)
    assert (found.minutes, found.samples, found.threads, found.data) == (pytest.approx(1.8), 96, 1, "flowers:words")


def test_time_of_a_clip_and_of_all_parts_of_a_design_counts(text, tmp_path: Path) -> None:
    facts = {"how": {"batch": 64}, "pairs": 40, "steps": 10, "seconds": 90.0, "source": "flowers:words"}
    for name in ("clip", "prior", "base", "upscale"):
        (tmp_path / name).mkdir()
    (tmp_path / "clip" / "model.json").write_text(json.dumps({"training": facts}))
    (tmp_path / "clip" / "report.html").write_text("")
    assert text.trained(tmp_path / "clip").threads is None
    (tmp_path / "clip" / "config.toml").write_text("[run]\nthreads = 2\n")
    found = text.trained(tmp_path / "clip")
    assert (found.minutes, found.samples, found.threads, found.data) == (1.5, 400, 2, "flowers:words")
    assert text.parts(tmp_path / "base") == [tmp_path / "base"]
    write_drawing("dalle2", tmp_path)
    assert [part.name for part in text.parts(tmp_path)] == ["base", "upscale", "prior", "clip"]


def test_page_and_sheet(text) -> None:
    found = measured(text, faithful)
    page = text.page(*found[:2], Written(), found[2], "command", pictures=3, seconds=6.0)
    assert "100.0 % ±" in page
    assert "**missed**" not in page
    assert "背景" in page
    assert "red with 5" in page
    assert all(w.text in page for w in found[0][0].wanted[:7])
    sheet = text.sheet(found[0], scale=2)
    assert sheet.width > 4 * 330
    lines = text.wrapped("a flower with five round petals", 12, 90)
    assert len(lines) > 1
    assert " ".join(lines) == "a flower with five round petals"
    assert "".join(text.wrapped("赤い花と青い花", 12, 30)) == "赤い花と青い花"
