"""The classifier two-sample test: can a network tell two samples apart? (Lopez-Paz & Oquab 2017, arXiv 1610.06545.)

0.5 says that it cannot; for two known densities the best possible is 1/2 + TV / 2, with TV their total variation.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST = 32


@dataclass(frozen=True)
class TwoSampleRecord:
    """Share of points whose sample a classifier names that has not seen them.

    Args:
        accuracy: mean over both halves and both samples; 0.5 where nothing tells them apart.
        stderr: of `accuracy`.
        halves: the accuracy on each half.
        n: points of each sample.
        settings: everything the numbers depend on beside the samples; only equal settings compare.
    """

    accuracy: float
    stderr: float
    halves: tuple[float, float]
    n: int
    settings: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Plain values, for logs."""
        return dataclasses.asdict(self)

    def difference(self, other: TwoSampleRecord) -> tuple[float, float]:
        """(other.accuracy - accuracy, its standard error); seeds may differ.

        Raises:
            ValueError: measured with other settings or on another number of points, where accuracies do not compare.
        """
        mine, theirs = ({**r.settings, "seed": None, "n": r.n} for r in (self, other))
        unlike = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        if unlike:
            raise ValueError(f"these records do not compare: they differ in {', '.join(unlike)}")
        return other.accuracy - self.accuracy, math.hypot(self.stderr, other.stderr)


@dataclass(frozen=True)
class TwoSampleNetwork:
    """The judge: sines of the standardised points, layers of SiLU units, Adam with a rate that falls to zero.

    Without the sines (Tancik et al. 2020, arXiv 2006.10739) a small network does not see fine detail in so few steps:
    it cannot tell rings from rings with twice the blur.

    Args:
        features: sines in the first layer, beside the points themselves; their frequencies are trained too.
        bandwidth: standard deviation of the frequencies at the start, in radians for a standard deviation of the data.
        width: of the hidden layers.
        depth: hidden layers.
        steps: of training, for each half.
        batch: points of each step, half from each sample.
        rate: learning rate at the start.
        weight_decay: decoupled.
    """

    features: int = 64
    bandwidth: float = 4.0
    width: int = 64
    depth: int = 2
    steps: int = 1000
    batch: int = 512
    rate: float = 3e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        if min(self.features, self.width, self.depth, self.steps) < 1 or self.batch < 2 or self.batch % 2:
            raise ValueError(f"expected sizes of at least 1 and an even batch, got {self}")
        if not (self.rate > 0.0 and self.bandwidth > 0.0) or self.weight_decay < 0.0:
            raise ValueError(f"expected rate > 0, bandwidth > 0 and weight_decay >= 0, got {self}")


_NETWORK = TwoSampleNetwork()


def classifier_two_sample(
    a: Tensor, b: Tensor, *, seed: int = 0, network: TwoSampleNetwork = _NETWORK
) -> TwoSampleRecord:
    """Accuracy of a small network that tells samples a (n, D) and b (n, D) apart, cross-fitted.

    Both samples are cut in halves by chance; the network trained on one pair of halves scores the other, and the other
    way round, so that every point is scored once by a network that has not seen it.

    The two scores are not independent: what two halves share by chance raises or lowers both. At worst they move
    together, and then the mean is as uncertain as one of them; that is the standard error given, sqrt(p (1 - p) / n).

    Raises:
        ValueError: other shapes, unequal numbers, fewer than 32 points, or values that are not finite.
    """
    if a.dim() != 2 or a.shape != b.shape or len(a) < FEWEST or a.shape[1] < 1:
        raise ValueError(
            f"the test takes two samples of one shape (n, D) with n >= {FEWEST}, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}; cut the longer one"
        )
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise ValueError("the samples hold values that are not finite")
    a, b = a.detach().cpu(), b.detach().cpu()
    generator = torch.Generator().manual_seed(seed)
    first, second = ([x[i] for i in torch.randperm(len(x), generator=generator).tensor_split(2)] for x in (a, b))
    halves = []
    for train, test in ((0, 1), (1, 0)):
        judge = _Judge(first[train], second[train], network, generator)
        right = int((judge(first[test]) < 0.0).sum()) + int((judge(second[test]) >= 0.0).sum())
        halves.append((right, len(first[test]) + len(second[test])))
    accuracy = sum(right for right, _ in halves) / (2 * len(a))
    settings = {**dataclasses.asdict(network), "dim": a.shape[1], "seed": seed, "folds": 2}
    shares = (halves[0][0] / halves[0][1], halves[1][0] / halves[1][1])
    return TwoSampleRecord(accuracy, math.sqrt(accuracy * (1.0 - accuracy) / len(a)), shares, len(a), settings)


class _Judge:
    """A trained network: points (n, D) -> scores (n,), at least 0 where the second sample is the likelier one."""

    def __init__(self, a: Tensor, b: Tensor, settings: TwoSampleNetwork, generator: torch.Generator) -> None:
        both = torch.cat([a, b]).double()
        self.mean = both.mean(0)
        # A constant column says nothing, and must not become one that is not a number.
        self.std = both.std(0, correction=0).clamp_min(1e-12 * (1.0 + self.mean.abs()))
        waves = nn.utils.skip_init(nn.Linear, a.shape[1], settings.features)
        nn.init.normal_(waves.weight, std=settings.bandwidth, generator=generator)
        nn.init.uniform_(waves.bias, -math.pi, math.pi, generator=generator)
        sizes = [a.shape[1] + settings.features, *[settings.width] * settings.depth, 1]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
            layers += [layer, nn.SiLU()]
        self.waves, self.layers = waves, nn.Sequential(*layers[:-1])
        self._train(self._standard(a), self._standard(b), settings, generator)

    def _standard(self, x: Tensor) -> Tensor:
        return ((x.double() - self.mean) / self.std).float()

    def _scores(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(torch.cat([x, self.waves(x).sin()], dim=1)).squeeze(1)
        return scores

    def _train(self, a: Tensor, b: Tensor, settings: TwoSampleNetwork, generator: torch.Generator) -> None:
        half = settings.batch // 2
        parameters = [*self.waves.parameters(), *self.layers.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=settings.weight_decay, fused=True)
        target = torch.cat([torch.zeros(half), torch.ones(half)])
        for step in range(settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * (1.0 - step / settings.steps)
            rows = [torch.randint(len(x), (half,), generator=generator) for x in (a, b)]
            with torch.enable_grad():
                scores = self._scores(torch.cat([a[rows[0]], b[rows[1]]]))
                loss = F.binary_cross_entropy_with_logits(scores, target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self._scores(self._standard(x))
