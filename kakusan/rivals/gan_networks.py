"""The two networks of the GAN: residual blocks without any normalisation, as Huang et al. 2024 (R3GAN) build them.

Section 4 of arXiv 2501.05441: a stage is one resampling and some blocks; a block is an inverted bottleneck with a
grouped 3x3 convolution (Xie et al. 2017, arXiv 1611.05431, ResNeXt); leaky ReLU; bilinear resampling; no normalisation
layers, which fix-up initialisation makes unnecessary (Zhang et al. 2019, arXiv 1901.09321: the last convolution of a
block starts at zero, the others are scaled down with the depth).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.nn.shapes import crop, pad
from kakusan.rivals.twice import Convolution

SLOPE = 0.2
"""Of leaky ReLU where it is negative."""
GAIN = math.sqrt(2.0 / (1.0 + SLOPE**2))
"""What keeps the variance through a layer and the leaky ReLU behind it (He et al. 2015, arXiv 1502.01852)."""
LEAST = 4
"""Cells a side of the coarsest grid, at least, where pictures are that large."""
_LEARNED_IN_BLOCK = 3

Layer = TypeVar("Layer", bound="Convolution | nn.Linear")


def scaled(layer: Layer, gain: float) -> Layer:
    """The layer with normal weights of variance gain^2 / fan-in, and biases of zero."""
    with torch.no_grad():
        layer.weight.normal_(0.0, gain / math.sqrt(layer.weight[0].numel()))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


class Block(nn.Module):
    """x + W3 act(W2 act(W1 x)): 1x1 to `hidden` channels, grouped 3x3, 1x1 back; the identity at the start.

    Args:
        channels: of x (B, C, H, W).
        hidden: channels of the 3x3 convolution.
        group: channels in one of its groups; one group where it does not divide `hidden`.
        depth: blocks in the whole network, for fix-up: weights before the last carry depth^(-1 / (2 m - 2)), m = 3.
    """

    def __init__(self, channels: int, hidden: int, *, group: int, depth: int) -> None:
        super().__init__()
        gain = GAIN * depth ** (-1.0 / (2 * _LEARNED_IN_BLOCK - 2))
        groups = hidden // group if hidden % group == 0 else 1
        self.widen = scaled(Convolution(channels, hidden, 1), gain)
        self.mix = scaled(Convolution(hidden, hidden, 3, padding=1, groups=groups), gain)
        self.narrow = scaled(Convolution(hidden, channels, 1, bias=False), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.mix(F.leaky_relu(self.widen(x), SLOPE)), SLOPE)
        out: Tensor = x + self.narrow(h)
        return out


def halvings(size: Sequence[int], least: int = LEAST) -> int:
    """How often a picture can be halved until its shorter side is about `least`."""
    return max(0, math.ceil(math.log2(min(size) / least) - 1e-9)) if min(size) > least else 0


@dataclass(frozen=True)
class Build:
    """How large a network is.

    Args:
        widths: channels of the stages, coarsest grid first; the last belongs to the finest. Pictures that have more
            stages repeat the first, those that have fewer leave out the first.
        blocks: in each stage.
        expansion: channels inside a block over those outside.
        group: channels in a group of the 3x3 convolutions; one group where it does not divide theirs.
        patch: the finest grid has one cell for so many pixels a side; 1 where pictures are tiny.

    Raises:
        ValueError: no widths, or a number below 1.
    """

    widths: Sequence[int]
    blocks: int = 1
    expansion: int = 1
    group: int = 32
    patch: int = 2

    def __post_init__(self) -> None:
        if not self.widths or min(*self.widths, self.blocks, self.expansion, self.group, self.patch) < 1:
            raise ValueError(f"widths, blocks, expansion, group and patch are at least 1, got {self}")

    def stage(self, width: int, stages: int) -> nn.Sequential:
        """The blocks of one of `stages` stages."""
        depth = self.blocks * stages
        inner = [Block(width, self.expansion * width, group=self.group, depth=depth) for _ in range(self.blocks)]
        return nn.Sequential(*inner)


class _Grids:
    """The grids of pictures (C, H, W), and the width on each."""

    def __init__(self, shape: Sequence[int], build: Build) -> None:
        self.channels, self.size = shape[0], tuple(shape[1:])
        self.patch = build.patch if min(self.size) >= LEAST * build.patch else 1
        self.count = halvings([math.ceil(side / self.patch) for side in self.size]) + 1
        self.cell = self.patch * 2 ** (self.count - 1)
        """Pixels a side of one cell of the coarsest grid."""
        self.least = tuple(math.ceil(side / self.cell) for side in self.size)
        """(h, w) of the coarsest grid."""
        chosen = list(build.widths)[-self.count :]
        self.widths = [chosen[0]] * (self.count - len(chosen)) + chosen
        """Coarsest first."""


def _project(before: int, after: int) -> nn.Module:
    return nn.Identity() if before == after else scaled(Convolution(before, after, 1, bias=False), 1.0)


class Generator(nn.Module):
    """Latents (B, L) and classes (B,) -> pictures (B, C, H, W).

    A learned basis on the coarsest grid is weighted by the latent and the class; then every stage doubles the grid.

    Args:
        shape: (C, H, W) of a picture.
        build: the size of the network.
        latent: L.
        classes: number of classes, 0 for none.
    """

    def __init__(self, shape: Sequence[int], build: Build, *, latent: int, classes: int) -> None:
        super().__init__()
        grids = _Grids(shape, build)
        self.size, self.latent, self.patch = grids.size, latent, grids.patch
        self.classes = nn.Embedding(classes, latent) if classes else None
        first = grids.widths[0]
        self.basis = nn.Parameter(torch.randn(first, *grids.least))
        self.weights = scaled(nn.Linear(latent * (2 if classes else 1), first, bias=False), 1.0)
        self.projects = nn.ModuleList(map(_project, [first, *grids.widths], grids.widths))
        self.stages = nn.ModuleList(build.stage(width, grids.count) for width in grids.widths)
        self.pixels = scaled(Convolution(grids.widths[-1], grids.channels * grids.patch**2, 3, padding=1), 1.0)
        with torch.no_grad():
            # The pixels of a cell start equal: otherwise a checkerboard has to be unlearned first (Aitken et al. 2017,
            # arXiv 1707.02937).
            one = self.pixels.weight[:: grids.patch**2]
            self.pixels.weight.copy_(one.repeat_interleave(grids.patch**2, dim=0))

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        if self.classes is not None:
            z = torch.cat([z, self.classes(labels)], dim=1)
        h = self.basis * self.weights(z)[:, :, None, None]
        for place, (project, stage) in enumerate(zip(self.projects, self.stages, strict=True)):
            # Projections are linear and act on each cell alone: they are cheaper before the grid grows.
            h = project(h)
            if place:
                h = F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
            h = stage(h)
        x: Tensor = self.pixels(h)
        return crop(F.pixel_shuffle(x, self.patch), self.size)


class Discriminator(nn.Module):
    """Pictures (B, C, H, W) and classes (B,) -> scores (B,), high for real pictures.

    The mirror of the generator. The class enters by projection: psi(h) + <e(y), V h> / sqrt(E) (Miyato & Koyama 2018,
    arXiv 1802.05637, eq. 3).

    Args:
        shape: (C, H, W) of a picture.
        build: the size of the network.
        classes: number of classes, 0 for none.
    """

    def __init__(self, shape: Sequence[int], build: Build, *, classes: int) -> None:
        super().__init__()
        grids = _Grids(shape, build)
        self.cell, self.patch = grids.cell, grids.patch
        upwards = grids.widths[::-1]
        last = upwards[-1]
        self.pixels = scaled(Convolution(grids.channels * grids.patch**2, upwards[0], 3, padding=1), 1.0)
        self.stages = nn.ModuleList(build.stage(width, grids.count) for width in upwards)
        self.projects = nn.ModuleList(map(_project, upwards, [*upwards[1:], last]))
        self.basis = nn.Parameter(torch.randn(last, *grids.least) / math.sqrt(math.prod(grids.least)))
        self.score = scaled(nn.Linear(last, 1), 1.0)
        self.match = scaled(nn.Linear(last, last, bias=False), 1.0) if classes else None
        self.classes = nn.Embedding(classes, last) if classes else None

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        h: Tensor = self.pixels(F.pixel_unshuffle(pad(x, self.cell), self.patch))
        for place, (stage, project) in enumerate(zip(self.stages, self.projects, strict=True)):
            h = stage(h)
            if place < len(self.stages) - 1:
                # Bilinear interpolation to half the size is the mean over cells of 2.
                h = F.avg_pool2d(h, 2)
            h = project(h)
        h = (h * self.basis).sum(dim=(2, 3))
        score: Tensor = self.score(h)[:, 0]
        if self.classes is not None and self.match is not None:
            score = score + (self.match(h) * self.classes(labels)).sum(dim=1) / math.sqrt(h.shape[1])
        return score
