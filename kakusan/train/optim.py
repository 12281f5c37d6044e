"""Optimizer settings and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kakusan.specs import suggestion

if TYPE_CHECKING:
    import torch
    from torch import nn

OPTIMIZERS = ["adamw", "muon"]


def _linear(left: float, decay: float) -> float:
    return left


def _cosine(left: float, decay: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * left)


def _inverse_sqrt(left: float, decay: float) -> float:
    return min(1.0, (max(1.0 - decay, LEAST_FLAT) / (1.0 - left * decay)) ** 0.5) if left < 1.0 else 1.0


# How the rate falls in the last part of a run: the factor when `left` (1 to 0) of that part, which is `decay` of the
# run, is still to come. Linear and cosine end at zero. The inverse square root of the step (Karras et al. 2024, arXiv
# 2312.02696, section 2.4) does not: averages of the weights do the rest.
DECAYS: dict[str, Callable[[float, float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "inverse-sqrt": _inverse_sqrt,
}
LEAST_FLAT = 0.01


@dataclass(frozen=True)
class OptimSettings:
    """An optimizer with warm-up, a flat part and a decay.

    Args:
        optimizer: adamw, or muon (for matrices and kernels; AdamW for the rest, at the same rate).
        rate: highest learning rate.
        warmup: steps of linear warm-up.
        decay: fraction of the run, at its end, over which the rate falls.
        rate_decay: how it falls: linear or cosine (to zero), or inverse-sqrt (as one over the root of the step).
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        momentum: of muon.
        weight_decay: decoupled, on matrices and kernels only.
        clip: bound on the norm of the gradient; 0 turns it off.
    """

    optimizer: str = "adamw"
    rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.4
    rate_decay: str = "linear"
    beta1: float = 0.9
    beta2: float = 0.99
    momentum: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.rate <= 0.0 or self.warmup < 0 or not 0.0 <= self.decay <= 1.0 or self.clip < 0.0:
            raise ValueError(f"expected rate > 0, warmup >= 0, decay in [0, 1] and clip >= 0, got {self}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"no optimizer {self.optimizer!r}{suggestion(self.optimizer, OPTIMIZERS)}; there are "
                f"{', '.join(OPTIMIZERS)}"
            )
        if self.rate_decay not in DECAYS:
            near = suggestion(self.rate_decay, list(DECAYS))
            raise ValueError(f"no decay of the rate {self.rate_decay!r}{near}; there are {', '.join(DECAYS)}")

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        left = (steps - step) / max(1.0, self.decay * steps)
        return self.rate * warm * DECAYS[self.rate_decay](min(1.0, max(left, 0.0)), self.decay)

    def build(self, parameters: Iterable[nn.Parameter], tables: Collection[int] = ()) -> list[torch.optim.Optimizer]:
        """The optimizers, stepped one after the other; fused where torch has it for the device.

        Args:
            parameters: what is trained.
            tables: ids of parameters whose rows are looked up (embeddings), which Muon does not take.
        """
        # torch is imported here so that the command line can show its options without it.
        import torch

        given = [p for p in parameters if p.requires_grad]
        found: list[torch.optim.Optimizer] = []
        if self.optimizer == "muon":
            from kakusan.train.muon import Muon

            turned = [p for p in given if p.dim() > 1 and id(p) not in tables]
            given = [p for p in given if p.dim() <= 1 or id(p) in tables]
            if turned:
                found.append(Muon(turned, lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay))
        groups = [
            {"params": [p for p in given if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in given if p.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if groups:
            fused = all(p.device.type in ("cpu", "cuda") and p.dtype == torch.float32 for p in given)
            found.append(torch.optim.AdamW(groups, lr=self.rate, betas=(self.beta1, self.beta2), fused=fused))
        return found
