"""A condition that changes on the way: the first one for the layout, the second for what it is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.guidance.base import Wrapped, column
from kakusan.levels import Level


class Switched(Wrapped):
    """A denoiser that follows the condition it is given below a log-SNR, and a second one from there on.

    Args:
        inner: the denoiser, guided or not.
        at: the log-SNR of the switch, one or (B,); inf for never, -inf for from the start.
        second: the condition to change to, for the batch, or for one sample and shared.
    """

    def __init__(self, inner: BaseDenoiser, at: float | Tensor, second: Condition) -> None:
        super().__init__(inner)
        self.at, self.second = at, second

    def output(self, x_t: Tensor, level: Level, cond: Condition | None) -> Tensor:
        if cond is None:
            raise ValueError("a switch of conditions starts from a condition; pass cond")
        at = column(torch.as_tensor(self.at, dtype=torch.float64), x_t.new_empty(x_t.shape, dtype=torch.float64))
        here = torch.as_tensor(level.log_snr, dtype=torch.float64, device=x_t.device)
        later = (here >= at).reshape(-1)
        if later.numel() == 1 or bool((later == later[0]).all()):
            return self.inner.output(x_t, level, self.second.expand(len(x_t)) if bool(later[0]) else cond)
        later = later.expand(len(x_t))

        def chosen(first: Tensor, second: Tensor) -> Tensor:
            return torch.where(later.view(-1, *[1] * (first.dim() - 1)), second, first)

        mixed = cond.expand(len(x_t)).combine(self.second.expand(len(x_t)), chosen)
        return self.inner.output(x_t, level, mixed)


def switch_points(levels: Sequence[Level]) -> list[float]:
    """The log-SNR at which to switch for k = 0 ... N: after k steps of these levels; 0 is never the first condition."""
    return [-torch.inf, *(float(level.log_snr) for level in levels[1:-1]), torch.inf]
