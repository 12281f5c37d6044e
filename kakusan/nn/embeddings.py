"""Embeddings of the noise level and of condition vectors; always float32."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn.norms import full_precision

LOWEST_FREQUENCY = 0.25
HIGHEST_FREQUENCY = 32.0


class FourierFeatures(nn.Module):
    """Sines and cosines of a number of size about [-5, 5], at geometrically spaced frequencies.

    `forward`: (B,) -> (B, width) float32. The lowest frequency has a period longer than the whole range and the highest
    resolves a fifth of a unit (0.8 in log-SNR), so near noise levels have near features (form: Vaswani et al. 2017).
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f"Fourier features need an even width of at least 4, got {width}")
        # The device is said: after loading a model, transformers leaves torch without a default for this function.
        device = torch.get_default_device()
        exponents = torch.linspace(math.log(LOWEST_FREQUENCY), math.log(HIGHEST_FREQUENCY), width // 2, device=device)
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = x.float()[:, None] * self.frequencies.float()
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class Mlp(nn.Sequential):
    """Linear, SiLU, linear: (B, inputs) -> (B, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, outputs), nn.SiLU(), nn.Linear(outputs, outputs))


class Embedding(nn.Module):
    """What every block is told: the noise level and, if there are, the condition vector and the augmentation.

    `forward(c_noise, vector, augment)`: c_noise (B,) or (1,), vector (B or 1, condition_width) or None, augment
    (B or 1, augment_width) or None -> (B or 1, width). The map of `augment` has no bias, so no label and a label of
    zeros are the same; it starts at zero and draws nothing, so the rest starts as it would without.
    """

    def __init__(self, *, width: int, feature_width: int, condition_width: int = 0, augment_width: int = 0) -> None:
        super().__init__()
        self.noise = nn.Sequential(FourierFeatures(feature_width), Mlp(feature_width, width))
        self.condition = Mlp(condition_width, width) if condition_width else None
        self.augment = nn.Parameter(torch.zeros(width, augment_width)) if augment_width else None

    def forward(self, c_noise: Tensor, vector: Tensor | None, augment: Tensor | None = None) -> Tensor:
        with full_precision(c_noise):
            embedded: Tensor = self.noise(c_noise)
            if self.condition is not None and vector is not None:
                embedded = embedded + self.condition(vector.to(embedded.dtype))
            if self.augment is not None and augment is not None:
                embedded = embedded + F.linear(augment.to(embedded.dtype), self.augment)
            return F.silu(embedded)
