"""Latents of a whole data set on disk: encoded once, checked when written, mapped into memory when read."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kakusan.autoencoders.base import Autoencoder
from kakusan.data.cache import cache_home, size_text
from kakusan.data.source import Pictures
from kakusan.files import whole_file

FORMAT = 1
DTYPES: dict[str, tuple[str, np.dtype[Any]]] = {
    "float16": ("F16", np.dtype("<f2")),
    "float32": ("F32", np.dtype("<f4")),
}
MEAN, STD = "mean", "std"
_MIRRORED = "_mirrored"
_MOST_HEADER = 2**24
Say = Callable[[str], None]


class StaleCache(ValueError):
    """A file of latents that is of other pictures, of another autoencoder, or damaged."""


def cache_key(pictures: Pictures, autoencoder: Autoencoder, *, dtype: str, moments: bool) -> str:
    """Hash of all that the latents depend on: the content of the pictures, the autoencoder, and how they are kept.

    Raises:
        ValueError: an autoencoder that is not stored has no identity.
    """
    if not autoencoder.identity:
        raise ValueError(
            "latents are cached under the hash of a stored autoencoder; save this one and load it from its folder first"
        )
    spec = pictures.spec
    said = [FORMAT, pictures.fingerprint, len(pictures), list(spec.shape), spec.low, spec.high, spec.flip]
    return hashlib.sha256(json.dumps([said, autoencoder.identity, dtype, moments]).encode()).hexdigest()


@dataclass(frozen=True)
class _Part:
    """Where one tensor lies in the file."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


class LatentCache:
    """Standardised latents of a data set, in one safetensors file that is mapped into memory.

    `mean` and, where the encoder draws and `moments` asked for it, `std` of every picture; the same of the mirrored
    pictures where training may mirror them (a mirrored latent is not the latent of a mirrored picture).

    Args:
        path: the file.
        key: what it must be of.

    Raises:
        StaleCache: it is of something else, or damaged.
        FileNotFoundError: it is not there.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._parts, self.facts = _header(path)
        if self.facts.get("key") != key:
            raise StaleCache("its pictures, autoencoder or settings are others")
        self._maps = {
            name: np.memmap(path, DTYPES[p.dtype][1], "r", p.offset, p.shape) for name, p in self._parts.items()
        }

    @classmethod
    def open(
        cls,
        pictures: Pictures,
        autoencoder: Autoencoder,
        *,
        path: str | Path | None = None,
        dtype: str = "float16",
        moments: bool = True,
        batch: int = 64,
        say: Say | None = None,
    ) -> LatentCache:
        """The latents of a data set: those of an earlier time where they are of the same, else encoded now.

        Args:
            pictures: the data set; where its spec says that training mirrors, mirrored ones are encoded too.
            autoencoder: from a folder.
            path: of the file; one in the user's folder for caches when not given.
            dtype: float16 or float32. Standardised latents are a few units large and have fewer true digits than
                float16.
            moments: keep deviations too, so that training may draw from what the encoder says; where the encoder gives
                none, nothing is kept.
            batch: pictures encoded at once.
            say: takes lines for people.

        Raises:
            ValueError: an unknown dtype, no pictures, an autoencoder without a folder, or a latent that is not finite,
                with the name of its picture. Nothing is written then.
            OSError: the file cannot be written.
        """
        if dtype not in DTYPES:
            raise ValueError(f"latents are kept as {' or '.join(DTYPES)}, got {dtype!r}")
        if len(pictures) == 0:
            raise ValueError("there are no pictures to encode")
        key = cache_key(pictures, autoencoder, dtype=dtype, moments=moments)
        place = cache_home() / "latents" / f"{key[:40]}.safetensors" if path is None else Path(path)
        try:
            return cls(place, key)
        except FileNotFoundError:
            pass
        except StaleCache as error:
            if say is not None:
                say(f"the latents in {place} are not used ({error}); they are made again")
        size = write_latents(place, key, pictures, autoencoder, dtype=dtype, moments=moments, batch=batch)
        if say is not None:
            say(f"the latents of {len(pictures)} pictures are kept in {place} ({size_text(size)})")
        return cls(place, key)

    def __len__(self) -> int:
        return self._parts[MEAN].shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C', *latent size) of one."""
        return self._parts[MEAN].shape[1:]

    @property
    def mirrored(self) -> bool:
        """Whether the latents of mirrored pictures are there."""
        return MEAN + _MIRRORED in self._parts

    @property
    def draws(self) -> bool:
        """Whether latents can be drawn, beside their mean."""
        return STD in self._parts

    def read(
        self,
        indices: Sequence[int] | np.ndarray | Tensor,
        *,
        mirrored: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Latents (n, C', *latent size), float32.

        Args:
            indices: (n,) places in the data set.
            mirrored: (n,) bool, which of them are to be those of the mirrored picture.
            noise: (n, C', *latent size), standard normal: draws what the encoder says is likely, in place of its mean.

        Raises:
            ValueError: mirrored or drawn latents that were not kept, an index outside the set, or values that are not
                finite any more (the file was changed).
        """
        rows = np.asarray(indices, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise ValueError(f"index {rows.max()} is outside the {len(self)} pictures whose latents are kept")
        if mirrored is not None and bool(mirrored.any()) and not self.mirrored:
            raise ValueError("latents of mirrored pictures were not kept: these data are not mirrored in training")
        if noise is not None and not self.draws:
            raise ValueError("deviations were not kept, so nothing can be drawn; open the cache with moments=True")
        found = self._rows(MEAN, rows, mirrored)
        if noise is not None:
            found = found + self._rows(STD, rows, mirrored) * noise.cpu()
        if not bool(found.isfinite().all()):
            raise ValueError(f"{self.path} holds values that are not finite; delete it, it is made again")
        return found

    def _rows(self, name: str, rows: np.ndarray, mirrored: Tensor | None) -> Tensor:
        found = torch.from_numpy(self._maps[name][rows].astype(np.float32))
        if mirrored is not None and bool(mirrored.any()):
            chosen = mirrored.cpu().bool()
            found[chosen] = torch.from_numpy(self._maps[name + _MIRRORED][rows[chosen.numpy()]].astype(np.float32))
        return found


def write_latents(
    place: Path,
    key: str,
    pictures: Pictures,
    autoencoder: Autoencoder,
    *,
    dtype: str,
    moments: bool,
    batch: int,
) -> int:
    """Encode a data set into a file, whole or not at all; returns its bytes. Arguments as `LatentCache.open`.

    Raises:
        ValueError: a latent that is not finite, also once it is of this dtype.
    """
    count = len(pictures)
    shape = (count, *autoencoder.latent_shape(pictures.spec.shape))
    with torch.no_grad():
        probe = autoencoder.moments(pictures.spec.to_model(pictures.read([0])).to(autoencoder.device))
    wanted = [MEAN, STD] if moments and probe[1] is not None else [MEAN]
    names = [name + side for side in (("", _MIRRORED) if pictures.spec.flip else ("",)) for name in wanted]
    code, kind = DTYPES[dtype]
    size = int(np.prod(shape)) * kind.itemsize
    header: dict[str, Any] = {
        name: {"dtype": code, "shape": list(shape), "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    facts = {"format": FORMAT, "key": key, "pictures": pictures.fingerprint, "autoencoder": autoencoder.identity}
    header["__metadata__"] = {name: str(value) for name, value in facts.items()}
    text = json.dumps(header).encode()
    # The format wants values at multiples of 8 bytes.
    text += b" " * (-len(text) % 8)
    with whole_file(place) as temporary:
        with open(temporary, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + size * len(names))
        maps = {name: np.memmap(temporary, kind, "r+", 8 + len(text) + i * size, shape) for i, name in enumerate(names)}
        for start, found in _encoded(pictures, autoencoder, wanted, batch):
            for name, values in found.items():
                kept = values.to(torch.float16 if dtype == "float16" else torch.float32)
                _refuse_unsound(kept, pictures, start)
                maps[name][start : start + len(kept)] = kept.numpy()
        for mapped in maps.values():
            mapped.flush()
        # Open maps would keep a file on Windows from being renamed.
        del maps
    return place.stat().st_size


@torch.no_grad()
def _encoded(
    pictures: Pictures, autoencoder: Autoencoder, wanted: Sequence[str], batch: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    for start in range(0, len(pictures), batch):
        stored = pictures.read(np.arange(start, min(start + batch, len(pictures))))
        x = pictures.spec.to_model(stored).to(autoencoder.device)
        found: dict[str, Tensor] = {}
        for side, given in (("", x), (_MIRRORED, x.flip(-1))) if pictures.spec.flip else (("", x),):
            moments = dict(zip((MEAN, STD), autoencoder.moments(given), strict=True))
            for name in wanted:
                value = moments[name]
                assert value is not None
                found[name + side] = value.float().cpu()
        yield start, found


def _refuse_unsound(values: Tensor, pictures: Pictures, start: int) -> None:
    bad = (~values.flatten(1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        names = ", ".join(pictures.name(start + i) for i in bad[:4])
        raise ValueError(
            f"the latent of {names} is not finite as {values.dtype}, and is not cached: look at the picture, use "
            "dtype='float32', or train the autoencoder again"
        )


def _header(path: Path) -> tuple[dict[str, _Part], dict[str, str]]:
    """(parts, facts) of a file, checked for being whole."""
    with open(path, "rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= _MOST_HEADER:
            raise StaleCache("it is damaged")
        text = file.read(length)
    try:
        said = json.loads(text)
        facts = {str(k): str(v) for k, v in said.pop("__metadata__", {}).items()}
        names = {code: name for name, (code, _) in DTYPES.items()}
        parts = {
            name: _Part(8 + length + int(v["data_offsets"][0]), tuple(map(int, v["shape"])), names[v["dtype"]])
            for name, v in said.items()
        }
        end = max(8 + length + int(v["data_offsets"][1]) for v in said.values())
        sizes = [int(np.prod(p.shape)) * DTYPES[p.dtype][1].itemsize for p in parts.values()]
        spans = [int(v["data_offsets"][1]) - int(v["data_offsets"][0]) for v in said.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise StaleCache("it is damaged") from None
    if path.stat().st_size != end or MEAN not in parts or sizes != spans:
        raise StaleCache("it was cut short")
    return parts, facts
