"""Recipes for data people fetch themselves: downloaded only when asked, checked, written as class folders."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kakusan.data.formats import (
    cifar_batches,
    class_folder,
    flower_members,
    read_idx,
    read_mat_vector,
    write_classes,
)
from kakusan.data.recipe_names import CIFAR_10, DIGITS, FASHION, FLOWERS_102
from kakusan.specs import suggestion

_TIMEOUT = 60.0
_CHUNK = 2**20


@dataclass(frozen=True)
class Download:
    """One file: where it is, its published MD5, and a size it cannot exceed."""

    file: str
    urls: tuple[str, ...]
    md5: str
    max_bytes: int


@dataclass(frozen=True)
class Recipe:
    """How to get one data set.

    `unpack(files, folder)` writes class folders below `folder` and returns the number of pictures.
    """

    name: str
    downloads: tuple[Download, ...]
    licence: str
    note: str
    unpack: Callable[[Mapping[str, Path], Path], int]


def _unpack_idx(names: tuple[str, ...]) -> Callable[[Mapping[str, Path], Path], int]:
    def unpack(files: Mapping[str, Path], folder: Path) -> int:
        total = 0
        for part, stem in (("train", "train"), ("test", "t10k")):
            images = read_idx(files[f"{stem}-images-idx3-ubyte.gz"])
            labels = read_idx(files[f"{stem}-labels-idx1-ubyte.gz"])
            total += write_classes(images, labels, names, folder / part)
        return total

    return unpack


def _unpack_cifar(files: Mapping[str, Path], folder: Path) -> int:
    total = 0
    for name, images, labels in cifar_batches(files["cifar-10-binary.tar.gz"]):
        stem = name.removesuffix(".bin")
        part = "test" if stem == "test_batch" else "train"
        # Pictures are numbered anew in every batch.
        prefix = "" if part == "test" else f"{stem[-1]}_"
        total += write_classes(images, labels, CIFAR_10, folder / part, prefix=prefix)
    return total


def _unpack_flowers(files: Mapping[str, Path], folder: Path) -> int:
    labels = read_mat_vector(files["imagelabels.mat"].read_bytes(), "labels")
    if len(labels) and not 1 <= labels.min() <= labels.max() <= len(FLOWERS_102):
        raise ValueError(f"flower labels run from {labels.min()} to {labels.max()}, expected 1 to {len(FLOWERS_102)}")
    total = 0
    for number, data in flower_members(files["102flowers.tgz"]):
        if not 1 <= number <= len(labels):
            raise ValueError(f"picture {number} has no label: there are {len(labels)}")
        label = int(labels[number - 1]) - 1
        home = folder / class_folder(label, FLOWERS_102[label], len(FLOWERS_102))
        home.mkdir(parents=True, exist_ok=True)
        # The JPEG itself: writing it anew as PNG would take six times the room and add nothing.
        (home / f"image_{number:05d}.jpg").write_bytes(data)
        total += 1
    return total


def _files(bases: tuple[str, ...], files: dict[str, tuple[str, int]]) -> tuple[Download, ...]:
    return tuple(
        Download(file, tuple(base + file for base in bases), md5, max_bytes) for file, (md5, max_bytes) in files.items()
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "oxford-flowers-102",
            _files(
                ("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",),
                {
                    "102flowers.tgz": ("52808999861908f626f3c1f4e79d11fa", 400_000_000),
                    "imagelabels.mat": ("e0620be6f572b9609742df49c70aed4d", 100_000),
                },
            ),
            "none stated; collected from the web for research",
            "8,189 photographs of 102 kinds of flowers (Nilsback and Zisserman 2008), 345 MB",
            _unpack_flowers,
        ),
        Recipe(
            "mnist",
            _files(
                (
                    "https://ossci-datasets.s3.amazonaws.com/mnist/",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/",
                ),
                {
                    "train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 20_000_000),
                    "train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432", 1_000_000),
                    "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", 5_000_000),
                    "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", 1_000_000),
                },
            ),
            "CC BY-SA 3.0",
            "70,000 handwritten digits, gray 28x28 (LeCun, Cortes and Burges), 12 MB",
            _unpack_idx(DIGITS),
        ),
        Recipe(
            "fashion-mnist",
            _files(
                ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
                {
                    "train-images-idx3-ubyte.gz": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 40_000_000),
                    "train-labels-idx1-ubyte.gz": ("25c81989df183df01b3e8a0aad5dffbe", 1_000_000),
                    "t10k-images-idx3-ubyte.gz": ("bef4ecab320f06d8554ea6380940ec79", 10_000_000),
                    "t10k-labels-idx1-ubyte.gz": ("bb300cfdad3c16e7a12a480ee83cd310", 1_000_000),
                },
            ),
            "MIT",
            "70,000 pieces of clothing, gray 28x28 (Xiao, Rasul and Vollgraf 2017), 31 MB",
            _unpack_idx(FASHION),
        ),
        Recipe(
            "cifar-10",
            _files(
                ("https://www.cs.toronto.edu/~kriz/",),
                {"cifar-10-binary.tar.gz": ("c32a1d4ab5d03f1284b67883e8d87530", 200_000_000)},
            ),
            "none stated; cite Krizhevsky 2009",
            "60,000 colour pictures 32x32 of 10 classes (Krizhevsky 2009), 170 MB",
            _unpack_cifar,
        ),
    )
}

Opener = Callable[[str], AbstractContextManager[IO[bytes]]]


def _open_url(url: str) -> AbstractContextManager[IO[bytes]]:
    opened: Any = urllib.request.urlopen(url, timeout=_TIMEOUT)
    return opened


def get(
    name: str,
    out: str | Path,
    *,
    have: str | Path | None = None,
    opener: Opener = _open_url,
    recipes: Mapping[str, Recipe] = RECIPES,
    say: Callable[[str], None] = print,
) -> Path:
    """Fetch a named data set into the new folder `out` and return the folder to train on.

    Everything is written beside `out` and moved there at the end, so a failure leaves nothing behind.

    Args:
        name: a key of `RECIPES`.
        out: folder to make; it must not exist.
        have: folder with files downloaded by hand; those found there are checked and not downloaded.
        opener: opens an address for reading.
        recipes: the recipes known.
        say: takes one line of news at a time.

    Raises:
        ValueError: unknown name, `out` exists, no connection (says what to do by hand), or a wrong checksum.
    """
    if name not in recipes:
        raise ValueError(f"no recipe {name!r}{suggestion(name, list(recipes))}; there are {', '.join(recipes)}")
    recipe, target = recipes[name], Path(out)
    if target.exists():
        raise ValueError(f"{target} exists already; give another folder, or remove it first")
    say(f"{recipe.name}: {recipe.note}. Licence: {recipe.licence}")
    work = target.with_name(f"{target.name}.partial-{os.getpid()}")
    work.mkdir(parents=True)
    try:
        files = {d.file: _obtain(d, recipe, work, have, opener, say) for d in recipe.downloads}
        pictures = work / "pictures"
        pictures.mkdir()
        count = recipe.unpack(files, pictures)
        pictures.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    train = target / "train"
    home = train if train.is_dir() else target
    say(f"{count} pictures are in {target}; train on them with: kakusan train --data {home}")
    return home


def _obtain(
    download: Download, recipe: Recipe, work: Path, have: str | Path | None, opener: Opener, say: Callable[[str], None]
) -> Path:
    """A checked file: one downloaded by hand if there is one, else a fresh download."""
    by_hand = None if have is None else Path(have) / download.file
    if by_hand is not None and by_hand.is_file():
        found = _md5(by_hand)
        if found != download.md5:
            raise ValueError(f"{by_hand} has the MD5 {found}, expected {download.md5}; download it again")
        return by_hand
    failures = []
    for url in download.urls:
        say(f"downloading {url}")
        try:
            return _fetch(url, download, work / download.file, opener)
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {error}")
    raise ValueError(
        f"{download.file} could not be downloaded ({'; '.join(failures)}). Without a connection: download "
        f"{' and '.join(d.urls[0] for d in recipe.downloads)} on another machine, put the files into one folder and "
        f"pass it with have=FOLDER (--from FOLDER)"
    )


def _fetch(url: str, download: Download, path: Path, opener: Opener) -> Path:
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    with opener(url) as source, path.open("wb") as file:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > download.max_bytes:
                raise ValueError(f"larger than {download.max_bytes} bytes; this is not the file expected")
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != download.md5:
        raise ValueError(f"the MD5 is {digest.hexdigest()}, expected {download.md5}; damaged or changed")
    return path


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
