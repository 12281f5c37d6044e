"""Text and image encoders of others (CLIP, T5, mT5), by transformers, from folders on this disk. No network access."""

from kakusan.encoders.pretrained.image import PretrainedClipImage
from kakusan.encoders.pretrained.place import ENCODERS, move
from kakusan.encoders.pretrained.text import PretrainedClipText, PretrainedT5, PretrainedText, open_pretrained

__all__ = [
    "ENCODERS",
    "PretrainedClipImage",
    "PretrainedClipText",
    "PretrainedT5",
    "PretrainedText",
    "move",
    "open_pretrained",
]
