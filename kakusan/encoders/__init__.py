"""What reads texts and pictures for a model: text towers, image towers, CLIP, and adapters to pretrained ones."""

from kakusan.encoders.base import TextEncoder, TextFeatures, TextReport, Word

__all__ = ["TextEncoder", "TextFeatures", "TextReport", "Word"]
