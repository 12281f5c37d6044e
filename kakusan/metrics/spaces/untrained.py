"""The spaces that nothing is trained for: a random convolutional network, and random patches of a pyramid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.metrics.reference import Reference
from kakusan.metrics.spaces.shapes import check_size
from kakusan.metrics.spaces.store import ALONE, Opening
from kakusan.metrics.spaces.whitening import WhitenedSpace


def _uniform(*shape: int, deviation: float, generator: torch.Generator) -> Tensor:
    """Uniform around zero: whole numbers divided by a power of two, so the same bits on every machine."""
    drawn = torch.randint(-(2**16) + 1, 2**16, shape, generator=generator)
    return (drawn.double() * (math.sqrt(3.0) * deviation / 2**16)).float()


class RandomNetwork(nn.Module):
    """Convolutions with random weights: each stage halves the picture and gives the mean and deviation of its channels.

    A random network keeps what pictures look like up close, texture, edges and colour at several sizes, and knows
    nothing of what they show. No two pictures are mapped to one for want of training.

    Args:
        channels: of the pictures.
        width: channels of each stage.
        stages: at sizes 1, 1/2, 1/4 ...
        seed: of the weights.
    """

    def __init__(self, *, channels: int, width: int = 16, stages: int = 4, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.stages = stages
        before = channels
        for i in range(stages):
            side = 5 if i == 0 else 3
            deviation = 1.0 / math.sqrt(before * side * side)
            weight = _uniform(width, before, side, side, deviation=deviation, generator=generator)
            self.register_buffer(f"weight{i}", weight)
            self.register_buffer(f"bias{i}", _uniform(width, deviation=0.3, generator=generator))
            before = width

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, 2 width stages) of pictures (B, C, H, W)."""
        found = []
        for i in range(self.stages):
            if i:
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            weight, bias = self.get_buffer(f"weight{i}"), self.get_buffer(f"bias{i}")
            # Edges are repeated: zeros would tell a picture's corners by its brightness.
            x = F.pad(x, (weight.shape[-1] // 2,) * 4, mode="replicate")
            x = 1.4 * F.leaky_relu(F.conv2d(x, weight, bias), 0.2)
            mean = x.mean(dim=(2, 3))
            found += [mean, (x - mean[:, :, None, None]).square().mean(dim=(2, 3)).sqrt()]
        return torch.cat(found, dim=1)


class PatchStatistics(nn.Module):
    """Statistics of small patches of a Laplacian pyramid (Burt & Adelson 1983), along random directions.

    A level is what a picture loses when it is halved: detail of one size. Its patches are projected on random
    directions, and each direction gives the generalised means of orders 1/2, 1 and 2 of what it sees: faint grain shows
    in the first, edges in the last. What is left at the end gives mean and covariance of the colours, the latter also
    of the picture itself.

    Args:
        channels: of the pictures.
        directions: in each level.
        levels: at most; small pictures have fewer.
        side: of a patch.
        seed: of the directions.
    """

    orders = (0.5, 1.0, 2.0)

    def __init__(
        self,
        *,
        channels: int,
        size: tuple[int, int],
        directions: int = 16,
        levels: int = 3,
        side: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.levels = max(1, min(levels, int(math.log2(max(1, min(size))))))
        deviation = 1.0 / math.sqrt(channels * side * side)
        for i in range(self.levels):
            weight = _uniform(directions, channels, side, side, deviation=deviation, generator=generator)
            self.register_buffer(f"directions{i}", weight)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) of pictures (B, C, H, W)."""
        found = [_colours(x)]
        for i in range(self.levels):
            coarse = _halve(x)
            # The two bands of a level meet again in the sum: nothing of the picture is lost.
            detail = x - F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
            weight = self.get_buffer(f"directions{i}")
            seen = F.conv2d(F.pad(detail, (weight.shape[-1] // 2,) * 4, mode="replicate"), weight).abs()
            found += [_mean_of_order(seen, order) for order in self.orders]
            x = coarse
        found += [x.mean(dim=(2, 3)), _colours(x)]
        return torch.cat(found, dim=1)


def _mean_of_order(x: Tensor, order: float) -> Tensor:
    mean: Tensor = x.pow(order).mean(dim=(2, 3)).pow(1.0 / order)
    return mean


def _colours(x: Tensor) -> Tensor:
    """Covariance of the channels over the picture, its upper half: (B, C (C + 1) / 2); variances alone beyond 8."""
    centred = (x - x.mean(dim=(2, 3), keepdim=True)).flatten(2)
    channels = x.shape[1]
    if channels > 8:
        return centred.square().mean(dim=2)
    covariance = centred @ centred.transpose(1, 2) / centred.shape[2]
    row, column = torch.triu_indices(channels, channels)
    return covariance[:, row, column]


def _halve(x: Tensor) -> Tensor:
    """Half the size, through the binomial filter (1, 3, 3, 1) / 8 along each side; sizes of one stay."""
    filter_ = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8.0
    channels = x.shape[1]
    for dim, padding, shape in ((2, (0, 0, 1, 1), (1, 1, 4, 1)), (3, (1, 1, 0, 0), (1, 1, 1, 4))):
        if x.shape[dim] == 1:
            continue
        if x.shape[dim] % 2:
            x = F.pad(x, (0, 0, 0, 1) if dim == 2 else (0, 1, 0, 0), mode="replicate")
        stride = (2, 1) if dim == 2 else (1, 2)
        weight = filter_.view(shape).expand(channels, 1, *shape[2:])
        x = F.conv2d(F.pad(x, padding, mode="replicate"), weight, stride=stride, groups=channels)
    return x


def open_random(reference: Reference, how: Opening = ALONE) -> WhitenedSpace:
    """The space "random": `RandomNetwork`, whitened by the learning part.

    Raises:
        ValueError: data that are not pictures (H, W), or too few of them.
    """
    spec = reference.learning.spec
    check_size(spec)
    # Channels of a random network are nearly copies of each other: half a whitening leaves the brightness in command.
    return WhitenedSpace("random", RandomNetwork(channels=spec.channels).eval(), reference.learning, power=1.0)


def open_patches(reference: Reference, how: Opening = ALONE) -> WhitenedSpace:
    """The space "patches": `PatchStatistics`, whitened by the learning part.

    Raises:
        ValueError: data that are not pictures (H, W), or too few of them.
    """
    spec = reference.learning.spec
    network = PatchStatistics(channels=spec.channels, size=check_size(spec))
    return WhitenedSpace("patches", network.eval(), reference.learning)
