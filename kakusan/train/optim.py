"""Optimizer settings and the learning rate over a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kakusan.specs import suggestion

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ["adamw", "muon"]


@dataclass(frozen=True)
class OptimSettings:
    """An optimizer with warm-up, a flat part and a linear decay to zero.

    Args:
        kind: adamw, or muon (for matrices and kernels; AdamW for the rest, at the same rate).
        rate: highest learning rate.
        warmup: steps of linear warm-up.
        decay: fraction of the run, at its end, over which the rate falls to zero.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        momentum: of muon.
        weight_decay: decoupled, on matrices and kernels only.
        clip: bound on the norm of the gradient; 0 turns it off.
        accumulate: parts that a batch is cut into to save memory; the result is the same.
    """

    kind: str = "adamw"
    rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.4
    beta1: float = 0.9
    beta2: float = 0.99
    momentum: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.rate <= 0.0 or self.warmup < 0 or not 0.0 <= self.decay <= 1.0 or self.clip < 0.0:
            raise ValueError(f"expected rate > 0, warmup >= 0, decay in [0, 1] and clip >= 0, got {self}")
        if self.kind not in KINDS:
            raise ValueError(f"no optimizer {self.kind!r}{suggestion(self.kind, KINDS)}; there are {', '.join(KINDS)}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate counts the parts of a batch, at least 1; got {self.accumulate}")

    def rate_at(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        left = (steps - step) / max(1.0, self.decay * steps)
        return self.rate * warm * min(1.0, max(left, 0.0))

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
        if self.kind == "muon":
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
