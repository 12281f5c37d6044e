"""The page of an evaluation: whole with little and with much, safe with hostile names, its figures true."""

import math
from html.parser import HTMLParser

import pytest
import torch

from kakusan.data.spec import DataSpec
from kakusan.metrics.record import MetricRecord, Provenance
from kakusan.metrics.results import EvaluationResult
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.verdict import RATIO, SCALES
from kakusan.report.evaluation import EvaluationPictures, evaluation_page
from kakusan.report.evaluation_figures import beside_null, charts, levels_figure, spectrum_figure

HOSTILE = "<script>alert('x')</script>&{0}"


def pictures(count: int = 24, classes: tuple[str, ...] = ("a", "b"), channels: int = 3) -> PictureSet:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % len(classes) if classes else None
    return PictureSet(stored, DataSpec.measure(stored, classes=classes), labels)


def record(name: str, space: str = "random", value: float = 3.0, null: float | None = 1.0) -> MetricRecord:
    of = Provenance(
        model="m" * 12, sampling={"sampler": {"type": "DDIM"}, "num_steps": 9}, extractor="e", reference="r"
    )
    better = "high" if name in ("precision", "recall", "density", "coverage") else "low"
    return MetricRecord(name, value, 0.2, 24, of, space, null, None if null is None else 0.1, better)


def full(subject: str = "runs/x", **more: object) -> EvaluationResult:
    values = {
        "faults": ({"name": "blurred", "verdict": f"soft {HOSTILE}", "evidence": [record("sharpness").record()]},),
        "memorisation": {
            "verdict": "2 of 24 samples",
            "space": "random",
            "samples": [0.1, 0.2, 0.3, 0.4],
            "held_out": [0.2, 0.3, 0.4],
        },
        "classes": ({"class": HOSTILE, "judged right": 0.5},),
        "curves": {
            "spectrum": {
                "frequencies": [0.1, 0.2, 0.3],
                "samples": [1.0, 0.0, -1.0],
                "real": [1.0, 0.5, 0.0],
                "spread": [0.1] * 3,
            },
            "levels": {"log_snr": [-5.0, 0.0, 5.0], "gap": [0.0, 0.1, 0.0], "stderr": [0.01] * 3},
        },
        "cost": {"network_calls": 9.0, "parameters": 1_700_000, "flops": 2e9},
        "notes": (HOSTILE,),
        "circumstances": {"date": "2026", "seconds_per_sample": 0.05},
        **more,
    }
    records = [record(name, space) for name in (*SCALES, "mean of red") for space in ("random", "classifier")]
    return EvaluationResult(subject, records, **values)  # type: ignore[arg-type]


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def read(result: EvaluationResult, **more: object) -> Reader:
    shown = EvaluationPictures(**{"samples": pictures(), "real": pictures(), **more})  # type: ignore[arg-type]
    return Reader(evaluation_page(result, shown).html())


def test_the_page_says_what_was_found_and_runs_nobody_s_script() -> None:
    page = read(full(subject=HOSTILE), suspicious=(pictures(3), pictures(3)))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 4  # title, fault, class, note
    for said in ("blurred", "2 of 24 samples", "1.7 M", "2 G", "50 ms", "mean of red", "DDIM", "m" * 12):
        assert said in page.text
    assert page.tags.count("img") == 2
    assert page.tags.count("svg") == 7  # four scales, spectrum, distances, levels


@pytest.mark.parametrize(
    "more",
    [
        {"records": ()},
        {"faults": (), "memorisation": {}, "classes": (), "curves": {}, "cost": {}, "circumstances": {}},
        {"complete": False},
    ],
)
def test_what_is_not_there_is_left_out(more: dict) -> None:
    values = {**vars(full()), **more}
    page = read(EvaluationResult(**values))
    assert ("stopped before its end" in page.text) is not values["complete"]
    assert ("Class by class" in page.text) is bool(values["classes"])


@pytest.mark.parametrize("kind", [{"classes": ()}, {"channels": 1}, {"count": 5}])
def test_all_kinds_of_pictures_are_shown(kind: dict) -> None:
    # Without figures, which take long and are not what this is about.
    bare = EvaluationResult("x", ())
    assert read(bare, samples=pictures(**kind), real=pictures(**kind)).tags.count("img") == 1


def test_a_distance_is_drawn_as_the_ratio_to_its_null() -> None:
    (axes, _) = beside_null(RATIO, [record("frechet", value=6.0, null=2.0)]).figure.axes
    dots = [float(line.get_xdata()[0]) for line in axes.get_lines() if line.get_marker() == "o"]
    assert dots == [3.0]
    assert axes.get_xscale() == "log"


def test_records_are_shown_by_their_scale_and_without_a_null_not_at_all() -> None:
    found = charts(
        [record("frechet"), record("sliced"), record("kernel"), record("recall"), record("recall", null=None)]
    )
    assert [title for title, _ in found] == [SCALES["frechet"].title, SCALES["kernel"].title, SCALES["recall"].title]
    assert not charts([record("mean of red")])


def test_the_spectrum_is_a_multiple_of_the_real_one() -> None:
    chart = spectrum_figure(
        {"frequencies": [0.1, 0.4], "samples": [math.log(10.0), 0.0], "real": [0.0, 0.0], "spread": [1.0, 1.0]}
    )
    lines = {line.get_label(): line.get_ydata() for line in chart.figure.axes[0].get_lines()}
    assert list(lines["samples, mean"]) == pytest.approx([1.0, 0.0])
    # Ten times as much lies above the eighth: marks stand at powers of two.
    assert [text.get_text() for text in chart.figure.axes[0].get_yticklabels()][-1] == "×8"


def test_losses_by_level_have_their_errors() -> None:
    levels = {"log_snr": [-1.0, 1.0], "gap": [0.0, 0.5], "stderr": [0.1, 0.2]}
    axes = levels_figure(levels).figure.axes[0]
    segments = axes.containers[0].lines[2][0].get_segments()
    assert [float(s[1][1] - s[0][1]) for s in segments] == pytest.approx([0.4, 0.8])
