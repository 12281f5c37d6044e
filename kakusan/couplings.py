"""Couplings: which noise is paired with which sample while training.

On the path x_t = alpha x0 + sigma eps the pair (x0, eps) may be independent, as in all of diffusion, or depend on each
other, as in minibatch transport, reflow and bridges. Then eps is no longer -sigma times the score, so the model
remembers it (`Denoiser.independent_noise`) and refuses `.score` and stochastic samplers.

A bridge whose path is itself noisy in between (a Brownian bridge, the gamma(t) z of stochastic interpolants) is not
here: with a third unknown z, x_t no longer ties x0 to eps, and one output of a network cannot mean both the velocity
and the ends. `spread` blurs the sources instead, which stays on the Gaussian path.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.extras import need
from kakusan.noise import Stream, normal, uniform
from kakusan.specs import register

if TYPE_CHECKING:
    from kakusan.data.source import Pictures


@dataclass(frozen=True)
class TrainingNoise:
    """The randomness of a training batch: keyed by the run's seed and each sample's number in the order of training.

    Args:
        seed: of the run.
        numbers: (B,) places in the order of training.
        stream: what the draws are for.
        indices: (B,) places of the samples in the data set, for couplings that keep a partner for each; None where
            there is no data set.
        labels: (B,) classes of the samples, for couplings that must not mix them; None where there are none.
    """

    seed: int
    numbers: Tensor
    stream: Stream = Stream.TRAINING_NOISE
    indices: Tensor | None = None
    labels: Tensor | None = None

    def eps(self, like: Tensor) -> Tensor:
        """Standard normal of the shape of `like` (B, C, *spatial)."""
        return normal(
            self.seeds(), self.stream, self.numbers, shape=like.shape[1:], dtype=like.dtype, device=like.device
        )

    def seeds(self) -> Tensor:
        """The run's seed, once for each sample (B,)."""
        return torch.full_like(self.numbers, self.seed)

    def places(self, coupling: str) -> Tensor:
        """`indices`, which this coupling cannot do without.

        Raises:
            ValueError: there are none.
        """
        if self.indices is None:
            raise ValueError(
                f"{coupling} keeps a partner for every sample of a data set; give TrainingNoise the samples' places "
                "in it as indices"
            )
        return self.indices

    def part(self, rows: Tensor | slice) -> TrainingNoise:
        """The noise of some samples of the batch."""
        return replace(
            self,
            numbers=self.numbers[rows],
            indices=None if self.indices is None else self.indices[rows],
            labels=None if self.labels is None else self.labels[rows],
        )


class Coupling(ABC):
    """How the other end of the path is found for each sample."""

    independent: bool = False

    @abstractmethod
    def eps(self, x0: Tensor, noise: TrainingNoise) -> Tensor:
        """The other end (B, C, *spatial) for x0 (B, C, *spatial), row by row; x0 and its condition stay in order."""


@register
@dataclass(frozen=True)
class Independent(Coupling):
    """Fresh noise for every sample."""

    independent = True

    def eps(self, x0: Tensor, noise: TrainingNoise) -> Tensor:
        return noise.eps(x0)


def transport_cost(x0: Tensor, eps: Tensor) -> Tensor:
    """|eps - x0|^2 of every pair: (B,), summed over the elements of a sample (Liu et al. 2023, arXiv 2209.03003)."""
    return (eps - x0).flatten(1).to(torch.float64).square().sum(1)


def optimal_assignment(x0: Tensor, eps: Tensor) -> Tensor:
    """The permutation p (B,) with the least sum of |eps[p[i]] - x0[i]|^2, exactly (Hungarian method, fp64).

    Raises:
        ValueError: the two batches differ in shape, or hold values that are not finite.
        ImportError: scipy is not installed.
    """
    if x0.shape != eps.shape:
        raise ValueError(f"both ends of the paths need one shape, got {tuple(x0.shape)} and {tuple(eps.shape)}")
    a, b = (x.detach().flatten(1).to(device="cpu", dtype=torch.float64) for x in (x0, eps))
    # |a - b|^2 without its two squares: they add the same to every permutation.
    cost = -(a @ b.T)
    if not bool(cost.isfinite().all()):
        raise ValueError("a batch with values that are not finite has no optimal transport; look for NaN in the data")
    optimize = need("scipy.optimize", extra="transport", what="minibatch optimal transport")
    _, columns = optimize.linear_sum_assignment(cost.numpy())
    return torch.as_tensor(columns, dtype=torch.int64, device=eps.device)


@register
@dataclass(frozen=True)
class MinibatchTransport(Coupling):
    """The noise of a batch dealt out to its samples by exact optimal transport (Tong et al. 2024, arXiv 2302.00482,
    section 3.2; Pooladian et al. 2023, arXiv 2304.14772): straighter paths, and less variance in the target.

    It is the noise that moves; x0 and conditions stay in order. The batch is what one call sees: training matches a
    whole batch before it is cut into micro-batches, and a batch of one is left as it is.

    Args:
        ends: the coupling whose other ends are dealt out: fresh noise, or the points of another data set.
        within_classes: match inside each class, when the samples have labels. Across classes, the noise of one class
            is no longer what a conditional model starts from, and its samples are biased (Cheng & Schwing 2025, arXiv
            2503.10636).
    """

    ends: Coupling = field(default_factory=Independent)
    within_classes: bool = True

    def eps(self, x0: Tensor, noise: TrainingNoise) -> Tensor:
        ends = self.ends.eps(x0, noise)
        if noise.labels is None or not self.within_classes:
            return ends[optimal_assignment(x0, ends)]
        dealt = torch.empty_like(ends)
        labels = noise.labels.to(ends.device)
        for label in labels.unique():
            rows = (labels == label).nonzero().flatten()
            dealt[rows] = ends[rows[optimal_assignment(x0[rows], ends[rows])]]
        return dealt


@register
@dataclass(frozen=True)
class Reflowed(Coupling):
    """The noise a model's own samples were drawn from (Liu et al. 2023, arXiv 2209.03003, algorithm 1).

    Sample i of the data set was drawn by a deterministic sampler from the seed `seed + i`, so its start is made again
    from that seed and only the samples are stored. eps is where the path from x0 through that start ends.

    Args:
        seed: of sample 0.
        alpha: signal scale where sampling began.
        sigma: noise scale there.
        scale: standard deviation of the start.
    """

    seed: int
    alpha: float
    sigma: float
    scale: float

    def __post_init__(self) -> None:
        if self.sigma <= 0.0 or self.scale <= 0.0:
            raise ValueError(f"sampling starts from noise: sigma and scale must be positive, got {self}")

    def start(self, like: Tensor, indices: Tensor) -> Tensor:
        """What the sampler started from, bit for bit: (B, C, *spatial) for the samples at `indices` (B,)."""
        seeds = self.seed + indices.to("cpu", torch.int64)
        drawn = normal(seeds, Stream.START, shape=like.shape[1:], dtype=like.dtype, device=like.device)
        return drawn.mul_(self.scale)

    def eps(self, x0: Tensor, noise: TrainingNoise) -> Tensor:
        return (self.start(x0, noise.places("Reflowed")) - self.alpha * x0) / self.sigma


@register
@dataclass(frozen=True)
class Sources:
    """A data set at the noise end of the paths. Model files keep its name, size and hash, not its content.

    Args:
        name: for messages.
        count: of samples.
        fingerprint: hash of the content.
    """

    name: str
    count: int
    fingerprint: str
    reader: Callable[[Tensor], Tensor] | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("a bridge needs at least one source")

    @classmethod
    def of(cls, values: Tensor, *, name: str = "sources") -> Sources:
        """From samples (N, C, *spatial) in model units."""
        if not bool(values.isfinite().all()):
            raise ValueError("the sources hold values that are not finite")
        whole = values.detach().to("cpu", torch.float64).contiguous()
        found = hashlib.sha256(repr(tuple(whole.shape)).encode() + whole.numpy().tobytes()).hexdigest()
        return cls(name, len(values), found)._with(lambda indices: values[indices.to(values.device)])

    @classmethod
    def pictures(cls, pictures: Pictures, *, name: str = "sources") -> Sources:
        """From a data set of pictures, read when needed."""

        def reader(indices: Tensor) -> Tensor:
            return pictures.spec.to_model(pictures.read(indices.cpu().numpy()))

        return cls(name, len(pictures), pictures.fingerprint)._with(reader)

    def _with(self, reader: Callable[[Tensor], Tensor]) -> Sources:
        object.__setattr__(self, "reader", reader)
        return self

    def at(self, indices: Tensor, like: Tensor) -> Tensor:
        """The sources at `indices` (B,), in the shape, dtype and place of `like` (B, C, *spatial).

        Raises:
            ValueError: they came without content from a model file, an index is out of range, or the shapes differ.
        """
        if self.reader is None:
            raise ValueError(
                f"this model was trained on a bridge from {self.count} samples ({self.name!r}), which its folder does "
                "not hold; build the coupling anew from Sources.of or Sources.pictures"
            )
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.count:
            raise ValueError(
                f"indices run from {int(indices.min())} to {int(indices.max())}, the sources from 0 to {self.count - 1}"
            )
        found = self.reader(indices).to(like)
        if found.shape != like.shape:
            raise ValueError(f"sources have shape {tuple(found.shape[1:])}, the data {tuple(like.shape[1:])}")
        return found


class Bridge(Coupling):
    """Paths that end in samples of another data set: x_t runs from a source (t = 1) to data (t = 0).

    A trained bridge is sampled by `samplers.sample(..., x_start=source)`, blurred by `spread` as in training.
    """

    sources: Sources
    spread: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.spread < float("inf"):
            raise ValueError(f"spread is a standard deviation, 0 or more, got {self.spread}")

    def _blurred(self, indices: Tensor, x0: Tensor, noise: TrainingNoise) -> Tensor:
        found = self.sources.at(indices, x0)
        return found if self.spread == 0.0 else found + self.spread * noise.eps(x0)


@register
@dataclass(frozen=True)
class Paired(Bridge):
    """Sample i of the data goes with source i: sketches with their photographs, say. Mirroring must be off.

    Args:
        sources: as many as there are data.
        spread: standard deviation of noise added to a source, so that one source can lead to many samples.
    """

    sources: Sources
    spread: float = 0.0

    def eps(self, x0: Tensor, noise: TrainingNoise) -> Tensor:
        return self._blurred(noise.places("Paired"), x0, noise)


@register
@dataclass(frozen=True)
class Unpaired(Bridge):
    """Any source with any sample, drawn evenly; `MinibatchTransport(Unpaired(sources))` takes the near ones.

    Args:
        sources: any number.
        spread: standard deviation of noise added to a source.
    """

    sources: Sources
    spread: float = 0.0

    def eps(self, x0: Tensor, noise: TrainingNoise) -> Tensor:
        place = uniform(noise.seeds(), Stream.SOURCE, noise.numbers)
        return self._blurred((place * self.sources.count).long(), x0, noise)
