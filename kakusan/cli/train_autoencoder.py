"""`kakusan train-autoencoder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kakusan.cli.options import parse
from kakusan.config import DataSettings, MaybeInt

if TYPE_CHECKING:
    from kakusan.train.autoencoder import AutoencoderRun
    from kakusan.train.trainer import TrainStep


@dataclass(frozen=True)
class TrainAutoencoderOptions:
    """Train an autoencoder of your own pictures, for diffusion on their latents.

    Its health is measured on held-out pictures: reconstruction, KL and use of each channel, range of the latents,
    margin of the discriminator. The mean and the deviation of the latents are measured and stored with it. The same
    command in the same folder goes on where it stopped.

    Args:
        out: folder of the training.
        data: a folder or zip file of pictures, shards, or an embedded set (flowers, digits).
        size: side of the (square) pictures; found from the data when not given.
        fit: how other sizes are brought to it: crop, pad or stretch.
        flip: mirror pictures left to right at random.
        held_out: share kept aside to measure on; embedded sets come with their own.
        num: number of pictures of an embedded set that is drawn by code.
        kind: kl (Gaussian latents) or vq (a codebook).
        factor: pixels a side of one place of the latent: 2, 4, 8 ...
        latent_channels: numbers at each place of the latent.
        codes: of the codebook of a vq one.
        width: channels at the finest grid: the one dial for its size.
        decoder_depth: blocks on each grid of the decoder; the encoder has one.
        patch: the finest grid has one place for so many pixels a side; 2 costs more and shows finer detail.
        attention: let the middle look at the whole picture.
        minutes: how long to train.
        steps: of the optimizer, in place of minutes: the same steps give the same weights.
        batch: pictures in a step.
        reconstruction: absolute or squared error.
        learned_scale: learn the scale of the errors in place of the fixed weight 1.
        perceptual: weight of the distance between features; 0 is off.
        features: learned (a small network trained on these pictures first, without labels) or random.
        adversarial: weight of the patch discriminator beside its balance; 0 is off.
        game: hinge or relativistic.
        start: share of the training after which the discriminator matters.
        kl: weight of the KL, nats for each element of the picture.
        equivariance: share of steps in which latent and picture are turned and made smaller alike (EQ-VAE: 0.5).
        seed: of weights, order and noise.
        threads: of the CPU; chosen when not given.
        device: auto, cpu, cuda.
    """

    out: Path = Path("runs/autoencoder")
    data: str = "flowers"
    size: MaybeInt = None
    fit: str = "crop"
    flip: bool = False
    held_out: float = 0.1
    num: MaybeInt = None
    kind: str = "kl"
    factor: int = 4
    latent_channels: int = 4
    codes: int = 1024
    width: int = 96
    decoder_depth: int = 2
    patch: int = 4
    attention: bool = False
    minutes: float = 5.0
    steps: MaybeInt = None
    batch: int = 16
    reconstruction: str = "absolute"
    learned_scale: bool = False
    perceptual: float = 0.2
    features: str = "learned"
    adversarial: float = 0.1
    game: str = "hinge"
    start: float = 0.5
    kl: float = 1e-2
    equivariance: float = 0.0
    seed: int = 0
    threads: MaybeInt = None
    device: str = "auto"


class Progress:
    """A line now and then."""

    def __init__(self) -> None:
        self._error: float | None = None

    def __call__(self, step: TrainStep, run: AutoencoderRun) -> None:
        """After every step."""
        from kakusan.train.estimate import duration

        error = float(step.terms.x0_error.mean())
        if step.trouble is None:
            self._error = error if self._error is None else 0.95 * self._error + 0.05 * error
        total = max(1, run.trainer.steps)
        if step.step != 1 and step.step * 20 // total == (step.step - 1) * 20 // total:
            return
        left = run.elapsed() / step.step * (total - step.step)
        print(
            f"step {step.step}/{total}  error {(self._error or error) ** 0.5:.4f}  loss {step.losses[0]:.4f}  "
            f"{run.trainer.feed.size / max(step.seconds, 1e-9):.0f} images/s  {duration(left)} left",
            flush=True,
        )


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = parse(TrainAutoencoderOptions, argv, verb="train-autoencoder")
    from kakusan.autoencoders.losses import AutoencoderLosses
    from kakusan.autoencoders.networks import NetworkSize
    from kakusan.runtime import give_way
    from kakusan.tasks.train_autoencoder import train_autoencoder
    from kakusan.train.autoencoder import AutoencoderTraining

    give_way()
    losses = AutoencoderLosses(
        reconstruction=options.reconstruction,
        learned_scale=options.learned_scale,
        perceptual=options.perceptual,
        features=options.features,
        adversarial=options.adversarial,
        game=options.game,
        start=options.start,
        bottleneck=options.kl,
        equivariance=options.equivariance,
    )
    size = NetworkSize(
        width=options.width,
        decoder_depth=options.decoder_depth,
        patch=options.patch,
        attention=options.attention,
    )
    how = AutoencoderTraining(
        kind=options.kind,
        factor=options.factor,
        latent_channels=options.latent_channels,
        codes=options.codes,
        size=size,
        losses=losses,
        minutes=options.minutes,
        steps=options.steps,
        batch=options.batch,
        seed=options.seed,
    )
    data = DataSettings(
        source=options.data,
        size=options.size,
        fit=options.fit,
        flip=options.flip,
        held_out=options.held_out,
        num=options.num,
    )
    train_autoencoder(
        data, how, options.out, device=options.device, threads=options.threads, say=print, on_step=Progress()
    )
    return 0
