"""Parquet files of pictures: the same pictures as in a folder, read by row groups."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kakusan.data import parquet
from kakusan.data.decoding import LazyPictures
from kakusan.data.parquet import open_parquet
from kakusan.data.source import ArrayPictures, open_data, split_held_out

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    Image.fromarray(values).save(file, "png")
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data))).transpose(2, 0, 1)


def write(path: Path, columns: dict[str, Any], *, names: list[str] | None = None, rows: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if names is not None:
        said = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(said)})
    pq.write_table(table, path, row_group_size=rows)
    return path


def columns(first: int, count: int) -> dict[str, Any]:
    return {
        "image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(first, first + count)],
        "label": [i % 3 for i in range(first, first + count)],
        "text": [f"number {i}" for i in range(first, first + count)],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Hugging Face lays it out; 7 + 7 pictures for training in row groups of 3."""
    root = tmp_path_factory.mktemp("hub")
    for name, first in (("train-00000-of-00002", 0), ("train-00001-of-00002", 7), ("test-00000-of-00001", 14)):
        write(root / "data" / f"{name}.parquet", columns(first, 7), names=["rose", "iris", "lily"])
    (root / "README.md").write_text("about")
    return root


@pytest.mark.parametrize("above", [0, 2**31])
def test_a_folder_as_the_hub_has_it(folder: Path, above: int) -> None:
    pictures = open_data(folder, stream_above=above)
    assert isinstance(pictures, LazyPictures if above == 0 else ArrayPictures)
    assert len(pictures) == 14
    for i in (13, 0, 7):
        assert np.array_equal(pictures.read([i])[0].numpy(), pixels(png(i)))
    assert pictures.labels is not None
    assert pictures.labels.tolist() == [i % 3 for i in range(14)]
    assert pictures.spec.classes == ("rose", "iris", "lily")
    assert pictures.captions == tuple(f"number {i}" for i in range(14))
    assert pictures.name(9) == "train-00001-of-00002.parquet#2"
    assert any("1 files of other splits are left out" in n for n in pictures.notes)


@given(indices=st.lists(st.integers(0, 13), max_size=20), workers=st.integers(1, 5))
@settings(max_examples=12)
def test_streaming_reads_what_memory_holds(folder: Path, indices: list[int], workers: int) -> None:
    streamed = open_data(folder, stream_above=0, workers=workers)
    assert torch.equal(streamed.read(indices), torch.from_numpy(np.stack([pixels(png(i)) for i in [*indices, 0]])[:-1]))


def test_row_groups_are_the_blocks_of_the_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "WINDOW_BYTES", 1)
    pictures = open_data(folder, stream_above=0)
    assert isinstance(pictures, LazyPictures)
    assert pictures.blocks is not None
    assert pictures.blocks.sizes == (3, 3, 1, 3, 3, 1)
    assert pictures.blocks.window == 2
    kept, _ = split_held_out(pictures, 0.0)
    assert kept.blocks == pictures.blocks
    # In the order of training no more than a window and what follows it is read again.
    from kakusan.data.order import order

    loads: list[int] = []
    real = parquet.ParquetStore._guarded
    monkeypatch.setattr(parquet.ParquetStore, "_guarded", lambda s, f, w: loads.append(f) or real(s, f, w))
    fresh = open_data(folder, stream_above=0, workers=1)
    assert isinstance(fresh, LazyPictures)
    fresh.decoder.forget()
    loads.clear()
    for i in order(3, 0, 14, 14, pictures.blocks):
        fresh.read([int(i)])
    assert len(loads) <= 6


def test_plain_bytes_and_chosen_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        {"data": [png(1), png(2)], "kind": ["b", "a"], "words": ["x", None], "other": [1.5, 2.5]},
    )
    assert open_data(path).labels is None
    pictures = open_data(path, label_column="kind", caption_column="words")
    assert pictures.spec.classes == ("a", "b")
    assert pictures.captions == ("x", "")
    with pytest.raises(ValueError, match="no column 'kinds', did you mean 'kind'|no column 'kinds'.*kind"):
        open_data(path, label_column="kinds")
    with pytest.raises(ValueError, match="not texts or whole numbers"):
        open_data(path, label_column="other")
    with pytest.raises(ValueError, match="not encoded pictures"):
        open_data(path, image_column="kind")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"label": [1]}, "no column of pictures"),
        ({"a": [png(1)], "b": [png(2)]}, "image_column"),
        ({"image": ["a path.png"]}, "no column of pictures"),
        ({"image": [png(1), b"junk"]}, "#1: not a PNG"),
        ({"image": [png(1), None]}, "#1: has no bytes"),
        ({"image": [png(1), b"\x80\x04junk."]}, "pickle"),
        ({"image": [png(1), png(2)], "label": [1, None]}, "1 pictures have no label"),
        ({"image": [png(1)], "label": [-2]}, "labels start at 0"),
        ({"image": pa.array([], pa.binary())}, "no rows"),
    ],
)
@pytest.mark.parametrize("above", [0, 2**31])
def test_bad_files_are_refused(tmp_path: Path, made: dict[str, Any], said: str, above: int) -> None:
    with pytest.raises(ValueError, match=said):
        open_data(write(tmp_path / "a.parquet", made), stream_above=above)


def test_an_address_alone_is_not_followed(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": png(1), "path": None}, {"bytes": None, "path": "/etc/passwd"}], kind)
    path = write(tmp_path / "a.parquet", {"image": images})
    with pytest.raises(ValueError, match="a path or address alone is not followed"):
        open_data(path)
    assert len(open_data(path, skip_unreadable=True)) == 1


def test_labels_of_named_classes(tmp_path: Path) -> None:
    made = {"image": [png(1), png(2)], "label": [0, 5]}
    with pytest.raises(ValueError, match="label 5, but there are 2 classes"):
        open_data(write(tmp_path / "a.parquet", made, names=["a", "b"]))
    made["label"] = [-1, -1]
    assert open_data(write(tmp_path / "a.parquet", made, names=["a", "b"])).labels is None


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=12)
def test_a_file_cut_short_is_refused(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = write(tmp_path_factory.mktemp("cut") / "a.parquet", columns(0, 4))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"a.parquet is not a readable parquet file"):
        open_data(path)


def test_a_file_that_changes_while_it_is_used_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", columns(0, 7))
    pictures = open_data(path, stream_above=0)
    assert isinstance(pictures, LazyPictures)
    pictures.decoder.forget()
    pictures.decoder._decode.reader._store._kept.clear()  # type: ignore[attr-defined]
    write(path, columns(7, 7))
    with pytest.raises(ValueError, match="has changed since it was opened"):
        pictures.read([5])


def test_files_with_other_columns_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", columns(0, 2))
    write(tmp_path / "b.parquet", {"image": [png(3)]})
    with pytest.raises(ValueError, match="other columns"):
        open_data(tmp_path)


def test_a_row_group_that_unpacks_too_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    bomb = [bytes(100_000) + bytes([i]) for i in range(40)]
    pq.write_table(pa.table({"image": bomb}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(ValueError, match="as a bomb does"):
        open_data(path)
    monkeypatch.setattr(parquet, "MOST_GROUP_BYTES", 1000)
    with pytest.raises(ValueError, match="row groups are read whole"):
        open_data(path)


def test_without_pyarrow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"kakusan\[parquet\]"):
        open_data(folder)
    with pytest.raises(ValueError, match="no parquet files"):
        open_parquet([])
