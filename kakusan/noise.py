"""Noise that belongs to the sample.

Every draw is a pure function of (seed of the sample, stream, draw number, position): picture k gets the same noise
alone, in any batch, in any process and on any device. The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"), written in tensor operations so that the bits are the same everywhere. torch's own
CPU generator keeps only 32 bits of a seed and ties the draw to its place in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ROUND_KEYS = (0x9E3779B9, 0xBB67AE85)
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)


class Stream(IntEnum):
    """What a draw is for. The numbers are part of every record ever written: never renumber."""

    START = 0
    STEP = 1
    TIME = 2
    TRAINING_NOISE = 3
    DROP_CONDITION = 4
    AUGMENT = 5
    HELD_OUT = 6
    STRATUM = 7
    SOURCE = 8
    BOUND_TIME = 9
    BOUND_NOISE = 10
    PROBE = 11
    DEQUANTISE = 12
    TRANSFORM = 13
    LABEL = 14
    RESAMPLE = 15
    MEASUREMENT = 16
    PAIR = 17
    PAIR_HELD_OUT = 18
    CAPTION = 19
    LATENT = 20
    RESERVED_FOR_TESTS = 255


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox4x32-10: four 32-bit words (int64 tensors in [0, 2^32)) for each counter and key; all broadcast
    together.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(10):
        # Signed 64-bit products wrap modulo 2^64, so their bits are those of the unsigned 32 x 32 product.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        key0, key1 = (k0 + i * _ROUND_KEYS[0]) & _MASK, (k1 + i * _ROUND_KEYS[1]) & _MASK
        c0, c2 = ((p1 >> 32) & _MASK) ^ c1 ^ key0, ((p0 >> 32) & _MASK) ^ c3 ^ key1
        c1, c3 = p1 & _MASK, p0 & _MASK
    return [c0, c1, c2, c3]


# Below torch's threshold for threads: the integer steps are short, and a parallel region each would cost more than
# they do (hundreds of times more on a busy machine).
_CHUNK = 16384


def _words(
    seeds: Tensor, stream: Stream, draws: Tensor | int, count: int, device: torch.device
) -> Iterator[tuple[slice, slice, list[Tensor]]]:
    """Four tensors of 32-bit words for `count` counters of every sample, in blocks (rows, columns) of bounded size."""
    seed = seeds.to(device=device, dtype=torch.int64).view(-1, 1)
    draw = torch.as_tensor(draws, dtype=torch.int64, device=device).view(-1, 1).expand_as(seed)
    chunk = _CHUNK if device.type == "cpu" else max(1, len(seed) * count)
    wide = min(count, chunk)
    tall = max(1, chunk // max(wide, 1))
    last = torch.full((1, 1), int(stream), dtype=torch.int64, device=device)
    for row in range(0, len(seed), tall):
        rows = slice(row, row + tall)
        key = (seed[rows] & _MASK, (seed[rows] >> 32) & _MASK)
        middle = (draw[rows] & _MASK, (draw[rows] >> 32) & _MASK)
        for column in range(0, count, max(wide, 1)):
            block = torch.arange(column, min(column + wide, count), dtype=torch.int64, device=device).view(1, -1)
            yield rows, slice(column, column + wide), philox((block, *middle, last), key)


def as_seeds(seeds: Sequence[int] | Tensor) -> Tensor:
    """(B,) int64 tensor of seeds; each any integer of 64 bits.

    Raises:
        ValueError: not a one-dimensional list of integers, or out of range.
    """
    if isinstance(seeds, Tensor):
        if seeds.dim() != 1 or seeds.is_floating_point():
            raise ValueError(f"seeds is one integer per sample, shape (B,); got {tuple(seeds.shape)} of {seeds.dtype}")
        return seeds.to(torch.int64)
    for seed in seeds:
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"seed {seed} does not fit 64 bits")
    return torch.tensor(list(seeds), dtype=torch.int64)


def uniform(
    seeds: Sequence[int] | Tensor,
    stream: Stream,
    draws: Tensor | int = 0,
    *,
    shape: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """(B, *shape) float64 in the open interval (0, 1), multiples of 2^-32 plus a half."""
    numbers, size = as_seeds(seeds), math.prod(shape)
    count = -(-size // 4)
    flat = torch.empty(len(numbers), count, 4, dtype=torch.float64, device=device)
    for rows, columns, words in _words(numbers, stream, draws, count, torch.device(device)):
        for i, word in enumerate(words):
            flat[rows, columns, i] = (word.to(torch.float64) + 0.5) * 2.0**-32
    return flat.view(len(numbers), -1)[:, :size].reshape(len(numbers), *shape)


def normal(
    seeds: Sequence[int] | Tensor,
    stream: Stream,
    draws: Tensor | int = 0,
    *,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal (B, *shape), by Box-Muller on the words of each sample's own stream.

    Args:
        seeds: (B,), one per sample.
        stream: what the draw is for.
        draws: the number of the draw within the stream, one for all or (B,).
        shape: of one sample.
    """
    numbers, size = as_seeds(seeds), math.prod(shape)
    if isinstance(draws, int) and numbers.is_cpu and len(numbers) > 1:
        different, place = numbers.unique(return_inverse=True)
        if len(different) < len(numbers):
            # Samples of one seed, as in a sweep, have one noise: drawn once.
            return normal(different, stream, draws, shape=shape, dtype=dtype, device=device)[place.to(device)]
    count = -(-size // 4)
    # Words 0 and 1 make one pair, 2 and 3 the other. fp32 is exact enough: |value| <= 6.8, at any later precision.
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    first = torch.empty(len(numbers), count, 2, dtype=wide, device=device)
    second = torch.empty_like(first)
    for rows, columns, words in _words(numbers, stream, draws, count, torch.device(device)):
        for pair in (0, 1):
            first[rows, columns, pair] = words[2 * pair].to(wide)
            second[rows, columns, pair] = words[2 * pair + 1].to(wide)
    radius = first.add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).clamp_min_(0.0).sqrt_()
    angle = second.mul_(2.0 * math.pi * 2.0**-32)
    flat = torch.stack([angle.cos().mul_(radius), angle.sin_().mul_(radius)], -1)
    return flat.view(len(numbers), -1)[:, :size].reshape(len(numbers), *shape).to(dtype)


class StepNoise:
    """The fresh noise of one sampler step: `noise(k)` is that step's k-th draw, of the shape of the samples."""

    def __init__(self, seeds: Tensor, index: int, like: Tensor) -> None:
        self._seeds, self._index, self._like = seeds, index, like

    def __call__(self, draw: int = 0) -> Tensor:
        """Standard normal (B, C, *spatial); a step may use up to 16 draws."""
        assert 0 <= draw < 16
        return normal(
            self._seeds,
            Stream.STEP,
            self._index * 16 + draw,
            shape=self._like.shape[1:],
            dtype=self._like.dtype,
            device=self._like.device,
        )

    def uniform(self, groups: int, draw: int = 0) -> Tensor:
        """(G,) float64 in (0, 1): one for each of `groups` equal parts of the batch, by its first sample's seed."""
        seeds = self._seeds[:: len(self._seeds) // groups]
        return uniform(seeds, Stream.RESAMPLE, self._index * 16 + draw, device=self._like.device)


@dataclass(frozen=True)
class Draws:
    """What is drawn at random for each sample of a batch beside its own noise; the k-th number is always the same.

    Args:
        seeds: (B,) of the samples, or the run's own once for each.
        numbers: (B,) places in the order of training; zeros where every sample has a seed of its own.
        stream: what the draws are for.
    """

    seeds: Tensor
    numbers: Tensor
    stream: Stream = Stream.PAIR

    def uniform(self, k: int, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) float64 in (0, 1), on the CPU; 0 <= k < 8."""
        return uniform(self.seeds, self.stream, self._draws(k), shape=shape)

    def normal(self, k: int, like: Tensor) -> Tensor:
        """Standard normal of the shape of `like` (B, C, *spatial); 0 <= k < 8."""
        return normal(
            self.seeds, self.stream, self._draws(k), shape=like.shape[1:], dtype=like.dtype, device=like.device
        )

    def _draws(self, k: int) -> Tensor:
        assert 0 <= k < 8
        return self.numbers * 8 + k
