import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.report import style
from kakusan.report.forward import ProcessCurves, disc, forward_frames, forward_layout, forward_strip
from kakusan.report.reverse import reverse_strip, trajectory_frames

TIMES = np.linspace(0, 1, 101)


def cosine():
    alpha, sigma = np.cos(TIMES * math.pi / 2), np.sin(TIMES * math.pi / 2)
    with np.errstate(divide="ignore"):
        return ProcessCurves(TIMES, 2 * np.log(alpha / sigma), alpha=alpha, sigma=sigma)


def pictures(count, size=16):
    values = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Image.fromarray(v) for v in values]


@settings(deadline=None, max_examples=8)
@given(st.integers(2, 9), st.integers(4, 40))
def test_equal_times_stand_exactly_above_their_markers(count, size):
    curves = ProcessCurves(TIMES, 10 - 20 * TIMES)
    times = np.linspace(0, 1, count)
    images = pictures(count, size)
    layout = forward_layout(images, times, curves)
    for (left, _, right, _), (x, _) in zip(layout.boxes, layout.markers, strict=True):
        assert x == pytest.approx((left + right) / 2, abs=1e-9)
    heights = [y for _, y in layout.markers]
    # A straight log-SNR has markers on a straight line, falling down the sheet.
    assert np.allclose(np.diff(heights), (heights[-1] - heights[0]) / (count - 1))
    assert heights[-1] > heights[0]


def test_markers_lie_on_the_drawn_curve_at_any_times():
    curves = cosine()
    times = [0.07, 0.1, 0.5, 0.93]
    images = pictures(4)
    sheet, layout = forward_strip(images, times, curves), forward_layout(images, times, curves)
    assert sheet.size == layout.size
    pixels = np.asarray(sheet).astype(int)
    first, last = ((box[0] + box[2]) / 2 for box in (layout.boxes[0], layout.boxes[-1]))
    for t, (x, y) in zip(times, layout.markers, strict=True):
        assert x == pytest.approx(first + t * (last - first))
        assert tuple(pixels[int(y), int(x)]) == style.rgb(style.VERMILION)
        # The line drawn by matplotlib, seven pixels to the side, is where the marker's own arithmetic says.
        beside = forward_layout(images, [t + 7 / (last - first), 0.5, 0.5, 0.5], curves).markers
        side = (beside[0][0], beside[0][1] + layout.markers[2][1] - beside[2][1])
        column = pixels[int(side[1]) - 30 : int(side[1]) + 30, int(side[0])]
        near = np.abs(column - style.rgb(style.INDIGO)).sum(1) < 60
        middle = np.flatnonzero(near).mean() + int(side[1]) - 30 + 0.5
        assert middle == pytest.approx(side[1], abs=1.5)


def test_pictures_on_the_strip_are_exact():
    images = pictures(5, 32)
    options = {"title": "桜", "scale": 2}
    layout = forward_layout(images, np.linspace(0, 1, 5), cosine(), **options)
    sheet = forward_strip(images, np.linspace(0, 1, 5), cosine(), **options)
    for image, box in zip(images, layout.boxes, strict=True):
        assert np.array_equal(np.asarray(sheet.crop(box)), np.asarray(image).repeat(2, 0).repeat(2, 1))


def test_one_picture_and_wide_sigmas_can_be_drawn():
    sigma = 0.002 * (80 / 0.002) ** TIMES
    curves = ProcessCurves(TIMES, -2 * np.log(sigma), alpha=np.ones(101), sigma=sigma)
    (box,) = forward_layout(pictures(1), [0.5], curves).boxes
    assert forward_strip(pictures(1), [0.5], curves).width > box[2]


def test_frames_are_of_one_size_and_the_marker_moves():
    images = pictures(4)
    frames = forward_frames(images, [0.05, 0.3, 0.6, 0.95], cosine())
    assert len({frame.size for frame in frames}) == 1
    places = []
    for frame in frames:
        pixels = np.asarray(frame)[300:480].astype(int)
        red = np.abs(pixels - style.rgb(style.VERMILION)).sum(-1) < 8
        places.append(np.argwhere(red).mean(0))
    assert all(a[1] < b[1] and a[0] < b[0] for a, b in itertools.pairwise(places))


def test_infinite_ends_are_left_out():
    curves = cosine()
    assert np.isinf(curves.log_snr[0])
    forward_strip(pictures(2), [0, 1], curves)


def test_discs_are_centred():
    sheet = style.canvas(40, 40)
    disc(sheet, 20.5, 13.25, 6.0, "#000000")
    dark = 255.0 - np.asarray(sheet.convert("L"))
    dark -= dark.min()
    y, x = np.mgrid[0:40, 0:40] + 0.5
    assert (x * dark).sum() / dark.sum() == pytest.approx(20.5, abs=0.1)
    assert (y * dark).sum() / dark.sum() == pytest.approx(13.25, abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ProcessCurves([0, 0], [1, 2]), "rising"),
        (lambda: ProcessCurves([0, 1], [1, 2, 3]), "must agree"),
        (lambda: ProcessCurves([0, 1], [1, math.inf]), "fewer than two finite"),
        (lambda: forward_strip(pictures(2), [0.5], cosine()), "one time for each frame"),
        (lambda: forward_strip(pictures(1), [1.5], cosine()), "within the curve's own"),
        (lambda: forward_strip([], [], cosine()), "no frames"),
        (lambda: forward_strip([*pictures(1), *pictures(1, 5)], [0, 1], cosine()), "one size"),
        (lambda: reverse_strip(pictures(2), pictures(1), [1, 0]), "x0 has 1 entries for 2 times"),
        (lambda: reverse_strip([], [], []), "no steps"),
        (lambda: trajectory_frames([pictures(2), pictures(1)], None, [1, 0]), "same number"),
        (lambda: trajectory_frames([pictures(2)], None, [1], sigmas=[1, 2]), "sigmas has 2 entries"),
        (lambda: trajectory_frames([[]], None, [1]), "no frames"),
    ],
)
def test_what_does_not_fit_together_says_so(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_reverse_strip_has_both_rows_in_order():
    x_t, x0 = pictures(3, 96), pictures(4, 96)[:3]
    sheet = np.asarray(reverse_strip(x_t, x0, [1.0, 0.5, 0.0], sigmas=[80, 1, 0.002], title="noise to picture"))
    places = []
    for image in [*x_t, *x0]:
        part = np.asarray(image)
        found = [
            (y, x)
            for y, x in np.argwhere((sheet[:-95, :-95] == part[0, 0]).all(-1))
            if np.array_equal(sheet[y : y + 96, x : x + 96], part)
        ]
        assert len(found) == 1
        places.append(found[0])
    assert places[:3] == sorted(places[:3], key=lambda p: p[1])
    assert {p[0] for p in places[:3]} != {p[0] for p in places[3:]}
    assert [p[1] for p in places[:3]] == [p[1] for p in places[3:]]


def test_trajectories_show_the_step():
    steps = [pictures(5, 8) for _ in range(4)]
    frames = trajectory_frames(steps, steps, [1, 0.6, 0.3, 0], sigmas=[80, 5, 1, 0])
    assert len({frame.size for frame in frames}) == 1
    done = [(np.asarray(frame) == style.rgb(style.INDIGO)).all(-1).sum() for frame in frames]
    assert done[0] == 0
    assert np.allclose(np.diff(done), done[-1] / 3, atol=8)
    assert trajectory_frames([[p] for p in pictures(2)], None, [1, 0])[0].width < frames[0].width
