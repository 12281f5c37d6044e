"""Attention to the tokens of a condition that preserves magnitude, for the U-Net of EDM2.

The paper's networks know classes only; this carries its rules (Karras et al. 2024, arXiv 2312.02696, section 2 and
appendix B) over: weights count by direction, queries, keys and values have mean square 1, and the residual sum is
divided by its magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.conditioning import TokenSet
from kakusan.nn.attention import CPU_PLAIN_LIMIT
from kakusan.nn.magnitude import RESIDUAL_BALANCE, MPConv, MPLinear, mp_sum, pixel_norm
from kakusan.nn.tokens import TokenSets, Watch


class _Entrance(MPLinear):
    """(B, L, features) of any size -> (B, L, width): encoders differ by far in how large their features are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pixel_norm(x, dim=2))


class MPKeysAndValues(nn.Module):
    """Keys and values of token sets for many layers, by one product, as `kakusan.nn.tokens.KeysAndValues`.

    `forward(tokens, batch)` -> for each layer (B, M + 1, 2 channels), keys then values, and a mask (B, M + 1), None
    where every token is real; the last key and value are zero.

    Args:
        widths: features of a token of each set, by name.
        width: features of a token after its projection.
        channels: of each layer, in the order they run.
    """

    def __init__(self, widths: Mapping[str, int], width: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.sets = TokenSets(widths, width, projection=_Entrance)
        self.channels = tuple(channels)
        self.product = MPLinear(width, 2 * sum(channels))

    def forward(self, tokens: Mapping[str, TokenSet], batch: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
        context, mask = self.sets(tokens, batch)
        mask = None if mask is None else F.pad(mask, (0, 1), value=True)
        made = F.pad(self.product(context), (0, 0, 0, 1))
        return made.split([2 * count for count in self.channels], dim=2), mask


class MPCrossAttention(nn.Module):
    """Multi-head softmax attention from the places of a map to the tokens of a condition, residual included.

    `forward(x, keys_values, mask)`: x (B, C, *spatial), keys_values (B, M, 2 C), mask (B, M) or None, as
    `MPKeysAndValues` makes them -> the shape of x.
    """

    watch: Watch | None = None

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, channels // heads
        self.q = MPConv(1, channels, channels, 1)
        self.out = MPConv(1, channels, channels, 1)

    def forward(self, x: Tensor, keys_values: Tensor, mask: Tensor | None) -> Tensor:
        q = pixel_norm(self.q(x.flatten(2)).unflatten(1, (self.heads, self.head_width)), dim=2)
        # (B, heads, M, d) each; the zero key and value stay zero.
        k, v = pixel_norm(keys_values.unflatten(2, (2, self.heads, self.head_width)), dim=4).transpose(1, 3).unbind(2)
        if self.watch is not None:
            self.watch(self._weights(q, k, mask).mT)
        if x.device.type == "cpu" and k.shape[2] <= CPU_PLAIN_LIMIT:
            mixed = v.mT @ self._weights(q, k, mask).to(v.dtype)
        else:
            # The fused kernels want features side by side.
            seen = None if mask is None else mask[:, None, None]
            mixed = F.scaled_dot_product_attention(q.mT.contiguous().to(v.dtype), k, v, seen).mT
        return mp_sum(x, self.out(mixed.flatten(1, 2)).view(x.shape), RESIDUAL_BALANCE)

    def _weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """(B, heads, M, L) float32, of q (B, heads, d, L)."""
        logits = (k @ q.to(k.dtype)).float() / math.sqrt(self.head_width)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, :, None], float("-inf"))
        return logits.softmax(dim=2)
