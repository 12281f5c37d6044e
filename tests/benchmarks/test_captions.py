"""The benchmark of real captions: the reading is right on vectors that are known, and no caption leaves the data."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

TEXTS = [f"secret caption {i}" for i in range(40)]


@pytest.fixture(scope="module")
def bench():
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield {name: importlib.import_module(name) for name in ("captions", "captions_page")}
    finally:
        sys.path.remove(folder)
        # A package of this name is another thing than this benchmark's module.
        sys.modules.pop("clip", None)


def rows(captions, texts, among: int) -> list[list[int]]:
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return [[place[t] for t in several] for several in captions.candidates(texts, among=among, seed=0)]


def test_the_sets_are_the_real_ones(bench) -> None:
    captions, page = bench["captions"], bench["captions_page"]
    assert [read.__name__ for read in captions.SETS.values()] == ["real", "emoji"]
    assert list(captions.SETS) == list(page.PROMPTS) == list(page.CLAIMS)


def test_each_stands_among_others_only(bench) -> None:
    captions = bench["captions"]
    texts = [*TEXTS, *TEXTS[:5]]
    for text, several in zip(texts, captions.candidates(texts, among=10, seed=0), strict=True):
        assert several[0] == text
        assert len(set(several)) == 10
    assert captions.candidates(texts, among=10, seed=0) == captions.candidates(texts, among=10, seed=0)
    with pytest.raises(ValueError, match="two different captions"):
        captions.candidates(["one", "one"], among=10, seed=0)


def test_precision_of_vectors_that_are_known(bench) -> None:
    """Pictures at their texts are found; texts that are all alike find nothing; a known share comes back."""
    captions = bench["captions"]
    vectors, drawn = torch.eye(40), rows(captions, TEXTS, 20)
    right = captions.r_precision(vectors, drawn, vectors)
    assert (right[1].value, right[1].chance) == (1.0, pytest.approx(1 / 20))
    assert captions.r_precision(torch.ones(40, 40), drawn, vectors)[1].value == 0.0
    some = vectors.clone()
    # A quarter looks like a wrong candidate; it is in the second place then.
    for i in range(0, 40, 4):
        some[i] = 0.6 * vectors[i] + 0.8 * vectors[drawn[i][3]]
    found = captions.r_precision(some, drawn, vectors)
    assert found[1].value == pytest.approx(0.75)
    assert found[5].value == 1.0
    assert captions.standing(vectors, drawn, vectors)[0] == 0.0
    assert captions.standing(torch.ones(40, 40), drawn, vectors) == (0.5, 0.0), "ties are chance"
    share, error = captions.standing(some, drawn, vectors)
    assert share == pytest.approx(0.25 / 19)
    assert error == pytest.approx((0.25 * 0.75 * 40 / 39) ** 0.5 / 19 / 40**0.5)


def reading(page, name: str, before: float):
    rate = {"value": 0.2, "error": 0.01, "chance": 0.01, "count": 100}
    return page.Reading(name, {"1": rate, "5": rate, "10": rate}, [before, 0.02], 0.3, {"random": [1.5, 0.1]}, 100)


def case(page, *, real: float = 0.1, guided: float = 0.3, moved: float = 0.5, sure: bool = True):
    readings = [reading(page, *r) for r in (("real", real), ("plain", 0.4), ("guided", guided), ("moved", moved))]
    words = dict(training="1 minute", reader="conv", command="command", machine="machine")
    numbers = dict(size=64, pictures=1000, held_out=100, among=100, parameters=10, steps=20, guidance=3.0)
    return page.Found(set="emoji", spaces=["random"], readings=readings, sure=sure, **words, **numbers)


def test_verdict_and_page(bench) -> None:
    page = bench["captions_page"]
    good = case(page)
    assert good.followed
    assert not case(page, guided=0.47).followed, "within two standard errors of chance"
    assert not case(page, moved=0.3).followed, "no nearer than to captions of others"
    text = page.page([good])
    assert "20.0% ± 1.0% of cases (chance 1.0%)" in text
    assert "beyond chance" not in text
    assert "not known" not in text
    assert "do not follow" in page.page([case(page, guided=0.5)])
    assert "train it longer" in page.page([case(page, real=0.5, guided=0.5)])
    assert "is not known" in page.page([case(page, sure=False)])
    again = page.Found.of(json.loads(json.dumps(dataclasses.asdict(good))))
    assert page.page([again]) == text


def test_the_data_stay_out_of_the_project(bench, capsys) -> None:
    root = Path(__file__).resolve().parents[2]
    with pytest.raises(SystemExit):
        bench["captions"].main(["emoji", "--source", "nowhere", "--out", str(root / "runs" / "captions")])
    assert "lies in the project" in capsys.readouterr().err
