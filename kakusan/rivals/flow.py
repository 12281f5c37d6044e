"""A normalizing flow after Glow, of the layers of the library normflows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.data.source import Pictures
from kakusan.data.spec import DataSpec
from kakusan.extras import need
from kakusan.nn.blocks import conv
from kakusan.nn.shapes import crop, pad
from kakusan.noise import Stream, normal, uniform
from kakusan.objectives import LossTerms
from kakusan.rivals.base import LikelihoodKind, Rival, class_proportions
from kakusan.specs import register
from kakusan.train.feed import Batch
from kakusan.train.optim import OptimSettings
from kakusan.train.trainer import Group

TOLD = 16
"""Channels in which the layers are told the place and the class."""
_FEWEST = 16
"""Pictures that the first scales are measured on; fewer are repeated with other noise."""


class _Map(nn.Module):
    """What a coupling computes shift and scale from: half of the channels, with place and class behind them.

    Hidden values are normalised at each place, so shift and scale stay bounded whatever comes in. Without that a latent
    a little out of the common makes a large shift, which makes the next one larger: a flow of good likelihood drew
    samples of 10^5 in half of its pictures.
    """

    def __init__(self, channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.first = conv(2, channels + TOLD, width)
        self.middle = conv(2, width, width, 1)
        self.last = conv(2, width, 2 * out_channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(_normalised(self.middle(F.silu(_normalised(self.first(x))))))
        shift, scale = self.last(h).chunk(2, dim=1)
        # The library takes shift and log-scale in turn.
        return torch.stack([shift, torch.tanh(scale)], 2).flatten(1, 2)


def _normalised(h: Tensor) -> Tensor:
    """(B, C, H, W) with a root mean square of 1 over the channels of each place."""
    return h * (h.square().mean(1, keepdim=True) + 1e-6).rsqrt()


class _Step(nn.Module):
    """One step of a level: a scale and shift for each channel, an invertible mixing of channels, a coupling."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        flows = need("normflows", extra="rivals", what="the normalizing flow").flows
        self.kept = channels - channels // 2
        self.norm = flows.ActNorm((channels, 1, 1))
        self.mix = flows.Invertible1x1Conv(channels)
        self.coupling = flows.AffineCoupling(_Map(self.kept, width, channels // 2), scale_map="exp")

    def to_latent(self, x: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) towards the latents, and the log-determinant (B,)."""
        x, first = self.norm.inverse(x)
        x, second = self.mix.inverse(x)
        # What the coupling leaves alone may hold more than the picture: place and class pass through with it.
        (_, changed), third = self.coupling.inverse([torch.cat([x[:, : self.kept], told], 1), x[:, self.kept :]])
        return torch.cat([x[:, : self.kept], changed], 1), first + second + third

    def to_data(self, z: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `to_latent`, and its log-determinant (B,)."""
        (_, changed), third = self.coupling([torch.cat([z[:, : self.kept], told], 1), z[:, self.kept :]])
        z, second = self.mix(torch.cat([z[:, : self.kept], changed], 1))
        z, first = self.norm(z)
        return z, first + second + third


class _Level(nn.Module):
    """Steps at one resolution, and the normal distribution of the channels that leave the flow there."""

    def __init__(self, channels: int, leaving: int, width: int, depth: int, size: Sequence[int], classes: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_Step(channels, width) for _ in range(depth))
        self.staying = channels - leaving
        self.place = nn.Parameter(0.1 * torch.randn(TOLD, *size))
        self.table = nn.Embedding(classes, TOLD) if classes else None
        self.prior = conv(2, self.staying + TOLD, 2 * leaving, zero=True)

    def told(self, labels: Tensor | None, count: int) -> Tensor:
        """(B, TOLD, h, w) for labels (B,)."""
        place = self.place.expand(count, *self.place.shape)
        return place if self.table is None or labels is None else place + self.table(labels)[:, :, None, None]

    def moments(self, staying: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, log of the standard deviation) of what leaves, given what stays."""
        mean, log_std = self.prior(torch.cat([staying, told], 1)).chunk(2, dim=1)
        return mean, 4.0 * torch.tanh(log_std / 4.0)


@register
class NormalizingFlow(Rival):
    """Glow (Kingma & Dhariwal 2018, arXiv 1807.03039): levels of activation norm, 1x1 convolution and affine coupling.

    At each level the picture is folded in cells of 2 by 2, and half of the channels leave, normal given the others.
    Place and class are told to every coupling as further channels. Stored integers are spread evenly over their bins
    (Theis et al. 2016, arXiv 1511.01844), so the likelihood, exact for the spread data, is a lower bound for the
    integers and its bits an upper bound. Sides that the cells do not divide are padded with the edge; the padded
    picture's probability is at most that of the picture, so the bound still holds.

    The layers are those of normflows (Stimper et al. 2023, doi 10.21105/joss.05361), the extra `rivals`.

    Args:
        spec: of the pictures; any (H, W).
        proportions: share of each class; empty for a model without classes.
        levels: foldings.
        depth: steps in a level.
        widths: channels inside the couplings of each level.
        temperature: of sampling: standard deviations of the latents are multiplied by it. 1 samples the model.
        draws: of the spreading noise in `log_likelihood`; more make the bound tighter.

    Raises:
        ValueError: data that are no pictures (H, W), or sizes that cannot be built.
        ImportError: normflows is not installed.
    """

    kind: ClassVar[str] = "flow"
    likelihood_kind: ClassVar[LikelihoodKind] = "bound"

    def __init__(
        self,
        *,
        spec: DataSpec,
        proportions: Sequence[float] = (),
        levels: int = 3,
        depth: int = 6,
        widths: Sequence[int] = (96, 128, 192),
        temperature: float = 1.0,
        draws: int = 1,
    ) -> None:
        super().__init__(spec=spec, proportions=proportions)
        if len(spec.size) != 2:
            raise ValueError(f"the flow models pictures (H, W), these data have size {spec.size}")
        if levels < 1 or depth < 1 or draws < 1 or len(widths) != levels or min(widths) < 1 or temperature < 0.0:
            raise ValueError(
                "levels, depth and draws are at least 1, widths holds one positive number for each level, and "
                "temperature is not negative"
            )
        self.temperature, self.draws, self.factor = float(temperature), draws, 2**levels
        padded = [math.ceil(side / self.factor) * self.factor for side in spec.size]
        self.levels, self._shapes, channels = nn.ModuleList(), [], spec.channels
        for i, width in enumerate(widths):
            channels *= 4
            leaving = channels // 2 if i < levels - 1 else channels
            size = [side // 2 ** (i + 1) for side in padded]
            self.levels.append(_Level(channels, leaving, width, depth, size, len(self.classes)))
            self._shapes.append((leaving, *size))
            channels -= leaving
        self.step = 2.0 / (spec.high - spec.low)

    @classmethod
    def for_data(cls, pictures: Pictures, **options: Any) -> Self:
        size = pictures.spec.size
        if len(size) != 2:
            raise ValueError(f"the flow models pictures (H, W), these data have size {size}")
        levels = int(options.get("levels", max(1, round(math.log2(max(2.0, min(size) / 4))))))
        chosen = {"levels": levels, "widths": tuple(min(96 + 48 * i, 192) for i in range(levels)), **options}
        return cls(spec=pictures.spec, proportions=class_proportions(pictures), **chosen)

    @torch.no_grad()
    def start(self, batch: Batch) -> None:
        """Set the scale and shift of every step so that the first batch comes out normalised."""
        times = -(-_FEWEST // len(batch))
        x0, labels = batch.x0.repeat(times, 1, 1, 1), batch.raw
        seeds = torch.arange(len(x0))
        self.to_latents(self.spread(x0, seeds, 0), None if labels is None else labels.repeat(times))

    def groups(self, *, seed: int, settings: OptimSettings | None = None) -> list[Group]:
        return [Group(list(self.parameters()), FlowLoss(self, seed), settings or USUAL)]

    def spread(self, x0: Tensor, seeds: Tensor, draws: Tensor | int) -> Tensor:
        """Stored pictures in model units, padded to whole cells and spread evenly over their bins."""
        x0 = pad(x0, self.factor)
        u = uniform(seeds, Stream.DEQUANTISE, draws, shape=x0.shape[1:], device=x0.device).to(x0.dtype)
        return x0 + (u - 0.5) * self.step

    def to_latents(self, v: Tensor, labels: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """(standard normal latents of each level, log-determinant (B,)) of spread pictures (B, C, H, W)."""
        x, latents = v, []
        total = v.new_zeros(len(v))
        for level in self.levels:
            assert isinstance(level, _Level)
            x, told = F.pixel_unshuffle(x, 2), level.told(labels, len(v))
            for step in level.steps:
                assert isinstance(step, _Step)
                x, change = step.to_latent(x, told)
                total = total + change
            x, leaving = x[:, : level.staying], x[:, level.staying :]
            mean, log_std = level.moments(x, told)
            latents.append((leaving - mean) * (-log_std).exp())
            total = total - log_std.flatten(1).sum(1)
        return latents, total

    def to_data(self, latents: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """The inverse of `to_latents`: pictures (B, C, H, W), padding and all."""
        x = latents[-1][:, :0]
        for level, latent in zip(reversed(self.levels), reversed(latents), strict=True):
            assert isinstance(level, _Level)
            told = level.told(labels, len(latent))
            mean, log_std = level.moments(x, told)
            x = torch.cat([x, latent * log_std.exp() + mean], 1)
            for step in reversed(level.steps):
                assert isinstance(step, _Step)
                x, _ = step.to_data(x, told)
            x = F.pixel_shuffle(x, 2)
        return x

    def log_density(self, v: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p of spread pictures (B, C, H, W), padding and all, in nats: (B,). Exact."""
        latents, change = self.to_latents(v, labels)
        square = torch.stack([z.square().flatten(1).sum(1) for z in latents]).sum(0)
        return change - 0.5 * (square + v[0].numel() * math.log(2.0 * math.pi))

    def log_bound(self, x0: Tensor, labels: Tensor | None, seeds: Tensor, draws: Tensor | int) -> Tensor:
        """A lower bound on log P of stored pictures in model units, from one draw of the spread: (B,)."""
        v = self.spread(x0, seeds, draws)
        return self.log_density(v, labels) + v[0].numel() * math.log(self.step)

    def _log_prob(self, stored: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        x0 = self.spec.to_model(stored)
        found = [self.log_bound(x0, labels, seeds, k).to(torch.float64) for k in range(self.draws)]
        return torch.stack(found).logsumexp(0) - math.log(self.draws)

    def _sample(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        latents = [
            self.temperature * normal(seeds, Stream.START, i, shape=shape, device=self.device)
            for i, shape in enumerate(self._shapes)
        ]
        found = crop(self.to_data(latents, labels), self.spec.size)
        # A flow may map a latent from far outside to where float32 ends; a picture has no such value.
        return found.nan_to_num(0.0)


class FlowLoss:
    """The bound in nats per element, noise keyed by the samples' numbers."""

    def __init__(self, flow: NormalizingFlow, seed: int) -> None:
        self.flow, self.seed = flow, seed

    def __call__(self, batch: Batch) -> LossTerms:
        flow = self.flow
        seeds = torch.full_like(batch.numbers, self.seed)
        labels = batch.raw if flow.classes else None
        loss = -flow.log_bound(batch.x0, labels, seeds, batch.numbers) / batch.x0[0].numel()
        zero = torch.zeros_like(loss.detach())
        return LossTerms(loss, zero, zero)


# Muon, which serves the other models, lets the loss rise again at 2e-3 and 4e-3: its steps are as large for the scales
# of the activation norms and the 1x1 convolutions as for the couplings.
USUAL = OptimSettings(optimizer="adamw", rate=3e-3, warmup=30, decay=0.5)
