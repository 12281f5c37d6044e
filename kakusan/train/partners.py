"""The other pictures of data that come in pairs: a second folder with the same file names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from kakusan.data.source import EMBEDDED, Pictures, open_data


class Partners:
    """For each picture of a data set the one of the same name, whatever its suffix, in another.

    Args:
        pictures: the data set.
        others: the second one, brought to the same size.

    Raises:
        ValueError: pictures without a partner, two of one name, or another size.
    """

    def __init__(self, pictures: Pictures, others: Pictures) -> None:
        self.others = others
        if others.spec.size != pictures.spec.size:
            raise ValueError(
                f"the second pictures are {others.spec.size}, the first {pictures.spec.size}: both must be of one size"
            )
        places: dict[str, int] = {}
        for index in range(len(others)):
            key = _plain(others.name(index))
            if key in places:
                raise ValueError(f"two of the second pictures are called {key}; names decide which belong together")
            places[key] = index
        names = [_plain(pictures.name(index)) for index in range(len(pictures))]
        missing = [name for name in names if name not in places]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(names)} pictures have no second one of the same name, such as "
                f"{', '.join(missing[:3])}; --pair-source is a folder with the same names"
            )
        self._places = np.array([places[name] for name in names], np.int64)

    @property
    def channels(self) -> int:
        """Channels of the second pictures."""
        return self.others.spec.channels

    @property
    def fingerprint(self) -> str:
        """Changes when the second pictures do, or which belongs to which."""
        return hashlib.sha256(self.others.fingerprint.encode() + self._places.tobytes()).hexdigest()

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """The partners (n, C, *size) of some pictures, in [-1, 1]."""
        spec = self.others.spec
        stored = self.others.read(self._places[np.asarray(indices, np.int64)])
        spec.check(stored)
        return spec.to_model(stored).to(torch.float32)


def open_partners(pictures: Pictures, source: str) -> Partners:
    """The partners of `pictures` in the folder, zip file or shards `source`.

    Raises:
        ValueError: as `Partners`, or an embedded set, whose pictures have no files.
    """
    if source.partition(":")[0] in EMBEDDED and not Path(source).exists():
        raise ValueError(f"--pair-source is a folder of your own pictures; {source} is embedded and has no file names")
    size = pictures.spec.size
    return Partners(pictures, open_data(source, size=(size[0], size[1]), fit=pictures.spec.fit))


def _plain(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")).with_suffix(""))
