"""What a run on pairs adds to its data: the pair, second pictures, and the few that its previews start from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from kakusan import building
from kakusan.choices import build_pair
from kakusan.config import TrainConfig
from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.encoders.conditioner import TextConditioner
from kakusan.encoders.vector_data import VectorSpec
from kakusan.encoders.vectors import GivenVectors, ImageVectors
from kakusan.encoders.weighting import escaped
from kakusan.model_folder import Model
from kakusan.noise import Draws, Stream
from kakusan.pairs import Given, Pair, PairConditioner
from kakusan.train.control import control_model
from kakusan.train.feed import Feed
from kakusan.train.partners import Partners, open_partners
from kakusan.train.texts import Texts, reader_for, texts_of
from kakusan.train.vector_models import check_vectors, decoder_model, prior_model

if TYPE_CHECKING:
    from kakusan.train.run import TrainingRun


Captions: TypeAlias = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Pairing:
    """The pair of a run, its second pictures and its captions; all of it None for a run without.

    Args:
        pair: how the picture to start from is made.
        training: partners of the pictures trained on, where they come with the data.
        held_out: partners of those held out.
        noise: most noise on it; the pair's own when None.
        captions: all captions of each picture trained on, and of each held out.
        texts: the same as token numbers, once the model is built that reads them.
    """

    pair: Pair | None = None
    training: Partners | None = None
    held_out: Partners | None = None
    noise: float | None = None
    captions: tuple[Captions, Captions] | None = None
    texts: tuple[Texts | None, Texts | None] = (None, None)

    @classmethod
    def open(cls, config: TrainConfig, training: Pictures, held_out: Pictures) -> Pairing:
        """What the settings ask for.

        Raises:
            ValueError: pictures without a partner or captions, or settings that do not go together.
        """
        data, captions = config.data, None
        check_vectors(config)
        if config.text.encoder is not None or config.vectors.prior:
            if config.model.control is not None:
                raise ValueError("a control branch learns no texts of its own; leave out control or text")
            captions = (texts_of(training), texts_of(held_out) if len(held_out) else [])
        if data.pair_source is None:
            return cls(build_pair(data), noise=data.pair_noise, captions=captions)
        first = open_partners(training, data.pair_source)
        second = open_partners(held_out, data.pair_source) if len(held_out) else None
        return cls(build_pair(data, first.channels), first, second, data.pair_noise, captions)

    def feed(self, pictures: Pictures, **settings: Any) -> Feed:
        """The batches of the pictures trained on, with all that comes with them; settings as of `Feed`."""
        return Feed(pictures, partners=self.training, texts=self.texts[0], **settings)

    def fingerprint(self, pictures: Pictures) -> str:
        """Of the data as a whole."""
        if self.training is None:
            return pictures.fingerprint
        return hashlib.sha256((pictures.fingerprint + self.training.fingerprint).encode()).hexdigest()

    def build(self, config: TrainConfig, spec: DataSpec, like: str | Path | None = None) -> Model:
        """The fresh model of a run: of its own settings, or a branch beside a trained one.

        Args:
            like: a model or run whose tokens this one is to read alike, where it reads texts by itself.
        """
        if isinstance(spec, VectorSpec):
            return prior_model(config, spec)
        if config.vectors.clip is not None:
            return decoder_model(config, spec)
        paired, coupling = (self.pair, self.noise), config.objective.coupling
        if self.captions is not None:
            reader, frozen = reader_for(config.text, self.captions[0], like=like)
            return building.build_model(
                config.model, spec, coupling=coupling, paired=paired, reader=reader, frozen=frozen
            )
        if config.model.control is None:
            return building.build_model(config.model, spec, coupling=coupling, paired=paired)
        if self.pair is None or self.noise:
            raise ValueError("a control branch follows a picture without noise: set pair, and leave pair_noise out")
        return control_model(config.model.control, self.pair, spec, dropout=config.model.condition_dropout)

    def read_by(self, model: Model) -> Pairing:
        """The same with the captions as the numbers that this model reads."""
        asking = None if model.conditioner is None else model.conditioner.asking
        if self.captions is None or not isinstance(asking, TextConditioner):
            return self
        encoder = asking.encoder
        training, held_out = (Texts(each, encoder) if each else None for each in self.captions)
        return replace(self, texts=(training, held_out))


@dataclass(frozen=True, eq=False)
class Shown:
    """The pictures of a preview.

    Args:
        x0: (B, C, *size), the originals.
        given: what the samples start from; None for noise alone.
        labels: class indices or texts, or None.
    """

    x0: Tensor
    given: Given | None
    labels: list[int] | list[str] | None


def shown_of(run: TrainingRun, count: int) -> Shown | None:
    """At most `count` held-out pictures, or training pictures where none are held out; None for a run on neither pairs
    nor texts.
    """
    conditioner = run.model.conditioner
    held = len(run.held_out) > 0
    if isinstance(conditioner, ImageVectors):
        return _by_vectors(run.held_out if held else run.training, conditioner, count)
    captions = None if run.pairing.captions is None else run.pairing.captions[held]
    if captions is not None and not isinstance(conditioner, PairConditioner):
        return _captioned(run.held_out if held else run.training, captions, count)
    if not isinstance(conditioner, PairConditioner):
        return None
    pictures, partners = (run.held_out, run.pairing.held_out) if held else (run.training, run.pairing.training)
    count = min(count, len(pictures))
    rows = torch.arange(count) * len(pictures) // count
    x0 = pictures.spec.to_model(pictures.read(rows.numpy()))
    seed = run.config.run.seed
    draws = Draws(torch.full_like(rows, seed), rows, Stream.PAIR_HELD_OUT)
    shape = tuple(x0.shape[1:])
    if partners is not None:
        spatial = conditioner.pair.spatial(partners.read(rows.numpy()), shape)
    else:
        spatial = conditioner.pair(x0, draws)
    level = 0.0
    if conditioner.pair.noisy_itself:
        level = 0.5 * conditioner.noise
        spatial = conditioner.noised(spatial, torch.full((count,), level), draws)
    if captions is not None:
        return Shown(x0, Given(spatial, level), _texts(captions, rows))
    labels = None if pictures.labels is None or not conditioner.classes else pictures.labels[rows].tolist()
    return Shown(x0, Given(spatial, level), labels)


def _captioned(pictures: Pictures, captions: Captions, count: int) -> Shown:
    count = min(count, len(pictures))
    rows = torch.arange(count) * len(pictures) // count
    return Shown(pictures.spec.to_model(pictures.read(rows.numpy())), None, _texts(captions, rows))


def _texts(captions: Captions, rows: torch.Tensor) -> list[str]:
    # Of several captions one picture shows its first, the next its second, so that all languages are seen.
    # Brackets in a caption are signs, and in a prompt weights.
    return [escaped((captions[row] or [""])[k % max(1, len(captions[row]))]) for k, row in enumerate(rows.tolist())]


def _by_vectors(pictures: Pictures, conditioner: ImageVectors, count: int) -> Shown:
    count = min(count, len(pictures))
    rows = torch.arange(count) * len(pictures) // count
    x0 = pictures.spec.to_model(pictures.read(rows.numpy()))
    vectors = conditioner.embed(x0.to(conditioner.nothing_known.device)).cpu()
    return Shown(x0, GivenVectors(vectors, source={"kind": "pictures"}), None)
