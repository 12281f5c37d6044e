"""Channel means, contrasts and how channels go together, of samples beside real pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.significance import Shift, compare_means
from kakusan.metrics.spectrum import Colours, batches, block_means

if TYPE_CHECKING:
    from kakusan.metrics.evaluation import Evaluation

MOST_CHANNELS = 4
"""Beyond, only variances are measured: pairs of channels become too many to look at one by one."""

_CHANNELS = {1: ("gray",), 2: ("gray", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


def channel_names(channels: int) -> tuple[str, ...]:
    """What channels are called."""
    return _CHANNELS.get(channels, tuple(f"channel {c + 1}" for c in range(channels)))


def pairs(channels: int) -> list[tuple[int, int]]:
    """Channels whose products are measured."""
    return [(a, b) for a in range(channels) for b in range(a, channels) if a == b or channels <= MOST_CHANNELS]


def moments(pictures: PictureSet, around: Tensor, *, blocks: int | None = None) -> Tensor:
    """(N, C + pairs) float64: each picture's mean of every channel, then of every pair's product.

    Args:
        pictures: of C channels.
        around: (C,) colour that products are centred on.
        blocks: products are of means over so many blocks a side, which neither noise nor blur change much.
    """
    first, second = (torch.tensor(side) for side in zip(*pairs(pictures.spec.channels), strict=True))
    rows = []
    for x in batches(pictures):
        x = x.double() if blocks is None else block_means(x.double(), blocks)
        pixels = x.flatten(2) - around[:, None]
        rows.append(torch.cat([pixels.mean(2), (pixels[:, first] * pixels[:, second]).mean(2)], dim=1))
    return torch.cat(rows)


def moment_names(channels: int) -> tuple[str, ...]:
    """Names of the columns of `moments`."""
    names = channel_names(channels)
    words = [
        f"variance of {names[a]}" if a == b else f"covariance of {names[a]} and {names[b]}" for a, b in pairs(channels)
    ]
    return (*[f"mean of {name}" for name in names], *words)


@dataclass(frozen=True)
class Summary:
    """Channels of samples and of real pictures, in [-1, 1] units.

    Args:
        mean: (2, C) mean of samples, mean of real pictures.
        deviation: (2, C) standard deviation over all pixels.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, shift: Shift, around: Tensor) -> Summary:
        """From a comparison of `moments`."""
        channels = len(around)
        both = torch.stack([shift.value, shift.null])
        own = [channels + k for k, (a, b) in enumerate(pairs(channels)) if a == b]
        mean = both[:, :channels]
        return cls(mean + around, (both[:, own] - mean.square()).clamp_min(0.0).sqrt())


def colour_records(evaluation: Evaluation, samples: PictureSet) -> list[MetricRecord]:
    """Mean and standard deviation of each channel, and the correlation of each pair of channels.

    In [-1, 1] units over all pixels of a set; standard errors and nulls from those of the moments (delta method).
    """
    pool, channels = evaluation.reference.pool, samples.spec.channels
    around = Colours.of(pool).mean
    shift = compare_means(moments(samples, around), moments(pool, around))
    summary, names = Summary.of(shift, around), channel_names(channels)
    of = evaluation.provenance(samples, units="[-1, 1]")

    def record(name: str, both: Tensor, column: int, scale: float) -> MetricRecord:
        error, spread = (float(side[column]) * scale for side in (shift.stderr, shift.null_stderr))
        known = spread if spread > 0.0 and math.isfinite(spread) else None
        return MetricRecord(name, float(both[0]), error, len(samples), of, "", float(both[1]), known, "null")

    found = [record(f"mean of {name}", summary.mean[:, c], c, 1.0) for c, name in enumerate(names)]
    wide = summary.deviation.clamp_min(1e-9)
    for k, (a, b) in enumerate(pairs(channels)):
        column = channels + k
        if a == b:
            name = f"standard deviation of {names[a]}"
            found.append(record(name, summary.deviation[:, a], column, 1.0 / (2.0 * float(wide[1, a]))))
        else:
            products = torch.stack([shift.value, shift.null])
            covariance = products[:, column] - products[:, a] * products[:, b]
            scale = 1.0 / float(wide[1, a] * wide[1, b])
            name = f"correlation of {names[a]} and {names[b]}"
            found.append(record(name, (covariance / (wide[:, a] * wide[:, b])).clamp(-1.0, 1.0), column, scale))
    return found
