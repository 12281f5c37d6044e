"""The Gaussian steps of the discrete chain: q(x_t | x_s), q(x_s | x_t, x0) and the variances between them, for s < t.

Ho et al. 2020 (arXiv 2006.11239, eq. 6-7) write them for neighbouring steps; Kingma et al. 2021 (arXiv 2107.00630,
eq. 20-25) for any two times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kakusan.levels import Level, Scalar


def transition_variance(level_t: Level, level_s: Level) -> Scalar:
    """sigma_{t|s}^2: the variance of x_t given x_s, s < t (Kingma et al. 2021, eq. 20); beta_t between neighbours."""
    ratio = level_t.alpha / level_s.alpha
    return level_t.sigma**2 - (ratio * level_s.sigma) ** 2


def posterior_variance(level_t: Level, level_s: Level) -> Scalar:
    """The variance of x_s given x_t and x0 (Ho et al. 2020, eq. 7); 0 where x_s is data."""
    return transition_variance(level_t, level_s) * (level_s.sigma / level_t.sigma) ** 2


def posterior_mean_factors(level_t: Level, level_s: Level) -> tuple[Scalar, Scalar]:
    """(factor of x_t, factor of x0) of the mean of x_s given both (Ho et al. 2020, eq. 7)."""
    ratio, whole = level_t.alpha / level_s.alpha, level_t.sigma**2
    return ratio * level_s.sigma**2 / whole, level_s.alpha * transition_variance(level_t, level_s) / whole


def log_variance_between(fraction: Tensor, level_t: Level, level_s: Level, lowest: Scalar | None = None) -> Tensor:
    """log of the reverse variance at `fraction` (B, C, *spatial) between the posterior's (0) and beta (1).

    Nichol & Dhariwal 2021 (arXiv 2102.09672, eq. 15). Where x_s is data the posterior has no variance and `lowest`
    stands in for it (the paper's code takes that of the step before); without it the variance is beta there.
    """
    beta = torch.as_tensor(transition_variance(level_t, level_s), dtype=torch.float64)
    small = torch.as_tensor(posterior_variance(level_t, level_s), dtype=torch.float64)
    stand_in = beta if lowest is None else torch.as_tensor(lowest, dtype=torch.float64)
    # A chain of one step has none before it.
    stand_in = torch.where(stand_in > 0.0, stand_in, beta)
    small = torch.where(small > 0.0, small, stand_in)
    low, high = small.log().to(fraction), beta.log().to(fraction)
    return low + fraction * (high - low)
