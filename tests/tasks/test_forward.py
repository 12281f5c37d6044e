"""The forward process on one's own picture, of any kind, to any file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kakusan.choices import SCHEDULES
from kakusan.tasks.forward import draw_file, noised, visible

KINDS = {
    "colour.png": ("RGB", (40, 30)),
    "gray.png": ("L", (33, 17)),
    "alpha.png": ("RGBA", (20, 40)),
    "photo.jpg": ("RGB", (300, 200)),
    "deep.png": ("I;16", (24, 24)),
    "palette.png": ("P", (16, 16)),
    "one.png": ("RGB", (1, 1)),
}


def picture(path: Path, mode: str, size: tuple[int, int]) -> Path:
    generator = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(generator.integers(0, 65536, size[::-1]).astype(np.uint16))
    else:
        image = Image.fromarray(generator.integers(0, 256, (*size[::-1], 4)).astype(np.uint8)).convert(mode)
    image.save(path)
    return path


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_of_picture_is_drowned(tmp_path: Path, name: str) -> None:
    file = picture(tmp_path / name, *KINDS[name])
    line = draw_file(file, tmp_path / "out" / "strip.png")
    assert "10 times of Cosine" in line
    with Image.open(tmp_path / "out" / "strip.png") as strip:
        assert strip.width > strip.height / 4


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_every_schedule_can_be_shown(tmp_path: Path, schedule: str) -> None:
    file = picture(tmp_path / "a.png", "RGB", (12, 12))
    draw_file(file, tmp_path / "strip.png", schedule=schedule, times=(0.0, 0.5, 1.0))
    assert (tmp_path / "strip.png").is_file()


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_runs_through_all_times(tmp_path: Path, suffix: str) -> None:
    file = picture(tmp_path / "a.png", "RGB", (12, 12))
    draw_file(file, tmp_path / f"a{suffix}", frames=5)
    with Image.open(tmp_path / f"a{suffix}") as animation:
        assert animation.n_frames == 5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"times": (0.2, 1.2)}, r"times lie in \[0, 1\]"),
        ({"size": 0}, "size must be at least 1"),
        ({"frames": 1}, "frames at least 2"),
        ({"shift": -1.0}, "shift"),
    ],
)
def test_wrong_wishes_are_refused(tmp_path: Path, options: dict, match: str) -> None:
    file = picture(tmp_path / "a.png", "RGB", (12, 12))
    with pytest.raises(ValueError, match=match):
        draw_file(file, tmp_path / "strip.png", **options)


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.png"):
        draw_file(tmp_path / "a.png", tmp_path / "strip.png")
    with pytest.raises(FileNotFoundError):
        draw_file(tmp_path / "b.png", tmp_path / "strip.png")
    with pytest.raises(ValueError, match="txt"):
        draw_file(picture(tmp_path / "c.png", "L", (9, 9)), tmp_path / "strip.txt")


@pytest.mark.parametrize("schedule", ["cosine", "rectified", "karras"])
def test_it_begins_at_the_picture_and_ends_in_the_same_noise(schedule: str) -> None:
    process = SCHEDULES[schedule]
    x0 = torch.linspace(-1, 1, 48).view(3, 4, 4)
    x_t = noised(x0, process, [process.t_min, 0.5, process.t_max], seed=2)
    torch.testing.assert_close(x_t[0], x0, rtol=0, atol=0.02)
    level = process.t_max
    alpha, sigma = float(process.alpha(torch.tensor(level))), float(process.sigma(torch.tensor(level)))
    eps = (x_t[2] - alpha * x0) / sigma
    assert abs(float(eps.mean())) < 0.5
    assert torch.equal(noised(x0, process, [0.5], seed=2)[0], x_t[1])
    assert float(visible(x_t, process, [process.t_min, 0.5, process.t_max]).std()) < 2.0
