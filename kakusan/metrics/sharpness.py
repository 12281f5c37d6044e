"""How sharp pictures are, as one number: the power of their high spatial frequencies beside that of real pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kakusan.metrics.evaluation import Evaluation
from kakusan.metrics.record import MetricRecord
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spectrum import Bands, bands_of, log_powers

HIGH = 0.25
"""Cycles per pixel from which a frequency is high: details of at most four pixels."""
RINGS = 16
NAME = "high-frequency power"


@dataclass(frozen=True)
class Sharpness:
    """The spectrum of samples beside that of real pictures.

    Args:
        frequencies: of the middle of each ring, cycles per pixel.
        ratios: power of the samples over that of real pictures, ring by ring (geometric means over the pictures).
        record: of the high frequencies together, log2 of that ratio: 0 is as sharp as real pictures, -1 half their
            power, which looks blurred, +1 twice their power, which looks grainy.
    """

    frequencies: tuple[float, ...]
    ratios: tuple[float, ...]
    record: MetricRecord


@dataclass
class SharpnessJudge:
    """Measures the sharpness of any number of sample sets; real pictures are looked at once.

    Args:
        evaluation: whose real pictures and splits are used.
    """

    evaluation: Evaluation
    _real: dict[str, tuple[Bands, Tensor]] = field(default_factory=dict, repr=False)

    def measure(self, samples: PictureSet) -> Sharpness | None:
        """The sharpness of a set; None for pictures too small to have any.

        Raises:
            ValueError: more samples than half of the pool.
        """
        pool = self.evaluation.reference.pool
        if pool.hash not in self._real:
            rings = bands_of(pool.spec, RINGS)
            if rings is None:
                return None
            self._real[pool.hash] = rings, log_powers(pool, rings)
        rings, real = self._real[pool.hash]
        ours = log_powers(samples, rings)
        high = [index for index, (low, _) in enumerate(rings.edges) if low >= HIGH - 1e-9]
        log2 = torch.cat([ours, real])[:, high].mean(1) / math.log(2.0)
        found = self.evaluation.splits.measure(
            lambda a, b: float(log2[a].mean() - log2[b].mean()),
            n=len(samples),
            pool=len(pool),
            labels=samples.labels,
            pool_labels=pool.labels,
        )
        settings = {"from": HIGH, "rings": len(rings), "colours": "whitened", **self.evaluation.splits.settings()}
        record = MetricRecord(
            name=NAME,
            value=found.value,
            stderr=found.stderr,
            n=len(samples),
            of=self.evaluation.provenance(samples, **settings),
            null=found.null,
            null_stderr=found.null_stderr,
            better="null",
        )
        ratios = (ours.mean(0) - real.mean(0)).exp()
        return Sharpness(rings.frequencies, tuple(ratios.tolist()), record)
