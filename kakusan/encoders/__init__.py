"""What reads texts and pictures for a model: text towers, image towers, CLIP, and adapters to pretrained ones."""

from kakusan.encoders.base import TextEncoder, TextFeatures, TextReport, Word
from kakusan.encoders.clip import Clip
from kakusan.encoders.folder import StoredClip, load
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import Tokenizer

__all__ = ["Clip", "StoredClip", "TextEncoder", "TextFeatures", "TextReport", "TextTower", "Tokenizer", "Word", "load"]
