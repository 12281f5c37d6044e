import importlib
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kakusan.report import animation, style
from kakusan.report.animation import WRITERS, save_animation, save_gif, save_mp4, save_webp


def noisy_frames(count, size=(33, 21)):
    random = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        sheet = style.canvas(*size)
        noise = random.integers(0, 256, (size[1] - 8, size[0] - 8, 3), dtype=np.uint8)
        sheet.paste(Image.fromarray(noise), (4, 4))
        frames.append(sheet)
    return frames


def read(path):
    with Image.open(path) as image:
        found = []
        for k in range(image.n_frames):
            image.seek(k)
            found.append((image.convert("RGB"), image.info["duration"]))
        return found, image.info.get("loop")


def test_few_colours_are_kept_exactly(tmp_path):
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (200, 3), dtype=np.uint8)
    frames = [Image.fromarray(colours[random.integers(0, 200, (17, 23))]) for _ in range(5)]
    save_gif(frames, tmp_path / "a.gif", 10)
    found, loop = read(tmp_path / "a.gif")
    assert loop == 0
    assert [d for _, d in found] == [100] * 5
    for frame, (image, _) in zip(frames, found, strict=True):
        assert image.tobytes() == frame.tobytes()


@given(st.integers(0, 2**24 - 257), st.integers(1, 256))
def test_close_colours_stay_apart(first, count):
    packed = np.arange(first, first + count)
    pixels = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)[None]
    frames = [Image.fromarray(pixels), Image.fromarray(pixels[:, ::-1].copy())]
    for frame, indexed in zip(frames, animation._indexed(frames), strict=True):
        assert indexed.convert("RGB").tobytes() == frame.tobytes()


def test_enlarged_pixels_stay_squares(tmp_path):
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    frames = [Image.fromarray(v.repeat(4, 0).repeat(4, 1)) for v in small]
    save_gif(frames, tmp_path / "a.gif", 10)
    for image, _ in read(tmp_path / "a.gif")[0]:
        squares = np.asarray(image).reshape(12, 4, 16, 4, 3)
        assert (squares == squares[:, :1, :, :1]).all()


def test_one_palette_serves_every_frame_and_paper_stays_paper(tmp_path):
    frames = noisy_frames(6)
    save_gif(frames, tmp_path / "a.gif", 10)
    content = (tmp_path / "a.gif").read_bytes()
    assert content[10] & 0x80, "no global palette"
    for k in range(len(content) - 9):
        # An image descriptor at its place says whether it brings a palette of its own.
        if content[k] == 0x2C and content[k - 1] == 0 and content[k + 5 : k + 9] == bytes([33, 0, 21, 0]):
            assert not content[k + 9] & 0x80
    for image, _ in read(tmp_path / "a.gif")[0]:
        edge = np.asarray(image)[:3]
        assert (edge == style.rgb(style.PAPER)).all()


def test_many_colours_stay_close(tmp_path):
    y, x = np.mgrid[0:64, 0:64]
    frames = [Image.fromarray(np.stack([x * 4, y * 4, x * 0 + 60 * k], -1).astype(np.uint8)) for k in range(3)]
    save_gif(frames, tmp_path / "a.gif", 5)
    for frame, (image, _) in zip(frames, read(tmp_path / "a.gif")[0], strict=True):
        true, found = (np.asarray(i, float).reshape(16, 4, 16, 4, 3).mean((1, 3)) for i in (frame, image))
        assert np.abs(true - found).mean() < 2.5


def test_webp_is_lossless(tmp_path):
    frames = noisy_frames(3)
    save_webp(frames, tmp_path / "a.webp", 20)
    for frame, (image, duration) in zip(frames, read(tmp_path / "a.webp")[0], strict=True):
        assert image.tobytes() == frame.tobytes()
        assert duration == 50


@given(st.integers(1, 300), st.floats(0.1, 50))
def test_the_whole_lasts_as_long_as_asked(count, fps):
    durations = animation._durations(count, fps, 0.0, most=50)
    assert abs(sum(durations) - 1000 * count / fps) <= 5.001
    assert all(d % 10 == 0 and d >= 20 - 10 * (fps > 33) for d in durations)


def test_the_last_frame_is_held(tmp_path):
    save_gif(noisy_frames(3), tmp_path / "a.gif", 10, hold=1.5)
    assert [d for _, d in read(tmp_path / "a.gif")[0]] == [100, 100, 1600]


@pytest.mark.parametrize(
    ("fps", "hold", "message"), [(0, 0, "fps"), (60, 0, "at most 50"), (float("nan"), 0, "fps"), (10, -1, "hold")]
)
def test_impossible_speeds_are_refused(tmp_path, fps, hold, message):
    with pytest.raises(ValueError, match=message):
        save_gif(noisy_frames(2), tmp_path / "a.gif", fps, hold=hold)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".GIF"])
def test_the_suffix_chooses_the_writer(tmp_path, suffix):
    save_animation(iter(noisy_frames(2)), tmp_path / f"a{suffix}", 10)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.format == suffix[1:].upper()


def test_unknown_suffixes_and_unequal_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.avi'.*\.gif, \.mp4, \.webp"):
        save_animation(noisy_frames(2), tmp_path / "a.avi", 10)
    for writer in WRITERS.values():
        with pytest.raises(ValueError, match="one size"):
            writer([Image.new("L", (2, 2)), Image.new("L", (2, 3))], tmp_path / "a", 10)
        with pytest.raises(ValueError, match="no frames"):
            writer([], tmp_path / "a", 10)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_mp4_names_it(tmp_path, monkeypatch):
    real = importlib.import_module

    def without(name, *rest):
        if name == "imageio_ffmpeg":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "kakusan\[video\]"'):
        save_mp4(noisy_frames(2), tmp_path / "a.mp4", 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(64, 48), (33, 21)])
def test_mp4_holds_the_frames(tmp_path, size):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = [style.canvas(*size), Image.new("RGB", size, (20, 40, 90)), Image.new("RGB", size, (200, 40, 30))]
    save_mp4(frames, tmp_path / "a.mp4", 10, hold=0.2)
    width, height = size[0] + size[0] % 2, size[1] + size[1] % 2
    command = [ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "a.mp4"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, capture_output=True).stdout
    found = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(found) == 5
    for frame, image in zip([*frames, frames[-1], frames[-1]], found, strict=True):
        assert np.abs(image[: size[1], : size[0]].astype(int) - np.asarray(frame)).max() < 10
