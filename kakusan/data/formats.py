"""Readers for the files of well-known data sets, and writing them out as class folders. No pickle is opened."""

from __future__ import annotations

import gzip
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_IDX_LIMIT = 2**28
_MAT_TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_CIFAR_SIDE = 32
_CIFAR_RECORD = 1 + 3 * _CIFAR_SIDE**2


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes in IDX format (the format of MNIST), gzipped or not.

    Raises:
        ValueError: another format, or a file shorter or longer than its header says.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(_IDX_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is damaged or cut off ({error})") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]:
        raise ValueError(f"{path.name} is not an IDX file of bytes")
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    count = 1
    for side in shape:
        count *= side
    if len(data) != 4 + 4 * len(shape) + count:
        raise ValueError(f"{path.name} says it holds {shape}, but has {len(data)} bytes")
    return np.frombuffer(data, np.uint8, count, 4 + 4 * len(shape)).reshape(shape)


def read_mat_vector(data: bytes, name: str) -> np.ndarray:
    """The numbers of variable `name` in a MATLAB 5 file, as int64 in file order.

    Raises:
        ValueError: another format, no such variable, or numbers that are not whole.
    """
    if len(data) < 128 or data[126:128] != b"IM":
        raise ValueError("not a little-endian MATLAB 5 file")
    try:
        for kind, body in _mat_elements(data[128:]):
            if kind == 15:
                unpacked = zlib.decompressobj().decompress(body, _IDX_LIMIT)
                kind, body = next(_mat_elements(unpacked))
            if kind != 14:
                continue
            parts = list(_mat_elements(body))
            if parts[2][1].decode("ascii") == name:
                values = np.frombuffer(parts[3][1], _MAT_TYPES[parts[3][0]])
                if not np.array_equal(values, np.rint(values)):
                    raise ValueError(f"variable {name!r} holds numbers that are not whole")
                return values.astype(np.int64)
    except (struct.error, zlib.error, IndexError, KeyError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError(f"damaged MATLAB file ({error!r})") from error
    raise ValueError(f"the MATLAB file has no variable {name!r}")


def _mat_elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, offset)
        if kind >> 16:
            # Up to four bytes are stored inside the tag.
            kind, size = kind & 0xFFFF, kind >> 16
            yield kind, data[offset + 4 : offset + 4 + size]
            offset += 8
            continue
        if offset + 8 + size > len(data):
            raise struct.error("element is cut off")
        yield kind, data[offset + 8 : offset + 8 + size]
        offset += 8 + size + (0 if kind == 15 else -size % 8)


def write_classes(
    images: np.ndarray, labels: np.ndarray, names: Sequence[str], folder: Path, *, prefix: str = ""
) -> int:
    """Write (N, H, W) or (N, H, W, 3) bytes as `folder/NN_class/<prefix>00000.png`; returns N.

    Raises:
        ValueError: unequal counts or labels out of range.
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} pictures but {len(labels)} labels")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {len(names) - 1}")
    folders = [folder / class_folder(i, name, len(names)) for i, name in enumerate(names)]
    for target in folders:
        target.mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folders[int(label)] / f"{prefix}{i:05d}.png")
    return len(images)


def class_folder(index: int, name: str, count: int) -> str:
    """Folder of a class: its number, so that label order survives, and its name in plain letters."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return f"{index:0{len(str(count - 1))}d}_{plain}"


def cifar_batches(path: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(member name, images (N, 32, 32, 3), labels (N,)) of the binary CIFAR-10 archive, member by member.

    Raises:
        ValueError: a member of the wrong size.
    """
    for name, data in _tar_members(path, r"(?:.*/)?((?:data_batch_[1-5]|test_batch)\.bin)", limit=2**25):
        if len(data) % _CIFAR_RECORD:
            raise ValueError(f"{name} is not a whole number of records of {_CIFAR_RECORD} bytes")
        records = np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_RECORD)
        planes = records[:, 1:].reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE)
        yield name, np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0]


def flower_members(path: Path) -> Iterator[tuple[int, bytes]]:
    """(picture number from 1, JPEG bytes) of the Oxford flowers archive, member by member."""
    for name, data in _tar_members(path, r"(?:.*/)?(image_[0-9]{5}\.jpg)", limit=2**24):
        yield int(name[6:11]), data


def _tar_members(path: Path, pattern: str, *, limit: int) -> Iterator[tuple[str, bytes]]:
    """Regular members whose whole name fits `pattern`, by the name in its group; all others are passed over."""
    wanted = re.compile(pattern)
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                match = wanted.fullmatch(member.name)
                if match is None or not member.isreg() or ".." in member.name.split("/"):
                    continue
                if member.size > limit:
                    raise ValueError(f"{member.name} is larger than {limit} bytes")
                file = archive.extractfile(member)
                assert file is not None
                yield match.group(1), file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is damaged or cut off ({error})") from error
