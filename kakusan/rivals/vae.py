"""A variational autoencoder with latents at several resolutions, decoded from the top down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.nn.blocks import Downsample, ResidualBlocks, Upsample, conv
from kakusan.nn.shapes import crop, pad
from kakusan.noise import Stream, normal
from kakusan.objectives import LossTerms
from kakusan.rivals.base import LikelihoodKind, Rival, class_proportions
from kakusan.rivals.bounds import DiscretisedLogistic, divergence, importance_bound, log_ratio
from kakusan.specs import register
from kakusan.train.feed import Batch
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import Group

Chooser = Callable[[int, Tensor], Tensor]
"""(number of the latent, what the decoder knows there (B, width, h, w) or (B, width)) -> the latent's value."""


class _Block(nn.Module):
    """A residual block that is told the class."""

    def __init__(self, channels: int, out_channels: int, told: int) -> None:
        super().__init__()
        self.block = ResidualBlocks().build(2, channels, out_channels, dropout=0.0)
        self.modulation = nn.Linear(told, self.block.modulation_width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        out: Tensor = self.block(x, self.modulation(told))
        return out


class _Encoder(nn.Module):
    """From patches (B, C p^2, h, w) to one map per level, the deepest first."""

    def __init__(self, channels: int, widths: Sequence[int], depth: int, told: int) -> None:
        super().__init__()
        self.stem = conv(2, channels, widths[0])
        before = [widths[0], *widths[:-1]]
        self.levels = nn.ModuleList(
            nn.ModuleList(_Block(a if i == 0 else b, b, told) for i in range(depth))
            for a, b in zip(before, widths, strict=True)
        )
        self.down = Downsample(2)

    def forward(self, x: Tensor, told: Tensor) -> list[Tensor]:
        x = self.stem(x)
        found: list[Tensor] = []
        for i, level in enumerate(self.levels):
            x = self.down(x) if i else x
            for block in level:  # type: ignore[attr-defined]
                x = block(x, told)
            found.append(x)
        return found[::-1]


class _Stage(nn.Module):
    """One level of the decoder: a spatial latent enters, then blocks."""

    def __init__(self, channels: int, width: int, latent: int, depth: int, told: int) -> None:
        super().__init__()
        self.enter = nn.Identity() if channels == width else conv(2, channels, width, 1)
        self.before = _Block(width, width, told) if latent else None
        self.gain = conv(2, width, latent, 1, zero=True) if latent else None
        self.use = conv(2, latent, width) if latent else None
        self.blocks = nn.ModuleList(_Block(width, width, told) for _ in range(depth))

    def forward(self, h: Tensor, told: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        h = self.enter(h)
        if self.before is not None and self.gain is not None and self.use is not None:
            h = self.before(h, told)
            h = h + self.use(choose(h) * (1.0 + self.gain(h)))
        for block in self.blocks:
            h = block(h, told)
        return h


@dataclass(frozen=True)
class Drawn:
    """A picture decoded from drawn latents.

    Args:
        log_likelihood: log P(x | u) in nats, (B,).
        log_ratio: log p(u) - log q(u | x), (B,).
        divergences: KL(q | p) of each latent given those above it, (B, latents).
        mean: of the decoder, (B, C, *size).
    """

    log_likelihood: Tensor
    log_ratio: Tensor
    divergences: Tensor
    mean: Tensor


@register
class Vae(Rival):
    """A VAE (Kingma & Welling 2014, arXiv 1312.6114) of latents from the top down, each standard normal a priori.

    The decoder begins with a vector, then widens from level to level; at each level a map of latents may enter
    (Sonderby et al. 2016, arXiv 1602.02282; Child 2021, arXiv 2011.10650). The posterior of each sees the picture and
    the latents above. Stored integers have a discretised logistic likelihood whose scale is learned, so the bound is
    one on their probability (calibrated decoders: Rybkin et al. 2021, arXiv 2006.13202).

    Samples are the mean of the decoder, without its noise for each pixel.

    Args:
        spec: of the pictures; any (H, W).
        proportions: share of each class; empty for a model without classes.
        width: channels of the first level.
        multipliers: channels of each level over `width`; each level halves the sides.
        depth: blocks in a level.
        patch: side of the cells of pixels that the network works on.
        latents: size of the vector on top, then channels of the latent of each level, the deepest first; 0 for none.
        pixel_scale: a scale for every element, told by the decoder, in place of one for each channel.
        free: nats of each number of a latent that cost nothing in training (Kingma et al. 2016, arXiv 1606.04934).
        draws: of the importance-weighted bound that `log_likelihood` states.
    """

    kind: ClassVar[str] = "vae"
    likelihood_kind: ClassVar[LikelihoodKind] = "bound"
    centre: Tensor

    def __init__(
        self,
        *,
        spec: DataSpec,
        proportions: Sequence[float] = (),
        width: int = 48,
        multipliers: Sequence[int] = (1, 2, 2),
        depth: int = 1,
        patch: int = 2,
        latents: Sequence[int] = (64, 16, 8, 8),
        pixel_scale: bool = True,
        free: float = 0.0,
        draws: int = 8,
    ) -> None:
        super().__init__(spec=spec, proportions=proportions)
        if len(spec.size) != 2:
            raise ValueError(f"the VAE models pictures (H, W), these data have size {spec.size}")
        if len(latents) != len(multipliers) + 1 or min(latents) < 0 or not any(latents):
            raise ValueError(
                f"latents holds the size of the vector and one number for each of {len(multipliers)} levels, not all "
                f"0; got {tuple(latents)}"
            )
        if width < 1 or min(multipliers) < 1 or depth < 1 or patch < 1 or draws < 1 or free < 0.0:
            raise ValueError("width, multipliers, depth, patch and draws are at least 1, and free is not negative")
        self.patch, self.pixel_scale, self.free, self.draws = patch, pixel_scale, free, draws
        self._told_width = 2 * width
        self.latents, self.factor = tuple(latents), patch * 2 ** (len(multipliers) - 1)
        widths = [width * m for m in multipliers]
        told, inside, deepest = 2 * width, spec.channels * patch**2, widths[-1]
        lowest = [math.ceil(side / self.factor) for side in spec.size]
        self._padded = [side * self.factor for side in lowest]
        self._shapes = [(latents[0],)] + [
            (count, *(side * 2**level for side in lowest)) for level, count in enumerate(latents[1:])
        ]
        self.table = nn.Embedding(len(self.classes), told) if self.classes else None
        self.encoder = _Encoder(inside, widths, depth, told)
        self.const = nn.Parameter(0.1 * torch.randn(deepest, *lowest))
        cells = deepest * math.prod(lowest)
        self.top = nn.Linear(latents[0] + told, cells) if latents[0] else None
        self.top_posterior = nn.Linear(cells + told, 2 * latents[0]) if latents[0] else None
        rising = widths[::-1]
        above = [deepest, *rising[:-1]]
        self.stages = nn.ModuleList(
            _Stage(a, b, c, depth, told) for a, b, c in zip(above, rising, latents[1:], strict=True)
        )
        self.posteriors = nn.ModuleList(
            nn.Sequential(conv(2, 2 * b, b), nn.SiLU(), conv(2, b, 2 * c, zero=True)) if c else nn.Identity()
            for b, c in zip(rising, latents[1:], strict=True)
        )
        self.up = Upsample()
        self.out = conv(2, rising[-1], inside * (2 if pixel_scale else 1), zero=True)
        self.log_scale = nn.Parameter(torch.full((spec.channels, 1, 1), math.log(0.2)))
        self.likelihood = DiscretisedLogistic(spec)
        self.register_buffer("centre", torch.tensor(spec.mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    @classmethod
    def for_data(cls, pictures: Pictures, **options: Any) -> Self:
        size = pictures.spec.size
        if len(size) != 2:
            raise ValueError(f"the VAE models pictures (H, W), these data have size {size}")
        patch = int(options.get("patch", 2 if min(size) >= 16 else 1))
        levels = max(1, round(math.log2(max(1.0, min(size) / (4 * patch)))) + 1)
        chosen = {
            "multipliers": (1, *[2] * (levels - 1)),
            "latents": (64, 16, *[8] * (levels - 1)),
            "patch": patch,
            **options,
        }
        return cls(spec=pictures.spec, proportions=class_proportions(pictures), **chosen)

    def groups(self, *, seed: int, settings: OptimSettings | None = None) -> list[Group]:
        return [Group(list(self.parameters()), VaeLoss(self, seed), settings or USUAL)]

    def encode(self, x0: Tensor, labels: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """(maps of each level, the deepest first; what the class says (B, told)) for pictures x0 (B, C, *size)."""
        told = self._told(labels, len(x0))
        return self.encoder(F.pixel_unshuffle(pad(x0 - self.centre, self.factor), self.patch), told), told

    def draw(
        self, x0: Tensor, encoded: tuple[list[Tensor], Tensor], noise: Callable[[int, Sequence[int]], Tensor]
    ) -> Drawn:
        """Latents of the posterior of pictures x0 (B, C, *size), and what comes out of them.

        Args:
            encoded: what `encode` makes of the pictures.
            noise: (number of the latent, its shape) -> standard normal (B, *shape).
        """
        found, told = encoded
        ratios: list[Tensor] = []
        divergences: list[Tensor] = []

        def choose(i: int, h: Tensor) -> Tensor:
            if i == 0:
                assert self.top_posterior is not None
                both = self.top_posterior(torch.cat([found[0].flatten(1), told], 1))
            else:
                both = self.posteriors[i - 1](torch.cat([h, found[i - 1]], 1))
            mean, log_std = both.chunk(2, dim=1)
            # Beyond these a float32 exponential is of no use, and no posterior wants to go there.
            log_std = log_std.clamp(-8.0, 4.0)
            eps = noise(i, self._shapes[i])
            ratios.append(log_ratio(mean, log_std, eps))
            divergences.append(divergence(mean, log_std))
            return mean + log_std.exp() * eps

        mean, log_scale = self.decode(choose, told)
        log_likelihood = self.likelihood.log_prob(x0, mean, log_scale)
        return Drawn(log_likelihood, torch.stack(ratios).sum(0), torch.stack(divergences, 1), mean)

    def decode(self, choose: Chooser, told: Tensor) -> tuple[Tensor, Tensor]:
        """(mean (B, C, *size), log of the scale) of the pixels, given a choice of latents.

        Args:
            told: what the class says, (B, told).
        """
        h = self.const.expand(len(told), *self.const.shape)
        if self.top is not None:
            h = h + self.top(torch.cat([choose(0, told), told], 1)).view(h.shape)
        for i, stage in enumerate(self.stages, start=1):
            h = self.up(h) if i > 1 else h
            h = stage(h, told, lambda at, i=i: choose(i, at))
        out = crop(F.pixel_shuffle(self.out(F.silu(h)), self.patch), self.spec.size)
        mean, *more = out.split(self.spec.channels, 1)
        return mean + self.centre, self.log_scale + more[0] if more else self.log_scale

    def _told(self, labels: Tensor | None, count: int) -> Tensor:
        if self.table is None or labels is None:
            return self.const.new_zeros(count, self._told_width)
        found: Tensor = self.table(labels)
        return found

    def _sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        told = self._told(labels, len(seeds))

        def choose(i: int, _: Tensor) -> Tensor:
            return normal(seeds, Stream.START, i, shape=self._shapes[i], device=self.device)

        return self.decode(choose, told)[0]

    @torch.no_grad()
    def reconstruct(self, x0: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pictures (B, C, *size) in model units through the mean of the posterior and back."""
        x0 = x0.to(self.device)
        encoded = self.encode(x0, self._checked(labels, len(x0)))
        return self.draw(x0, encoded, lambda _, shape: x0.new_zeros(len(x0), *shape)).mean

    def _log_prob(self, stored: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        x0 = self.spec.to_model(stored)
        encoded, weights = self.encode(x0, labels), []
        for k in range(self.draws):
            found = self.draw(x0, encoded, self._noise(seeds, Stream.BOUND_NOISE, k))
            weights.append((found.log_likelihood + found.log_ratio).to(torch.float64))
        return importance_bound(torch.stack(weights))

    def _noise(self, seeds: Tensor, stream: Stream, draw: Tensor | int) -> Callable[[int, Sequence[int]], Tensor]:
        """Noise of the latents of one draw."""
        count = len(self.latents)
        return lambda i, shape: normal(seeds, stream, draw * count + i, shape=shape, device=self.device)


class VaeLoss:
    """The negative bound in nats per element, with noise keyed by the samples' numbers."""

    def __init__(self, vae: Vae, seed: int) -> None:
        self.vae, self.seed = vae, seed

    def __call__(self, batch: Batch) -> LossTerms:
        vae = self.vae
        seeds = torch.full_like(batch.numbers, self.seed)
        labels = batch.raw if vae.classes else None
        found = vae.draw(
            batch.x0, vae.encode(batch.x0, labels), vae._noise(seeds, Stream.TRAINING_NOISE, batch.numbers)
        )
        sizes = [math.prod(shape) for shape in vae._shapes if shape[0]]
        least = found.divergences.new_tensor([vae.free * size for size in sizes])
        cost = torch.maximum(found.divergences, least).sum(1)
        dims = batch.x0[0].numel()
        with torch.no_grad():
            error = (found.mean - batch.x0).square().flatten(1).mean(1)
        share = found.divergences.detach().sum(1) / dims
        return LossTerms((cost - found.log_likelihood) / dims, error, share)


# Short runs: of 1e-2, 5e-3 and 2e-3 the first did not settle and the last was slower; AdamW was slower still.
USUAL = OptimSettings(optimizer="muon", rate=5e-3, warmup=30, decay=0.5)
