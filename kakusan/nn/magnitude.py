"""Layers that preserve magnitude (Karras et al. 2024, arXiv 2312.02696, section 2 and appendix B).

Of inputs whose elements have variance 1 every layer here makes outputs of variance 1, in expectation and whatever its
weights have been trained to. Activations then need no group norms and no biases, weights cannot grow, and a learning
rate means the same relative change in every layer throughout the run.

Tensors are (B, C, *spatial) or (B, C); statistics are float32 whatever autocast does.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn import winograd
from kakusan.nn.attention import CPU_PLAIN_LIMIT

# sqrt(E[silu(x)^2]) for x ~ N(0, 1).
SILU_MAGNITUDE = 0.5964692111
# How much of a residual sum the new branch makes; the paper's value.
RESIDUAL_BALANCE = 0.3
_TINY_WEIGHT = 1e-20
_TINY_PIXEL = 1e-8
# Rows whose mean square is nearer to 1 than this are left as they are: normalising twice is normalising once.
_CLOSE = 1e-5
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over its root mean square for standard normal inputs (eq. 81)."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, share: float = 0.5) -> Tensor:
    """(1 - share) a + share b, over its magnitude for independent a and b (eq. 88)."""
    scale = math.hypot(1.0 - share, share)
    return a * ((1.0 - share) / scale) + b * (share / scale)


def mp_cat(a: Tensor, b: Tensor, share: float = 0.5) -> Tensor:
    """Both along the channels, scaled so that b has `share` of the influence whatever its width (eq. 103)."""
    m, n = a.shape[1], b.shape[1]
    scale = math.sqrt((m + n) / ((1.0 - share) ** 2 + share**2))
    return torch.cat([a * (scale * (1.0 - share) / math.sqrt(m)), b * (scale * share / math.sqrt(n))], dim=1)


def pixel_norm(x: Tensor, dim: int = 1) -> Tensor:
    """x with mean square 1 over the channels of every position; a position of zeros stays zero."""
    squared = x.float().square().mean(dim=dim, keepdim=True)
    return x * (squared + _TINY_PIXEL).rsqrt().to(x.dtype)


class MPFourier(nn.Module):
    """Waves of a number at many frequencies: (B,) -> (B, width) float32 of mean square 1 for every number (eq. 75).

    The paper draws normal frequencies and uniform phases. Here frequencies are spread evenly over the same distribution
    and each has its sine and its cosine, of which the next layer makes any phase: nothing is to be stored, and the
    magnitude is exact (for an even width) rather than on average.

    Args:
        width: number of features.
        bandwidth: standard deviation of the frequencies, in turns for one unit of the input. The paper has 1 for
            log(sigma) / 4; networks here are told -log(sigma) / 2, hence half.
    """

    frequencies: Tensor

    def __init__(self, width: int, *, bandwidth: float = 0.5) -> None:
        super().__init__()
        if width < 1 or bandwidth <= 0.0:
            raise ValueError(f"Fourier features need width >= 1 and bandwidth > 0, got {width} and {bandwidth}")
        self.width = width
        count = -(-width // 2)
        places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        turns = bandwidth * math.sqrt(2.0) * torch.erfinv(places)
        self.register_buffer("frequencies", (2.0 * math.pi * turns).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        angles = x.float()[:, None] * self.frequencies.float()
        return torch.cat([angles.cos(), angles.sin()], dim=1)[:, : self.width] * math.sqrt(2.0)


class Weighted(nn.Module):
    """A weight whose rows (one for each output channel) count by their direction only.

    When used, rows are divided by their norm, which makes the output independent of their length. `settle` is the other
    half: it keeps the stored rows at mean square 1.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))

    def unit_weight(self) -> Tensor:
        """The weight with rows of norm 1."""
        rows = tuple(range(1, self.weight.dim()))
        return self.weight * (self.weight.square().sum(dim=rows, keepdim=True) + _TINY_WEIGHT).rsqrt()


def settle(network: nn.Module) -> None:
    """Forced weight normalisation (section 2.3, algorithm 1): brings the stored rows of `network` to mean square 1.

    A training network does so before every forward pass, so that a step of the optimizer always means the same angle.
    Rows that are there already stay as they are, bit for bit: how often it is done does not matter, and a run that is
    resumed goes on exactly. It writes past autograd's version counters (which fused optimizers do not count either, so
    they could not tell when it is due): a network may then be used several times in one graph.
    """
    if torch.compiler.is_compiling():
        # Not a decorator: that would import the compiler, two seconds, for everyone.
        torch.compiler.disable(_settle)(network)
    else:
        _settle(network)


@torch.no_grad()
def _settle(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, Weighted):
            weight = module.weight.data
            squared = weight.square().mean(dim=tuple(range(1, weight.dim())), keepdim=True)
            near = (squared - 1.0).abs() < _CLOSE
            weight.mul_(torch.where(near, torch.ones_like(squared), (squared + _TINY_WEIGHT).rsqrt()))


class MPLinear(Weighted):
    """(B, channels) -> (B, out_channels), without bias (eq. 47 and 66)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(out_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.unit_weight())


class MPConv(Weighted):
    """A size-preserving convolution over 1, 2 or 3 spatial dimensions, without bias (eq. 47 and 66).

    Zeros beyond the border lower the magnitude there, as in the paper.
    """

    def __init__(self, rank: int, channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(out_channels, channels, *[kernel] * rank)
        self.rank, self.kernel = rank, kernel

    def forward(self, x: Tensor) -> Tensor:
        weight = self.unit_weight()
        if (self.rank, self.kernel) == (2, 3) and winograd.pays(x, weight):
            return winograd.convolution(x, weight, weight.new_zeros(len(weight)))
        return _CONVOLUTIONS[self.rank](x, weight, padding=self.kernel // 2)


class CosineAttention(nn.Module):
    """Multi-head self-attention on pixel-normalised queries, keys and values, residual included (from config C on).

    (B, C, *spatial) -> same shape. Logits stay within sqrt(C / heads), so they need no care in half precision. With
    `identity` every position sees itself only (`kakusan.nn.perturbed`).
    """

    identity: bool = False

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels cannot be split into {heads} heads; choose a divisor of {channels}")
        self.heads = heads
        self.qkv = MPConv(1, channels, 3 * channels, 1)
        self.out = MPConv(1, channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        qkv = self.qkv(x.flatten(2)).view(batch, 3, self.heads, channels // self.heads, -1)
        q, k, v = pixel_norm(qkv, dim=3).unbind(1)
        mixed = (v if self.identity else self._mix(q, k, v)).reshape(batch, channels, -1)
        return mp_sum(x, self.out(mixed).view(x.shape), RESIDUAL_BALANCE)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device.type == "cpu" and q.shape[-1] <= CPU_PLAIN_LIMIT:
            logits = (q.transpose(-1, -2) @ k).float() / math.sqrt(q.shape[-2])
            return v @ logits.softmax(dim=-1).to(v.dtype).transpose(-1, -2)
        q, k, v = (y.transpose(-1, -2) for y in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
