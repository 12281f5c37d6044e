"""The text encoder in a folder, whatever kind it is."""

from __future__ import annotations

from pathlib import Path

from kakusan.encoders.base import TextEncoder
from kakusan.model_folder import FACTS

LAYER, PRECISION = -1, "float32"


def open_encoder(folder: str | Path, *, layer: int = LAYER, precision: str = PRECISION) -> TextEncoder:
    """The text tower of a CLIP trained here, or a pretrained CLIP or T5.

    Args:
        folder: of it.
        layer: of a pretrained one: whose output is read, counted from the end.
        precision: of a pretrained one.

    Raises:
        ValueError: no such folder, one of something else, or a layer or precision of what has no choice of them.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(
            f"there is no folder {folder} with a text encoder; text is own, the folder of a trained CLIP, or one of a "
            "pretrained CLIP or T5"
        )
    if (path / "latest").exists() or (path / FACTS).is_file():
        from kakusan.encoders import folder as stored

        check_own(layer, precision, "a CLIP trained here")
        return stored.load(path).text
    from kakusan.encoders.pretrained import open_pretrained

    return open_pretrained(path, layer=layer, precision=precision)


def check_own(layer: int, precision: str, what: str) -> None:
    """Refuse a layer or precision for an encoder that has no choice of them.

    Raises:
        ValueError: saying so.
    """
    if (layer, precision) != (LAYER, PRECISION):
        raise ValueError(
            f"a layer to read and a precision are of pretrained encoders, and {what} has no choice of them; leave out "
            "--text-read-layer and --text-precision"
        )
