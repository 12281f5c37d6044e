"""The cache of decoded pictures: it never changes what comes out, and never fails a run."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kakusan.data import cache, opening, packed
from kakusan.data.cache import Cache, cache_home, clear, find_cache, packs, size_text
from kakusan.data.folder import open_folder
from kakusan.data.packed import PackedPictures
from kakusan.data.source import Pictures, split_held_out

RNG = np.random.default_rng(0)


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (12, 10, 3)).astype(np.uint8)
    Image.fromarray(values).save(path)
    # As if it had been there for long: what was written this moment is not trusted to be unchanged.
    os.utime(path, (1e9, 1e9))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for i in range(6):
        draw(root / ("ab"[i % 2]) / f"{i}.png", i)
    return root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which a file counts as settled at once."""
    monkeypatch.setattr(cache, "_SETTLED_NS", -(10**12))
    return tmp_path / "cache"


def same(one: Pictures, other: Pictures) -> bool:
    everything = list(range(len(one)))
    return (
        len(one) == len(other)
        and torch.equal(one.read(everything), other.read(everything))
        and one.spec == other.spec
        and one.fingerprint == other.fingerprint
        and [one.digest(i) for i in everything] == [other.digest(i) for i in everything]
        and [one.name(i) for i in everything] == [other.name(i) for i in everything]
        and (one.labels is None) == (other.labels is None)
        and (one.labels is None or other.labels is None or torch.equal(one.labels, other.labels))
        and one.captions == other.captions
    )


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(opening, "read_picture", fail)


@pytest.mark.parametrize("options", [{}, {"memory_limit": 100}, {"size": 8, "channels": 1}, {"flip": True}])
def test_the_cache_changes_nothing(folder: Path, home: Path, options: dict[str, object]) -> None:
    plain = open_folder(folder, cache="off", **options)
    first = open_folder(folder, cache=home, **options)
    second = open_folder(folder, cache=home, **options)
    assert isinstance(second, PackedPictures)
    assert same(plain, first)
    assert same(plain, second)
    assert "decoded once" in first.notes[-1]
    assert "without decoding" in second.notes[-1]
    for a, b in zip(split_held_out(plain, 0.3), split_held_out(second, 0.3), strict=True):
        assert a.fingerprint == b.fingerprint


def test_the_second_opening_reads_and_decodes_no_file(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = open_folder(folder, cache="off")
    open_folder(folder, cache=home)
    no_decoding(monkeypatch)
    monkeypatch.setattr(opening, "read_header", lambda *_, **__: pytest.fail("a file was read"))
    assert same(plain, open_folder(folder, cache=home))


def test_a_zip_file_is_cached_too(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Path(shutil.make_archive(str(folder), "zip", folder))
    plain = open_folder(archive, cache="off")
    open_folder(archive, cache=home)
    no_decoding(monkeypatch)
    assert same(plain, open_folder(archive, cache=home))


def test_a_copy_of_the_folder_needs_no_decoding(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_folder(folder, cache=home)
    copy = folder.rename(folder.with_name("elsewhere"))
    plain = open_folder(copy, cache="off")
    no_decoding(monkeypatch)
    assert same(plain, open_folder(copy, cache=home))


def test_a_changed_file_is_seen_and_the_old_pack_goes(folder: Path, home: Path) -> None:
    open_folder(folder, cache=home)
    stamp = (folder / "a" / "0.png").stat()
    draw(folder / "a" / "0.png", 99)
    os.utime(folder / "a" / "0.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = open_folder(folder, cache=home)
    assert same(open_folder(folder, cache="off"), again)
    assert len(packs(home)) == 1
    open_folder(folder, cache=home, size=8)
    assert len(packs(home)) == 2


def test_added_renamed_and_removed_files_are_seen(folder: Path, home: Path) -> None:
    open_folder(folder, cache=home)
    (folder / "a" / "0.png").rename(folder / "b" / "new.png")
    assert same(open_folder(folder, cache="off"), open_folder(folder, cache=home))
    draw(folder / "b" / "more.png", 7)
    assert same(open_folder(folder, cache="off"), open_folder(folder, cache=home))
    (folder / "b" / "more.png").unlink()
    assert same(open_folder(folder, cache="off"), open_folder(folder, cache=home))


def test_a_file_written_this_moment_is_looked_at_again(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    open_folder(folder, cache=home)
    # A second change within the resolution of its times could not be told, so nothing is remembered yet.
    assert list(home.glob("*.looks.json")) == []
    assert len(packs(home)) == 1


def test_a_smaller_limit_of_pixels_holds_for_files_that_are_known(folder: Path, home: Path) -> None:
    open_folder(folder, cache=home)
    with pytest.raises(ValueError, match="megapixels"):
        open_folder(folder, cache=home, max_pixels=50)


@pytest.mark.parametrize("damage", ["cut", "flip", "junk", "empty", "version"])
def test_a_bad_pack_is_made_again_with_a_note(folder: Path, home: Path, damage: str) -> None:
    plain = open_folder(folder, cache="off")
    open_folder(folder, cache=home)
    path = packs(home)[0][0]
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[100] ^= 255
    path.write_bytes(
        {
            "cut": data[:-9],
            "flip": data,
            "junk": b"junk" * 50,
            "empty": b"",
            "version": data.replace(b'"format": 1', b'"format": 9'),
        }[damage]
    )
    again = open_folder(folder, cache=home)
    assert any("is made again" in note for note in again.notes)
    assert same(plain, again)
    assert "without decoding" in open_folder(folder, cache=home).notes[-1]


def test_another_decoder_makes_another_pack(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_folder(folder, cache=home)
    monkeypatch.setattr(cache, "DECODER", "another")
    assert "decoded once" in open_folder(folder, cache=home).notes[-1]
    assert len(packs(home)) == 1


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"format": [1, "x"]}', "null"])
def test_a_bad_memory_of_files_is_as_good_as_none(folder: Path, home: Path, junk: str) -> None:
    plain = open_folder(folder, cache=home)
    next(home.glob("*.looks.json")).write_text(junk)
    assert same(plain, open_folder(folder, cache=home))


@pytest.mark.parametrize("value", [None, 3, [1, 2], [[1, 2, 3, 4], 5, {}], [[1], "x", {"height": 1}]])
def test_a_bad_entry_is_looked_up_again(folder: Path, home: Path, value: object) -> None:
    plain = open_folder(folder, cache=home)
    path = next(home.glob("*.looks.json"))
    values = json.loads(path.read_text())
    values["files"]["a/0.png"] = value
    path.write_text(json.dumps(values))
    assert same(plain, open_folder(folder, cache=home))


def test_damage_found_while_training_is_repaired_from_the_source(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = open_folder(folder, cache="off")
    open_folder(folder, cache=home)
    path = packs(home)[0][0]
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(packed, "CHECK_AT_OPENING", 0)
    pictures = open_folder(folder, cache=home)
    with pytest.warns(UserWarning, match="1 pictures were decoded again"):
        found = pictures.read([3, 0, 0])
    assert torch.equal(found, plain.read([3, 0, 0]))
    assert not path.exists()
    assert "decoded once" in open_folder(folder, cache=home).notes[-1]


def test_a_full_disk_is_told_and_training_goes_on(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: packed.PackWriter, data: memoryview, offset: int) -> int:
        if offset > 500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(self._file, data, offset)

    plain = open_folder(folder, cache="off")
    with monkeypatch.context() as patch:
        patch.setattr(packed.PackWriter, "_write_at", full)
        pictures = open_folder(folder, cache=home)
    assert same(plain, pictures)
    assert any("No space left on device" in n and "going on without" in n for n in pictures.notes)
    assert list(home.iterdir()) == []
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    pictures = open_folder(folder, cache=home)
    assert same(plain, pictures)
    assert any("are free" in n and "going on without" in n for n in pictures.notes)


def test_a_folder_that_cannot_be_written_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    pictures = open_folder(folder, cache=tmp_path / "file" / "cache")
    assert any("going on without" in n for n in pictures.notes)
    with pytest.raises(ValueError, match="is a file"):
        open_folder(folder, cache=tmp_path / "file")


def test_unreadable_pictures_are_refused_or_left_out_as_without(folder: Path, home: Path) -> None:
    whole = (folder / "a" / "0.png").read_bytes()
    # Its header is good, so only decoding finds out.
    (folder / "a" / "0.png").write_bytes(whole[:200])
    (folder / "b" / "junk.png").write_bytes(b"junk")
    for options in ({"memory_limit": 10**9}, {"memory_limit": 0}):
        plain = open_folder(folder, cache="off", skip_unreadable=True, **options)
        for _ in range(2):
            found = open_folder(folder, cache=home, skip_unreadable=True, **options)
            assert isinstance(found, PackedPictures)
            assert same(plain, found)
            assert any("2 unreadable pictures are left out" in n for n in found.notes)
    (folder / "b" / "junk.png").unlink()
    for setting in (home, "off"):
        with pytest.raises(ValueError, match=r"1 of 6 pictures .* a/0.png"):
            open_folder(folder, cache=setting)


def test_the_cache_never_lies_among_the_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="inside the data"):
        open_folder(folder, cache=folder / "cache")
    monkeypatch.setenv("KAKUSAN_CACHE", str(folder / "cache"))
    found, note = find_cache("auto", folder)
    assert found is None
    assert "inside the data" in str(note)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("KAKUSAN_CACHE", str(tmp_path / "own"))
    assert cache_home() == tmp_path / "own"
    monkeypatch.delenv("KAKUSAN_CACHE")
    assert cache_home() == tmp_path / "xdg" / "kakusan"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_home().is_absolute()
    assert find_cache("off", tmp_path) == (None, None)


def test_small_sets_are_not_cached_by_themselves(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAKUSAN_CACHE", str(home))
    open_folder(folder)
    assert not home.exists()
    monkeypatch.setattr(cache, "WORTH", 6 * 120)
    open_folder(folder)
    assert len(packs(home / "pictures")) == 1


def test_clearing_removes_what_is_the_caches_and_nothing_else(folder: Path, home: Path) -> None:
    open_folder(folder, cache=home)
    (home / ".0123.part.pack").write_bytes(b"left by a writer that was killed")
    (home / "mine.txt").write_text("mine")
    (home / ".mine.part").write_text("mine")
    files, size = clear(home)
    assert files == 3
    assert size > 6 * 360
    assert sorted(p.name for p in home.iterdir()) == [".mine.part", "mine.txt"]
    assert clear(home / "none") == (0, 0)


def test_what_killed_writers_left_is_removed_only_when_old(folder: Path, home: Path) -> None:
    home.mkdir()
    old, new = home / ".old.part.pack", home / ".new.part.pack"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    open_folder(folder, cache=home)
    assert not old.exists()
    assert new.exists()


def _open(
    folder: Path, home: Path, ready: "multiprocessing.synchronize.Barrier", done: "multiprocessing.Queue"
) -> None:
    torch.set_num_threads(1)
    ready.wait(60)
    done.put(open_folder(folder, cache=home).read(range(6)).sum(dtype=torch.int64).item())


def test_two_processes_at_once(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    plain = open_folder(folder, cache="off")
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    ready, done = context.Barrier(2), context.Queue()
    with warnings.catch_warnings():
        # Forking a process that has threads: these children use none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        both = [context.Process(target=_open, args=(folder, home, ready, done)) for _ in range(2)]
        for process in both:
            process.start()
    expected = plain.read(range(6)).sum(dtype=torch.int64).item()
    assert [done.get(timeout=60), done.get(timeout=60)] == [expected, expected]
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert same(plain, open_folder(folder, cache=home))
    assert len(packs(home)) == 1


def _killed(folder: Path, home: Path, after: int) -> None:
    count = 0
    real = packed.PackWriter._write_at

    def write(self: packed.PackWriter, data: memoryview, offset: int) -> int:
        nonlocal count
        count += 1
        if count > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, data, offset)

    packed.PackWriter._write_at = write  # type: ignore[method-assign]
    open_folder(folder, cache=home, workers=1)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("after", [0, 3, 6])
def test_killed_while_writing(folder: Path, home: Path, after: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = multiprocessing.get_context("fork").Process(target=_killed, args=(folder, home, after))
        child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert packs(home) == []
    assert same(open_folder(folder, cache="off"), open_folder(folder, cache=home))


def test_sizes_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 3 * 2**20, 2**40, 5000 * 2**40)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "3.0 MiB",
        "1.0 TiB",
        "5000 TiB",
    ]


def test_a_pack_in_use_survives_its_removal(folder: Path, home: Path) -> None:
    plain = open_folder(folder, cache="off")
    pictures = open_folder(folder, cache=home)
    clear(home)
    assert same(plain, pictures)


def test_tidying_keeps_other_sources(folder: Path, home: Path, tmp_path: Path) -> None:
    open_folder(folder, cache=home)
    draw(tmp_path / "other" / "x.png", 1)
    open_folder(tmp_path / "other", cache=home)
    assert len(packs(home)) == 2
    assert Cache(home).open("0" * 64) == (None, None)
