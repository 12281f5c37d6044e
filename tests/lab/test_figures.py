"""The figures and the page: they hold what they claim, and the page stands alone."""

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from kakusan import grids
from kakusan.data.toys import TOYS
from kakusan.lab import (
    Lab,
    LabPage,
    Panel,
    View,
    density,
    draw_density,
    draw_errors,
    draw_families,
    draw_field,
    draw_trajectories,
    exact_denoiser,
    follow,
    forward_frames,
    lab_page,
    level_times,
    sampling_frames,
    save,
    score,
    solver_errors,
    stage_data,
    start,
)
from kakusan.lab.colours import by_angle, circle, ramp
from kakusan.lab.figures import _apart, arrow_steps, shade
from kakusan.report.png import read_record
from kakusan.samplers import DDIM, DDPM, SAMPLERS
from kakusan.schedules import Rectified, VarianceExploding, VariancePreserving

TOY = TOYS["mixture"]
EXACT = exact_denoiser(TOY, VariancePreserving())
VIEW = View(3.6, 24)


@pytest.fixture(scope="module")
def runs():
    return [
        follow(EXACT, sampler, grids.karras(EXACT.schedule, 5), count=12, label=label)
        for label, sampler in (("a <run> & $x", DDIM()), ("ancestral", DDPM()))
    ]


def test_a_filmstrip_has_a_window_for_each_time():
    assert len(draw_density(EXACT, VIEW).axes) == 6
    figure = draw_density(EXACT, VIEW, [0.0, 0.5], title="")
    assert len(figure.axes) == 2
    for axes, t in zip(figure.axes, (0.0, 0.5), strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), shade(density(EXACT, VIEW, t)).numpy())
        assert axes.get_aspect() == 1.0
    assert not figure.texts


@pytest.mark.parametrize("schedule", [VariancePreserving(), VarianceExploding()], ids=lambda s: type(s).__name__)
def test_drawn_arrows_point_along_the_field(schedule):
    exact = exact_denoiser(TOY, schedule)
    figure = draw_field(exact, exact, VIEW, [0.4], arrows=8)
    (quiver,) = [c for c in figure.axes[0].collections if hasattr(c, "U")]
    drawn = torch.stack([torch.as_tensor(quiver.U), torch.as_tensor(quiver.V)], 1)
    field = score(exact, View(VIEW.half, 8), 0.4).reshape(-1, 2)
    cosine = torch.nn.functional.cosine_similarity(drawn.to(field), field)
    assert float(cosine.min()) > 1.0 - 1e-6
    lengths, sizes = drawn.norm(dim=1).to(field), field.norm(dim=1)
    torch.testing.assert_close(lengths / lengths.max(), (sizes / sizes.max()).sqrt(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="did you mean 'velocity'"):
        draw_field(exact, exact, VIEW, kind="velocty")


def test_no_arrow_is_longer_than_its_cell_and_a_quarter():
    mesh = View(2.0, 9)
    field = torch.randn(9, 9, 2, dtype=torch.float64) * 10.0 ** torch.linspace(-3, 3, 9).view(9, 1, 1)
    assert float(arrow_steps(field, mesh).norm(dim=-1).max()) == pytest.approx(1.25 * 4.0 / 9.0)
    assert bool((arrow_steps(torch.zeros(9, 9, 2), mesh) == 0.0).all())


def test_trajectories_end_at_the_samples(runs, tmp_path):
    figure = draw_trajectories(runs, EXACT, VIEW, flow=runs[0], name="set")
    for axes, run in zip(figure.axes, runs, strict=True):
        np.testing.assert_allclose(axes.collections[-1].get_offsets(), run.end.numpy())
        segments = axes.collections[0].get_segments()
        ends = {tuple(np.round(segment[-1], 9)) for segment in segments}
        assert ends <= {tuple(np.round(row, 9)) for row in run.end.numpy()}
    save(draw_families(runs, EXACT, VIEW), tmp_path / "a.png", {"kind": "lab"})
    assert read_record(tmp_path / "a.png") == {"kind": "lab"}
    save(figure, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text("utf-8").count("<svg") == 1


def test_the_error_figure_draws_what_was_measured():
    found = solver_errors(EXACT, {"ddim": SAMPLERS["ddim"], "heun": SAMPLERS["heun"]}, steps=(4, 8, 16), count=4)
    figure = draw_errors(found, title="errors of two")
    assert [text.get_text() for text in figure.texts] == ["errors of two"]
    for line, curve in zip(figure.axes[0].lines, found, strict=True):
        assert line.get_ydata().tolist() == list(curve.errors)
        assert line.get_xdata().tolist() == list(curve.steps)
    written = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert all(f"slope {curve.order:.1f}" in written for curve in found)


def test_labels_of_lines_that_end_together_do_not_overlap():
    places = sorted(_apart([1e-3, 1.01e-3, 1.02e-3, 0.5], 1e-3, 0.5))
    assert min(b - a for a, b in itertools.pairwise(places)) >= 0.062 - 1e-9
    assert places[-1] <= 1.0


def test_the_density_scale_only_darkens_and_its_opposite_only_lightens():
    weights = np.array([0.2126, 0.7152, 0.0722])
    for dark in (False, True):
        lightness = ramp(dark=dark) ** 2.2 @ weights
        assert (np.diff(lightness) > 0 if dark else np.diff(lightness) < 0).all()


def test_colours_tell_directions_apart_also_without_red_and_green():
    colours = circle(np.linspace(0.0, 2.0 * np.pi, 12, endpoint=False))
    assert len(set(colours)) == 12
    values = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours]) / 255.0
    # Deuteranopia (Vienot et al. 1999): red and green become one mixture.
    seen = values @ np.array([[0.29, 0.71, 0.0], [0.29, 0.71, 0.0], [-0.02, 0.02, 1.0]]).T
    apart = [np.linalg.norm(seen[i] - seen[j]) for i in range(12) for j in range(i)]
    assert min(apart) > 0.02
    assert by_angle(torch.tensor([[2.0, 0.0]])) == by_angle(torch.tensor([[0.5, 0.0]]))


def test_frames_are_as_many_and_as_large_as_asked(runs):
    forward = forward_frames(EXACT, VIEW, count=3)
    sampling = sampling_frames(runs, [EXACT, EXACT], VIEW, count=3)
    for frames in (forward, sampling):
        assert len(frames) == 3
        assert len({frame.size for frame in frames}) == 1
        assert all(a.tobytes() != b.tobytes() for a, b in itertools.pairwise(frames))
    with pytest.raises(ValueError, match="at least 2"):
        forward_frames(EXACT, VIEW, count=1)


class Reader(HTMLParser):
    """Elements and the texts of scripts, as a browser reads them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.scripts, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in {"meta", "img", "br", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page():
    lab = Lab("mixture", TOY, VariancePreserving(), num_steps=4, points=16)
    return lab, lab_page(lab, "kakusan lab mixture </script><b>").html()


def test_the_page_is_whole_and_asks_nobody(page):
    reader = Reader(page[1])
    assert not reader.open
    assert not re.findall(r"https?://(?!www\.w3\.org/)", page[1])
    assert not [a for _, attributes in reader.elements for a in ("src", "href") if "://" in attributes.get(a, "")]
    policy = next(a["content"] for a in reader.of("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    digest = hashlib.sha256(reader.scripts[1].encode()).digest()
    assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_the_page_holds_every_frame_and_every_point(page):
    lab, text = page
    data = json.loads(Reader(text).scripts[0])
    frames, cells = data["frames"], data["cells"]
    assert frames == len(data["levels"]) == 61
    assert all(len(base64.b64decode(d)) == frames * cells**2 for d in data["densities"])
    assert all(len(base64.b64decode(f)) == frames * data["arrows"] ** 2 * 2 for f in data["fields"].values())
    times = level_times(lab.schedule, frames)
    first = np.frombuffer(base64.b64decode(data["densities"][0]), np.uint8).reshape(frames, cells, cells)
    for k in (0, 30, 60):
        expected = shade(density(lab.exact, View(lab.view.half, cells), times[k])).numpy()
        assert np.abs(first[k] / 255.0 - expected).max() <= 0.5 / 255.0 + 1e-9
    panels = [*lab.trajectories, *(run for run, _ in lab.families)]
    assert len(data["runs"]) == len(panels) == 6
    for stored, run in zip(data["runs"], panels, strict=True):
        x = np.frombuffer(base64.b64decode(stored["x"]), "<i2").reshape(run.x.shape) * data["unit"]
        assert np.abs(x - run.shown.numpy()).max() <= data["unit"]
        assert stored["at"] == sorted(stored["at"], reverse=True)
        assert stored["at"][-1] == 0.0
        assert len(stored["at"]) == len(run.times)
    assert len(data["colours"]) == 16


def test_the_page_is_worked_from_the_keyboard(page):
    reader = Reader(page[1])
    kinds = [a.get("type") for a in reader.of("input")]
    assert kinds.count("range") == 1
    assert kinds.count("radio") == 3
    assert all(a.get("type") == "button" for a in reader.of("button"))
    assert all(a.get("aria-label") and a.get("role") == "img" for a in reader.of("canvas"))
    assert len(reader.of("canvas")) == 7
    assert any("width=device-width" in a.get("content", "") for a in reader.of("meta"))
    assert "prefers-color-scheme:dark" in page[1]


def test_headings_are_never_markup(runs):
    panels = [Panel(run, EXACT, note="<i>") for run in runs]
    made = LabPage("t").stage(stage_data(EXACT, EXACT, panels, view=VIEW, frames=2), {"<u>": panels}, forward="<b>")
    assert not {"b", "i", "u", "run"} & {tag for tag, _ in Reader(made.html()).elements}
    with pytest.raises(ValueError, match="one slider"):
        made.stage({}, {}, forward="")
    assert "<script" not in LabPage("t").html()
    with pytest.raises(ValueError, match="none"):
        stage_data(EXACT, EXACT, [], view=VIEW)


def test_one_lab_shares_its_noise():
    lab = Lab("rings", TOYS["rings"], Rectified(), num_steps=4, points=6, seed=3)
    few, many, flow = lab.trajectories
    assert (few.steps, many.steps, flow.steps) == (1, 4, None)
    assert torch.equal(many.x[0], flow.x[0])
    torch.testing.assert_close(many.x[0], start(lab.exact, 6, seed=3, t=float(many.times[0])))
    noises = [run.x[0] / float(exact.schedule.sigma(run.times[0])) for run, exact in lab.families]
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="at least 1 step"):
        Lab("rings", TOYS["rings"], Rectified(), num_steps=0)
