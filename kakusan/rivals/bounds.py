"""What a VAE's bound is made of: the likelihood of stored integers, and draws of standard normal latents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kakusan.data.spec import DataSpec


class DiscretisedLogistic:
    """Probability of stored integers: the mass of a logistic distribution in each one's bin, the outer bins open.

    As in Salimans et al. 2017 (PixelCNN++, arXiv 1701.05517, eq. 2) with one component. Whatever the mean and scale,
    the probabilities of all integers of an element add up to 1.

    Args:
        spec: of the pictures.
    """

    def __init__(self, spec: DataSpec) -> None:
        step = 2.0 / (spec.high - spec.low)
        self.half = step / 2.0
        self.least = (math.ceil(spec.low) - spec.low) * step - 1.0
        self.most = (math.floor(spec.high) - spec.low) * step - 1.0
        self.log_scale_floor = math.log(step) - 3.0
        """Below this scale a bin holds all mass anyway."""

    def log_prob(self, x0: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """log P in nats, summed over the elements of each picture: (B,).

        Args:
            x0: (B, C, *size), stored integers in model units.
            mean: of that shape.
            log_scale: of a shape that broadcasts to it.
        """
        rate = (-log_scale.clamp_min(self.log_scale_floor)).exp()
        centre, half = (x0 - mean) * rate, self.half * rate
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)): no difference of nearly equal numbers.
        below, above = F.logsigmoid(centre + half), F.logsigmoid(half - centre)
        inside = torch.log(-torch.expm1(-2.0 * half))
        lowest, highest = x0 < self.least + self.half, x0 > self.most - self.half
        each = below + above + inside
        each = torch.where(lowest, below, torch.where(highest, above, each))
        return each.flatten(1).sum(1)


def divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) | N(0, 1)) in nats, (B,), summed over the rest."""
    each = 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0) - log_std
    return each.flatten(1).sum(1)


def log_ratio(mean: Tensor, log_std: Tensor, eps: Tensor) -> Tensor:
    """log N(u; 0, 1) - log N(u; mean, std^2) at u = mean + std eps, (B,), summed over the rest."""
    u = mean + log_std.exp() * eps
    each = 0.5 * (eps.square() - u.square()) + log_std
    return each.flatten(1).sum(1)


def importance_bound(log_weights: Tensor) -> Tensor:
    """Lower bound on log p from K draws (K, B) of log p(x, u) - log q(u | x): (B,) (Burda et al. 2016, 1509.00519)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))
