"""Pages of comparisons: everything measured is on them, whatever is missing, and names are shown as they are."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kakusan.metrics.claims import findings
from kakusan.metrics.contestants import Contestant, Entry
from kakusan.metrics.ladder import Ladder
from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.metrics.sharpness import NAME
from kakusan.report.compare import contest_page
from kakusan.report.compare_figures import Series, by_row, quality_against, spectra
from kakusan.report.compare_parts import number, plus_minus, strips
from kakusan.report.ladder import sweep_page

KINDS = ("diffusion", "vae", "gan", "flow")


def record(name: str, value: float, *, space: str = "", better: str = "low", null: float | None = 1.0) -> MetricRecord:
    of = Provenance(model="m", extractor="hash" if space else "")
    return MetricRecord(name, value, 0.05, 64, of, space, null, 0.1 if null else None, better)


def entry(kind: str, seed: int, *, steps: int | None = None, quick: bool = False, bits: bool = True) -> Entry:
    x = 1.5 + KINDS.index(kind) + 0.1 * seed
    records = [record("frechet", x, space=space) for space in ("random", "patches")]
    records.append(record("seconds per picture", 0.01 * x, null=None))
    if not quick:
        shares = ("precision", "recall", "coverage", "density")
        records += [record(n, 0.5, space=s, better="high") for n in shares for s in ("random", "patches")]
        records += [record("kernel", x, space="random"), record(NAME, -0.2, better="null", null=0.0)]
        records += [record(n, 0.7, better="high") for n in ("kinds covered", "condition accuracy")]
        if bits:
            records.append(record("bits per dimension", 4.0 + 0.1 * seed, null=None))
    spectrum = {"frequencies": [0.1, 0.3, 0.5], "ratios": [1.0, 0.8, 0.5]}
    kinds = {"seen": [80, 90], "missing": ["petals red", "species rose"]}
    calls = float(steps or 1)
    name = f"{kind}-{seed}-{steps}"
    return Entry(
        name, f"{kind}-{seed}", kind, "ddim" if steps else "", steps, 1.0, calls, 0.01 * x, records, spectrum, kinds
    )


def contestants(seeds: int = 2) -> list[Contestant]:
    training = {"steps": 1200, "samples": 38_400, "seconds": 90.0, "parameters": 2_000_000, "rollbacks": 0}
    found = []
    for seed in range(seeds):
        for kind in KINDS:
            diffusion = kind == "diffusion"
            full = entry(kind, seed, steps=16 if diffusion else None, bits=kind != "gan")
            rungs = [entry(kind, seed, steps=2, quick=True), full] if diffusion else []
            found.append(Contestant(kind, seed, full, rungs, training, "bound" if kind == "vae" else "exact"))
    return found


def facts(**more: Any) -> dict[str, Any]:
    settings = {"models": KINDS, "data": "flowers", "seconds": 90.0, "seeds": 2, "size": 32, "steps": 16, "num": 400}
    base = {"settings": settings, "threads": 2, "samples": 400, "torch": "2", "judge": {}, "labels": ["a", "b"]}
    return {**base, "done": 8, "of": 8, **more}


class TestContestPage:
    def test_everything_measured_is_on_it(self, tmp_path: Path) -> None:
        for kind in ("real", *(e.name for c in contestants() if (e := c.entry) is not None)):
            Image.new("RGB", (16, 8), "#336699").save(tmp_path / f"{kind}.png")
        found = contestants()
        html = contest_page(found, findings(found), facts(), tmp_path).html()
        for words in ("Samples", "Quality", "Coverage", "Sharpness", "Likelihood", "rest on", "No training diverged"):
            assert words in html
        for name in ("diffusion", "VAE", "GAN", "flow"):
            assert f"<td>{name}</td>" in html
        assert html.count("<svg") == 2 + 2 + 1 + 2
        assert "it has none" in html
        assert "an upper bound" in html
        assert "petals red" in html
        assert html.count("<img ") == 1
        assert "--budget 90s" in html

    def test_of_what_is_missing_nothing_is_shown(self, tmp_path: Path) -> None:
        lost = [Contestant("gan", 0, trouble="<b>NaN</b>"), *[c for c in contestants(1) if c.kind == "vae"]]
        html = contest_page(lost, findings(lost), facts(done=2), tmp_path).html()
        assert "Not finished: 2 of 8" in html
        assert "Diverged: GAN 0." in html
        assert "&lt;b&gt;NaN&lt;/b&gt;" in html
        assert "there is no trained model of the kind diffusion" in html
        only = [Contestant("gan", 0, trouble="NaN")]
        assert "GAN" in contest_page(only, findings(only), facts(), tmp_path).html()


def test_sweep_page(tmp_path: Path) -> None:
    entries = [entry("diffusion", seed, steps=steps) for seed in (0, 1) for steps in (5, 10)] + [entry("gan", 0)]
    settings = {
        "runs": ["runs/a"],
        "samplers": ["ddim"],
        "steps": [5, 10],
        "guidance_scales": [1.0],
        "num": 64,
        "seed": 0,
    }
    page_facts = {"settings": settings, "done": 5, "of": 5, "samples": 64, "torch": "2", "labels": []}
    html = sweep_page(entries, Ladder.of(entries), page_facts, tmp_path).html()
    assert html.count("<svg") == 2
    assert "the best" in html
    assert "diffusion-1, ddim, 10 steps" in html
    assert "guidance doubles each" in html


class TestFigures:
    def test_dots_stand_in_rows_and_infinite_ones_nowhere(self) -> None:
        values = {"diffusion": {"random": [1.0, 2.0], "patches": [3.0, math.nan]}, "vae": {"random": [0.0, 5.0]}}
        chart = by_row(values, label="x", real={"random": 1.0}, log=True)
        axes = chart.figure.axes[0]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["random", "patches"]
        names = [t.get_text() for t in axes.get_legend().get_texts()]  # type: ignore[union-attr]
        assert names == ["diffusion", "VAE", "real pictures"]
        # A logarithmic mean: of 1 and 2 it is the root of 2.
        places = [float(line.get_xdata()[0]) for line in axes.get_lines() if len(line.get_xdata()) == 1]  # type: ignore[index,arg-type]
        assert any(place == pytest.approx(math.sqrt(2.0)) for place in places)

    def test_quality_has_bars_that_a_logarithm_can_show(self) -> None:
        series = [Series("a", [1, 10], [2.0, 1.0], [0.1, 5.0], ["1", "10"]), Series("b", [5], [3.0], [math.nan])]
        chart = quality_against(series, x="calls", y="ratio", real=1.0)
        axes = chart.figure.axes[0]
        assert axes.get_xscale() == axes.get_yscale() == "log"
        assert axes.get_ylim()[0] > 0
        assert "10" in chart.svg()

    def test_spectra(self) -> None:
        svg = spectra([0.1, 0.3], {"vae": [1.0, 0.01], "gan": [1.0, 2.0]}, start=0.25).svg()
        assert ">VAE<" in svg


class TestParts:
    @given(st.floats(), st.floats().map(abs))
    def test_no_number_is_a_power_of_ten(self, value: float, error: float) -> None:
        for text in (number(value), plus_minus(value, error)):
            assert not re.search(r"\de[+-]?\d", text)

    def test_decimals_follow_the_error(self) -> None:
        assert plus_minus(1.23456, 0.012) == "1.235 ± 0.012"
        assert plus_minus(12345.6, 300.0) == "12,346 ± 300"
        assert plus_minus(0.5, math.nan) == "0.500"
        assert number(1234.5) == "1,234"
        assert number(math.nan) == "–"

    def test_strips_are_cut_in_squares_or_by_labels(self, tmp_path: Path) -> None:
        Image.new("RGB", (24, 8), "#336699").save(tmp_path / "a.png")
        sheet = strips([("one", tmp_path / "a.png"), ("gone", tmp_path / "b.png")], [])
        assert sheet is not None
        assert strips([("gone", tmp_path / "b.png")], []) is None
        assert strips([("two", tmp_path / "a.png")], ["x", "y"]) is not None
