"""Settings of the training of an autoencoder, section by section. Imports no torch, so that the help comes at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from kakusan.train.data_settings import PictureSettings
from kakusan.train.option_kinds import MaybeFloat, MaybeInt, arg

MINUTES = 5.0


@dataclass(frozen=True)
class AutoencoderModelSettings:
    """The autoencoder.

    Args:
        kind: kl (Gaussian latents) or vq (a codebook).
        factor: pixels a side of one place of the latent: 2, 4, 8 ...
        latent_channels: numbers at each place of the latent.
        codes: of the codebook of a vq one.
    """

    kind: str = "kl"
    factor: int = 4
    latent_channels: int = 4
    codes: int = 1024


@dataclass(frozen=True)
class AutoencoderSizeSettings:
    """Its network.

    Args:
        width: channels at the finest grid: the one dial for its size.
        multipliers: channels of each grid over the width, finest first; the last is repeated for coarser grids.
        depth: blocks on each grid of the encoder.
        decoder_depth: blocks on each grid of the decoder, which has the harder task.
        patch: the finest grid has one place for so many pixels a side; 2 costs more and shows finer detail.
        attention: let the middle look at the whole picture.
    """

    width: int = 96
    multipliers: tuple[int, ...] = (1, 2)
    depth: int = 1
    decoder_depth: int = 2
    patch: int = 4
    attention: bool = False


@dataclass(frozen=True)
class AutoencoderLossSettings:
    """What training minimises.

    Args:
        reconstruction: absolute or squared error.
        learned_scale: learn the scale of the errors in place of the fixed weight 1.
        perceptual: weight of the distance between features; 0 is off.
        features: learned (a small network trained on these pictures first, without labels) or random.
        adversarial: weight of the patch discriminator beside its balance; 0 is off.
        game: hinge or relativistic.
        start: share of the training after which the discriminator matters.
        most: bound on the balance of the discriminator.
        bottleneck: weight of the KL, nats for each element of the picture.
        equivariance: share of steps in which latent and picture are turned and made smaller alike (EQ-VAE: 0.5).
    """

    reconstruction: str = "absolute"
    learned_scale: bool = False
    perceptual: float = 0.2
    features: str = "learned"
    adversarial: float = 0.1
    game: str = "hinge"
    start: float = 0.5
    most: float = 4.0
    bottleneck: Annotated[float, arg(name="kl")] = 1e-2
    equivariance: float = 0.0


@dataclass(frozen=True)
class AutoencoderRunSettings:
    """The training itself.

    Args:
        minutes: how long to train; 5 when no steps are given either.
        steps: of the optimizer, in place of minutes: the same steps give the same weights.
        batch: pictures in a step.
        seed: of weights, order and noise.
        measurements: how often the health is measured, beside the end.
        checkpoints: how often a checkpoint is written, beside the one at the end.
        threads: of the CPU; chosen when not given.
        device: auto, cpu, cuda.
        precision: of products: auto (bf16 where the device multiplies it itself), fp32 or bf16.
    """

    minutes: MaybeFloat = None
    steps: MaybeInt = None
    batch: int = 16
    seed: int = 0
    measurements: int = 5
    checkpoints: int = 3
    threads: MaybeInt = None
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class AutoencoderConfig:
    """Everything that decides the training of an autoencoder."""

    data: PictureSettings = field(default_factory=PictureSettings)
    model: AutoencoderModelSettings = field(default_factory=AutoencoderModelSettings)
    size: AutoencoderSizeSettings = field(default_factory=AutoencoderSizeSettings)
    losses: AutoencoderLossSettings = field(default_factory=AutoencoderLossSettings)
    run: AutoencoderRunSettings = field(default_factory=AutoencoderRunSettings)
