"""Denoising error on held-out pictures beside that on training pictures: does a network know some by heart?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kakusan.metrics.significance import as_normal

LEVEL = 0.01
"""A gap is called real when pictures of one kind would show so large a one at most this often."""


@dataclass(frozen=True)
class LevelGap:
    """One noise level.

    Args:
        log_snr: of the level.
        training: mean x0 error on training pictures, [-1, 1] units squared.
        training_stderr: its standard error over other training pictures.
        held_out: the same of held-out pictures.
        held_out_stderr: its standard error.
        z: of the difference, standard normal where both are of one kind.
    """

    log_snr: float
    training: float
    training_stderr: float
    held_out: float
    held_out_stderr: float
    z: float

    @property
    def gap(self) -> float:
        """Held-out minus training."""
        return self.held_out - self.training

    @property
    def gap_stderr(self) -> float:
        """Standard error of that."""
        return math.hypot(self.training_stderr, self.held_out_stderr)


@dataclass(frozen=True)
class GeneralisationReport:
    """All noise levels, least noise first.

    Args:
        levels: of the noise.
        excess: how much larger the held-out error is, as a share of itself, mean over levels.
        excess_stderr: its standard error over other pictures.
        z: of that, standard normal where both are of one kind.
        pictures: of each kind.
    """

    levels: tuple[LevelGap, ...]
    excess: float
    excess_stderr: float
    z: float
    pictures: tuple[int, int]

    @classmethod
    def of(cls, log_snr: Sequence[float], training: Tensor, held_out: Tensor) -> GeneralisationReport:
        """From x0 errors (levels, n) of training and (levels, m) of held-out pictures, a column for each picture.

        Raises:
            ValueError: fewer than two pictures of a kind.
        """
        if min(training.shape[1], held_out.shape[1]) < 2:
            raise ValueError(
                f"at least two pictures of each kind are needed, got {training.shape[1]} and {held_out.shape[1]}"
            )
        a, b = training.double(), held_out.double()
        levels = []
        for level, mine, other in zip(log_snr, a, b, strict=True):
            error, z = _welch(mine, other)
            levels.append(LevelGap(level, float(mine.mean()), error[0], float(other.mean()), error[1], z))
        # Every level counts alike, and a picture that is hard at all of them counts once.
        scale = b.mean(1, keepdim=True).clamp_min(1e-30)
        mine, other = (a / scale).mean(0), (b / scale).mean(0)
        error, z = _welch(mine, other)
        excess = float(other.mean() - mine.mean())
        return cls(tuple(levels), excess, math.hypot(*error), z, (len(mine), len(other)))

    @property
    def beyond_noise(self) -> bool:
        """Whether held-out pictures are harder than chance allows, over all levels or at one (Bonferroni)."""
        tests = [self.z, *[level.z for level in self.levels]]
        return len(tests) * math.erfc(max(tests) / math.sqrt(2.0)) / 2.0 < LEVEL

    def text(self) -> str:
        """One sentence for people."""
        n, m = self.pictures
        known = f"{self.excess:+.1%} +- {self.excess_stderr:.1%} on {m} held-out pictures beside {n} of training"
        if self.beyond_noise:
            return f"The network knows pictures of its training: it denoises them better than new ones, {known}."
        return f"The network denoises new pictures as well as those of its training, as far as these tell: {known}."

    def record(self) -> dict[str, Any]:
        """Plain values for `eval.json`."""
        names = ("log_snr", "training", "training_stderr", "held_out", "held_out_stderr", "z")
        return {
            **{name: [getattr(level, name) for level in self.levels] for name in names},
            "excess": self.excess,
            "excess_stderr": self.excess_stderr,
            "excess_z": self.z,
            "beyond_noise": self.beyond_noise,
            "pictures": list(self.pictures),
        }


def _welch(a: Tensor, b: Tensor) -> tuple[tuple[float, float], float]:
    """((standard error of a's mean, of b's), z of b's mean minus a's) with unequal variances (Welch 1947)."""
    u, v = float(a.var()) / len(a), float(b.var()) / len(b)
    if u + v <= 0.0:
        return (0.0, 0.0), 0.0
    freedom = (u + v) ** 2 / (u * u / (len(a) - 1) + v * v / (len(b) - 1))
    t = torch.tensor(float(b.mean() - a.mean()) / math.sqrt(u + v), dtype=torch.float64)
    return (math.sqrt(u), math.sqrt(v)), float(as_normal(t, freedom))
