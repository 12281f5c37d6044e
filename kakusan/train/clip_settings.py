"""Settings of the training of a CLIP, section by section. Imports no torch, so that the help comes at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kakusan.train.data_settings import CaptionedSettings
from kakusan.train.option_kinds import MaybeFloat, MaybeInt

MINUTES = 5.0


@dataclass(frozen=True)
class ClipSizeSettings:
    """The two towers.

    Args:
        tower: of pictures: conv (residual convolutions) or vit (vision transformer).
        loss: softmax (CLIP) or sigmoid (SigLIP).
        width: of the image tower: the one dial for its size.
        depth: of the image tower.
        features: of a vector.
        text_width: features of a token.
        text_depth: blocks of the text tower.
        length: the most tokens of a text, marks for its beginning and end included.
        vocabulary: the most tokens of the tokenizer that is learned from the captions.
    """

    tower: str = "conv"
    loss: str = "softmax"
    width: int = 32
    depth: int = 1
    features: int = 128
    text_width: int = 128
    text_depth: int = 3
    length: int = 64
    vocabulary: int = 2048


@dataclass(frozen=True)
class ClipRunSettings:
    """The training itself.

    Args:
        minutes: how long to train; 5 when no steps are given either.
        steps: of the optimizer, in place of minutes: the same steps give the same weights.
        batch: pairs in a step.
        optimizer: muon (for matrices and kernels, with AdamW for the rest) or adamw.
        rate: largest learning rate; found from the optimizer when not given.
        decay: of the weights.
        agree: weight of the texts of a picture agreeing with each other, where there are several; 0 leaves that out.
        augment: how far pictures are moved, turned and scaled in training, as a fraction.
        seed: of weights, order and augmentation.
        threads: of the CPU; chosen when not given.
        device: auto, cpu, cuda.
        precision: of products: auto (bf16 where the device multiplies it itself), fp32 or bf16.
    """

    minutes: MaybeFloat = None
    steps: MaybeInt = None
    batch: int = 128
    optimizer: str = "muon"
    rate: MaybeFloat = None
    decay: float = 0.1
    agree: float = 1.0
    augment: float = 0.08
    seed: int = 0
    threads: MaybeInt = None
    device: str = "auto"
    precision: str = "auto"

    def plan(self) -> dict[str, Any]:
        """Of these what `ClipTraining` takes, by its names: all but the means."""
        minutes = MINUTES if self.minutes is None else self.minutes
        means = ("threads", "device", "precision")
        return {k: v for k, v in vars(self).items() if k not in means} | {"minutes": minutes}


@dataclass(frozen=True)
class ClipConfig:
    """Everything that decides the training of a CLIP."""

    data: CaptionedSettings = field(default_factory=CaptionedSettings)
    size: ClipSizeSettings = field(default_factory=ClipSizeSettings)
    run: ClipRunSettings = field(default_factory=ClipRunSettings)
