"""Recipes for data sets, on tiny files made here. Nothing touches the network."""

import gzip
import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image

from kakusan.data.folder import open_folder
from kakusan.data.formats import cifar_batches, read_idx, read_mat_vector
from kakusan.data.get import RECIPES, Download, Recipe, get
from kakusan.data.recipe_names import FLOWERS_102

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def mat(values: np.ndarray, name: str = "labels", packed: bool = True) -> bytes:
    """A MATLAB 5 file with one row of bytes."""
    flags = element(6, struct.pack("<II", 9, 0))
    shape = element(5, struct.pack("<ii", 1, len(values)))
    matrix = element(14, flags + shape + element(1, name.encode()) + element(2, values.astype(np.uint8).tobytes()))
    if packed:
        body = zlib.compress(matrix)
        matrix = struct.pack("<II", 15, len(body)) + body
    return bytes(124) + struct.pack("<H", 0x0100) + b"IM" + matrix


def tar(members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return file.getvalue()


def mnist_files() -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    images = RNG.integers(0, 256, (24, 28, 28)).astype(np.uint8)
    labels = (np.arange(24) % 10).astype(np.uint8)
    files = {}
    for stem, part in (("train", slice(0, 20)), ("t10k", slice(20, 24))):
        files[f"{stem}-images-idx3-ubyte.gz"] = gzip.compress(idx(images[part]), mtime=0)
        files[f"{stem}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels[part]), mtime=0)
    return files, images, labels


def fitted(name: str, files: Mapping[str, bytes]) -> dict[str, Recipe]:
    """The recipe with the checksums of small stand-ins."""
    downloads = tuple(
        replace(d, md5=hashlib.md5(files[d.file], usedforsecurity=False).hexdigest()) for d in RECIPES[name].downloads
    )
    return {name: replace(RECIPES[name], downloads=downloads)}


def server(
    files: Mapping[str, bytes], asked: list[str] | None = None
) -> Callable[[str], AbstractContextManager[IO[bytes]]]:
    def opener(url: str) -> AbstractContextManager[IO[bytes]]:
        if asked is not None:
            asked.append(url)
        name = url.rpartition("/")[2]
        if name not in files:
            raise OSError("no route to host")
        return io.BytesIO(files[name])

    return opener


def quiet(line: str) -> None:
    assert line


def test_mnist_becomes_class_folders_that_open(tmp_path: Path) -> None:
    files, images, labels = mnist_files()
    said: list[str] = []
    home = get("mnist", tmp_path / "m", opener=server(files), recipes=fitted("mnist", files), say=said.append)
    assert home == tmp_path / "m" / "train"
    pictures = open_folder(home)
    assert len(pictures) == 20
    assert pictures.spec.shape == (1, 28, 28)
    assert pictures.labels is not None
    for i in range(20):
        number = int(pictures.name(i).rpartition("/")[2].removesuffix(".png"))
        assert np.array_equal(pictures.read([i])[0, 0].numpy(), images[number])
        assert int(pictures.labels[i]) == labels[number]
    assert len(open_folder(tmp_path / "m" / "test")) == 4
    assert any("CC BY-SA" in line for line in said)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_flowers_keep_their_jpeg_bytes(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    jpeg = file.getvalue()
    archive = tar(
        {"jpg/image_00001.jpg": jpeg, "jpg/image_00002.jpg": jpeg, "../image_00001.jpg": b"x", "jpg/run.sh": b"x"},
        links={"jpg/image_00003.jpg": "/etc/passwd"},
    )
    files = {"102flowers.tgz": archive, "imagelabels.mat": mat(np.array([1, 102, 5]))}
    recipes = fitted("oxford-flowers-102", files)
    get("oxford-flowers-102", tmp_path / "f", opener=server(files), recipes=recipes, say=quiet)
    found = sorted(p.relative_to(tmp_path / "f").as_posix() for p in (tmp_path / "f").rglob("*.*"))
    assert found == ["000_pink_primrose/image_00001.jpg", "101_blackberry_lily/image_00002.jpg"]
    assert (tmp_path / "f" / found[0]).read_bytes() == jpeg


def test_cifar_is_read_from_its_binary_form(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    labels = np.array([3, 0, 9, 3], np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(4, -1)], axis=1)
    archive = tar(
        {
            "cifar-10-batches-bin/data_batch_1.bin": records[:2].tobytes(),
            "cifar-10-batches-bin/data_batch_2.bin": records[2:3].tobytes(),
            "cifar-10-batches-bin/test_batch.bin": records[3:].tobytes(),
            "cifar-10-batches-py/data_batch_1": b"\x80\x04pickle.",
        }
    )
    files = {"cifar-10-binary.tar.gz": archive}
    home = get("cifar-10", tmp_path / "c", opener=server(files), recipes=fitted("cifar-10", files), say=quiet)
    assert sorted(p.relative_to(home).as_posix() for p in home.rglob("*.png")) == [
        "0_airplane/1_00001.png",
        "3_cat/1_00000.png",
        "9_truck/2_00000.png",
    ]
    found = np.asarray(Image.open(home / "9_truck" / "2_00000.png"))
    assert np.array_equal(found, images[2].transpose(1, 2, 0))
    assert (tmp_path / "c" / "test" / "3_cat" / "00000.png").is_file()


def test_offline_says_what_to_do_by_hand_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no route to host.*another machine.*--from FOLDER"):
        get("fashion-mnist", tmp_path / "f", opener=server({}), say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_files_downloaded_by_hand_are_checked_and_used(tmp_path: Path) -> None:
    files, _, _ = mnist_files()
    (tmp_path / "have").mkdir()
    for name, data in files.items():
        (tmp_path / "have" / name).write_bytes(data)
    recipes = fitted("mnist", files)
    get("mnist", tmp_path / "m", have=tmp_path / "have", opener=server({}), recipes=recipes, say=quiet)
    assert len(list((tmp_path / "m").rglob("*.png"))) == 24
    (tmp_path / "have" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"has the MD5 .* expected .*download it again"):
        get("mnist", tmp_path / "n", have=tmp_path / "have", opener=server({}), recipes=recipes, say=quiet)
    assert not (tmp_path / "n").exists()


def test_the_second_address_is_tried(tmp_path: Path) -> None:
    files, _, _ = mnist_files()
    asked: list[str] = []
    real = server(files, asked)

    def flaky(url: str) -> AbstractContextManager[IO[bytes]]:
        opened = real(url)
        if url == asked[0]:
            raise OSError("down")
        return opened

    get("mnist", tmp_path / "m", opener=flaky, recipes=fitted("mnist", files), say=quiet)
    assert asked[0].rpartition("/")[2] == asked[1].rpartition("/")[2]
    assert asked[0] != asked[1]


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    files, _, _ = mnist_files()
    with pytest.raises(ValueError, match="damaged or changed"):
        get("mnist", tmp_path / "m", opener=server(files), say=quiet)
    huge = Recipe("huge", (Download("a", ("x/a",), "0", 10),), "", "", lambda files, folder: 0)
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        get("huge", tmp_path / "m", opener=server({"a": bytes(11)}), recipes={"huge": huge}, say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    files, _, _ = mnist_files()
    files["t10k-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.array([0, 1, 2, 10], np.uint8)), mtime=0)
    with pytest.raises(ValueError, match="labels run from 0 to 10, expected 0 to 9"):
        get("mnist", tmp_path / "m", opener=server(files), recipes=fitted("mnist", files), say=quiet)
    files["t10k-labels-idx1-ubyte.gz"] = gzip.compress(idx(np.array([0, 1], np.uint8)), mtime=0)
    with pytest.raises(ValueError, match="4 pictures but 2 labels"):
        get("mnist", tmp_path / "m", opener=server(files), recipes=fitted("mnist", files), say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_names_and_folders_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recipe 'minst' \(did you mean 'mnist'\?\)"):
        get("minst", tmp_path / "m", opener=server({}), say=quiet)
    with pytest.raises(ValueError, match="exists already"):
        get("mnist", tmp_path, opener=server({}), say=quiet)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\x08\x01",
        b"\0\0\x0d\x01\0\0\0\x01abcd",
        idx(np.zeros(5, np.uint8))[:-1],
        idx(np.zeros(5, np.uint8)) + b"x",
        b"\0\0\x08\x03" + b"\xff" * 12,
        gzip.compress(idx(np.zeros(500, np.uint8)), mtime=0)[:-9],
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match="x "):
        read_idx(tmp_path / "x")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.tar.gz"
    path.write_bytes(tar({"data_batch_1.bin": bytes(3073)})[:-20])
    with pytest.raises(ValueError, match=r"damaged|whole number"):
        list(cifar_batches(path))
    path.write_bytes(tar({"data_batch_1.bin": bytes(3072)}))
    with pytest.raises(ValueError, match="whole number of records"):
        list(cifar_batches(path))


@pytest.mark.parametrize("packed", [True, False])
def test_matlab_vectors(packed: bool) -> None:
    values = RNG.integers(1, 103, 50)
    assert np.array_equal(read_mat_vector(mat(values, packed=packed), "labels"), values)
    with pytest.raises(ValueError, match="no variable"):
        read_mat_vector(mat(values, packed=packed), "other")
    for bad in (b"", mat(values, packed=packed)[:170]):
        with pytest.raises(ValueError, match="MATLAB"):
            read_mat_vector(bad, "labels")


def test_matlab_agrees_with_scipy() -> None:
    scipy_io = pytest.importorskip("scipy.io")
    values = np.array([[7, 300, 70_000]])
    for compressed in (True, False):
        file = io.BytesIO()
        scipy_io.savemat(file, {"a": np.zeros((2, 2)), "labels": values}, do_compression=compressed)
        assert read_mat_vector(file.getvalue(), "labels").tolist() == [7, 300, 70_000]


def test_recipes_are_complete() -> None:
    assert set(RECIPES) == {"oxford-flowers-102", "mnist", "fashion-mnist", "cifar-10"}
    assert len(FLOWERS_102) == len(set(FLOWERS_102)) == 102
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        for download in recipe.downloads:
            assert len(download.md5) == 32
            assert all(url.endswith("/" + download.file) for url in download.urls)
