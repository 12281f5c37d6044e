"""The control variate of the diffusion term: what the best linear denoiser would leave of |eps - eps_hat|^2.

Near the data no denoiser can tell the noise, so |eps - eps_hat|^2 is nearly |eps|^2 and its spread says nothing of the
model. For Gaussian data of standard deviation d the best denoiser is linear and leaves, with u = sigma / alpha and
g = 1 / (1 + u^2 / d^2), the noise g eps - h x0, h^2 = g (1 - g) / d^2. Subtracting g^2 |eps|^2 + h^2 |x0|^2 where times
and noises are drawn, and adding the exact integral of its mean g^2 D + h^2 |x0|^2 back, leaves the expectation alone
whatever d is, and removes most of the variance, that of the times included. (The cross term vanishes in pairs of eps
and -eps.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kakusan.specs import register


@register
@dataclass(frozen=True)
class Control:
    """The weights of |eps|^2 and |x0|^2.

    Args:
        scale: d, in units of the model's sigma_data; 0 switches the control variate off.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale >= 0.0:
            raise ValueError(f"the scale of the control variate is not negative, got {self.scale}")

    def weight(self, log_snr: Tensor, sigma_data: float) -> Tensor:
        """g^2, the weight of |eps|^2, at these log-SNRs."""
        return self._share(log_snr, sigma_data) ** 2

    def data_weight(self, log_snr: Tensor, sigma_data: float) -> Tensor:
        """h^2, the weight of |x0|^2."""
        if self.scale == 0.0:
            return torch.zeros_like(log_snr)
        g = self._share(log_snr, sigma_data)
        return g * (1.0 - g) / (self.scale * sigma_data) ** 2

    def integrals(self, high: float, low: float, sigma_data: float) -> tuple[float, float]:
        """Integrals of g^2 and of h^2 over log-SNR from `low` to `high`."""
        if self.scale == 0.0:
            return 0.0, 0.0
        ends = torch.tensor([high, low], dtype=torch.float64) + self._shift(sigma_data)
        whole, share = softplus(ends, threshold=50.0).tolist(), torch.sigmoid(ends).tolist()
        data = share[0] - share[1]
        return whole[0] - whole[1] - data, data / (self.scale * sigma_data) ** 2

    def _share(self, log_snr: Tensor, sigma_data: float) -> Tensor:
        if self.scale == 0.0:
            return torch.zeros_like(log_snr)
        return torch.sigmoid(log_snr + self._shift(sigma_data))

    def _shift(self, sigma_data: float) -> float:
        return 2.0 * math.log(self.scale * sigma_data)
