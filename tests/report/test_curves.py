import functools
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from kakusan.report import style
from kakusan.report.curves import (
    _moving_average,
    _thin,
    class_neighbours,
    held_out_curve,
    level_loss,
    loss_curve,
    nearest_neighbours,
)

HOSTILE = '<script>alert(1)</script> & "quoted" $x^2$ 桜'
RECORDS = [{"step": k, "loss": 1.0 / (k + 1)} for k in range(1000)] + [{"step": 500, "held_out_loss": 0.3}]


@functools.cache
def charts(title):
    levels = np.linspace(-8, 8, 9)
    floor = 1 / (1 + np.exp(levels))
    return [
        loss_curve(RECORDS, title=title),
        held_out_curve([1, 2, 3], [3.0, 2.0, 1.0], [3.0, 2.5, math.nan], title=title),
        held_out_curve([1], None, [0.5], title=title),
        level_loss(levels, floor / 2, floor, floor / 1.5, title=title),
        nearest_neighbours([1.0, 2.0, 3.0], [2.0, math.nan, 4.0], title=title),
        nearest_neighbours([1.0], [1.0], title=title),
        class_neighbours([str(k) for k in range(8)], [1.0] * 8, [2.0] * 8, ["x"] * 8, distance="d", title=title),
    ]


@pytest.mark.parametrize("index", range(7))
def test_every_chart_is_sound_svg_and_a_picture(index):
    chart = charts(HOSTILE)[index]
    svg = chart.svg()
    assert svg.count("<text") == svg.count("'DejaVu Sans', system-ui, sans-serif")
    root = ElementTree.fromstring(svg)
    assert "<script" not in svg
    texts = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert HOSTILE in texts
    image = chart.image(scale=2)
    assert image.size == (1040, 572 if index == 6 else 580)
    assert image.mode == "RGB"
    edge = np.concatenate([np.asarray(image)[[0, -1]].reshape(-1, 3), np.asarray(image)[:, [0, -1]].reshape(-1, 3)])
    assert (edge == style.rgb(style.PAPER)).all(), "something is cut off at the edge"


def test_svg_is_the_same_every_time():
    charts = [held_out_curve([1, 2], None, [2.0, 1.0], title="a") for _ in range(2)]
    assert charts[0].svg() == charts[0].svg() == charts[1].svg()


def test_drawing_leaves_matplotlib_as_it_was():
    code = (
        "import sys, matplotlib\nbefore = dict(matplotlib.rcParams)\n"
        "from kakusan.report.curves import held_out_curve\n"
        "chart = held_out_curve([1, 2], None, [2.0, 1.0])\nchart.svg()\nchart.image()\n"
        "assert dict(matplotlib.rcParams) == before\nassert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_report_modules_do_not_load_matplotlib():
    names = ["animation", "curves", "forward", "grids", "page", "pictures", "png", "reverse", "style", "svg"]
    code = f"import sys\n{''.join(f'import kakusan.report.{n}{chr(10)}' for n in names)}"
    subprocess.run(
        [sys.executable, "-c", code + "assert not {'matplotlib', 'torch', 'imageio_ffmpeg'} & set(sys.modules)"],
        check=True,
        timeout=120,
    )


def test_charts_are_saved_by_suffix(tmp_path):
    chart = held_out_curve([1, 2], None, [2.0, 1.0])
    chart.save(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == chart.svg()
    chart.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.tobytes() == chart.image().tobytes()
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        chart.save(tmp_path / "a.pdf")


def test_long_records_make_small_files():
    records = [{"step": k, "loss": 1 + math.sin(k)} for k in range(50_000)]
    assert len(loss_curve(records).svg()) < 60_000


def test_thinning_keeps_the_mean_and_short_curves():
    x = np.arange(1234.0)
    y = np.random.default_rng(0).random(1234)
    counts = np.diff(np.linspace(0, 1234, 401).astype(int))
    thin_x, thin_y = _thin(x, y)
    assert (thin_y * counts).sum() == pytest.approx(y.sum())
    assert (np.diff(thin_x) > 0).all()
    assert _thin(x[:400], y[:400])[1] is not None
    assert np.array_equal(_thin(x[:400], y[:400])[1], y[:400])


def test_moving_averages_keep_lines_and_ends():
    line = np.linspace(5, 1, 100)
    assert np.allclose(_moving_average(line, 9)[:-4], line[:-4])
    noisy = np.random.default_rng(0).random(100)
    assert _moving_average(noisy, 9)[50] == pytest.approx(noisy[46:55].mean())
    assert _moving_average(noisy, 9)[0] == pytest.approx(noisy[0])
    assert _moving_average(noisy, 9)[-1] == pytest.approx(noisy[-5:].mean())


@pytest.mark.parametrize("bad", [None, "0.5", math.nan, math.inf, True])
def test_records_without_numbers_are_passed_over(bad):
    records = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": bad}, {"loss": 1.0}, {"step": 3, "loss": 1.0}]
    (line,) = loss_curve(records).figure.axes[0].lines
    assert line.get_xydata().tolist() == [[1, 2], [3, 1]]


def test_levels_are_drawn_in_order_of_noise():
    lines = level_loss([2, -2, 0], [0.2, 0.6, 0.4], [1, 3, 2]).figure.axes[0].lines
    assert [line.get_xydata().tolist() for line in lines] == [
        [[-2, 3], [0, 2], [2, 1]],
        [[-2, 0.6], [0, 0.4], [2, 0.2]],
    ]


def test_the_best_held_out_point_and_the_percentiles_are_named():
    texts = [t.get_text() for t in held_out_curve([10, 2000, 30], None, [3, 1, 2]).figure.axes[0].get_legend().texts]
    assert texts == ["held out", "best 1 at 2,000"]
    chart = nearest_neighbours(list(range(101)), [7.0] * 3, percentile=5)
    assert [t.get_text() for t in chart.figure.axes[0].get_legend().texts] == [
        "generated, 5th percentile 5",
        "held out, 5th percentile 7",
    ]


def test_a_row_shows_its_class_as_it_is_called_and_both_distances():
    names = ["rose", "$\\broken_$", "morning glory"]
    chart = class_neighbours(names, [1.0, 2.0, math.nan], [2.0, 1.5, 1.0], ["a", "b", "c"], distance="d")
    left, right = chart.figure.axes
    chart.image()
    assert [t.get_text() for t in left.get_yticklabels()] == names
    assert [t.get_text() for t in right.get_yticklabels()] == ["a", "b", "c"]
    assert left.get_ylim() == right.get_ylim() == (2.5, -0.5)
    drawn = {line.get_label(): line.get_xdata().tolist() for line in left.lines}
    assert drawn["samples"][:2] == [1.0, 2.0]
    assert drawn["held out"] == [2.0, 1.5, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_neighbours(["a"], [1], [1, 2], [""], distance="d"), "held_out has 2 values; expected 1"),
        (lambda: loss_curve([]), "no loss to draw"),
        (lambda: held_out_curve([1, 2], None, [1]), "held_out has 1 values; expected 2"),
        (lambda: held_out_curve([], None, []), "at least one number"),
        (lambda: level_loss([1], [1], [[1]]), "floor has shape"),
        (lambda: nearest_neighbours([], [1]), "generated"),
        (lambda: nearest_neighbours([math.nan], [1]), "no finite distance"),
        (lambda: nearest_neighbours([1], [1], percentile=101), "0 to 100"),
    ],
)
def test_what_cannot_be_drawn_says_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()
