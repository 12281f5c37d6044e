"""Which noise levels a chain should visit, found from how well the model denoises the pictures at hand.

The error of a denoiser depends on the level it stands at and on nothing else of the grid, so the cost of every grid is
known from one curve, and the best grid of T steps is a shortest path (Watson et al. 2021, arXiv 2106.03802).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch

from kakusan.codec.chain import Decoder, divergence
from kakusan.codec.stack import Floats, Integers
from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level, tabulate
from kakusan.noise import Stream, normal
from kakusan.schedules import NoiseSchedule

Flags: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

# Part of the file format, like everything that decides a level from the header.
LEAST_LOG_SNR = -10.0
FINEST = 12.0
"""The least noise, as a fraction of the distance between two values of a pixel."""
KNOTS = 12
_OFFSET, _RESOLUTION = 4.0, 8.0


def candidates(schedule: NoiseSchedule, count: int, steps: int) -> list[Level]:
    """2 * steps + 1 levels, evenly spaced in log-SNR, that a grid of `steps` steps chooses from; least noise first."""
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    with torch.no_grad():
        high, low = schedule.log_snr(ends).tolist()
        high, low = min(high, 2.0 * math.log(FINEST * (count - 1) / 2.0)), max(low, LEAST_LOG_SNR)
        times = schedule.time(torch.linspace(high, low, 2 * steps + 1, dtype=torch.float64))
        return list(tabulate(schedule, times.clamp(schedule.t_min, schedule.t_max)))


@dataclass(frozen=True)
class Curve:
    """What a model costs at the candidate levels, for one picture on average.

    Args:
        error: |x0 - E x0|^2 per value at every candidate.
        reconstruction: -log p(x | z) in nats.
        prior: KL to the prior in nats.
    """

    error: Floats
    reconstruction: Floats
    prior: Floats


def measure(
    denoiser: BaseDenoiser,
    levels: Sequence[Level],
    pixels: Integers,
    cond: Condition | None,
    *,
    count: int,
    device: torch.device | str,
) -> Curve:
    """The curve of some pictures (B, C, *size), values in [0, count)."""
    x = torch.from_numpy(pixels * (2.0 / (count - 1)) - 1.0)
    seeds, flat = list(range(len(x))), pixels.reshape(-1)
    error, reconstruction, prior = (np.zeros(len(levels)) for _ in range(3))
    for k, level in enumerate(levels):
        alpha, sigma = float(level.alpha), float(level.sigma)
        z = x * alpha + normal(seeds, Stream.HELD_OUT, k, shape=x.shape[1:], dtype=torch.float64) * sigma
        with torch.no_grad():
            x0 = denoiser(z.to(device, torch.float32), level, cond).x0.to("cpu", torch.float64)
        error[k] = float(((x0 - x) ** 2).mean())
        reconstruction[k] = Decoder(z.flatten().numpy(), level, count).cost(flat).sum() / len(x)
        variance = torch.tensor((alpha * denoiser.sigma_data) ** 2 + sigma**2, dtype=torch.float64)
        prior[k] = float(divergence(x * alpha, sigma**2, torch.zeros_like(x), variance).mean())
    if not np.isfinite(error).all():
        raise ValueError("the model's output is not finite; it cannot code pictures. Load an earlier checkpoint")
    return Curve(error, reconstruction, prior)


def spread_of(curve: Curve, levels: Sequence[Level]) -> bytes:
    """The curve's error times SNR as `KNOTS` bytes: its logarithm, linear between knots evenly spaced in log-SNR."""
    value = np.log(curve.error * np.exp([float(level.log_snr) for level in levels]) + 1e-12)
    at = np.linspace(0.0, KNOTS - 1.0, len(levels))
    hats = np.clip(1.0 - np.abs(at[:, None] - np.arange(KNOTS)), 0.0, 1.0)
    knots = np.linalg.lstsq(hats, value, rcond=None)[0]
    return np.clip(np.rint((_OFFSET - knots) * _RESOLUTION), 0, 255).astype(np.uint8).tobytes()


def excess(spread: bytes, levels: Sequence[Level], chosen: Flags) -> list[float]:
    """Variance of the model's error in each step of the chosen grid, in posterior variances."""
    knots = _OFFSET - np.frombuffer(spread, np.uint8) / _RESOLUTION
    value = np.interp(np.linspace(0.0, KNOTS - 1.0, len(levels)), np.arange(KNOTS), knots)
    places = [int(place) for place in np.flatnonzero(chosen)]
    return [
        math.exp(float(value[t])) * math.expm1(float(levels[s].log_snr) - float(levels[t].log_snr))
        for s, t in pairwise(places)
    ]


def choose(curve: Curve, levels: Sequence[Level], *, steps: int, dimensions: int) -> Flags:
    """The `steps` + 1 levels of least cost: a flag for every candidate."""
    log_snr = np.array([float(level.log_snr) for level in levels])
    last = len(levels) - 1
    # (SNR(s) - SNR(t)) * error at t, row s and column t; a step to less noise does not exist.
    ratio = curve.error * np.exp(log_snr) * np.expm1(np.minimum(log_snr[:, None] - log_snr, 50.0))
    cost = np.where(np.triu(np.ones_like(ratio), 1) > 0, 0.5 * dimensions * np.log1p(np.maximum(ratio, 0.0)), np.inf)
    best, came = curve.reconstruction.copy(), []
    for _ in range(steps):
        through = best[:, None] + cost
        came.append(through.argmin(0))
        best = through.min(0)
    place = int((best + curve.prior).argmin())
    chosen = np.zeros(last + 1, bool)
    chosen[place] = True
    for step in reversed(came):
        place = int(step[place])
        chosen[place] = True
    return chosen
