"""Packed files: what is written is read, and nothing damaged is."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kakusan.data import packed
from kakusan.data.packed import CorruptPack, Pack, PackFacts, PackWriter, write_pack


def facts(stored: np.ndarray, key: str = "key") -> PackFacts:
    return PackFacts(
        key=key,
        place="place",
        source="somewhere",
        count=len(stored),
        shape=stored.shape[1:],
        dtype=stored.dtype.name,
        high=255.0,
        mean=(0.0,),
        std=(1.0,),
        unreadable={1: ("花.png", "cut off")},
        notes=("a note",),
    )


def write(path: Path, stored: np.ndarray, order: list[int] | None = None) -> PackFacts:
    said = facts(stored)

    def fill(writer: PackWriter) -> PackFacts:
        for i in range(len(stored)) if order is None else order:
            writer.put(i, stored[i])
        return said

    write_pack(path, len(stored), stored.shape[1:], stored.dtype, fill)
    return said


STORED = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda kind: arrays(kind, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
)


@given(stored=STORED, seed=st.integers(0, 99))
@settings(max_examples=25)
def test_what_is_written_in_any_order_is_read(
    tmp_path_factory: pytest.TempPathFactory, stored: np.ndarray, seed: int
) -> None:
    path = tmp_path_factory.mktemp("pack") / "a.pack"
    said = write(path, stored, np.random.default_rng(seed).permutation(len(stored)).tolist())
    pack = Pack(path, "key")
    assert np.array_equal(pack.stored, stored)
    assert pack.stored.dtype == stored.dtype
    assert pack.facts == said == PackFacts.read(path)
    assert not pack.stored.flags.writeable
    assert [p.name for p in path.parent.iterdir()] == ["a.pack"]


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=25)
def test_one_wrong_bit_anywhere_is_found(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    path = tmp_path_factory.mktemp("pack") / "a.pack"
    write(path, np.arange(3 * 12, dtype=np.uint8).reshape(3, 3, 2, 2))
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(CorruptPack):
        Pack(path, "key")


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25)
def test_a_file_cut_short_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("pack") / "a.pack"
    write(path, np.arange(3 * 12, dtype=np.uint8).reshape(3, 3, 2, 2))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CorruptPack):
        Pack(path, "key")


def test_a_large_file_is_checked_picture_by_picture_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "CHECK_AT_OPENING", 0)
    path = tmp_path / "a.pack"
    write(path, np.arange(4 * 12, dtype=np.uint8).reshape(4, 3, 2, 2))
    data = bytearray(path.read_bytes())
    data[2 * 12] ^= 1
    path.write_bytes(data)
    pack = Pack(path, "key")
    looked = []
    real = zlib.crc32
    monkeypatch.setattr(packed.zlib, "crc32", lambda row: looked.append(row) or real(row))
    assert pack.damaged(np.array([0, 1, 0])).tolist() == []
    assert pack.damaged(np.array([3, 2, 2, 1])).tolist() == [2]
    before = len(looked)
    assert pack.damaged(np.array([0, 1, 3])).tolist() == []
    assert len(looked) == before


def test_another_version_another_key_and_nonsense_are_refused(tmp_path: Path) -> None:
    stored = np.zeros((2, 1, 2, 2), np.uint8)
    path = tmp_path / "a.pack"
    write(path, stored)
    with pytest.raises(CorruptPack, match="other pictures"):
        Pack(path, "another key")
    for change, said in (
        ({"format": packed.FORMAT + 1}, "format"),
        ({"dtype": "float64"}, "no sense"),
        ({"dtype": "object"}, "no sense"),
        ({"count": 3}, "size"),
    ):
        path.unlink(missing_ok=True)
        write_pack(path, 2, (1, 2, 2), stored.dtype, lambda writer, change=change: replace(facts(stored), **change))
        with pytest.raises(CorruptPack, match=said):
            Pack(path, "key")
    path.write_bytes(b"junk" * 100)
    with pytest.raises(CorruptPack, match="no packed file"):
        PackFacts.read(path)


def test_nothing_is_left_when_filling_fails(tmp_path: Path) -> None:
    def fill(writer: PackWriter) -> PackFacts:
        writer.put(0, np.zeros((1, 2, 2), np.uint8))
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_pack(tmp_path / "a.pack", 2, (1, 2, 2), np.dtype(np.uint8), fill)
    assert list(tmp_path.iterdir()) == []
