"""Tar shards: the same pictures as in a folder, read where they lie."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.data import cache, shards, tar
from kakusan.data.decoding import LazyPictures
from kakusan.data.shards import open_shards
from kakusan.data.source import ArrayPictures, open_data, split_held_out

Member = tuple[str, bytes]


def png(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> bytes:
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "I;16": 1}[mode]
    values = np.random.default_rng(seed).integers(0, 65536 if mode == "I;16" else 256, (*size, channels))
    values = values.astype(np.uint16 if mode == "I;16" else np.uint8)
    file = io.BytesIO()
    Image.fromarray(values if channels > 1 else values[:, :, 0]).save(file, "png")
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    values = np.array(Image.open(io.BytesIO(data)))
    return values.transpose(2, 0, 1)


def shard(path: Path, members: list[Member]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(i: int) -> list[Member]:
    return [(f"{i:04d}.png", png(i)), (f"{i:04d}.cls", str(i % 3).encode()), (f"{i:04d}.txt", f"number {i}".encode())]


def samples(first: int, count: int) -> list[Member]:
    return [member for i in range(first, first + count) for member in sample(i)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for s in range(3):
        shard(tmp_path / "shards" / f"train-{s:03d}.tar", samples(4 * s, 4))
    return tmp_path / "shards"


STREAMED = pytest.mark.parametrize("above", [0, 2**31])


@STREAMED
def test_a_folder_of_shards(folder: Path, above: int) -> None:
    pictures = open_data(folder, stream_above=above)
    assert isinstance(pictures, LazyPictures if above == 0 else ArrayPictures)
    assert len(pictures) == 12
    for i in (11, 0, 5):
        assert np.array_equal(pictures.read([i])[0].numpy(), pixels(png(i)))
        assert pictures.name(i) == f"train-{i // 4:03d}.tar/{i:04d}.png"
    assert pictures.labels is not None
    assert pictures.labels.tolist() == [i % 3 for i in range(12)]
    assert pictures.spec.classes == ("0", "1", "2")
    assert pictures.captions == tuple(f"number {i}" for i in range(12))


def test_a_pattern_one_file_and_a_list(folder: Path) -> None:
    whole = open_data(folder)
    assert open_data(folder / "train-*.tar").fingerprint == whole.fingerprint
    assert len(open_data(folder / "train-001.tar")) == 4
    assert open_shards(sorted(folder.glob("*.tar"))).fingerprint == whole.fingerprint
    with pytest.raises(ValueError, match="no file fits the pattern"):
        open_data(folder / "test-*.tar")


def test_the_headers_of_pictures_are_read_once_and_their_bytes_not_at_all(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", -(10**12))
    monkeypatch.setattr(shards, "WORTH_INDEXING", 1)
    read: list[int] = []
    real = tar.read_at
    monkeypatch.setattr(tar, "read_at", lambda f, p, n: read.append(n) or real(f, p, n))
    whole = open_data(folder, cache=tmp_path / "cache", stream_above=0)
    assert set(read) == {tar.BLOCK}
    read.clear()
    again = open_data(folder, cache=tmp_path / "cache", stream_above=0)
    assert read == []
    assert again.fingerprint == whole.fingerprint
    assert again.captions == whole.captions
    # A shard that has changed is indexed again, and so is one whose index is damaged.
    shard(folder / "train-000.tar", sample(50))
    assert len(open_data(folder, cache=tmp_path / "cache", stream_above=0)) == 9
    for path in (tmp_path / "cache").glob("*.index.json"):
        values = json.loads(path.read_text())
        values["content"] = [[["x", [1], {}]], 0]
        path.write_text(json.dumps(values))
    assert len(open_data(folder, cache=tmp_path / "cache", stream_above=0)) == 9


@given(seed=st.integers(0, 2**32 - 1), indices=st.lists(st.integers(0, 11), max_size=20), workers=st.integers(1, 5))
@settings(max_examples=12)
def test_streaming_reads_what_memory_holds(
    shared: tuple[Path, ArrayPictures], seed: int, indices: list[int], workers: int
) -> None:
    path, whole = shared
    streamed = open_data(path, size=8, stream_above=0, workers=workers)
    assert torch.equal(streamed.read(indices), whole.read(indices))
    parts = split_held_out(streamed, 0.5, seed)
    assert [len(p) for p in parts] == [len(p) for p in split_held_out(whole, 0.5, seed)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ArrayPictures]:
    path = shard(tmp_path_factory.mktemp("shared") / "a.tar", samples(0, 12))
    whole = open_data(path, size=8)
    assert isinstance(whole, ArrayPictures)
    return path, whole


def test_json_beside_a_picture(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar",
        [
            ("x/1.png", png(1)),
            ("x/1.json", b'{"label": 4, "class_name": "rose", "caption": "red", "more": [1]}'),
            ("x/2.png", png(2)),
            ("x/2.json", b'{"label": 1, "class_name": "iris", "caption": "blue"}'),
        ],
    )
    pictures = open_data(path)
    assert pictures.spec.classes == ("iris", "rose")
    assert pictures.labels is not None
    assert pictures.labels.tolist() == [1, 0]
    assert pictures.captions == ("red", "blue")


def test_classes_by_name_and_selection(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar",
        [m for i, c in enumerate("abcab") for m in ((f"{i}.png", png(i)), (f"{i}.cls", c.encode()))],
    )
    assert open_data(path).spec.classes == ("a", "b", "c")
    chosen = open_data(path, classes=["a", "c"], limit_per_class=1, stream_above=0)
    assert [chosen.name(i) for i in range(len(chosen))] == ["a.tar/0.png", "a.tar/2.png"]
    assert open_data(path, labeled=False).labels is None


def test_members_that_are_missing_or_of_no_use(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar",
        [("1.png", png(1)), ("1.txt", b"one"), ("2.txt", b"no picture"), ("3.png", png(3)), ("3.pyd", b"\x80junk.")],
    )
    pictures = open_data(path)
    assert len(pictures) == 2
    assert any("1 samples have no picture" in n and "a.tar/2" in n for n in pictures.notes)
    assert any("1 of 2 pictures have no caption" in n for n in pictures.notes)
    assert any("1 members of other kinds" in n for n in pictures.notes)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.png", png(1)), ("1.png", png(2))], "twice"),
        ([("1.png", png(1)), ("1.cls", b"1"), ("1.cls", b"2")], "twice"),
        ([("1.png", png(1)), ("1.jpg", png(2))], "two pictures for one sample"),
        ([("1.png", png(1)), ("1.cls", b"1"), ("2.png", png(2))], "1 pictures have no label"),
        ([("1.png", png(1)), ("1.cls", b"-1")], "labels start at 0"),
        ([("1.png", png(1)), ("1.json", b"{")], "not JSON"),
        ([("1.png", png(1)), ("1.json", b"[1]")], "not a JSON object"),
        ([("1.png", png(1)), ("1.json", b'{"label": 1.5}')], "text or a whole number"),
        ([("1.png", png(1)), ("1.txt", b"\xff\xfe\xfa")], "not UTF-8"),
        ([("1.png", png(1)), ("1.txt", bytes(2**20 + 1))], "larger than 1 MiB"),
        ([("1.txt", b"x")], "no pictures"),
        ([], "no pictures"),
        ([("1.png", b"\x80\x04junk.")], "pickle"),
        ([("1.png", png(1)[:100])], "damaged or cut off"),
        ([("../1.png", png(1))], "not a plain path"),
    ],
)
@STREAMED
def test_bad_shards_are_refused(tmp_path: Path, members: list[Member], said: str, above: int) -> None:
    with pytest.raises(ValueError, match=said):
        open_data(shard(tmp_path / "a.tar", members), stream_above=above)


@STREAMED
def test_unreadable_pictures_can_be_left_out(tmp_path: Path, above: int) -> None:
    path = shard(
        tmp_path / "a.tar", [("1.png", png(1)), ("2.png", png(2)[:300]), ("3.png", b"junk"), ("4.png", png(4))]
    )
    pictures = open_data(path, skip_unreadable=True, stream_above=above)
    assert [pictures.name(i) for i in range(len(pictures))] == ["a.tar/1.png", "a.tar/4.png"]
    assert torch.equal(pictures.read([1]), torch.from_numpy(pixels(png(4)))[None])


def test_a_link_inside_is_no_picture(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ValueError, match="is a link inside an archive"):
        open_data(tmp_path / "a.tar")


def test_a_shard_that_changes_while_it_is_used_is_named(folder: Path) -> None:
    pictures = open_data(folder, stream_above=0)
    assert isinstance(pictures, LazyPictures)
    pictures.decoder.forget()
    shard(folder / "train-001.tar", sample(99))
    with pytest.raises(ValueError, match=r"train-001.tar/0005.png: .*has changed"):
        pictures.read([5])


def test_what_does_not_fit_the_pictures_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kakusan.data.streaming.LOOKED_AT", 2)
    deep = png(5, mode="I;16")
    path = shard(
        tmp_path / "a.tar", [("1.png", png(1)), ("2.png", deep), ("3.png", png(3, mode="RGBA")), ("4.png", png(4))]
    )
    pictures = open_data(path, stream_above=0)
    assert pictures.read([2]).shape == (1, 3, 12, 10)
    with pytest.raises(ValueError, match=r"a.tar/2.png: has 16 bits"):
        pictures.read([1])


def test_shards_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for part in "ab":
        shard(tmp_path / "all" / part / "0.tar", sample(ord(part)))
    pictures = open_data(tmp_path / "all")
    assert [pictures.name(i) for i in range(2)] == ["a/0.tar/0097.png", "b/0.tar/0098.png"]
    one = tmp_path / "all" / "a" / "0.tar"
    with pytest.raises(ValueError, match="given twice"):
        open_shards([one, one])


def test_what_a_path_stands_for(tmp_path: Path, folder: Path) -> None:
    (folder / "README.md").write_text("about")
    assert len(open_data(folder)) == 12
    (folder / "x.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="tar shards and parquet files"):
        open_data(folder)
    (folder / "x.parquet").unlink()
    # With a picture in it a folder is a folder of pictures, as it was before there were shards.
    (folder / "a.png").write_bytes(png(1))
    assert len(open_data(folder)) == 1
    with pytest.raises(ValueError, match="takes no option 'metadata'"):
        open_data(folder / "train-000.tar", metadata=tmp_path)


def test_the_fingerprint_changes_with_the_data(tmp_path: Path) -> None:
    seen = set()
    for members in (sample(1), sample(2), [*sample(1)[:1], ("0001.cls", b"1")], [("0001.png", png(3)), *sample(1)[1:]]):
        for above in (0, 2**31):
            seen.add(open_data(shard(tmp_path / "a.tar", members), stream_above=above).fingerprint)
    # Two pictures of one size and name under one time are told apart by their content only.
    assert len(seen) >= 7
