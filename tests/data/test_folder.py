"""Opening folders and zip files of pictures."""

import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kakusan.data.fit import Pad
from kakusan.data.folder import LazyPictures, open_folder
from kakusan.data.modes import to_mode
from kakusan.data.source import ArrayPictures
from kakusan.data.store import natural_key

RNG = np.random.default_rng(0)


def put(path: Path, mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> np.ndarray:
    """Write a picture of (height, width) noise and return it as (H, W, C)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = 1 if mode == "I;16" else len(mode)
    if mode == "I;16":
        values = RNG.integers(0, 65536, size).astype(np.uint16)
        Image.fromarray(values).save(path)
    else:
        values = RNG.integers(0, 256, (*size, channels)).astype(np.uint8)
        Image.fromarray(values if channels > 1 else values[:, :, 0]).save(path)
    return values.reshape(*size, channels)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three classes whose natural order is not the alphabetical one, and files that are no pictures."""
    root = tmp_path / "flowers"
    for name, count in (("class2", 3), ("class10", 2), ("class1", 4)):
        for i in range(count):
            put(root / name / f"{i}.png")
    (root / "README.md").write_text("not a picture")
    (root / ".DS_Store").write_bytes(b"junk")
    return root


def test_a_plain_folder(tmp_path: Path) -> None:
    expected = [put(tmp_path / f"{i}.png") for i in (1, 2, 10)]
    pictures = open_folder(tmp_path)
    assert isinstance(pictures, ArrayPictures)
    assert [pictures.name(i) for i in range(3)] == ["1.png", "2.png", "10.png"]
    assert np.array_equal(pictures.read([0, 1, 2]).numpy(), np.stack(expected).transpose(0, 3, 1, 2))
    assert pictures.labels is None
    assert pictures.captions is None
    assert pictures.spec.shape == (3, 12, 10)
    x = np.stack(expected) / 127.5 - 1
    np.testing.assert_allclose(pictures.spec.mean, x.mean((0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(pictures.spec.std, x.std((0, 1, 2)), atol=1e-9)


def test_one_picture_is_enough(tmp_path: Path) -> None:
    put(tmp_path / "only.jpg", "L", (7, 5))
    pictures = open_folder(tmp_path, flip=True)
    assert len(pictures) == 1
    assert pictures.spec.shape == (1, 7, 5)
    assert pictures.spec.mode == "L"
    assert pictures.spec.flip


def test_sub_folders_are_classes_in_natural_order(classes: Path, tmp_path: Path) -> None:
    for source in (classes, zipped(classes, tmp_path / "flowers.zip")):
        pictures = open_folder(source)
        assert pictures.spec.classes == ("class1", "class2", "class10")
        assert pictures.labels is not None
        assert pictures.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 2
        assert any("README.md" in note for note in pictures.notes)
        for i, label in enumerate(pictures.labels.tolist()):
            assert pictures.name(i).startswith(pictures.spec.classes[label] + "/")


def test_a_zip_holds_the_same_data_as_its_folder(classes: Path, tmp_path: Path) -> None:
    folder, archive = open_folder(classes), open_folder(zipped(classes, tmp_path / "x.zip"))
    assert folder.fingerprint == archive.fingerprint
    assert torch.equal(folder.read(range(9)), archive.read(range(9)))


def test_folders_that_hold_everything_say_nothing(classes: Path) -> None:
    assert open_folder(classes).fingerprint == open_folder(classes.parent).fingerprint


def test_nested_folders_are_plain_unless_asked(tmp_path: Path) -> None:
    put(tmp_path / "a" / "x" / "1.png")
    put(tmp_path / "b" / "2.png")
    pictures = open_folder(tmp_path)
    assert pictures.spec.classes == ()
    assert any("labeled=True" in note for note in pictures.notes)
    assert open_folder(tmp_path, labeled=True).spec.classes == ("a", "b")


def test_classes_can_be_left_out(classes: Path) -> None:
    pictures = open_folder(classes, labeled=False)
    assert pictures.labels is None
    assert len(pictures) == 9


def test_some_classes_and_some_of_each(classes: Path) -> None:
    pictures = open_folder(classes, classes=["class1*"], limit_per_class=2)
    assert pictures.spec.classes == ("class1", "class10")
    assert [pictures.name(i) for i in range(4)] == ["class1/0.png", "class1/1.png", "class10/0.png", "class10/1.png"]
    with pytest.raises(ValueError, match="no class 'clas2' \\(did you mean 'class2'\\?\\)"):
        open_folder(classes, classes=["clas2"])


# ---- modes, bits and sizes


@pytest.mark.parametrize(
    ("modes", "mode", "bits"),
    [
        (["L", "L"], "L", 8),
        (["L", "RGB"], "RGB", 8),
        (["L", "RGBA"], "RGBA", 8),
        (["RGB", "LA"], "RGBA", 8),
        (["L", "LA"], "LA", 8),
        (["L", "I;16"], "I;16", 16),
        (["RGB", "I;16"], "RGB", 16),
    ],
)
def test_mixed_pictures_meet_where_nothing_is_lost(tmp_path: Path, modes: list[str], mode: str, bits: int) -> None:
    for i, one in enumerate(modes):
        put(tmp_path / f"{i}.png", one)
    pictures = open_folder(tmp_path)
    assert (pictures.spec.mode, pictures.spec.bits) == (mode, bits)
    assert pictures.read([0]).dtype == (torch.uint8 if bits == 8 else torch.uint16)
    assert (len(set(modes)) > 1) == any(" become " in n or "spread to 16" in n for n in pictures.notes)


def test_a_number_of_channels_can_be_asked_for(tmp_path: Path) -> None:
    values = put(tmp_path / "a.png", "RGBA")
    for channels, mode in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")):
        pictures = open_folder(tmp_path, channels=channels)
        assert (pictures.spec.channels, pictures.spec.mode) == (channels, mode)
        assert np.array_equal(pictures.read([0])[0].numpy().transpose(1, 2, 0), to_mode(values, "RGBA", mode))
    assert any("clear parts over white" in note for note in open_folder(tmp_path, channels=3).notes)
    with pytest.raises(ValueError, match="1, 2, 3 or 4 channels, not 5"):
        open_folder(tmp_path, channels=5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_modes_agree_with_their_definition(dtype: type) -> None:
    top = np.iinfo(dtype).max
    rgb = RNG.integers(0, top, (40, 40, 3), dtype, endpoint=True)
    alpha = RNG.integers(0, top, (40, 40, 1), dtype, endpoint=True)
    luminance = rgb @ np.array([0.299, 0.587, 0.114])
    # The weights have 16 bits, so 16-bit values are right within one level.
    assert np.abs(to_mode(rgb, "RGB", "L")[:, :, 0] - luminance).max() <= 1.5
    over = (rgb.astype(float) * alpha + (top - alpha.astype(float)) * top) / top
    assert np.abs(to_mode(np.concatenate([rgb, alpha], 2), "RGBA", "RGB") - over).max() <= 0.5 + 1e-6
    assert np.array_equal(to_mode(to_mode(rgb, "RGB", "RGBA"), "RGBA", "RGB"), rgb)
    white = np.full_like(rgb, top)
    assert (to_mode(white, "RGB", "L") == top).all()


def test_arrays_with_many_channels(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (2, 9, 6, 11)).astype(np.uint16)
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", values[i])
    pictures = open_folder(tmp_path)
    assert pictures.spec.shape == (11, 9, 6)
    assert pictures.spec.mode == ""
    assert np.array_equal(pictures.read([0, 1]).numpy(), values.transpose(0, 3, 1, 2))
    np.save(tmp_path / "2.npy", values[0, :, :, :5])
    with pytest.raises(ValueError, match=r"same number of channels: 2.npy has 5, 0.npy has 11"):
        open_folder(tmp_path)


def test_16_bits_of_which_12_are_used(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 4000, (8, 8)).astype(np.uint16)).save(tmp_path / "a.png")
    pictures = open_folder(tmp_path)
    assert pictures.spec.high == 4095
    assert any("4095" in note for note in pictures.notes)
    pictures.spec.check(pictures.read([0]))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(20, 31), (20, 31)], (20, 31)),
        ([(20, 31), (45, 30), (90, 90)], (24, 24)),
        ([(100, 300), (200, 100)], (64, 64)),
        ([(400, 300)], (64, 64)),
        ([(5, 7), (6, 6)], (5, 5)),
    ],
)
def test_a_sensible_size_is_found(tmp_path: Path, sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    for i, size in enumerate(sizes):
        put(tmp_path / f"{i}.png", "L", size)
    pictures = open_folder(tmp_path)
    assert pictures.spec.size == expected
    assert any(f"{expected[0]}x{expected[1]}" in note for note in pictures.notes)


def test_the_size_and_its_rule_can_be_given(tmp_path: Path) -> None:
    put(tmp_path / "a.png", "RGB", (10, 20))
    pictures = open_folder(tmp_path, size=(16, 16), fit=Pad(1.0))
    assert pictures.spec.fit == Pad(1.0)
    assert (pictures.read([0])[:, :, :4] == 255).all()
    assert open_folder(tmp_path, size=8).spec.size == (8, 8)
    with pytest.raises(ValueError, match="size is"):
        open_folder(tmp_path, size=0)


# ---- bad files


def test_unreadable_pictures_are_named_and_can_be_skipped(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"{i}.png", size=(30, 30))
    whole = (tmp_path / "0.png").read_bytes()
    for i in range(11):
        (tmp_path / f"broken{i}.png").write_bytes(whole[: len(whole) // 2] if i else b"junk")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x20ftypheic" + bytes(40))
    with pytest.raises(ValueError, match=r"12 of 15 pictures .*broken0.png.*and 2 more.*--skip-unreadable"):
        open_folder(tmp_path)
    pictures = open_folder(tmp_path, skip_unreadable=True)
    assert [pictures.name(i) for i in range(len(pictures))] == ["0.png", "1.png", "2.png"]
    assert any("12 unreadable pictures are left out" in note for note in pictures.notes)
    lazy = open_folder(tmp_path, skip_unreadable=True, memory_limit=0)
    assert torch.equal(lazy.read(range(3)), pictures.read(range(3)))
    assert lazy.fingerprint == pictures.fingerprint


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures"):
        open_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"1 other files \(notes.txt\)"):
        open_folder(tmp_path)
    (tmp_path / "all.zip").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"Open the archive all.zip itself\?"):
        open_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match="none of the 1 pictures"):
        open_folder(tmp_path, skip_unreadable=True)
    with pytest.raises(ValueError, match="give the folder it is in"):
        open_folder(tmp_path / "a.png")
    with pytest.raises(ValueError, match="does not exist"):
        open_folder(tmp_path / "nowhere")


def test_labels_required_but_missing(classes: Path) -> None:
    put(classes / "loose.png")
    with pytest.raises(ValueError, match=r"1 pictures have no label: loose.png"):
        open_folder(classes, labeled=True)


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "secret" / "s.png")
    root = tmp_path / "data"
    put(root / "a.png")
    (root / "inside.png").symlink_to(root / "a.png")
    assert len(open_folder(root)) == 2
    (root / "outside.png").symlink_to(tmp_path / "secret" / "s.png")
    (root / "folder").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"outside.png: is a link that leaves the folder"):
        open_folder(root)
    pictures = open_folder(root, skip_unreadable=True)
    assert [pictures.name(i) for i in range(len(pictures))] == ["a.png", "inside.png"]


def test_links_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="2 of 3 pictures"):
        open_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe.png: is not a regular file"):
        open_folder(tmp_path)


# ---- archives


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png", "x\\..\\a.png", "C:/a.png"])
def test_archives_with_names_that_leave_them_are_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "ok.png")
        archive.writestr(zipfile.ZipInfo(name), (tmp_path / "a.png").read_bytes())
    with pytest.raises(ValueError, match="not a plain path"):
        open_folder(tmp_path / "x.zip")


def test_archive_members_that_are_links_bombs_or_locked_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.png", "a.png")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.bmp", bytes(4 * 2**20))
    with pytest.raises(ValueError, match=r"2 of 3 pictures .*(bomb.bmp: unpacks.*|link.png: is a link.*){2}"):
        open_folder(tmp_path / "x.zip")
    assert len(open_folder(tmp_path / "x.zip", skip_unreadable=True)) == 1


def test_archives_that_lie_or_are_damaged(tmp_path: Path) -> None:
    put(tmp_path / "a.png", size=(50, 50))
    for i in (1, 2):
        put(tmp_path / f"{i}.png", size=(50, 50))
    path = zipped(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip")
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"1.png: damaged inside the archive"):
        open_folder(path)
    path.write_bytes(b"PK\x03\x04" + data[-400:])
    with pytest.raises(ValueError, match="zip"):
        open_folder(path)


def test_an_archive_with_a_name_twice(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.write(tmp_path / "a.png", "a.png")
    with pytest.raises(ValueError, match="twice"):
        open_folder(tmp_path / "x.zip")


# ---- laws


def test_results_do_not_depend_on_workers_or_memory(classes: Path) -> None:
    whole = open_folder(classes, size=8, workers=1)
    assert isinstance(whole, ArrayPictures)
    for other in (open_folder(classes, size=8, workers=5), open_folder(classes, size=8, memory_limit=10)):
        assert torch.equal(other.read([8, 0, 3, 3]), whole.read([8, 0, 3, 3]))
        assert other.fingerprint == whole.fingerprint
        assert other.spec == whole.spec
        assert [other.digest(i) for i in range(9)] == [whole.digest(i) for i in range(9)]
    assert isinstance(other, LazyPictures)


def test_a_file_that_breaks_after_opening_is_named(classes: Path) -> None:
    pictures = open_folder(classes, memory_limit=0, limit_per_class=1)
    assert isinstance(pictures, LazyPictures)
    pictures.decoder.forget()
    (classes / "class2" / "0.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"class2/0.png: not a PNG"):
        pictures.read([1])


def test_the_fingerprint_changes_with_the_data(classes: Path) -> None:
    seen = {open_folder(classes).fingerprint}
    put(classes / "class1" / "0.png")
    seen.add(open_folder(classes).fingerprint)
    (classes / "class1" / "0.png").rename(classes / "class2" / "0 moved.png")
    seen.add(open_folder(classes).fingerprint)
    (classes / "metadata.csv").write_text("file,caption\nclass1/1.png,hello\n")
    seen.add(open_folder(classes).fingerprint)
    (classes / "class1" / "3.png").unlink()
    seen.add(open_folder(classes).fingerprint)
    assert len(seen) == 5
    assert open_folder(classes, size=4).fingerprint in seen


def test_natural_order() -> None:
    names = ["b1", "a10", "a2", "A1", "a02", "1", "10", "2", "a" + "9" * 5000]
    found = sorted(names, key=natural_key)
    assert found == ["1", "2", "10", "A1", "a02", "a2", "a10", "a" + "9" * 5000, "b1"]
