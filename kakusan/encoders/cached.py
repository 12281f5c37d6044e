"""Features of the texts of a data set, computed once and kept in a file.

A frozen encoder says the same of a text in every step of training, and a large one takes longer than the model that
listens. The file is a safetensors file named by the hash of what decides it (encoder, texts, precision), so what is out
of date is never found; it can be removed at any time. It is written beside its place and renamed into it, so a part of
one is never seen. Equal texts are stored once, and of every text its real tokens alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kakusan.data.cache import cache_home, size_text
from kakusan.encoders.base import TextEncoder, TextFeatures
from kakusan.encoders.pretrained import PretrainedText
from kakusan.encoders.pretrained.place import Movable
from kakusan.files import whole_file
from kakusan.specs import to_spec

SUFFIX = ".texts.safetensors"
PRECISIONS = {"float16": (torch.float16, "F16"), "float32": (torch.float32, "F32")}
_FORMAT = 1
# The header comes first and is known last; safetensors allows spaces at its end. Eight bytes before it hold its length.
_HEADER = 4096 - 8
_NAMES = ("values", "vectors", "starts", "rows")


def encoder_hash(encoder: TextEncoder) -> str:
    """Identity of everything that features of texts depend on; where a folder of others lies has no part in it."""
    spec = to_spec(encoder)
    if isinstance(encoder, Movable):
        spec.pop("folder")
    found = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name, value in sorted(encoder.state_dict().items()):
        data = value.detach().cpu().contiguous()
        found.update(repr((name, tuple(data.shape), str(data.dtype))).encode())
        found.update(data.view(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b"")
    return found.hexdigest()


class CachedTexts:
    """Features of N texts in a file; made by `open_texts`.

    Args:
        path: the file.
        key: what it must have been made of.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or was made of something else.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        if not path.is_file():
            raise FileNotFoundError(path)
        try:
            file = self._file()
            if (file.metadata() or {}).get("key") != key or set(file.keys()) != set(_NAMES):
                raise ValueError("it was made of something else")
            self._starts, self.rows = file.get_tensor("starts"), file.get_tensor("rows")
            total, self.width = file.get_slice("values").get_shape()
            count, self.vector_width = file.get_slice("vectors").get_shape()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"it is damaged: {error}") from None
        counts = self._starts.diff()
        known = len(counts) == count and int(self._starts[-1]) == total and int(counts.min()) >= 1
        if not known or bool(((self.rows < 0) | (self.rows >= count)).any()):
            raise ValueError("it is damaged: its tables do not fit each other")
        self.length = int(counts.max())
        """The most tokens of a text here; every batch is that long, so that shapes do not change."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def distinct(self) -> int:
        """Different texts, the empty one included."""
        return len(self._starts) - 1

    def __getstate__(self) -> dict[str, Any]:
        # An open file belongs to its process.
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def _file(self) -> Any:
        if "_opened" not in self.__dict__:
            self._opened = safe_open(str(self.path), framework="pt").__enter__()
        return self._opened

    def read(self, indices: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> TextFeatures:
        """Features of the texts at `indices`, float32: (B, length, width), (B, length), (B, vector_width).

        Raises:
            ValueError: an index out of range.
        """
        wanted = torch.as_tensor(indices, dtype=torch.int64).cpu().reshape(-1)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise ValueError(f"there are {len(self)} texts, got the indices {wanted.min()} to {wanted.max()}")
        return self.gather(self.rows[wanted], device)

    def empty(self, batch: int = 1, device: torch.device | str = "cpu") -> TextFeatures:
        """Features of the empty text, which is kept in any case: it stands for "no text"."""
        return self.gather(torch.zeros(batch, dtype=torch.int64), device)

    def gather(self, rows: Tensor, device: torch.device | str) -> TextFeatures:
        """Features of distinct texts by their row in the file; 0 is the empty one."""
        file = self._file()
        tokens, vectors = file.get_slice("values"), file.get_slice("vectors")
        values = torch.zeros(len(rows), self.length, self.width)
        vector = torch.zeros(len(rows), self.vector_width)
        counts = self._starts.diff()[rows]
        for place, row in enumerate(rows.tolist()):
            start, end = int(self._starts[row]), int(self._starts[row + 1])
            values[place, : end - start] = tokens[start:end]
            vector[place] = vectors[row]
        mask = torch.arange(self.length)[None] < counts[:, None]
        return TextFeatures(values.to(device), mask.to(device), vector.to(device))


def open_texts(
    encoder: TextEncoder,
    texts: Sequence[str],
    folder: str | Path | None = None,
    *,
    precision: str = "float16",
    batch: int = 64,
    say: Callable[[str], None] | None = None,
) -> CachedTexts:
    """The features of some texts: those that are kept, or computed now and kept.

    Args:
        encoder: frozen; it is used in eval mode, on the device where it stands.
        texts: of a data set, in its order.
        folder: where files are kept; None takes the user's folder for caches.
        precision: float16 or float32, of what is stored.
        batch: texts computed at once.
        say: takes lines for people.

    Raises:
        ValueError: features that are not finite in this precision, or one that is not known.
        OSError: no room, no permission.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"features are kept in {' or '.join(PRECISIONS)}, got {precision!r}")
    # Half a pair of UTF-16 has no bytes to be hashed by.
    distinct = list(dict.fromkeys(["", *texts]))
    said = [_FORMAT, precision, encoder_hash(encoder), list(texts)]
    key = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    home = cache_home() / "texts" if folder is None else Path(folder)
    path = home / f"{key[:40]}{SUFFIX}"
    tell = say or (lambda _: None)
    try:
        return CachedTexts(path, key)
    except FileNotFoundError:
        tell(f"computing the features of {len(distinct)} different texts, once")
    except ValueError as error:
        tell(f"the features in {path} are not used ({error}) and are computed again")
    places = {text: row for row, text in enumerate(distinct)}
    rows = torch.tensor([places[text] for text in texts], dtype=torch.int64)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        _write(file, encoder, distinct, rows, key, precision, batch)
    tell(f"kept in {path} ({size_text(path.stat().st_size)})")
    return CachedTexts(path, key)


def remember(
    encoder: PretrainedText,
    texts: Sequence[str],
    folder: str | Path | None = None,
    *,
    precision: str = "float16",
    batch: int = 64,
    say: Callable[[str], None] | None = None,
) -> CachedTexts:
    """As `open_texts`; from now on the encoder answers for these texts (and for none) out of the file.

    Its network is then asked for other texts alone, and not even loaded before one comes.

    Args:
        encoder: of others, frozen.
        texts: of a data set.
        folder: as in `open_texts`.
        precision: as in `open_texts`.
        batch: as in `open_texts`.
        say: as in `open_texts`.

    Raises:
        ValueError: as `open_texts`.
    """
    # What it remembers of other texts has no part in what is written now.
    encoder.recall = None
    kept = open_texts(encoder, texts, folder, precision=precision, batch=batch, say=say)
    encoder.recall = _Recall(kept, encoder, texts)
    return kept


class _Recall:
    """Features by token numbers: texts that are cut to the same tokens are the same to an encoder."""

    def __init__(self, kept: CachedTexts, encoder: PretrainedText, texts: Sequence[str]) -> None:
        self.kept = kept
        self.rows = {np.array(encoder.marks).tobytes(): 0}
        for index, text in enumerate(texts):
            self.rows[np.array(encoder.pieces(text).ids).tobytes()] = int(kept.rows[index])

    def __call__(self, ids: Tensor, mask: Tensor) -> TextFeatures | None:
        numbers, counts = ids.cpu().numpy(), mask.sum(1).tolist()
        keys = [row[:count].tobytes() for row, count in zip(numbers, counts, strict=True)]
        if not all(key in self.rows for key in keys):
            return None
        found = self.kept.gather(torch.tensor([self.rows[key] for key in keys], dtype=torch.int64), ids.device)
        # The mask is that of the question, so its length is too.
        missing = ids.shape[1] - self.kept.length
        return TextFeatures(torch.nn.functional.pad(found.values, (0, 0, 0, missing)), mask, found.vector)


def _write(
    file: IO[bytes], encoder: TextEncoder, texts: Sequence[str], rows: Tensor, key: str, precision: str, batch: int
) -> None:
    """Values go to the disk as they come, for those of a large data set fill more than the memory."""
    file.seek(8 + _HEADER)
    counts, vectors = [torch.zeros(1, dtype=torch.int64)], []
    for features in _computed(encoder, texts, precision, batch):
        counts.append(features.mask.sum(1))
        vectors.append(features.vector)
        _put(file, features.values[features.mask])
    starts = torch.cat(counts).cumsum(0)
    table, end = {}, 0
    _, dtype = PRECISIONS[precision]
    shapes: list[tuple[str, str, list[int], int]] = [
        ("values", dtype, [int(starts[-1]), encoder.width], vectors[0].element_size()),
        ("vectors", dtype, [len(texts), encoder.vector_width], vectors[0].element_size()),
        ("starts", "I64", [len(starts)], 8),
        ("rows", "I64", [len(rows)], 8),
    ]
    for name, kind, shape, size in shapes:
        begin, end = end, end + size * int(torch.tensor(shape).prod())
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    for tensor in (torch.cat(vectors), starts, rows):
        _put(file, tensor)
    header = json.dumps({"__metadata__": {"key": key}, **table}).encode().ljust(_HEADER)
    file.seek(0)
    file.write(len(header).to_bytes(8, "little") + header)


def _put(file: IO[bytes], tensor: Tensor) -> None:
    if tensor.numel():
        file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())


@torch.no_grad()
def _computed(encoder: TextEncoder, texts: Sequence[str], precision: str, batch: int) -> Iterator[TextFeatures]:
    """Features on the CPU in the precision in which they are kept, batch by batch."""
    device = next((value.device for value in (*encoder.parameters(), *encoder.buffers())), torch.device("cpu"))
    dtype, _ = PRECISIONS[precision]
    training = encoder.training
    encoder.eval()
    try:
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            ids = encoder.tokens(part)
            # Most captions are far shorter than what an encoder reads at most; columns of padding alone cost time.
            columns = (ids != encoder.pad).any(0).nonzero()
            used = int(columns.max()) + 1 if len(columns) else 1
            found = encoder(ids[:, :used].to(device))
            values, vector, mask = found.values.to(dtype).cpu(), found.vector.to(dtype).cpu(), found.mask.cpu()
            fine = (values.isfinite().all(2) | ~mask).all(1) & vector.isfinite().all(1)
            if not bool(fine.all()):
                text = part[int(fine.long().argmin())]
                known = bool(found.values.isfinite().all()) and bool(found.vector.isfinite().all())
                advice = "keep them in float32" if known else "the encoder itself gives them; use one in float32"
                raise ValueError(f"the features of the text {text[:80]!r} are not finite in {precision}: {advice}")
            yield TextFeatures(values, mask, vector)
    finally:
        encoder.train(training)
