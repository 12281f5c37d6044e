"""Data sets: the protocol, the one in memory, opening by name or path, splits and subsets."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from kakusan.data.kinds import find_parts
from kakusan.data.order import Blocks
from kakusan.data.spec import DataSpec
from kakusan.specs import suggestion

if TYPE_CHECKING:
    from kakusan.data.decoding import Decoder
    from kakusan.data.fit import Fit

TINY = 20
"""Below this many pictures nothing is held out."""


@runtime_checkable
class Pictures(Protocol):
    """A data set of pictures with one spec.

    `labels` is (N,) int64 or None, `captions` has N texts or is None ("" where a picture has none), `texts` has all
    captions of each picture, `fingerprint` changes when the data do, `notes` says what was decided or changed while
    opening.
    """

    @property
    def spec(self) -> DataSpec: ...
    @property
    def labels(self) -> Tensor | None: ...
    @property
    def captions(self) -> Sequence[str] | None: ...
    @property
    def texts(self) -> Sequence[Sequence[str]] | None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Stored pictures (n, C, H, W), uint8 or uint16."""
        ...

    def name(self, index: int) -> str:
        """What to call one picture in messages."""
        ...

    def digest(self, index: int) -> str:
        """Hash of one picture's content: equal for exact duplicates."""
        ...


class ArrayPictures:
    """Pictures held in memory.

    Args:
        spec: what they are.
        stored: (N, C, H, W) uint8 or uint16; checked against `spec`.
        labels: (N,) indices into `spec.classes`.
        names: N names; numbers when not given.
        captions: N texts, one of each picture.
        texts: all texts of each of the N pictures, in place of `captions`, which then are the first of each.
        fingerprint: hash of the content; computed when not given.
        notes: what was decided while opening.
        digests: N content hashes; computed from the pixels when not given.

    Raises:
        ValueError: pictures, labels, names or captions that do not agree with each other or with the spec.
    """

    def __init__(
        self,
        spec: DataSpec,
        stored: Tensor | np.ndarray,
        *,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
        texts: Sequence[Sequence[str]] | None = None,
        fingerprint: str | None = None,
        notes: Sequence[str] = (),
        digests: Sequence[str] | None = None,
    ) -> None:
        self.spec = spec
        self._stored = stored.numpy() if isinstance(stored, Tensor) else stored
        self.labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64).clone()
        if captions is not None and texts is not None:
            raise ValueError("give captions or texts, not both: the first text of a picture is its caption")
        if texts is None and captions is not None:
            texts = [(text,) if text else () for text in captions]
        self.texts = None if texts is None else tuple(tuple(several) for several in texts)
        self.captions = first_of_each(self.texts) if captions is None else tuple(captions)
        self.notes: tuple[str, ...] = tuple(notes)
        self._names = None if names is None else tuple(names)
        self._digests = None if digests is None else tuple(digests)
        self._check()
        self.fingerprint = self._fingerprint() if fingerprint is None else fingerprint

    def _check(self) -> None:
        for start in range(0, len(self), 1024):
            self.spec.check(torch.from_numpy(self._stored[start : start + 1024]))
        for what, values in (("labels", self.labels), ("names", self._names), ("captions", self.texts)):
            if values is not None and len(values) != len(self):
                raise ValueError(f"{len(self)} pictures but {len(values)} {what}")
        if self.labels is not None:
            self.spec.check_labels(self.labels)

    def _fingerprint(self) -> str:
        found = hashlib.sha256(repr((self._stored.shape, self._stored.dtype.str, self.spec.classes)).encode())
        found.update(np.ascontiguousarray(self._stored).data)
        found.update(repr((self._names, self.captions)).encode())
        # Only where there are several, so that the fingerprint of other data stays what it always was.
        if self.texts is not None and any(len(several) > 1 for several in self.texts):
            found.update(repr(self.texts).encode())
        if self.labels is not None:
            found.update(self.labels.numpy().tobytes())
        return found.hexdigest()

    def __len__(self) -> int:
        return len(self._stored)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Stored pictures (n, C, H, W), uint8 or uint16."""
        return torch.from_numpy(self._stored[np.asarray(indices, np.int64)])

    def name(self, index: int) -> str:
        """Name of one picture, or its number."""
        return str(index) if self._names is None else self._names[index]

    def digest(self, index: int) -> str:
        """Hash of one picture's content."""
        if self._digests is not None:
            return self._digests[index]
        return hashlib.sha256(np.ascontiguousarray(self._stored[index]).data).hexdigest()


class Subset:
    """Some pictures of another data set, by index; nothing is copied. Spec and classes are those of the whole set."""

    def __init__(
        self,
        pictures: Pictures,
        indices: Sequence[int] | np.ndarray,
        *,
        notes: Sequence[str] = (),
        spec: DataSpec | None = None,
    ) -> None:
        self._whole = pictures
        self._indices = np.asarray(indices, np.int64).reshape(-1)
        outside = self._indices[(self._indices < 0) | (self._indices >= len(pictures))]
        if len(outside):
            raise ValueError(f"index {outside[0]} is outside the data set of {len(pictures)} pictures")
        self.spec = pictures.spec if spec is None else spec
        self.labels = None if pictures.labels is None else pictures.labels[torch.from_numpy(self._indices)]
        captions, texts = pictures.captions, pictures.texts
        self.captions = None if captions is None else tuple(captions[int(i)] for i in self._indices)
        self.texts = None if texts is None else tuple(tuple(texts[int(i)]) for i in self._indices)
        self.notes: tuple[str, ...] = (*pictures.notes, *notes)
        everything = np.array_equal(self._indices, np.arange(len(pictures)))
        choice = hashlib.sha256(pictures.fingerprint.encode() + self._indices.tobytes()).hexdigest()
        self.fingerprint = pictures.fingerprint if everything else choice
        whole = blocks_of(pictures)
        self.blocks = None if whole is None else whole.taken(self._indices)
        self.decoder = decoder_of(pictures)

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Stored pictures (n, C, H, W), uint8 or uint16."""
        return self._whole.read(self._indices[np.asarray(indices, np.int64)])

    def name(self, index: int) -> str:
        """Name of one picture."""
        return self._whole.name(int(self._indices[index]))

    def digest(self, index: int) -> str:
        """Hash of one picture's content."""
        return self._whole.digest(int(self._indices[index]))


def first_of_each(texts: Sequence[Sequence[str]] | None) -> tuple[str, ...] | None:
    """The first text of each picture, "" where it has none."""
    return None if texts is None else tuple(several[0] if several else "" for several in texts)


def blocks_of(pictures: Pictures) -> Blocks | None:
    """Parts of a data set that are best read together, if it has any."""
    found: Blocks | None = getattr(pictures, "blocks", None)
    return found


def decoder_of(pictures: Pictures) -> Decoder | None:
    """What decodes the pictures of a data set when they are read, if anything does."""
    found: Decoder | None = getattr(pictures, "decoder", None)
    return found


def subset(pictures: Pictures, indices: Sequence[int] | np.ndarray) -> Pictures:
    """The pictures at `indices`, in that order."""
    return Subset(pictures, indices)


def split_held_out(pictures: Pictures, fraction: float = 0.1, seed: int = 0) -> tuple[Pictures, Pictures]:
    """(train, held_out): a pure function of the pictures' content and `seed`, whatever their order.

    Every class gives its share. Exact duplicates stay on one side. Held out are at most `fraction` of the pictures;
    with fewer than 20 pictures none are, and `notes` says so.

    Raises:
        ValueError: `fraction` outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"the held-out fraction is at least 0 and below 1, got {fraction}")
    total = len(pictures)
    wanted = round(fraction * total) if total >= TINY else 0
    held: list[int] = []
    for group in _held_out_first(pictures, seed) if wanted else []:
        if len(held) + len(group) <= wanted:
            held += group
    notes = []
    if fraction > 0 and not held:
        reason = f"only {total} pictures" if total < TINY else "nearly all pictures are copies of each other"
        notes = [f"nothing is held out ({reason}), so overfitting cannot be measured"]
    rest = sorted(set(range(total)) - set(held))
    return Subset(pictures, rest, notes=notes), Subset(pictures, sorted(held), notes=notes)


def _held_out_first(pictures: Pictures, seed: int) -> list[list[int]]:
    """Groups of exact duplicates, in the order in which they are held out."""
    groups: dict[str, list[int]] = {}
    for i in range(len(pictures)):
        groups.setdefault(pictures.digest(i), []).append(i)
    labels = pictures.labels
    classes: dict[int, list[str]] = {}
    for digest, group in groups.items():
        classes.setdefault(-1 if labels is None else int(labels[group].min()), []).append(digest)
    keyed = {digest: hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest() for digest in groups}
    ranked: list[tuple[float, str, str]] = []
    for members in classes.values():
        members.sort(key=keyed.__getitem__)
        ranked += [((rank + 0.5) / len(members), keyed[d], d) for rank, d in enumerate(members)]
    return [groups[digest] for _, _, digest in sorted(ranked)]


EMBEDDED: dict[str, tuple[str, frozenset[str]]] = {
    "flowers": ("kakusan.data.flowers", frozenset({"size", "num"})),
    "digits": ("kakusan.data.digits", frozenset()),
}
"""Sets that come with the package: home module, options. `name` is the training part, `name:held-out` the rest."""

VARIANTS: dict[tuple[str, str], tuple[str, frozenset[str]]] = {
    ("flowers", "words"): ("kakusan.data.flowers_combinations", frozenset({"size", "num"})),
}
"""Other sets of the same home: `flowers:words`, whose parts are `flowers:words:held-out` and so on."""


def open_data(
    source: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    fit: Fit | None = None,
    flip: bool | None = None,
    **options: Any,
) -> Pictures:
    """Open pictures: a folder, a zip file, tar shards, parquet files, or an embedded set.

    Args:
        source: a path, or an embedded name (`flowers`, `flowers:words`, `digits`, each with `:held-out` for the rest).
            A folder in the way of a name is reached as `./flowers`. A folder that holds `.tar` or `.parquet` files and
            no pictures, one such file, or a pattern such as `shards/train-*.tar` is streamed.
        size: (H, W), or one number for a square; found from the pictures when not given.
        fit: how pictures of another size are brought to `size`; `CenterCrop()` when not given.
        flip: allow mirroring in training; off when not given.
        options: fields of `kakusan.data.captioned.CaptionChoice` (captions from a file or from the names of classes)
            for any source; besides the further arguments of `kakusan.data.folder.open_folder`,
            `kakusan.data.shards.open_shards` or `kakusan.data.parquet.open_parquet`, or `num` for `flowers`.

    Raises:
        ValueError: no such folder or name, bad data (the message names the files), unknown option.
    """
    from kakusan.data.captioned import CaptionChoice

    spoken = {f.name: options.pop(f.name) for f in dataclasses.fields(CaptionChoice) if f.name in options}
    choice = CaptionChoice(**spoken)
    return choice.apply(_open(source, size=size, fit=fit, flip=flip, options=options))


def _open(
    source: str | Path,
    *,
    size: int | tuple[int, int] | None,
    fit: Fit | None,
    flip: bool | None,
    options: dict[str, Any],
) -> Pictures:
    name, _, part = str(source).partition(":")
    if isinstance(source, str) and name in EMBEDDED:
        if fit is not None:
            options["fit"] = fit
        if size is not None:
            options["size"] = size if isinstance(size, int) else tuple(size)
        return _open_embedded(name, part, flip=flip, options=options)
    path = Path(source)
    streamed = find_parts(path)
    if streamed is not None:
        kind, files = streamed
        opener = getattr(importlib.import_module(kind.module), kind.function)
        known = [p for p in inspect.signature(opener).parameters if p != "files"]
        _refuse_unknown(f"the {kind.name} {str(source)!r}", options, known)
        streams: Pictures = opener(files, size=size, fit=fit, flip=bool(flip), **options)
        return streams
    if not path.exists():
        known = [f"{n}{p}" for n in EMBEDDED for p in ("", ":held-out")]
        raise ValueError(
            f"no folder, zip file or embedded data set {str(source)!r}{suggestion(str(source), known)}; "
            f"embedded are {', '.join(EMBEDDED)}"
        )
    from kakusan.data.folder import open_folder

    known = [p for p in inspect.signature(open_folder).parameters if p != "source"]
    _refuse_unknown(f"the folder {str(source)!r}", options, known)
    return open_folder(path, size=size, fit=fit, flip=bool(flip), **options)


def _open_embedded(name: str, part: str, *, flip: bool | None, options: dict[str, Any]) -> Pictures:
    module, allowed = EMBEDDED[name]
    variant, _, rest = part.partition(":")
    if (name, variant) in VARIANTS:
        module, allowed = VARIANTS[name, variant]
        name, part = f"{name}:{variant}", rest
    elif part not in ("", "train", "held-out"):
        known = ["held-out", *(v for n, v in VARIANTS if n == name)]
        also = "".join(f", '{name}:{p}'" for p in known[:-1])
        raise ValueError(
            f"the embedded data set {name!r} has no part {part!r}; use {name!r}{also} or '{name}:{known[-1]}'"
        )
    _refuse_unknown(f"the embedded data set {name!r}", options, sorted(allowed))
    found: Pictures = importlib.import_module(module).pictures(split=part or "train", **options)
    if flip is None or flip == found.spec.flip:
        return found
    return Subset(found, range(len(found)), spec=dataclasses.replace(found.spec, flip=flip))


def _refuse_unknown(what: str, options: dict[str, Any], known: list[str]) -> None:
    for key in options:
        if key not in known:
            raise ValueError(
                f"{what} takes no option {key!r}{suggestion(key, known)}; known are {', '.join(known) or 'none'}"
            )
