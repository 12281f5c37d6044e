"""What goes in: image folders, zip files, embedded sets, checks and download recipes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kakusan.data.fit import FITS, CenterCrop, Fit, Pad, Stretch
    from kakusan.data.order import order
    from kakusan.data.reading import UnreadablePicture
    from kakusan.data.source import ArrayPictures, Pictures, open_data, split_held_out, subset
    from kakusan.data.spec import DataSpec

__all__ = [
    "FITS",
    "ArrayPictures",
    "CenterCrop",
    "DataSpec",
    "Fit",
    "Pad",
    "Pictures",
    "Stretch",
    "UnreadablePicture",
    "open_data",
    "order",
    "split_held_out",
    "subset",
]

_HOMES = {
    "fit": ("FITS", "CenterCrop", "Fit", "Pad", "Stretch"),
    "order": ("order",),
    "reading": ("UnreadablePicture",),
    "source": ("ArrayPictures", "Pictures", "open_data", "split_held_out", "subset"),
    "spec": ("DataSpec",),
}


# Resolved on first use, so that `kakusan data get` and the names in `FITS` cost no torch import.
def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"kakusan.data.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
