"""Ways to measure a likelihood, each with all its settings: what a record names and the command line chooses from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.likelihood.bound import BoundTerms, variational_bound
from kakusan.likelihood.control import Control
from kakusan.likelihood.decoders import Categorical, Decoder
from kakusan.likelihood.dequantise import Dequantisation, TruncatedNormalNoise, dequantised_log_prob
from kakusan.likelihood.divergence import Divergence, Hutchinson
from kakusan.likelihood.flow import flow_log_prob
from kakusan.likelihood.steps import Posterior, ReverseVariance, step_bound
from kakusan.specs import register, to_spec
from kakusan.time_samplers import TimeSampler


class Method(ABC):
    """Negative log likelihood of samples, in terms that add up."""

    @property
    @abstractmethod
    def levels(self) -> int | None:
        """Of the discrete data it is for; None for a density."""

    @abstractmethod
    def terms(self, denoiser: BaseDenoiser, x0: Tensor, cond: Condition | None, seeds: Tensor) -> dict[str, Tensor]:
        """Terms of -log p of each sample in nats, (B,) each, by name."""

    @abstractmethod
    def calls(self, dims: int) -> float:
        """Network evaluations for a sample; one with a derivative counts as three."""

    def record(self) -> Mapping[str, Any]:
        """Plain values."""
        found: Mapping[str, Any] = to_spec(self)
        return found


@dataclass(frozen=True)
class _ByDecoder(Method):
    """Bounds that end in a decoder, from `draws` random terms for each sample."""

    decoder: Decoder = field(default_factory=Categorical)
    draws: int = 16
    control: Control = field(default_factory=Control)

    @property
    def levels(self) -> int | None:
        return self.decoder.levels

    def terms(self, denoiser: BaseDenoiser, x0: Tensor, cond: Condition | None, seeds: Tensor) -> dict[str, Tensor]:
        common = {"decoder": self.decoder, "seeds": seeds, "draws": self.draws, "control": self.control}
        return self._estimate(denoiser, x0, cond, **common).named()

    @abstractmethod
    def _estimate(self, denoiser: BaseDenoiser, x0: Tensor, cond: Condition | None, **common: Any) -> BoundTerms:
        """The bound."""

    def calls(self, dims: int) -> float:
        return self.draws


@register
@dataclass(frozen=True)
class Bound(_ByDecoder):
    """The variational bound in continuous time."""

    times: TimeSampler | None = None

    def _estimate(self, denoiser: BaseDenoiser, x0: Tensor, cond: Condition | None, **common: Any) -> BoundTerms:
        return variational_bound(denoiser, x0, cond, times=self.times, **common)


@register
@dataclass(frozen=True)
class Chain(_ByDecoder):
    """The bound of a chain of T steps, by random terms."""

    steps: int = 1000
    variance: ReverseVariance = field(default_factory=Posterior)

    def _estimate(self, denoiser: BaseDenoiser, x0: Tensor, cond: Condition | None, **common: Any) -> BoundTerms:
        return step_bound(denoiser, x0, cond, steps=self.steps, variance=self.variance, **common)


@register
@dataclass(frozen=True)
class Flow(Method):
    """The probability flow: a bound on the probability of discrete data, or the density where nothing dequantises."""

    dequantisation: Dequantisation | None = field(default_factory=TruncatedNormalNoise)
    divergence: Divergence = field(default_factory=Hutchinson)
    steps: int = 64
    draws: int = 1

    @property
    def levels(self) -> int | None:
        return None if self.dequantisation is None else self.dequantisation.levels

    def terms(self, denoiser: BaseDenoiser, x0: Tensor, cond: Condition | None, seeds: Tensor) -> dict[str, Tensor]:
        options: dict[str, Any] = {"seeds": seeds, "num_steps": self.steps, "divergence": self.divergence}
        if self.dequantisation is None:
            return {"flow": -flow_log_prob(denoiser, x0, cond, **options)}
        found = dequantised_log_prob(denoiser, x0, cond, noise=self.dequantisation, draws=self.draws, **options)
        return {"flow": -found}

    def calls(self, dims: int) -> float:
        derivatives = len(self.divergence.probes(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dims)))
        return 4.0 * self.steps * self.draws * (1.0 + 2.0 * derivatives)
