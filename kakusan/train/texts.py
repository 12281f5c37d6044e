"""The captions of a data set as token numbers, and which of them a training sample is given."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kakusan import model_folder
from kakusan.config import TextSettings
from kakusan.data.source import Pictures
from kakusan.encoders import TextEncoder
from kakusan.encoders.cached import remember
from kakusan.encoders.conditioner import TextConditioner
from kakusan.encoders.opening import check_own, open_encoder
from kakusan.encoders.pretrained import PretrainedText
from kakusan.encoders.weighting import escaped
from kakusan.noise import Draws, Stream
from kakusan.run_folder import find_model
from kakusan.specs import to_spec

OWN = "own"
"""The encoder that is trained along with the model."""


def texts_of(pictures: Pictures) -> list[Sequence[str]]:
    """All captions of each picture; an empty list where there are none.

    Raises:
        ValueError: data without any caption.
    """
    several = getattr(pictures, "texts", None)
    if several is None and pictures.captions is not None:
        several = [[caption] if caption else [] for caption in pictures.captions]
    if several is None or not any(several):
        raise ValueError(
            "these pictures have no captions to learn words from: put a text file of the same name beside each "
            "picture, or a metadata.csv or .jsonl with a column caption in the folder"
        )
    return [list(each) for each in several]


def prompts_for(training: Pictures, held_out: Pictures, num: int) -> list[str]:
    """`num` prompts that say captions of held-out pictures, or of those trained on where none are held out.

    Raises:
        ValueError: data without any caption.
    """
    texts = [each for each in texts_of(held_out if len(held_out) else training) if each]
    rows = torch.linspace(0, len(texts) - 1, num).round().long().tolist()
    # Of several captions one picture says its first, the next its second, so that all languages are asked.
    return [escaped(texts[row][place % len(texts[row])]) for place, row in enumerate(rows)]


def reader_for(
    settings: TextSettings, texts: Sequence[Sequence[str]], *, like: str | Path | None = None
) -> tuple[TextEncoder, bool]:
    """(what reads the texts of a new run, whether it stays as it is).

    Args:
        settings: of the run; `encoder` is given.
        texts: the captions of the pictures trained on, from which a tokenizer of its own is learned.
        like: a run or model whose own tower this one continues: the same tokens, or what it learned is lost.

    Raises:
        ValueError: no such folder, or none of an encoder; another size than that of the tower continued.
    """
    assert settings.encoder is not None
    if settings.encoder != OWN:
        encoder = open_encoder(settings.encoder, layer=settings.read_layer, precision=settings.precision)
        if isinstance(encoder, PretrainedText):
            # A network that never changes is asked once for each caption, not at every step.
            remember(encoder, sorted({text for each in texts for text in each} | {""}))
        return encoder, True
    check_own(settings.read_layer, settings.precision, "a tower of one's own")
    from kakusan.encoders.text import TextTower
    from kakusan.encoders.tokenizer import Tokenizer

    heads = max(1, settings.width // 32)
    sizes = {"width": settings.width, "depth": settings.layers, "heads": heads, "length": settings.length}
    before = None if like is None else _tower_of(like)
    if before is not None:
        known = to_spec(before)
        for name, size in sizes.items():
            if known[name] != size:
                raise ValueError(
                    f"the texts of {like} are read with {name} {known[name]}, and this run asks for {size}; "
                    "give the same --text-width, --text-layers and --text-length"
                )
        return before, False
    # In the order of the alphabet: which picture has which caption is no matter of the tokenizer's.
    corpus = sorted({text for each in texts for text in each})
    tokenizer = Tokenizer.train(corpus, size=settings.vocabulary)
    return TextTower(tokenizer=tokenizer.json, vector_width=settings.width, **sizes), False


def _tower_of(source: str | Path) -> TextEncoder | None:
    """The tower that a model's own training made; None where it reads no texts, or by an encoder that stayed as it
    was.
    """
    from kakusan.encoders.text import TextTower

    folder = find_model(source)
    conditioner = model_folder.read(folder)[0].conditioner
    asking = None if conditioner is None else conditioner.asking
    if not isinstance(asking, TextConditioner) or asking.frozen or not isinstance(asking.encoder, TextTower):
        return None
    return asking.encoder.requires_grad_(True)


class Texts:
    """Token numbers of every caption of a data set.

    Args:
        texts: all captions of each picture; pictures without any are trained on as if their text were empty.
        encoder: what turns texts to numbers.
    """

    def __init__(self, texts: Sequence[Sequence[str]], encoder: TextEncoder) -> None:
        flat = [text for each in texts for text in (each or [""])]
        places = {text: place for place, text in enumerate(dict.fromkeys(flat))}
        # Captions repeat, and every one is kept once, in as few bytes as token numbers need.
        self._ids = encoder.tokens(list(places)).to(torch.int32)
        self._places = torch.tensor([places[text] for text in flat], dtype=torch.int64)
        counts = torch.tensor([max(1, len(each)) for each in texts], dtype=torch.int64)
        self._counts, self._first = counts, counts.cumsum(0) - counts
        self.fingerprint = hashlib.sha256(repr([list(each) for each in texts]).encode()).hexdigest()

    def take(self, indices: Tensor, draws: Draws) -> Tensor:
        """One caption for each of the pictures `indices` (B,), drawn among its own: (B, L) int64."""
        counts = self._counts[indices]
        uniform = dataclasses.replace(draws, stream=Stream.CAPTION).uniform(0)
        chosen = torch.minimum((uniform * counts).to(torch.int64), counts - 1)
        return self._ids[self._places[self._first[indices] + chosen]].to(torch.int64)
