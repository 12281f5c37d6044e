"""A picture as a chain of latents z_0 ... z_T on lattices, coded with bits back.

The forward process is a Markov chain upwards, x -> z_0 -> ... -> z_T, and the model one downwards. So the two can be
interleaved (Bit-Swap, Kingma et al. 2019, arXiv 1905.06845, section 3): pop z_0 ~ q(z_0 | x), push p(x | z_0), pop
z_1 ~ q(z_1 | z_0), push p(z_0 | z_1), and so on up to p(z_T). Two levels are open at any time, however many steps there
are, and x itself is needed for the first pop only. What the stack has grown by is on average the negative bound
(Kingma et al. 2021, arXiv 2107.00630, eq. 11, with T steps).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kakusan.codec.stack import Floats, Integers, Stack
from kakusan.conditioning import Condition
from kakusan.denoiser import BaseDenoiser
from kakusan.levels import Level
from kakusan.noise import Stream, normal
from kakusan.transitions import posterior_mean_factors, posterior_variance, transition_variance


@dataclass(frozen=True)
class Bound:
    """Terms of the T-step bound in nats, (B,) each: -log p(x) <= prior + reconstruction + diffusion."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor

    @property
    def total(self) -> Tensor:
        """The bound itself, (B,)."""
        return self.prior + self.reconstruction + self.diffusion


class Chain:
    """The latents of pictures of one shape, and both of their distributions.

    Args:
        denoiser: the model.
        levels: z_0 (least noise) to z_T.
        count: of the values a pixel takes; value v stands at -1 + 2 v / (count - 1).
        shape: of one picture, (C, *size).
        bins: lattice points to the standard deviation of the narrowest distribution of a level.
        excess: variance of the model's error in each reverse step, in posterior variances; T numbers. Zero is the
            plain step of the VDM; the best value is the expected one (Bao et al. 2022, arXiv 2201.06503, theorem 1).
        device: of the model.
    """

    def __init__(
        self,
        denoiser: BaseDenoiser,
        levels: Sequence[Level],
        *,
        count: int,
        shape: Sequence[int],
        bins: int,
        excess: Sequence[float],
        device: torch.device | str = "cpu",
    ) -> None:
        assert len(levels) == len(excess) + 1
        self.denoiser, self.levels, self.count = denoiser, list(levels), count
        self.shape, self.device = tuple(shape), torch.device(device)
        self.forward_std: list[float] = []
        self.reverse_std: list[float] = []
        self.factors: list[tuple[float, float]] = []
        for s, t, more in zip(self.levels, self.levels[1:], excess, strict=False):
            kept, gain = posterior_mean_factors(t, s)
            self.factors.append((float(kept), float(gain)))
            self.forward_std.append(math.sqrt(float(transition_variance(t, s))))
            self.reverse_std.append(math.sqrt(float(posterior_variance(t, s)) * (1.0 + more)))
        first, last = self.levels[0], self.levels[-1]
        self.first_std = float(first.sigma)
        self.prior_std = math.sqrt((float(last.alpha) * denoiser.sigma_data) ** 2 + float(last.sigma) ** 2)
        drawn, pushed = [self.first_std, *self.forward_std], [*self.reverse_std, self.prior_std]
        self.lattice = [min(pair) / bins for pair in zip(drawn, pushed, strict=True)]

    @property
    def dimensions(self) -> int:
        """Values of one picture."""
        return math.prod(self.shape)

    def to_model(self, pixels: Integers) -> Floats:
        """Values in [0, count) -> [-1, 1], fp64."""
        return pixels * (2.0 / (self.count - 1)) - 1.0

    def encode(self, stack: Stack, pixels: Integers, cond: Condition | None) -> None:
        """Push pictures, (B, *shape) values in [0, count).

        Raises:
            Underflow: the stack holds too few bits to begin with; it is then spoilt.
        """
        flat = pixels.reshape(-1)
        place = stack.pop_normal(self._first_mean(flat), self.first_std / self.lattice[0])
        stack.push_table(flat, self.count, self._decoder(place))
        for i in range(len(self.factors)):
            upper = stack.pop_normal(self._upper_mean(i, place), self.forward_std[i] / self.lattice[i + 1])
            mean, std = self._reverse(i, upper, cond)
            stack.push_any(place, mean, std)
            place = upper
        stack.push_any(place, *self._prior(len(flat)))

    def decode(self, stack: Stack, batch: int, cond: Condition | None) -> Integers:
        """Pop what `encode` pushed: (batch, *shape)."""
        size = batch * self.dimensions
        place = stack.pop_any(*self._prior(size))
        for i in reversed(range(len(self.factors))):
            lower = stack.pop_any(*self._reverse(i, place, cond))
            stack.push_normal(place, self._upper_mean(i, lower), self.forward_std[i] / self.lattice[i + 1])
            place = lower
        flat = stack.pop_table(size, self.count, self._decoder(place))
        stack.push_normal(place, self._first_mean(flat), self.first_std / self.lattice[0])
        return flat.reshape(batch, *self.shape)

    def _first_mean(self, flat: Integers) -> Floats:
        return self.to_model(flat) * (float(self.levels[0].alpha) / self.lattice[0])

    def _upper_mean(self, i: int, place: Integers) -> Floats:
        ratio = float(self.levels[i + 1].alpha) / float(self.levels[i].alpha)
        return place * (ratio * self.lattice[i] / self.lattice[i + 1])

    def _prior(self, size: int) -> tuple[Floats, Floats]:
        return np.zeros(size), np.full(size, self.prior_std / self.lattice[-1])

    def _decoder(self, place: Integers) -> Decoder:
        return Decoder(place * self.lattice[0], self.levels[0], self.count)

    def _reverse(self, i: int, upper: Integers, cond: Condition | None) -> tuple[Floats, Floats]:
        """Mean and standard deviation of z_i given z_{i+1}, in lattice points of level i."""
        z = torch.from_numpy(upper * self.lattice[i + 1]).view(-1, *self.shape)
        mean, std = self.reverse(i, z, cond)
        return mean.flatten().numpy() / self.lattice[i], std.flatten().numpy() / self.lattice[i]

    def reverse(self, i: int, z: Tensor, cond: Condition | None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of p(z_i | z_{i+1} = z), fp64 (B, *shape) on the CPU."""
        with torch.no_grad():
            prediction = self.denoiser(z.to(self.device, torch.float32), self.levels[i + 1], cond)
            learned = prediction.step_log_variance(self.levels[i])
            x0 = prediction.x0.to("cpu", torch.float64)
        kept, gain = self.factors[i]
        # Addition of doubles, each rounded on its own: no fused operation that another build might leave out.
        mean = z * kept + x0 * gain
        if learned is None:
            return mean, torch.full_like(mean, self.reverse_std[i])
        return mean, (0.5 * learned.to("cpu", torch.float64)).exp()

    def bound(self, pixels: Integers, cond: Condition | None, *, seeds: Sequence[int]) -> Bound:
        """The bound of pictures (B, *shape) whose rate `encode` approaches, one draw of every level for each picture.

        Args:
            seeds: of the draws, one for each picture.
        """
        x = torch.from_numpy(self.to_model(pixels))

        def at(k: int) -> Tensor:
            eps = normal(seeds, Stream.HELD_OUT, k, shape=self.shape, dtype=torch.float64)
            return x * float(self.levels[k].alpha) + eps * float(self.levels[k].sigma)

        flat = pixels.reshape(-1)
        decoder = Decoder(at(0).flatten().numpy(), self.levels[0], self.count)
        reconstruction = torch.from_numpy(decoder.cost(flat)).view(len(x), -1).sum(1)
        diffusion = torch.zeros(len(x), dtype=torch.float64)
        for i, (kept, gain) in enumerate(self.factors):
            z = at(i + 1)
            mean, std = self.reverse(i, z, cond)
            variance = posterior_variance(self.levels[i + 1], self.levels[i])
            diffusion += divergence(z * kept + x * gain, variance, mean, std**2)
        last = self.levels[-1]
        variance = torch.tensor(self.prior_std**2, dtype=torch.float64)
        prior = divergence(x * last.alpha, float(last.sigma) ** 2, torch.zeros_like(x), variance)
        return Bound(prior, reconstruction, diffusion)


def divergence(mean: Tensor, variance: float | Tensor, other: Tensor, other_variance: Tensor) -> Tensor:
    """KL between Gaussians of means (B, ...) and given variances, summed over a sample, (B,) nats."""
    ratio = variance / other_variance
    terms = 0.5 * ((mean - other) ** 2 / other_variance + ratio - 1.0 - torch.as_tensor(ratio).log())
    return terms.flatten(1).sum(1)


class Decoder:
    """p(x | z_0) over the `count` values of every pixel: proportional to q(z_0 | x) (Kingma et al. 2021, eq. 13-14).

    Args:
        z: (n,), fp64.
        level: of z_0.
        count: of values.
    """

    def __init__(self, z: Floats, level: Level, count: int) -> None:
        self._z, self._sigma = z, float(level.sigma)
        self._centres = (np.arange(count) * (2.0 / (count - 1)) - 1.0) * float(level.alpha)

    def __call__(self, rows: slice) -> Floats:
        """Probabilities (rows, count)."""
        energy = 0.5 * ((self._z[rows, None] - self._centres) / self._sigma) ** 2
        weight = np.exp(energy.min(1, keepdims=True) - energy)
        return weight / weight.sum(1, keepdims=True)

    def cost(self, symbols: Integers) -> Floats:
        """-log p(x | z_0) in nats, (n,)."""
        table = self(slice(None))
        return -np.log(np.take_along_axis(table, symbols[:, None], 1)[:, 0] + 1e-30)
