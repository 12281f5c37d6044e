"""The benchmark of latents: curves with known crossings are read where they cross, and nothing is dressed up."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import pytest

NAMES = ("latents_equal", "latents_page")


@pytest.fixture(scope="module")
def bench():
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(folder)


def points(equal, ratio, accuracy=lambda t: 0.9, seconds=(100.0, 200.0, 400.0)):
    """A curve through known values."""
    return [
        equal.Point(step=int(t), seconds=t, ratios={"random": ratio(t)}, errors={"random": 0.01}, accuracy=accuracy(t))
        for t in seconds
    ]


def found(equal, *, latent, pixel=lambda t: 800.0 / t, accuracy=lambda t: 0.9, step=(40.0, 50.0), image=(2.0, 3.0)):
    """A pixel model that takes 100 ms for a step and 10 ms for a picture, beside a latent one."""
    costs = equal.Costs(1000, 1.0, 2.0, [100.0, 100.0], [10.0, 12.0])
    cheap = equal.Costs(1000, 0.5, 1.0, list(step), list(image), [0.5, 0.6])
    return equal.Found(
        size=64,
        minutes=1.0,
        samples=100,
        num_steps=10,
        batch=32,
        drawn=500,
        spaces=["random"],
        held_out={"random": 1.02},
        judge=0.95,
        contestants=[
            equal.Contestant("weak pixels", None, 16, points(equal, lambda t: 9.0), costs),
            equal.Contestant("pixels", None, 32, points(equal, pixel), costs),
            equal.Contestant("latents", "factor 4", 16, points(equal, latent, accuracy), cheap),
        ],
        coders=[equal.Coder("factor 4", [4, 16, 16], 10, 50.0, 5.0, 25.0, {"random": 1.1}, 0.93)],
        command="command",
        machine="machine",
    )


def test_a_crossing_is_read_where_it_is(bench) -> None:
    equal = bench["latents_equal"]
    curve = points(equal, lambda t: math.exp(-t / 100.0))
    seconds, bound = equal.reached(curve, math.exp(-2.5), "random")
    assert seconds == pytest.approx(250.0, abs=1e-9)
    assert not bound
    assert equal.reached(curve, math.exp(-0.5), "random") == (100.0, True)
    assert equal.reached(curve, math.exp(-4.5), "random") is None
    assert equal.accuracy_at(points(equal, lambda t: 1.0, lambda t: t / 1000.0), 300.0) == pytest.approx(0.3)


def test_both_ways_round(bench) -> None:
    """The latent curve is the pixel curve at twice the speed, or at half."""
    equal = bench["latents_equal"]
    case = found(equal, latent=lambda t: 400.0 / t)
    _, pixel, latent = case.contestants
    same = equal.equal(pixel, latent, "random")
    assert (same.quality, same.pixel, same.latent) == (2.0, (400.0, False), (200.0, False))
    assert equal.shown(case)
    assert all(met for _, met, _ in equal.verdicts(case, latent))
    slow = found(equal, latent=lambda t: 1600.0 / t)
    _, pixel, latent = slow.contestants
    same = equal.equal(pixel, latent, "random")
    assert (same.quality, same.pixel, same.latent) == (4.0, (200.0, False), (400.0, False))
    assert not equal.shown(slow)


def test_the_autoencoder_is_counted_apart(bench) -> None:
    """The models alone take less than 400 seconds; with 55 of the autoencoder not. The saving of a picture stands."""
    equal = bench["latents_equal"]
    case = found(equal, latent=lambda t: 700.0 / t)
    lines = equal.verdicts(case, case.contestants[2])
    assert [met for _, met, _ in lines] == [True, True, True, True, True, True, False]
    alone = 200.0 + 200.0 * math.log(3.5 / 2.0) / math.log(2.0)
    assert f"{alone:.0f} s against 400 s" in lines[-2][0]
    assert f"{alone + 55.0:.0f} s against 400 s" in lines[-1][0]
    assert equal.shown(case)


@pytest.mark.parametrize(
    ("change", "missed"),
    [({"step": (40.0, 101.0)}, 0), ({"image": (9.0, 13.0)}, 1), ({"accuracy": lambda t: 0.7}, 3)],
)
def test_one_slow_round_or_wrong_classes_are_a_miss(bench, change: dict, missed: int) -> None:
    equal = bench["latents_equal"]
    case = found(equal, latent=lambda t: 400.0 / t, **change)
    assert [i for i, (_, met, _) in enumerate(equal.verdicts(case, case.contestants[2])) if not met] == [missed]
    assert not equal.shown(case)


def test_two_that_drew_nothing_are_no_saving(bench) -> None:
    equal = bench["latents_equal"]
    case = found(equal, latent=lambda t: 400.0 / t)
    blind = [
        dataclasses.replace(c, points=[dataclasses.replace(p, accuracy=1 / 16) for p in c.points])
        for c in case.contestants
    ]
    assert not equal.shown(dataclasses.replace(case, contestants=blind))


def test_page_and_chart_and_back_from_the_file(bench) -> None:
    equal, page = (bench[name] for name in NAMES)
    case = found(equal, latent=lambda t: 400.0 / t)
    assert equal.Found.of(json.loads(json.dumps(case.plain()))).plain() == json.loads(json.dumps(case.plain()))
    text = page.page([case, dataclasses.replace(case, size=128)])
    assert "## 64 x 64" in text
    assert "## 128 x 128" in text
    assert "**latents: a saving at equal quality.**" in text
    assert "2.25 (2.00-2.50)" in text, "a step of 100 ms over one of 40 and 50"
    assert "latents-128-samples.png" in text
    lines = page.chart(case).axes[0].get_lines()
    assert any(list(line.get_ydata()) == [4.0, 2.0, 1.0] for line in lines)
