"""A noise schedule that is learned: variational diffusion models (Kingma et al. 2021, arXiv 2107.00630)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kakusan.schedules import MAX_LOG_SNR, NoiseSchedule
from kakusan.specs import register

# Times below it lie outside what is learned: they only carry the path on to the exact end, sigma(0) = 0.
FIRST_TIME = 1e-3


class Sensitivity:
    """What the gradients of a schedule's interior are multiplied by, sample by sample; set before the backward pass.

    It lives for one evaluation of a loss, in which the same times are asked for a dozen times over: `kept` holds what
    was found for them.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self.kept: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a sensitivity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sensitivity: Sensitivity) -> Tensor:
        ctx.sensitivity = sensitivity
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        value = ctx.sensitivity.value
        return gradient if value is None else gradient * value.to(gradient), None


@register
class LearnedSchedule(nn.Module, NoiseSchedule):
    """A variance preserving path whose log-SNR falls along a learned monotone curve from `high` to `low`.

    The ends belong to the bound and are trained to lower it. The curve between them does not change the bound in
    expectation, only the variance of its estimate (section 5.1 there), and is trained to lower that:
    `objectives` sets `sensitivity` so. The paper makes the curve by a monotone network; here it is piecewise linear
    with learned rises, so that its inverse is exact too.

    Args:
        high: log-SNR at the first learned time, where the decoder takes over (the paper starts at 13.3).
        low: log-SNR at t = 1 (the paper starts at -5).
        pieces: of the curve, evenly spaced in t.

    Raises:
        ValueError: not low < high, or an end outside [-20, 20].
    """

    def __init__(self, *, high: float = 13.3, low: float = -5.0, pieces: int = 64) -> None:
        super().__init__()
        if not -MAX_LOG_SNR <= low < high <= MAX_LOG_SNR:
            raise ValueError(
                f"the log-SNR must fall, from a `high` to a `low` within [-20, 20]; got high = {high}, low = {low}"
            )
        if pieces < 1:
            raise ValueError(f"the curve has at least one piece, got {pieces}")
        self.pieces = pieces
        self.high = nn.Parameter(torch.tensor(high))
        self.log_range = nn.Parameter(torch.tensor(math.log(high - low)))
        self.rises = nn.Parameter(torch.zeros(pieces))
        self.sensitivity: Sensitivity | None = None

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(high, high - low), held where networks are evaluated whatever the parameters say."""
        high = self.high.to(like).clamp(max=MAX_LOG_SNR)
        return high, torch.minimum(self.log_range.to(like).exp(), high + MAX_LOG_SNR)

    def _curve(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(share fallen at the joints (pieces + 1,), slope of each piece (pieces,))."""
        # No piece is flat: the inverse needs slopes that stay above zero.
        rises = 0.999 * self.rises.to(like).softmax(0) + 0.001 / self.pieces
        return torch.cat([rises.new_zeros(1), rises.cumsum(0)]), rises * self.pieces

    def _fallen(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(share of the way from high to low, its derivative) at learned times, of the shape of t."""
        place = ((t - FIRST_TIME) / (1.0 - FIRST_TIME)).clamp(0.0, 1.0)
        joints, slopes = self._curve(t)
        index = (place.detach() * self.pieces).long().clamp(max=self.pieces - 1)
        each = slopes.take(index)
        share = joints.take(index) + each * (place - index.to(place) / self.pieces)
        slope = each / (1.0 - FIRST_TIME)
        if self.sensitivity is not None and t.dim() == 1:
            share, slope = (_Scaled.apply(value, self.sensitivity) for value in (share, slope))
        return share, slope

    def _kept(self, name: str, t: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """function(t), computed once for the same times while a loss is evaluated."""
        if self.sensitivity is None:
            return function(t)
        kept, key = self.sensitivity.kept, (name, id(t))
        if key not in kept:
            # The times are kept with it, so that no other tensor can take their identity.
            kept[key] = (t, function(t))
        return kept[key][1]

    def log_snr(self, t: Tensor) -> Tensor:
        return self._kept("log_snr", t, self._log_snr)

    def _log_snr(self, t: Tensor) -> Tensor:
        high, fall = self._ends(t)
        before = high - 2.0 * (t / FIRST_TIME).log()
        return torch.where(t < FIRST_TIME, before, high - fall * self._fallen(t)[0])

    def log_snr_prime(self, t: Tensor) -> Tensor:
        return self._kept("log_snr_prime", t, self._log_snr_prime)

    def _log_snr_prime(self, t: Tensor) -> Tensor:
        _, fall = self._ends(t)
        return torch.where(t < FIRST_TIME, -2.0 / t, -fall * self._fallen(t)[1])

    def time(self, log_snr: Tensor) -> Tensor:
        high, fall = self._ends(log_snr)
        joints, slopes = self._curve(log_snr)
        share = ((high - log_snr) / fall).clamp(0.0, 1.0)
        index = torch.searchsorted(joints.detach(), share.detach().contiguous(), right=True) - 1
        index = index.clamp(0, self.pieces - 1)
        place = (index.to(share) / self.pieces + (share - joints[index]) / slopes[index]).clamp(0.0, 1.0)
        before = FIRST_TIME * (0.5 * (high - log_snr)).clamp(max=0.0).exp()
        return torch.where(log_snr > high, before, FIRST_TIME + (1.0 - FIRST_TIME) * place)

    def alpha(self, t: Tensor) -> Tensor:
        return self._kept("alpha", t, lambda t: torch.sigmoid(self.log_snr(t)).sqrt())

    def sigma(self, t: Tensor) -> Tensor:
        return self._kept("sigma", t, lambda t: torch.sigmoid(-self.log_snr(t)).sqrt())

    def alpha_prime(self, t: Tensor) -> Tensor:
        return 0.5 * self.alpha(t) * self.sigma(t) ** 2 * self.log_snr_prime(t)

    def sigma_prime(self, t: Tensor) -> Tensor:
        return -0.5 * self.sigma(t) * self.alpha(t) ** 2 * self.log_snr_prime(t)

    @property
    def t_min(self) -> float:
        return FIRST_TIME

    @property
    def t_max(self) -> float:
        return 1.0
