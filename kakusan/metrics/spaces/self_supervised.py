"""The space "self-supervised": a small network that learnt to fill in what is hidden, without labels."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.metrics.reference import Reference
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces.shapes import check_size, learnt_from, resizer_of, shrink_for
from kakusan.metrics.spaces.store import ALONE, Opening, recall
from kakusan.metrics.spaces.whitening import FEWEST, WhitenedSpace

VERSION = 1
_LIMIT = 64
_STEM_SIDE = 16
_READER = 256


@dataclass(frozen=True)
class MaskingRecipe:
    """How the network is trained.

    Args:
        widths: channels of its stages.
        steps: of the optimizer.
        batch: pictures in a step.
        rate: highest learning rate.
        hidden: share of the picture that is hidden.
        seed: of weights, order and masks.
    """

    widths: tuple[int, ...] = (48, 96, 128)
    steps: int = 300
    batch: int = 64
    rate: float = 3e-3
    hidden: float = 0.5
    seed: int = 0


RECIPE = MaskingRecipe()


class Encoder(nn.Module):
    """A few convolutions, each with half the size of the one before; the mean over the picture is the feature.

    The first one takes steps of 1, 2 or 4 pixels, so that pictures of 16, 32 and 64 pixels cost alike; larger ones are
    averaged down to that first.

    Args:
        channels: of the pictures.
        size: (H, W) of the pictures.
        widths: channels of the stages.
    """

    def __init__(self, *, channels: int, size: tuple[int, int], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.shrink = shrink_for(size, _LIMIT)
        side = math.sqrt(size[0] * size[1]) / self.shrink
        step = next((step for step in (1, 2) if side <= 1.25 * _STEM_SIDE * step), 4)
        layers: list[nn.Module] = []
        before = channels
        for depth, width in enumerate(widths):
            stride = step if depth == 0 else 2
            kernel = 3 if stride < 4 else 7
            layers += [
                nn.Conv2d(before, width, kernel, stride=stride, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.body = nn.Sequential(*layers)
        self.width = before
        self.cell = step * 2 ** (len(widths) - 1)

    def reduce(self, x: Tensor) -> Tensor:
        """Pictures (B, C, H, W) at the size the network works at."""
        return x if self.shrink == 1 else F.avg_pool2d(x, self.shrink, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, D) of pictures (B, C, H, W)."""
        hidden: Tensor = self.body(self.reduce(x))
        return hidden.mean(dim=(2, 3))


class Filler(nn.Module):
    """An encoder, and two layers that read from each place of its last stage what the picture shows there.

    Args:
        encoder: of the pictures.
        channels: of the pictures.
    """

    def __init__(self, encoder: Encoder, *, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.reader = nn.Sequential(
            nn.Conv2d(encoder.width, _READER, 1),
            nn.ReLU(),
            nn.Conv2d(_READER, channels * encoder.cell**2, 1),
            nn.PixelShuffle(encoder.cell),
        )

    def error(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mean square error () over the hidden part of reduced pictures (B, C, H, W); mask (B, 1, H, W) is 1 there."""
        said = self.reader(self.encoder.body(x * (1.0 - mask)))[..., : x.shape[-2], : x.shape[-1]]
        return ((said - x).square() * mask).sum() / (mask.sum() * x.shape[1]).clamp_min(1.0)


def train_filler(pictures: PictureSet, recipe: MaskingRecipe = RECIPE) -> Filler:
    """Train without labels: half of the picture is hidden in squares, and the network says what was there.

    A masked autoencoder (2111.06377) with convolutions in the place of attention: what the encoder makes of the rest is
    read by two layers that see one place each, so the encoder has to gather what neighbours say. The error is the mean
    square over what was hidden. Training moves a whole batch by up to an eighth, with edges repeated, and does nothing
    else to the pictures, so nothing is asked to be overlooked: colour, grain and sharpness all stay visible, and only
    position matters little, for the features are means over the picture. Chosen by measurement over SimCLR, VICReg,
    prediction of turns and swapped channels, and denoising (docs/log.md).

    Returns:
        In eval mode; the same bits from the same pictures, recipe, machine and number of threads.

    Raises:
        ValueError: fewer than 8 pictures, or data that are not pictures (H, W).
    """
    size, channels = check_size(pictures.spec), pictures.spec.channels
    if len(pictures) < FEWEST:
        raise ValueError(
            f"a network without labels needs at least {FEWEST} pictures to learn from, there are {len(pictures)}"
        )
    generator = torch.Generator().manual_seed(recipe.seed)
    # Layers draw their first weights from the global generator: borrow it and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = Encoder(channels=channels, size=size, widths=recipe.widths)
        filler = Filler(encoder, channels=channels)
    optimizer = torch.optim.AdamW(filler.parameters(), lr=recipe.rate, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.rate, total_steps=recipe.steps, pct_start=0.15)
    # Large pictures are averaged down once, not again in every step.
    parts = range(0, len(pictures), recipe.batch) if encoder.shrink > 1 else ()
    small = torch.cat([encoder.reduce(pictures.x(slice(i, i + recipe.batch))) for i in parts]) if parts else None
    batch = min(recipe.batch, len(pictures))
    order = torch.empty(0, dtype=torch.int64)
    with torch.enable_grad():
        for _ in range(recipe.steps):
            if len(order) < batch:
                order = torch.randperm(len(pictures), generator=generator)
            chosen, order = order[:batch], order[batch:]
            x = _moved(pictures.x(chosen) if small is None else small[chosen], generator)
            error = filler.error(x, mask_for(x, encoder.cell, recipe.hidden, generator))
            optimizer.zero_grad(set_to_none=True)
            error.backward()
            optimizer.step()
            rate.step()
    return filler.eval().requires_grad_(False)


def _moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """The batch moved as a whole, by up to an eighth of the shorter side, its edges repeated."""
    reach = max(1, min(x.shape[-2:]) // 8)
    down, right = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    return padded[..., down : down + x.shape[-2], right : right + x.shape[-1]]


def mask_for(x: Tensor, cell: int, share: float, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W), 1 where hidden: squares of one place of the last stage, or smaller for at least 2 x 2."""
    height, width = x.shape[-2:]
    side = max(1, min(cell, height // 2, width // 2))
    shape = (len(x), 1, math.ceil(height / side), math.ceil(width / side))
    drawn = (torch.rand(shape, generator=generator) < share).float()
    return drawn.repeat_interleave(side, 2).repeat_interleave(side, 3)[..., :height, :width]


def open_self_supervised(reference: Reference, how: Opening = ALONE) -> WhitenedSpace:
    """The space "self-supervised": `train_filler` on the learning part, or what it made before, whitened.

    Raises:
        ValueError: too few pictures, or data that are not pictures (H, W).
    """
    recipe, learning = RECIPE, reference.learning
    spec, size = learning.spec, check_size(learning.spec)

    def train() -> Encoder:
        how.tell(f"training a network without labels on {len(learning)} pictures, about half a minute on one core")
        return train_filler(learning, recipe).encoder

    network = recall(
        "self-supervised",
        {"version": VERSION, "recipe": asdict(recipe), **learnt_from(reference)},
        lambda: Encoder(channels=spec.channels, size=size, widths=recipe.widths),
        train,
        how,
    )
    return WhitenedSpace("self-supervised", network, learning, version=VERSION, resizer=resizer_of(network.shrink))
