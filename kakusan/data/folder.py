"""Opening a folder or zip file of pictures as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kakusan.data.decoding import LazyPictures
from kakusan.data.fit import Fit
from kakusan.data.metadata import list_pictures, select
from kakusan.data.opening import MEMORY_LIMIT, Opening, open_listed
from kakusan.data.reading import MAX_PIXELS
from kakusan.data.source import Pictures
from kakusan.data.store import open_store

__all__ = ["MEMORY_LIMIT", "LazyPictures", "open_folder"]


def open_folder(
    source: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    fit: Fit | None = None,
    flip: bool = False,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    limit_per_class: int | None = None,
    labeled: bool | None = None,
    metadata: str | Path | None = None,
    skip_unreadable: bool = False,
    max_pixels: int = MAX_PIXELS,
    memory_limit: int = MEMORY_LIMIT,
    workers: int | None = None,
    cache: str | Path = "auto",
) -> Pictures:
    """Pictures of a zip file or folder: plain, with class sub-folders, or with `metadata.jsonl`, `.csv` or `.parquet`.

    Args:
        source: folder or zip file.
        size: (H, W), or one number for a square. When not given: the size all pictures share if it is at most 256, else
            the median short side rounded down to a multiple of 8, at most 64.
        fit: how other sizes are brought to `size`; `CenterCrop()` when not given.
        flip: allow mirroring in training.
        channels: 1, 2, 3 or 4; when not given, the fewest that lose nothing.
        classes: take only these, names or patterns such as `*rose*`.
        limit_per_class: take at most so many of each class, the first by name.
        labeled: True: classes required; False: classes ignored; None: taken where they are plain to see.
        metadata: a metadata file kept elsewhere.
        skip_unreadable: go on without pictures that cannot be read; `notes` names them.
        max_pixels: larger pictures are refused before decoding.
        memory_limit: bytes of decoded pictures to keep in memory. A larger set is decoded at every read; it is then
            measured on a sample, and read once in full at opening only with `skip_unreadable`.
        workers: decoding threads; results never depend on it.
        cache: where decoded pictures are kept for the next time: a folder, "off", or "auto" (below the user's folder
            for caches, when decoding takes long enough). Results never depend on it.

    Raises:
        ValueError: nothing to read, metadata or labels that do not fit, or unreadable pictures (up to 10 are named).
    """
    path = Path(source)
    opening = Opening(
        size=size,
        fit=fit,
        flip=flip,
        channels=channels,
        skip_unreadable=skip_unreadable,
        max_pixels=max_pixels,
        memory_limit=memory_limit,
        workers=workers,
        cache=cache,
    )
    store = open_store(path)
    where = f"{'the folder' if path.is_dir() else 'the archive'} {str(source)!r}"
    outside = None if metadata is None else Path(metadata)
    found = list_pictures(store, labeled=labeled, metadata=outside, where=where)
    found = select(found, classes=classes, limit_per_class=limit_per_class)
    selection = [None if classes is None else list(classes), limit_per_class]
    return open_listed(store, found, opening, source=path, where=where, selection=selection)
