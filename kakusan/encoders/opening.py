"""The text encoder in a folder, whatever kind it is."""

from __future__ import annotations

from pathlib import Path

from kakusan.encoders.base import TextEncoder
from kakusan.model_folder import FACTS


def open_encoder(folder: str | Path) -> TextEncoder:
    """The text tower of a CLIP trained here, or a pretrained CLIP or T5.

    Raises:
        ValueError: no such folder, or one of something else.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(
            f"there is no folder {folder} with a text encoder; text is own, the folder of a trained CLIP, or one of a "
            "pretrained CLIP or T5"
        )
    if (path / "latest").exists() or (path / FACTS).is_file():
        from kakusan.encoders import folder as stored

        return stored.load(path).text
    from kakusan.encoders.pretrained import open_pretrained

    return open_pretrained(path)
