"""A GAN by today's stable recipe, R3GAN: a relativistic loss, two gradient penalties and no tricks.

Huang et al. 2024, "The GAN is dead; long live the GAN! A modern GAN baseline", arXiv 2501.05441. Scores are high for
real pictures here; the paper's signs differ, its game does not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.noise import Stream, normal
from kakusan.objectives import LossTerms
from kakusan.rivals.base import Rival, class_proportions
from kakusan.rivals.gan_networks import Build, Discriminator, Generator
from kakusan.specs import register
from kakusan.train.feed import Batch
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import Group

# Chosen for a few hundred to a few thousand steps of 8 pictures, among few trials. Without momentum the first gradient
# of a new size moves the weights by up to ten rates, until the second moment has followed: one seed of three broke down
# that way until gradients were brought to one size. Adam is blind to that size otherwise.
OPTIM = OptimSettings(rate=2e-3, warmup=50, decay=0.5, beta1=0.0, beta2=0.99, clip=1.0)

Scores = Callable[[Tensor, Tensor | None], Tensor]
"""A discriminator: pictures (B, C, *size) and classes (B,) -> scores (B,)."""


def pairing_loss(winner: Tensor, loser: Tensor) -> Tensor:
    """-log sigmoid(winner - loser), (B,): what each side of the relativistic pairing game minimises.

    Jolicoeur-Martineau 2018 (arXiv 1807.00734); Huang et al. 2024, eq. 2 with f(t) = -log(1 + exp(-t)). The
    discriminator puts the score of a real picture first, the generator that of its own, and every real picture judges
    one generated picture: a mode that is left out leaves real pictures that win.

    Args:
        winner: scores (B,) that are to be the higher.
        loser: scores (B,) they are paired with.
    """
    return F.softplus(loser - winner)


def scored(discriminator: Scores, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scores (B,), squared norm of each score's gradient with respect to its picture (B,)), both differentiable.

    Half of the penalty's weight times the mean of the second is R1 on real pictures and R2 on generated ones
    (Mescheder et al. 2018, arXiv 1801.04406, eq. 9 and 10; Huang et al. 2024, eq. 3 and 4).

    Args:
        discriminator: whose scores do not mix the samples of a batch.
        x: pictures (B, C, *size).
        labels: (B,) or None.
    """
    # Also where the caller records no gradients, as the search for a bad module does.
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        # A view, because torch's counter of operations hooks what modules take, and a leaf cannot be hooked here.
        scores = discriminator(x.view_as(x), labels)
        (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        return scores, slope.flatten(1).float().square().sum(dim=1)


@dataclass(frozen=True)
class Penalty:
    """The weight of R1 and R2 over the training: `start` at first, falling by half every `half_life` samples to `end`.

    Args:
        start: gamma of the first sample.
        end: gamma far into the training.
        half_life: samples in which what lies above `end` halves.

    Raises:
        ValueError: a weight below 0 or a half-life that is not positive.
    """

    start: float
    end: float
    half_life: float

    def __post_init__(self) -> None:
        if min(self.start, self.end) < 0.0 or not self.half_life > 0.0:
            raise ValueError(f"gamma is at least 0 and its half-life positive, got {self}")

    def at(self, numbers: Tensor) -> Tensor:
        """gamma (B,) of samples by their number in the training."""
        return self.end + (self.start - self.end) * torch.exp2(-numbers.float() / self.half_life)


@contextlib.contextmanager
def fixed(module: nn.Module) -> Iterator[None]:
    """Context in which what the module computes is not differentiated by its own parameters."""
    learned = [p for p in module.parameters() if p.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


class _Loss:
    """What both sides share: the classes of a batch, and pictures generated for it."""

    turn: ClassVar[int]

    def __init__(self, gan: Gan, *, seed: int) -> None:
        self.gan, self.seed = gan, seed

    def labels(self, batch: Batch) -> Tensor | None:
        return batch.raw if self.gan.classes else None

    def fakes(self, batch: Batch) -> Tensor:
        """One picture (B, C, *size) for each real one, of its class, from a latent keyed by its number."""
        seeds = torch.full_like(batch.numbers, self.seed)
        z = self.gan.latents(seeds, Stream.TRAINING_NOISE, 2 * batch.numbers + self.turn)
        made: Tensor = self.gan.generator(z, self.labels(batch))
        return made


class DiscriminatorLoss(_Loss):
    """Per sample: the pairing loss of a real picture against a generated one, and gamma / 2 (R1 + R2)."""

    turn = 0

    def __call__(self, batch: Batch) -> LossTerms:
        with torch.no_grad():
            made = self.fakes(batch)
        labels = self.labels(batch)
        twice = None if labels is None else torch.cat([labels, labels])
        scores, slopes = scored(self.gan.discriminator, torch.cat([batch.x0, made]), twice)
        real, fake = scores.float().chunk(2)
        gamma = self.gan.penalty.at(batch.numbers).to(real.device)
        loss = pairing_loss(real, fake) + 0.5 * gamma * torch.stack(slopes.chunk(2)).sum(dim=0)
        return _terms(loss)


class GeneratorLoss(_Loss):
    """Per sample: the pairing loss of a generated picture against a real one."""

    turn = 1

    def __call__(self, batch: Batch) -> LossTerms:
        labels, judge = self.labels(batch), self.gan.discriminator
        with fixed(judge):
            with torch.no_grad():
                real = judge(batch.x0, labels)
            fake = judge(self.fakes(batch), labels)
        return _terms(pairing_loss(fake.float(), real.float()))


def _terms(loss: Tensor) -> LossTerms:
    nothing = torch.zeros_like(loss.detach())
    return LossTerms(loss, nothing, nothing)


@register
class Gan(Rival):
    """Generator and discriminator.

    Beside the paper's recipe, which is for days on GPUs, the usual sizes are those of minutes on a CPU: whole 3x3
    convolutions in place of grouped ones, two by two pixels a cell, Adam's beta2 at 0.99 from the start and
    gradients clipped, no augmentation.

    Args:
        spec: of the pictures (C, H, W).
        proportions: share of each class in the training data; empty for a model without classes.
        latent: numbers that a picture is made from.
        widths: channels of the stages, coarsest grid first; those of the finest grid are last. Sizes with more stages
            repeat the first, those with fewer leave out the first.
        blocks: in each stage.
        expansion: channels inside a block over those outside.
        group: channels in a group of the 3x3 convolutions; one group where it does not divide theirs. On a CPU groups
            below 64 cost more time than they save arithmetic.
        patch: the finest grid has one cell for so many pixels a side.
        gamma: weight of R1 and R2: at first, and far into the training.
        gamma_half_life: samples in which it comes half of the way.

    Raises:
        ValueError: data that are not pictures (C, H, W), or numbers below 1.
    """

    kind = "gan"

    def __init__(
        self,
        *,
        spec: DataSpec,
        proportions: Sequence[float] = (),
        latent: int = 64,
        widths: Sequence[int] = (128, 64, 32),
        blocks: int = 1,
        expansion: int = 1,
        group: int = 128,
        patch: int = 2,
        gamma: Sequence[float] = (1.0, 0.2),
        gamma_half_life: float = 5000.0,
    ) -> None:
        super().__init__(spec=spec, proportions=proportions)
        if len(spec.size) != 2:
            raise ValueError(f"the GAN makes pictures (H, W); these data have size {spec.size}")
        if latent < 1 or len(gamma) != 2:
            raise ValueError(f"latent is at least 1 and gamma two numbers, got {latent} and {gamma}")
        build = Build(widths, blocks, expansion, group, patch)
        self.penalty = Penalty(gamma[0], gamma[1], gamma_half_life)
        self.generator = Generator(spec.shape, build, latent=latent, classes=len(self.classes))
        self.discriminator = Discriminator(spec.shape, build, classes=len(self.classes))

    @classmethod
    def for_data(cls, pictures: Pictures, **options: object) -> Self:
        """The usual model for these pictures."""
        chosen: dict[str, Any] = {"spec": pictures.spec, "proportions": class_proportions(pictures), **options}
        return cls(**chosen)

    def latents(self, seeds: Tensor, stream: Stream, draws: Tensor | int = 0) -> Tensor:
        """Standard normal (B, L), each row keyed by its own seed and draw."""
        return normal(seeds, stream, draws, shape=(self.generator.latent,), device=self.device)

    def groups(self, *, seed: int, settings: OptimSettings | None = None) -> list[Group]:
        """The discriminator first, then the generator against the better judge; Adam without momentum for both."""
        chosen = OPTIM if settings is None else settings
        return [
            Group(list(self.discriminator.parameters()), DiscriminatorLoss(self, seed=seed), chosen),
            Group(list(self.generator.parameters()), GeneratorLoss(self, seed=seed), chosen),
        ]

    def _sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        made: Tensor = self.generator(self.latents(seeds, Stream.START), labels)
        return made
