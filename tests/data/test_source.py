"""Data sets in memory, splits, subsets and names."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.data.fit import Pad
from kakusan.data.source import ArrayPictures, Pictures, open_data, split_held_out, subset
from kakusan.data.spec import DataSpec


def make(count: int, classes: int = 0, seed: int = 0) -> ArrayPictures:
    stored = np.random.default_rng(seed).integers(0, 256, (count, 1, 3, 4)).astype(np.uint8)
    names = tuple(f"c{i}" for i in range(classes))
    labels = np.arange(count) % classes if classes else None
    return ArrayPictures(DataSpec.measure(stored, classes=names), stored, labels=labels)


def members(pictures: Pictures) -> list[bytes]:
    return [row.tobytes() for row in pictures.read(range(len(pictures))).numpy()]


def test_arrays_are_read_by_index() -> None:
    pictures = make(10, classes=3)
    assert isinstance(pictures, Pictures)
    assert pictures.read([4, 4, 0]).shape == (3, 1, 3, 4)
    assert torch.equal(pictures.read(np.array([4]))[0], pictures.read([9, 4])[1])
    assert pictures.name(7) == "7"
    # What is read belongs to the reader.
    pictures.read([0]).fill_(0)
    assert int(pictures.read([0]).sum()) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 1, 2, 3]}, "labels run from 0 to 3, but there are 3 classes"),
        ({"labels": [0, 0, 0, -1]}, "labels run from -1"),
        ({"labels": [0]}, "4 pictures but 1 labels"),
        ({"names": ["a"]}, "4 pictures but 1 names"),
        ({"captions": ["a"] * 5}, "4 pictures but 5 captions"),
    ],
)
def test_what_does_not_agree_is_refused(changes: dict[str, object], message: str) -> None:
    stored = np.zeros((4, 1, 3, 4), np.uint8)
    with pytest.raises(ValueError, match=message):
        ArrayPictures(DataSpec.measure(stored, classes=("a", "b", "c")), stored, **changes)  # type: ignore[arg-type]


def test_pictures_outside_the_spec_are_refused() -> None:
    spec = DataSpec.measure(np.zeros((4, 1, 3, 4), np.uint8), high=16.0)
    with pytest.raises(ValueError, match="6 to 17 leave the range"):
        ArrayPictures(spec, np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4) + 6)


def test_the_fingerprint_is_that_of_the_content() -> None:
    assert make(5).fingerprint == make(5).fingerprint
    others = [make(5, seed=1), make(4), make(5, classes=2), make(5, classes=3), subset(make(5), [1, 0, 2, 3, 4])]
    assert len({make(5).fingerprint} | {p.fingerprint for p in others}) == 6


def test_subsets() -> None:
    pictures = make(10, classes=3)
    part = subset(subset(pictures, [9, 3, 5, 7]), [2, 0])
    assert torch.equal(part.read([0, 1]), pictures.read([5, 9]))
    assert part.labels is not None
    assert part.labels.tolist() == [2, 0]
    assert [part.name(0), part.digest(1)] == ["5", pictures.digest(9)]
    assert subset(pictures, range(10)).fingerprint == pictures.fingerprint
    with pytest.raises(ValueError, match="index 10 is outside"):
        subset(pictures, [10])


@given(count=st.integers(20, 120), fraction=st.floats(0, 0.6), seed=st.integers(0, 99), classes=st.integers(0, 4))
@settings(deadline=None, max_examples=40)
def test_a_split_is_a_partition_of_the_size_asked(count: int, fraction: float, seed: int, classes: int) -> None:
    pictures = make(count, classes)
    train, held = split_held_out(pictures, fraction, seed)
    assert sorted(members(train) + members(held)) == sorted(members(pictures))
    assert len(held) == round(fraction * count)
    if classes and held.labels is not None:
        share = torch.bincount(held.labels, minlength=classes) / max(1, len(held))
        assert float((share * len(held) - len(held) / classes).abs().max()) <= 2.0


def test_a_split_depends_on_content_and_seed_only() -> None:
    pictures = make(100)
    held = set(members(split_held_out(pictures, 0.2, 5)[1]))
    shuffled = subset(pictures, np.random.default_rng(1).permutation(100))
    assert set(members(split_held_out(shuffled, 0.2, 5)[1])) == held
    assert set(members(split_held_out(pictures, 0.2, 6)[1])) != held


def test_duplicates_stay_on_one_side() -> None:
    pictures = make(40)
    doubled = subset(pictures, [*range(40), *range(30), *range(10)])
    for seed in range(10):
        train, held = split_held_out(doubled, 0.3, seed)
        assert len(held) > 0
        assert not set(members(train)) & set(members(held))


def test_tiny_and_uniform_sets_are_kept_whole_and_say_so() -> None:
    train, held = split_held_out(make(19), 0.3)
    assert (len(train), len(held)) == (19, 0)
    assert any("only 19 pictures" in note for note in train.notes)
    train, held = split_held_out(subset(make(1), [0] * 50), 0.3)
    assert (len(train), len(held)) == (50, 0)
    assert any("copies of each other" in note for note in train.notes)
    assert not split_held_out(make(19), 0.0)[0].notes


def test_the_fraction_must_leave_something() -> None:
    with pytest.raises(ValueError, match="below 1"):
        split_held_out(make(30), 1.0)


# ---- names


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Stands for the modules of the embedded sets and records what they are asked for."""
    calls: list[dict[str, object]] = []

    def pictures(**options: object) -> ArrayPictures:
        calls.append(options)
        return make(30)

    for name in ("flowers", "digits"):
        module = types.ModuleType(f"kakusan.data.{name}")
        module.pictures = pictures  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"kakusan.data.{name}", module)
    return calls


def test_embedded_names(embedded: list[dict[str, object]]) -> None:
    open_data("flowers", size=16, num=30)
    open_data("flowers:held-out")
    open_data("digits")
    assert embedded == [{"split": "train", "size": 16, "num": 30}, {"split": "held-out"}, {"split": "train"}]


def test_flips_can_be_set_on_an_embedded_set(embedded: list[dict[str, object]]) -> None:
    found = open_data("flowers", flip=True)
    assert found.spec.flip
    assert found.fingerprint == make(30).fingerprint
    assert not open_data("flowers").spec.flip


def test_unknown_names_and_options_are_refused_with_a_suggestion(
    embedded: list[dict[str, object]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"'flower' \(did you mean 'flowers'\?\)"):
        open_data("flower")
    with pytest.raises(ValueError, match="no part 'test'"):
        open_data("digits:test")
    with pytest.raises(ValueError, match="no option 'size'"):
        open_data("digits", size=16)
    with pytest.raises(ValueError, match="no option 'fit'"):
        open_data("flowers", fit=Pad())
    with pytest.raises(ValueError, match=r"no option 'chanels' \(did you mean 'channels'\?\)"):
        open_data(tmp_path, chanels=3)
    assert embedded == []


def test_a_folder_is_opened_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowers").mkdir()
    Image.new("L", (4, 6)).save(tmp_path / "flowers" / "a.png")
    monkeypatch.chdir(tmp_path)
    found = open_data("./flowers", size=(3, 2), fit=Pad(0.5), flip=True, channels=3)
    assert found.spec.shape == (3, 3, 2)
    assert found.spec.flip
    assert open_data(Path("flowers")).spec.shape == (1, 6, 4)
