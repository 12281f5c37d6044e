"""Colours cut into cells, and how much of a picture lies in each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kakusan.data.spec import DataSpec
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spectrum import batches, block_means

SOFT = 0.04
"""Width of a cut in [-1, 1], five levels of 255."""


@dataclass(frozen=True)
class Palette:
    """Colours of blocks, cut into cells of equal mass (Heckbert 1982): the longest side of the fullest, at its median.

    A block is a good part of a side, so neither noise nor blur change its colour much. Moments say little where
    channels are exchanged that vary alike; shares of colours do.

    Args:
        cuts: (channel, value, cell below, cell above) of each cut, the first one of everything; cells below zero are
            further cuts, -1 - number.
        colours: mean colour of each cell, in [-1, 1].
        blocks: a side.
    """

    cuts: tuple[tuple[int, float, int, int], ...]
    colours: tuple[tuple[float, ...], ...]
    blocks: int

    @classmethod
    def of(cls, pictures: PictureSet, *, cells: int = 16, blocks: int = 8) -> Palette:
        """At most `cells` cells from some of the blocks."""
        parts = [block_means(x.double(), blocks).transpose(0, 1).flatten(1) for x in batches(pictures)]
        pixels = torch.cat(parts, dim=1).T
        pixels = pixels[torch.linspace(0, len(pixels) - 1, min(len(pixels), 1 << 15)).long()]
        cuts: list[list[float]] = []
        leaves: list[tuple[Tensor, int, int]] = [(pixels, -1, 0)]
        finished: list[tuple[Tensor, int, int]] = []
        while leaves and len(leaves) + len(finished) < cells:
            leaves.sort(key=lambda leaf: -len(leaf[0]))
            points, parent, side = leaves.pop(0)
            channel = int((points.amax(0) - points.amin(0)).argmax())
            value = float(points[:, channel].median())
            above = points[:, channel] > value
            if not bool(above.any()):
                finished.append((points, parent, side))
                continue
            if parent >= 0:
                cuts[parent][2 + side] = -1 - len(cuts)
            leaves += [(points[~above], len(cuts), 0), (points[above], len(cuts), 1)]
            cuts.append([channel, value, 0, 0])
        colours = []
        for number, (points, parent, side) in enumerate([*leaves, *finished]):
            colours.append(tuple(points.mean(0).tolist()))
            if parent >= 0:
                cuts[parent][2 + side] = number
        return cls(tuple((int(c), v, int(a), int(b)) for c, v, a, b in cuts), tuple(colours), blocks)

    def shares(self, pictures: PictureSet) -> Tensor:
        """(N, cells) float64: share of each picture's blocks in each cell; near a cut a block counts in part to both.

        Backgrounds of one colour lie in heaps: at a sharp cut, rounding alone would move a heap from cell to cell.
        """
        rows = []
        for x in batches(pictures):
            pixels = block_means(x.double(), self.blocks).flatten(2)
            whole = torch.ones_like(pixels[:, 0])
            inside = {-1: whole} if self.cuts else {0: whole}
            # Cells are numbered from 0 and further cuts from -1 down; a cut comes after the one it lies in.
            for number, (channel, value, below, above) in enumerate(self.cuts):
                part, side = inside[-1 - number], ((pixels[:, channel] - value) / SOFT).sigmoid()
                inside[below], inside[above] = part * (1.0 - side), part * side
            rows.append(torch.stack([inside[cell].mean(1) for cell in range(len(self.colours))], dim=1))
        return torch.cat(rows)

    def names(self, spec: DataSpec) -> tuple[str, ...]:
        """Cells by their mean colour in stored values."""
        scale = (spec.high - spec.low) / 2.0
        return tuple(
            "share of blocks near (" + ", ".join(f"{(v + 1.0) * scale + spec.low:.0f}" for v in colour) + ")"
            for colour in self.colours
        )
