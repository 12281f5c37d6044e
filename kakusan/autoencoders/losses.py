"""What an autoencoder and its discriminator minimise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kakusan.autoencoders.base import Autoencoder, Code
from kakusan.autoencoders.discriminator import PatchDiscriminator, game_of
from kakusan.autoencoders.equivariance import Turn
from kakusan.autoencoders.perceptual import Features, perceptual_distance
from kakusan.nn.shapes import crop, pad
from kakusan.noise import Stream, normal, uniform
from kakusan.objectives import LossTerms
from kakusan.specs import suggestion
from kakusan.train.feed import Batch

RECONSTRUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "absolute": lambda error: error.abs().flatten(1).mean(1),
    "squared": lambda error: error.square().flatten(1).mean(1),
}


@dataclass(frozen=True, kw_only=True)
class AutoencoderLosses:
    """The parts of the loss and their weights; the reconstruction has the weight 1.

    Args:
        reconstruction: absolute or squared error, its mean over the elements of a picture.
        learned_scale: divide reconstruction and perceptual part by a learned scale s and add log s, in place of the
            fixed weight (Kingma & Welling's Laplace likelihood with its scale fitted).
        perceptual: weight of the perceptual distance; 0 leaves it out.
        features: what that looks at: learned (on these pictures, first) or random.
        adversarial: weight of the patch discriminator beside the balance; 0 leaves it out.
        game: hinge or relativistic.
        start: share of the training after which the discriminator begins to matter; it learns a little earlier.
        most: bound on the balance, the ratio of the two gradients at the last layer.
        bottleneck: weight of the KL, in nats for each element of the picture; a codebook has its own weight.
        equivariance: share of steps in which the latent and the picture are turned and made smaller alike before they
            are compared; 0 leaves it out, EQ-VAE takes 0.5.

    Raises:
        ValueError: a weight below 0, or an unknown name.
    """

    reconstruction: str = "absolute"
    learned_scale: bool = False
    perceptual: float = 0.2
    features: str = "learned"
    adversarial: float = 0.1
    game: str = "hinge"
    start: float = 0.5
    most: float = 4.0
    bottleneck: float = 1e-2
    equivariance: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.perceptual, self.adversarial, self.most, self.bottleneck)
        if min(weights) < 0.0 or not all(map(math.isfinite, weights)):
            raise ValueError(f"weights of a loss are finite and not negative, got {self}")
        if not 0.0 <= self.start <= 1.0 or not 0.0 <= self.equivariance <= 1.0:
            raise ValueError(f"start and equivariance are shares, 0 to 1, got {self.start} and {self.equivariance}")
        if self.reconstruction not in RECONSTRUCTIONS:
            known = list(RECONSTRUCTIONS)
            raise ValueError(
                f"no reconstruction {self.reconstruction!r}{suggestion(self.reconstruction, known)}; there are "
                f"{', '.join(known)}"
            )
        game_of(self.game)


class Bench(nn.Module):
    """All that is trained together: the autoencoder, its discriminator and the scale of its errors.

    Args:
        autoencoder: what is kept in the end.
        losses: which of the others are needed.
    """

    def __init__(self, autoencoder: Autoencoder, losses: AutoencoderLosses) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        wanted = losses.adversarial > 0.0
        self.discriminator = PatchDiscriminator(autoencoder.channels, rank=autoencoder.rank) if wanted else None
        # e^-2 is about the error of a network that has learnt a little.
        self.log_scale = nn.Parameter(torch.tensor(-2.0)) if losses.learned_scale else None

    def maker_parameters(self) -> list[nn.Parameter]:
        """What the autoencoder's own loss trains."""
        found = [p for p in self.autoencoder.parameters() if p.requires_grad]
        return found if self.log_scale is None else [*found, self.log_scale]


@dataclass
class Watched:
    """What the last steps showed, for people: sums that `take` empties into means."""

    _sums: dict[str, Tensor] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, **values: Tensor) -> None:
        """Add values, each a tensor of one shape ever."""
        for name, value in values.items():
            value = value.detach().float()
            if bool(value.isfinite().all()):
                self._sums[name] = self._sums[name] + value if name in self._sums else value
                self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float | list[float]]:
        """Means since the last time."""
        found: dict[str, float | list[float]] = {
            name: (value / self._counts[name]).tolist() for name, value in self._sums.items()
        }
        self._sums.clear()
        self._counts.clear()
        return found


class MakerLoss:
    """The autoencoder's side, per sample.

    The gradient of each part is taken once at the decoded picture; from there the two sizes at the last layer follow by
    one product each, and one pass through the autoencoder carries their weighted sum (VQGAN, arXiv 2012.09841, eq. 7,
    with a bound).

    Args:
        bench: what is trained.
        losses: the parts.
        features: of the perceptual part; None leaves it out.
        seed: of the run.
        progress: the share of the training that is done, 0 to 1.
    """

    def __init__(
        self,
        bench: Bench,
        losses: AutoencoderLosses,
        features: Features | None,
        *,
        seed: int,
        progress: Callable[[], float],
    ) -> None:
        self.bench, self.losses, self.features, self.seed, self.progress = bench, losses, features, seed, progress
        self.game = game_of(losses.game)
        self.watched = Watched()
        self.decoded: dict[int, tuple[Tensor, Tensor]] = {}
        """(pictures, theirs decoded) of this step by the number of the first sample, for the discriminator."""

    def __call__(self, batch: Batch) -> LossTerms:
        made, truth, code = self._made(batch)
        self.decoded[int(batch.numbers[0])] = truth, made.detach()
        parts, gradient = self._judged(made, truth)
        cost = self.losses.bottleneck * code.cost if code.weighted else code.cost
        # The value is that of the whole loss; the gradient at the picture is the one that was taken already.
        through = (made * gradient).flatten(1).sum(1)
        loss = parts["value"] + through - through.detach() + cost
        if self.bench.log_scale is not None:
            error = parts["reconstruction"] + self.losses.perceptual * parts["perceptual"]
            scaled = error * (-self.bench.log_scale).exp() + self.bench.log_scale
            loss = loss + scaled - scaled.detach()
        with torch.no_grad():
            error = (made - truth).square().flatten(1).mean(1)
            shown = {k: v.mean() for k, v in parts.items() if k not in ("value", "balance")}
            self.watched.add(**shown, balance=parts["balance"], cost=cost.mean(), **code.health)
        return LossTerms(loss, error.detach(), torch.zeros_like(error))

    def share(self) -> float:
        """How much of its weight the discriminator has by now: from 0 to 1 over a tenth of the training."""
        if self.bench.discriminator is None or self.losses.adversarial == 0.0:
            return 0.0
        return min(1.0, max(0.0, (self.progress() - self.losses.start) / 0.1))

    def judging(self) -> bool:
        """Whether the discriminator learns: from a twentieth of the training before it matters."""
        return self.bench.discriminator is not None and self.progress() >= self.losses.start - 0.05

    def _made(self, batch: Batch) -> tuple[Tensor, Tensor, Code]:
        autoencoder, x = self.bench.autoencoder, pad(batch.x0, self.bench.autoencoder.factor)
        seeds = torch.full_like(batch.numbers, self.seed)

        def noise(shape: Sequence[int]) -> Tensor:
            return normal(seeds, Stream.TRAINING_NOISE, batch.numbers, shape=shape, device=x.device)

        code = autoencoder.code(x, noise)
        latent, first = code.latent, int(batch.numbers[0])
        if self.losses.equivariance and x.dim() == 4:
            wanted = float(uniform([self.seed], Stream.TRANSFORM, 2 * first)) < self.losses.equivariance
            if wanted:
                turn = Turn.drawn((latent.shape[2], latent.shape[3]), seed=self.seed, number=2 * first + 1)
                return autoencoder.decoder(turn(latent)), turn(x, factor=autoencoder.factor), code
        made: Tensor = autoencoder.decoder(latent)
        size = batch.x0.shape[2:]
        return crop(made, size), batch.x0, code

    def _judged(self, made: Tensor, truth: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(parts (B,), gradient of the loss at the decoded pictures)."""
        losses, share = self.losses, self.share()
        # Also where the caller records no gradients, as the search for a bad module does.
        with torch.enable_grad():
            leaf = made.detach().requires_grad_()
            view = leaf.view_as(leaf)
            with torch.autocast(made.device.type, enabled=False):
                reconstruction = RECONSTRUCTIONS[losses.reconstruction](view.float() - truth.float())
            perceptual = torch.zeros_like(reconstruction)
            if self.features is not None and losses.perceptual:
                perceptual = perceptual_distance(self.features, view, truth).float()
            value = reconstruction + losses.perceptual * perceptual
            if self.bench.log_scale is not None:
                scale = self.bench.log_scale.detach()
                value = value * (-scale).exp() + scale
            (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
            parts = {"reconstruction": reconstruction, "perceptual": perceptual}
            balance = torch.zeros((), device=made.device)
            if share > 0.0 and self.bench.discriminator is not None:
                with torch.no_grad():
                    real = self.bench.discriminator(truth)
                fake = self.bench.discriminator(view)
                fooling = self.game.maker(real, fake)
                (other,) = torch.autograd.grad(fooling.sum(), leaf)
                balance = balance_of(made, gradient, other, self.bench.autoencoder.decoder.last, losses.most)
                weight = losses.adversarial * share * balance
                gradient = gradient + weight * other
                value = value + weight * fooling
                parts["fooling"] = fooling
        found = {name: part.detach() for name, part in parts.items()}
        return {**found, "value": value.detach(), "balance": balance}, gradient


def balance_of(made: Tensor, first: Tensor, second: Tensor, last: nn.Parameter, most: float) -> Tensor:
    """How much larger the first loss's gradient is at the last layer than the second's, at most `most`; 1 unasked.

    Args:
        made: pictures that the last layer made, with their graph.
        first: gradient of the first loss at them.
        second: gradient of the second.
        last: the weights.
        most: bound.
    """
    if not made.requires_grad:
        return made.new_ones(())
    norms = []
    for gradient in (first, second):
        (found,) = torch.autograd.grad(made, last, gradient.to(made.dtype), retain_graph=True)
        norms.append(found.float().norm())
    return (norms[0] / (norms[1] + 1e-8)).clamp(0.0, most).detach()


class JudgeLoss:
    """The discriminator's side, per sample, on what the autoencoder decoded in this very step.

    Args:
        maker: the other side.
    """

    def __init__(self, maker: MakerLoss) -> None:
        self.maker = maker

    def __call__(self, batch: Batch) -> LossTerms:
        maker, judge = self.maker, self.maker.bench.discriminator
        assert judge is not None
        zeros = batch.x0.new_zeros(len(batch))
        if not maker.judging():
            nothing = zeros + 0.0 * next(judge.parameters()).sum()
            return LossTerms(nothing, zeros, zeros)
        kept = maker.decoded.get(int(batch.numbers[0]))
        if kept is None or len(kept[0]) != len(batch):
            with torch.no_grad():
                made, truth, _ = maker._made(batch)
            kept = truth, made
        truth, made = kept
        real, fake = judge(torch.cat([truth, made])).chunk(2)
        with torch.no_grad():
            maker.watched.add(margin=real.float().mean() - fake.float().mean())
        return LossTerms(maker.game.judge(real, fake), zeros, zeros)
