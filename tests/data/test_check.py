"""The report on a folder of pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from kakusan.data.check import _Look, _look_alike, check_folder, difference_hash
from kakusan.data.metadata import Entry
from kakusan.data.reading import Header, Picture

RNG = np.random.default_rng(0)


def noise(height: int = 24, width: int = 24, channels: int = 3) -> Image.Image:
    values = RNG.integers(0, 256, (height, width, channels)).astype(np.uint8)
    return Image.fromarray(values if channels > 1 else values[:, :, 0])


def put(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def test_everything_is_counted(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / "cat" / f"{i}.png", noise(20 + 10 * i, 40))
    put(tmp_path / "dog" / "0.png", noise(20, 40, 1))
    put(tmp_path / "dog" / "1.jpg", noise(20, 40, 1))
    (tmp_path / "dog" / "bad.png").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_text("x")
    report = check_folder(tmp_path)
    assert report.pictures == 5
    assert list(report.unreadable) == ["dog/bad.png"]
    assert report.modes == {"RGB 8-bit": 3, "L 8-bit": 2}
    assert report.formats == {"PNG": 4, "JPEG": 1}
    assert report.classes == {"cat": 3, "dog": 2}
    assert report.sizes[0] == (20, 40, 3)
    assert report.short_side == (20, 20.0, 40)
    assert report.captions == 0
    assert json.loads(json.dumps(report.to_json()))["pictures"] == 5
    text = report.text()
    for part in ("5 readable, 1 unreadable", "dog/bad.png: not a PNG", "all become RGB", "fewer than 10", "notes.txt"):
        assert part in text


def test_values_are_those_of_the_pixels(tmp_path: Path) -> None:
    images = [noise(10, 30, 4), noise(20, 10, 4)]
    for i, image in enumerate(images):
        put(tmp_path / f"{i}.png", image)
    pixels = np.concatenate([np.asarray(i).reshape(-1, 4) for i in images])
    found = check_folder(tmp_path).ranges["RGBA 8-bit"]
    assert [(c.least, c.most) for c in found] == list(zip(pixels.min(0), pixels.max(0), strict=True))
    np.testing.assert_allclose([c.mean for c in found], pixels.mean(0))


def test_copies_and_look_alikes_are_found(tmp_path: Path) -> None:
    image = noise(64, 64).filter(ImageFilter.GaussianBlur(6))
    put(tmp_path / "a.png", image)
    put(tmp_path / "b.png", image)
    put(tmp_path / "c.jpg", image)
    put(tmp_path / "small.png", image.resize((40, 40)))
    for i in range(20):
        put(tmp_path / f"other{i}.png", noise(64, 64).filter(ImageFilter.GaussianBlur(6)))
    report = check_folder(tmp_path)
    assert report.duplicates == (("a.png", "b.png"),)
    assert {frozenset(pair) for pair in report.look_alike} == {
        frozenset(p) for p in (("a.png", "c.jpg"), ("a.png", "small.png"), ("c.jpg", "small.png"))
    }


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63))))
@settings(deadline=None)
def test_look_alikes_are_all_pairs_within_two_bits(hashes: list[int], flips: list[tuple[int, int]]) -> None:
    near = [h ^ (1 << a) ^ (1 << b) for h, (a, b) in zip(hashes, flips, strict=False)]
    values = list(dict.fromkeys(hashes + near))
    header = Header(1, 1, "L", 1, 8, "PNG")
    one, two = np.array([1]), np.array([2])
    looks = [_Look(Entry(str(i), str(i)), header, str(i), h, one, two, one) for i, h in enumerate(values)]
    found, complete = _look_alike(looks)
    expected = {
        (str(i), str(j))
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= 2
    }
    assert complete
    assert set(found) == expected


def test_the_hash_survives_scale_and_brightness() -> None:
    image = noise(64, 64).filter(ImageFilter.GaussianBlur(6))
    dark = image.point(lambda v: v // 2)
    hashes = [difference_hash(Picture(np.asarray(i), "RGB")) for i in (image, image.resize((48, 48)), dark)]
    assert max((a ^ b).bit_count() for a in hashes for b in hashes) <= 6
    other = noise(64, 64).filter(ImageFilter.GaussianBlur(6))
    assert (hashes[0] ^ difference_hash(Picture(np.asarray(other), "RGB"))).bit_count() > 12


def test_advice_on_few_flat_and_unequal(tmp_path: Path) -> None:
    for i in range(22):
        put(tmp_path / "many" / f"{i}.png", noise(8, 8))
    put(tmp_path / "one" / "0.png", Image.new("RGB", (8, 8), (9, 9, 9)))
    report = check_folder(tmp_path)
    assert report.constant == ("one/0.png",)
    advice = "\n".join(report.advice)
    for part in ("23 pictures are few", "one (1)", "22 times", "one colour only"):
        assert part in advice


def test_what_would_stop_training_is_said(tmp_path: Path) -> None:
    put(tmp_path / "a.png", noise())
    np.save(tmp_path / "b.npy", np.zeros((8, 8, 7), np.uint8))
    assert any("training will stop: arrays and pictures" in line for line in check_folder(tmp_path).advice)


def test_a_folder_where_nothing_is_readable_still_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"junk")
    report = check_folder(tmp_path)
    assert (report.pictures, len(report.unreadable)) == (0, 1)
    assert "a.png" in report.text()
    with pytest.raises(ValueError, match="does not exist"):
        check_folder(tmp_path / "nowhere")
