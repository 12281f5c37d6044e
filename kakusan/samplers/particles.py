"""Weighted samples: sequential Monte Carlo's resampling, with draws that belong to the samples."""

from __future__ import annotations

import torch
from torch import Tensor


def effective(log_weights: Tensor) -> Tensor:
    """The effective number of samples of each group, (G,), from log-weights (G, P) (Kong 1992)."""
    weights = log_weights.softmax(1)
    return 1.0 / weights.square().sum(1)


def systematic(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Ancestors (G, P) of the next particles by systematic resampling (Kitagawa 1996): one uniform (G,) for a group.

    Particle k is taken as often as P times its weight says, rounded down or up.
    """
    count = log_weights.shape[1]
    heights = log_weights.to(torch.float64).softmax(1).cumsum(1)
    points = (torch.arange(count, dtype=torch.float64, device=heights.device) + uniform.unsqueeze(1)) / count
    return torch.searchsorted(heights, points * heights[:, -1:]).clamp_max(count - 1)


def resampled(log_weights: Tensor, uniform: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(rows of a batch of G * P samples to go on with, log-weights (G, P) of those).

    Groups whose effective number is at least `threshold` * P keep their particles and weights.
    """
    groups, count = log_weights.shape
    poor = effective(log_weights) < threshold * count
    own = torch.arange(count, device=log_weights.device).expand(groups, count)
    chosen = torch.where(poor.unsqueeze(1), systematic(log_weights, uniform), own)
    # What a group's weights add up to is kept apart from their shares: only the shares matter here.
    kept = log_weights - log_weights.logsumexp(1, keepdim=True)
    weights = torch.where(poor.unsqueeze(1), torch.zeros_like(kept), kept)
    rows = chosen + count * torch.arange(groups, device=log_weights.device).unsqueeze(1)
    return rows.flatten(), weights
