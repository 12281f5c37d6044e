"""Rivals in likelihood on small pictures of few levels: Gaussian mixtures and an autoregressive network.

Both state the probability of the stored integers exactly or by a lower bound, in nats, (N,). Used by
benchmarks/digits_likelihood.py; every choice (components, epochs) is made on validation pictures.
"""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.gaussian import log_interval


def diagonal_mixture_nats(mixture: Any, stored: Tensor, levels: int) -> Tensor:
    """-log P of integers under a diagonal Gaussian mixture: the mass of each bin, the outer ones open. Exact."""
    x = stored.flatten(1).double()
    mean = torch.from_numpy(mixture.means_)
    std = torch.from_numpy(mixture.covariances_).sqrt()
    total = torch.empty(len(x), len(mean), dtype=torch.float64)
    for k in range(len(mean)):
        low = (x - 0.5 - mean[k]) / std[k]
        high = (x + 0.5 - mean[k]) / std[k]
        low = low.masked_fill(x == 0, -math.inf)
        high = high.masked_fill(x == levels - 1, math.inf)
        total[:, k] = log_interval(low, high).sum(1)
    return -(total + torch.from_numpy(mixture.weights_).log()).logsumexp(1)


def full_mixture_nats(mixture: Any, stored: Tensor, seed: int = 1) -> Tensor:
    """-log of a lower bound on P under a full-covariance mixture: its density with uniform noise in each bin."""
    rng = np.random.default_rng(seed)
    x = stored.flatten(1).double().numpy()
    draws = [mixture.score_samples(x + rng.uniform(-0.5, 0.5, x.shape)) for _ in range(8)]
    # log of the mean of several draws is a tighter bound than their mean.
    return -(torch.from_numpy(np.stack(draws)).logsumexp(0) - math.log(len(draws)))


def fit_mixtures(train: Tensor, valid: Tensor, test: Tensor, levels: int) -> tuple[str, Tensor]:
    """(description, -log P of the test pictures) of the mixture that is best on the validation pictures."""
    from sklearn.mixture import GaussianMixture

    rng = np.random.default_rng(0)
    x = train.flatten(1).double().numpy()
    x = x + rng.uniform(-0.5, 0.5, x.shape)
    best: tuple[float, str, Tensor] = (math.inf, "", test)
    for kind in ("diag", "full"):
        for count in (1, 2, 5, 10, 20, 40, 80, 160) if kind == "diag" else (1, 2, 5, 10, 20):
            for floor in (1e-3, 1e-2, 1e-1):
                found = GaussianMixture(count, covariance_type=kind, reg_covar=floor, random_state=0, max_iter=200)
                found.fit(x)

                def nats(pictures: Tensor, found: Any = found, kind: str = kind) -> Tensor:
                    if kind == "diag":
                        return diagonal_mixture_nats(found, pictures, levels)
                    return full_mixture_nats(found, pictures)

                value = float(nats(valid).mean())
                if value < best[0]:
                    best = value, f"{count} components, {kind}, variance floor {floor:g}", nats(test)
    return best[1], best[2]


class MaskedConv(nn.Conv2d):
    """A convolution that sees only pixels before its own in raster order (and its own with `own`)."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, *, own: bool) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2)
        mask = torch.ones_like(self.weight)
        mask[:, :, size // 2, size // 2 + int(own) :] = 0.0
        mask[:, :, size // 2 + 1 :] = 0.0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class Autoregressive(nn.Module):
    """A small gated network of masked convolutions in raster order (PixelCNN, van den Oord et al. 2016): logits of
    every pixel's level given those before it."""

    def __init__(self, levels: int, *, width: int = 64, depth: int = 6, dropout: float = 0.3) -> None:
        super().__init__()
        self.levels = levels
        self.stem = MaskedConv(2, width, 5, own=False)
        self.blocks = nn.ModuleList(
            nn.ModuleList([MaskedConv(width, 2 * width, 3, own=True), nn.Conv2d(width, width, 1)]) for _ in range(depth)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 128, 1), nn.SiLU(), nn.Conv2d(128, levels, 1))

    def forward(self, stored: Tensor) -> Tensor:
        """(B, 1, H, W) integers -> (B, levels, H, W)."""
        x = stored.float() / (self.levels - 1) * 2.0 - 1.0
        # A constant channel tells the border from a pixel of the middle level.
        h = self.stem(torch.cat([x, torch.ones_like(x)], 1))
        for conv, out in self.blocks:  # type: ignore[misc]
            a, b = conv(F.silu(h)).chunk(2, 1)
            h = h + out(self.dropout(torch.tanh(a) * torch.sigmoid(b)))
        logits: Tensor = self.head(h)
        return logits

    def nats(self, stored: Tensor) -> Tensor:
        """-log P of each picture, (B,). Exact."""
        return F.cross_entropy(self(stored), stored[:, 0].long(), reduction="none").double().flatten(1).sum(1)


def fit_autoregressive(
    train: Tensor, valid: Tensor, test: Tensor, levels: int, *, minutes: float, seed: int = 0
) -> tuple[str, Tensor]:
    """(description, -log P of the test pictures): averaged weights of the step that is best on validation."""
    best: tuple[float, str, Tensor] = (math.inf, "", test)
    for dropout in (0.2, 0.5):
        torch.manual_seed(seed)
        network = Autoregressive(levels, dropout=dropout)
        average = copy.deepcopy(network).eval()
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
        step, began = 0, time.monotonic()
        while time.monotonic() - began < minutes * 30.0:
            network.train()
            rows = torch.randint(len(train), (64,), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            network.nats(train[rows]).mean().backward()
            nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            step += 1
            with torch.no_grad():
                for mine, other in zip(average.parameters(), network.parameters(), strict=True):
                    mine.lerp_(other, max(0.003, 1.0 / step))
                if step % 100 == 0:
                    value = float(average.nats(valid).mean())
                    if value < best[0]:
                        count = sum(p.numel() for p in network.parameters())
                        said = f"{count / 1e6:.2f} M parameters, dropout {dropout}, best at step {step}"
                        best = value, said, average.nats(test)
    return best[1], best[2]
