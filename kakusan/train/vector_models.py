"""Fresh models of CLIP vectors: the decoder that draws pictures of them, and the prior that draws them from texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kakusan import building
from kakusan.config import TrainConfig, merge, with_length
from kakusan.data.spec import DataSpec
from kakusan.encoders import folder as clip_folder
from kakusan.encoders.clip import Clip
from kakusan.encoders.conditioner import TOKENS, TextConditioner
from kakusan.encoders.vector_data import VectorSpec
from kakusan.encoders.vectors import ImageVectors
from kakusan.model_folder import Model
from kakusan.nn.tokens import CrossTokens
from kakusan.train.vector_settings import VectorSettings

PRIOR: Mapping[str, Mapping[str, Any]] = {
    "model": {
        "backbone": "dit",
        "width": 256,
        "layers": 4,
        "parameterization": "x0",
        "condition_dropout": 0.1,
    },
    "objective": {"weighting": "simple-x0"},
    "run": {"batch": 128, "measurements": 6, "previews": 0, "watch": 0, "snapshots": 0},
}
"""What differs from the defaults: a transformer that predicts the clean vector, by its plain squared error."""


def prior_settings(clip: str | Path, changes: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
    """Settings of a run that trains a prior of the CLIP in a folder.

    Args:
        changes: by section, what else differs from the defaults.
    """
    config = merge(with_length(merge(TrainConfig(), PRIOR), changes), changes)
    return merge(config, {"vectors": {"clip": str(clip), "prior": True}})


def check_vectors(config: TrainConfig) -> None:
    """Refuse settings that do not go together.

    Raises:
        ValueError: with the reason.
    """
    vectors = config.vectors
    if vectors.clip is None:
        if vectors != VectorSettings():
            raise ValueError(
                "clip-bridge and clip-noise belong to models of CLIP vectors; name a CLIP by --clip-vectors"
            )
        return
    if config.text.encoder is not None:
        raise ValueError("a model is asked with CLIP vectors or with tokens of texts: leave out clip-vectors or text")
    if config.data.pair is not None or config.model.control is not None:
        raise ValueError("a model of CLIP vectors starts from no picture yet; leave out pair, control or clip-vectors")
    if config.data.autoencoder is not None:
        raise ValueError("a CLIP sees pictures, not latents: leave out autoencoder or clip-vectors")
    if vectors.prior and (config.run.previews or config.run.watch != 0):
        raise ValueError("a prior draws no pictures to look at: set previews = 0 and watch = 0 (kakusan train-prior)")


def decoder_model(config: TrainConfig, spec: DataSpec) -> Model:
    """A model that draws pictures of the spec `spec` from their CLIP vectors, with the CLIP in it.

    Raises:
        ValueError: no CLIP there, or one of pictures with other channels.
    """
    assert config.vectors.clip is not None
    stored = clip_folder.load(config.vectors.clip)
    if stored.clip.image.channels != spec.channels or len(spec.size) != 2:
        raise ValueError(
            f"the CLIP of {config.vectors.clip} sees pictures with {stored.clip.image.channels} channels, these have "
            f"{spec.channels}; train one on such pictures, or set channels"
        )
    settings = config.model
    width = 2 * settings.width
    backbone = building.build_backbone(settings, spec, condition_width=width)
    conditioner = ImageVectors(
        clip=stored.clip,
        width=width,
        size=stored.data.size,
        dropout=settings.condition_dropout,
        bridge=config.vectors.bridge,
        noise=config.vectors.noise,
        identity=stored.model_hash,
    )
    return Model(building.build_denoiser(settings, spec, backbone, config.objective.coupling), conditioner)


def prior_model(config: TrainConfig, spec: VectorSpec) -> Model:
    """A model that draws CLIP vectors from texts: a transformer over the tokens of the text and the noisy vector.

    The text is read by the CLIP's own tower, which stays as it is (Ramesh et al. 2022, section 2.2).
    """
    settings = config.model
    text = spec.clip.text
    tokens = CrossTokens({TOKENS: text.width})
    backbone = building.build_backbone(settings, spec, condition_width=2 * settings.width, tokens=tokens)
    conditioner = TextConditioner(
        encoder=text, width=2 * settings.width, dropout=settings.condition_dropout, frozen=True
    )
    return Model(building.build_denoiser(settings, spec, backbone, config.objective.coupling), conditioner)


def clip_of(model: Model, spec: DataSpec) -> tuple[Clip, str]:
    """The CLIP of a decoder or of a prior, and its identity.

    Raises:
        ValueError: a model of another kind.
    """
    if isinstance(spec, VectorSpec):
        return spec.clip, spec.identity
    if isinstance(model.conditioner, ImageVectors):
        return model.conditioner.clip, model.conditioner.identity
    raise ValueError("this is no model of CLIP vectors; train one with kakusan train --clip-vectors FOLDER")
