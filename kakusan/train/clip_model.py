"""A new CLIP for a data set, and the texts it is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kakusan.data.captions import language_of
from kakusan.data.spec import DataSpec
from kakusan.encoders.clip import Clip
from kakusan.encoders.contrastive import LOSSES
from kakusan.encoders.image import TOWERS
from kakusan.encoders.text import TextTower
from kakusan.encoders.tokenizer import SIZE, Tokenizer
from kakusan.specs import suggestion

HEAD_WIDTH = 32
MOST_KINDS = 4
"""So many texts of a picture are measured apart."""


@dataclass(frozen=True, kw_only=True)
class ClipSizes:
    """What a new CLIP is made of.

    Args:
        tower: of pictures, a name in `kakusan.encoders.image.TOWERS`.
        loss: a name in `kakusan.encoders.contrastive.LOSSES`.
        width: of the image tower.
        depth: of the image tower.
        features: of a vector.
        text_width: features of a token.
        text_depth: blocks of the text tower.
        length: the most tokens of a text.
        vocabulary: the most tokens of the tokenizer.

    Raises:
        ValueError: names that are not known.
    """

    tower: str = "conv"
    loss: str = "softmax"
    width: int = 32
    depth: int = 1
    features: int = 128
    text_width: int = 128
    text_depth: int = 3
    length: int = 64
    vocabulary: int = SIZE

    def __post_init__(self) -> None:
        for what, chosen, known in (("image tower", self.tower, TOWERS), ("loss", self.loss, LOSSES)):
            if chosen not in known:
                raise ValueError(f"no {what} {chosen!r}{suggestion(chosen, list(known))}; known are {', '.join(known)}")

    def build(self, spec: DataSpec, texts: Sequence[Sequence[str]], *, seed: int) -> Clip:
        """The model for pictures of `spec`, with a tokenizer learned from all `texts`; equal seeds give equal weights.

        Raises:
            ValueError: data that are not pictures, or sizes that do not fit.
        """
        if len(spec.shape) != 3:
            raise ValueError(f"CLIP reads pictures (C, H, W), these data are {spec.shape}")
        channels, *size = spec.shape
        tokenizer = Tokenizer.train(sorted({text for several in texts for text in several}), size=self.vocabulary)
        # Layers draw their first weights from the global generator: borrow it and give it back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Clip(
                image=TOWERS[self.tower](
                    channels, size, width=self.width, depth=self.depth, vector_width=self.features
                ),
                text=TextTower(
                    tokenizer=tokenizer.json,
                    width=self.text_width,
                    depth=self.text_depth,
                    heads=max(1, self.text_width // HEAD_WIDTH),
                    length=self.length,
                    vector_width=self.features,
                ),
                loss=LOSSES[self.loss],
            )


def kinds_of_texts(texts: Sequence[Sequence[str]]) -> dict[str, int]:
    """Name -> number of the texts that are measured apart: by language where every picture has the same ones.

    Otherwise only the first text of each picture is.
    """
    counts = {len(several) for several in texts}
    if len(counts) == 1 and counts <= set(range(1, MOST_KINDS + 1)):
        languages = [{language_of(several[k]) for several in texts} for k in range(min(counts))]
        names = [next(iter(found)) for found in languages if len(found) == 1]
        if len(names) == len(set(names)) == min(counts) and None not in names:
            return {str(name): k for k, name in enumerate(names)}
    return {"first caption": 0}
