"""A residual multi-layer perceptron for points (B, D): toy sets, tables, small vectors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import Condition
from kakusan.nn.norms import full_precision
from kakusan.specs import register

NOISE_FREQUENCIES = 8
HIGHEST_NOISE_FREQUENCY = 4.0


@register
class MLP(nn.Module):
    """Backbone on points.

    `forward(x, c_noise, cond)`: x (B, dim), c_noise (B,) or (1,), cond a `Condition` or None -> (B, out_channels). At
    the start of training the output is exactly zero.

    A network of plain layers learns the low frequencies of its input first, and a score near the data has sharp ones.
    So the first layer is sines with random frequencies (Tancik et al. 2020, arXiv 2006.10739), which training goes on
    to move (as in Sitzmann et al. 2020, arXiv 2006.09661), beside x itself. Each residual block is scaled and shifted
    by the noise level and the condition (Perez et al. 2018, arXiv 1709.07871).

    Args:
        dim: numbers in a point.
        out_channels: numbers in the output; None means `dim`, 2 * dim for a learned variance.
        width: of the hidden layers.
        depth: residual blocks of two layers each.
        features: sines of x; 0 for none.
        bandwidth: standard deviation of their frequencies at the start, in radians for one unit of x, which a denoiser
            scales to about unit variance. Detail finer than 1 / bandwidth is learned late.
        condition_width: width of `Condition.vector`; 0 for a model without one.
    """

    def __init__(
        self,
        *,
        dim: int = 2,
        out_channels: int | None = None,
        width: int = 128,
        depth: int = 3,
        features: int = 64,
        bandwidth: float = 3.0,
        condition_width: int = 0,
    ) -> None:
        super().__init__()
        self.channels = dim
        self.out_channels = dim if out_channels is None else out_channels
        for name, value in {"dim": dim, "out_channels": self.out_channels, "width": width, "depth": depth}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if features < 0 or condition_width < 0 or not 0.0 < bandwidth < math.inf:
            raise ValueError(
                "expected features >= 0, condition_width >= 0 and a positive bandwidth, got "
                f"features={features}, condition_width={condition_width}, bandwidth={bandwidth}"
            )
        self.condition_width = condition_width
        self.waves = nn.Linear(dim, features) if features else None
        if self.waves is not None:
            nn.init.normal_(self.waves.weight, std=bandwidth)
            nn.init.uniform_(self.waves.bias, -math.pi, math.pi)
        self.stem = nn.Linear(dim + features, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, self.out_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.skip = nn.Linear(dim, self.out_channels, bias=False)

        inner = max(16, width // 4)
        exponents = torch.linspace(math.log(0.25), math.log(HIGHEST_NOISE_FREQUENCY), NOISE_FREQUENCIES)
        self.frequencies: Tensor
        self.register_buffer("frequencies", exponents.exp(), persistent=False)
        self.noise = nn.Linear(2 * NOISE_FREQUENCIES + 1, inner)
        self.condition = nn.Linear(condition_width, inner) if condition_width else None
        self.mix = nn.Linear(inner, inner)
        # One matrix makes the modulation of all blocks: one product in place of many small ones.
        self.widths = [features, *[width] * (2 * depth), self.out_channels, self.out_channels]
        self.modulation = nn.Linear(inner, sum(self.widths))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Condition | None = None) -> Tensor:
        vector = self._check_input(x, c_noise, cond)
        loudness, *modulation, gain, passed = self._modulate(c_noise, vector).to(x.dtype).split(self.widths, dim=1)
        h = self.stem(x if self.waves is None else torch.cat([x, self.waves(x).sin() * (loudness + 1.0)], dim=1))
        for i, block in enumerate(self.blocks):
            h = block(h, modulation[2 * i], modulation[2 * i + 1])
        return self.head(F.silu(self.norm(h))) * (gain + 1.0) + self.skip(x) * passed

    def _modulate(self, c_noise: Tensor, vector: Tensor | None) -> Tensor:
        """(B or 1, 2 width depth + out_channels): scale and shift of every block, then how much passes by them all."""
        weight = self.noise.weight
        with full_precision(c_noise):
            number = c_noise.to(weight.dtype)[:, None]
            angles = number * self.frequencies.to(weight.dtype)
            embedded = self.noise(torch.cat([0.2 * number, angles.cos(), angles.sin()], dim=1))
            if self.condition is not None and vector is not None:
                embedded = embedded + self.condition(vector.to(weight.dtype))
            modulation: Tensor = self.modulation(F.silu(self.mix(F.silu(embedded))))
        return modulation

    def _check_input(self, x: Tensor, c_noise: Tensor, cond: Condition | None) -> Tensor | None:
        """The condition's vector, which is there exactly when the network takes one."""
        if x.dim() != 2 or x.shape[1] != self.channels:
            raise ValueError(f"this MLP takes points (B, {self.channels}), got {tuple(x.shape)}")
        if c_noise.dim() != 1 or len(c_noise) not in (1, len(x)):
            raise ValueError(f"c_noise must be ({len(x)},) or (1,), got {tuple(c_noise.shape)}")
        cond = Condition() if cond is None else cond
        if cond.tokens or cond.spatial is not None or cond.augment is not None:
            raise ValueError("this MLP would ignore a part of the condition: it takes a vector only")
        vector = cond.vector
        if vector is None:
            if self.condition_width:
                raise ValueError(
                    f"this MLP was built with condition_width={self.condition_width} and needs a Condition.vector, "
                    "got none"
                )
        elif not self.condition_width:
            raise ValueError(f"this MLP would ignore Condition.vector: build it with condition_width={vector.shape[1]}")
        elif vector.shape[1:] != (self.condition_width,) or len(vector) not in (1, len(x)):
            expected = (len(x), self.condition_width)
            raise ValueError(f"Condition.vector must be {expected}, got {tuple(vector.shape)}")
        return vector


class _Block(nn.Module):
    """h + W2 silu((1 + scale) W1 norm(h) + shift); h (B, width), scale and shift (B or 1, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        inner = torch.addcmul(shift, self.first(self.norm(h)), scale + 1.0)
        out: Tensor = h + self.second(F.silu(inner))
        return out
