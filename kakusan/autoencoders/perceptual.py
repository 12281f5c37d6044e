"""How different two pictures look, by the layers of a network that was trained on such pictures; differentiable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kakusan.data.source import Pictures
from kakusan.metrics.sets import PictureSet
from kakusan.metrics.spaces.self_supervised import MaskingRecipe, train_filler
from kakusan.specs import suggestion

WIDTHS = (24, 48, 64)
CROP, CROPS = 16, 2048
_RECIPE = MaskingRecipe(widths=WIDTHS, steps=200)


class Features(nn.Module):
    """Convolutions of step 1, 2, 2 ... with the layers that a distance looks at: its rectified outputs.

    Args:
        body: of convolutions, normalisations and rectifiers, as `kakusan.metrics.spaces.self_supervised` builds them.
    """

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The layers of pictures (B, C, H, W), finest first."""
        found = []
        for layer in self.body:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found

    def train(self, mode: bool = True) -> Features:
        """Statistics of its norms stay as they are."""
        return super().train(False)


def empty_features(channels: int) -> Features:
    """Features with weights drawn at random: small networks tell textures apart without having learnt anything."""
    layers: list[nn.Module] = []
    before = channels
    for depth, width in enumerate(WIDTHS):
        convolution = nn.Conv2d(before, width, 3, stride=1 if depth == 0 else 2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return Features(nn.Sequential(*layers))


def learned_features(pictures: Pictures, *, seed: int = 0) -> Features:
    """Features that learnt to fill in what is hidden in small squares of these pictures, without labels.

    The network of the feature space "self-supervised", on squares of 16 pixels: there its first layer sees every pixel,
    and being convolutional it takes whole pictures afterwards.

    Args:
        pictures: of the training set.
        seed: of weights, squares and masks.
    """
    spec = pictures.spec
    side = tuple(min(CROP, n) for n in spec.size)
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(pictures), size=min(CROPS // 4, len(pictures)), replace=False))
    stored = pictures.read(rows)
    cuts = []
    for _ in range(max(1, CROPS // len(rows))):
        top, left = (int(generator.integers(0, n - s + 1)) for n, s in zip(spec.size, side, strict=True))
        cuts.append(stored[:, :, top : top + side[0], left : left + side[1]])
    crops = PictureSet(torch.cat(cuts), dataclasses.replace(spec, size=side, augment=0.0))
    filler = train_filler(crops, dataclasses.replace(_RECIPE, seed=seed))
    return Features(filler.encoder.body)


def random_features(pictures: Pictures, *, seed: int = 0) -> Features:
    """Features that learnt nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return empty_features(pictures.spec.channels)


FEATURES: Mapping[str, Callable[..., Features]] = {"learned": learned_features, "random": random_features}
"""What the perceptual part of the loss looks at."""


def features_of(name: str, pictures: Pictures, *, seed: int = 0) -> Features:
    """Features by name, for the training pictures.

    Raises:
        ValueError: no such features.
    """
    if name not in FEATURES:
        raise ValueError(f"no features {name!r}{suggestion(name, list(FEATURES))}; there are {', '.join(FEATURES)}")
    return FEATURES[name](pictures, seed=seed)


def perceptual_distance(features: Features, x: Tensor, truth: Tensor) -> Tensor:
    """Distance (B,) of pictures x to their truth (B, C, H, W), 0 where equal, with a gradient for x.

    Channels are brought to unit length at every place; squared differences are averaged over places and then over the
    layers (Zhang et al. 2018, arXiv 1801.03924, eq. 1, without weights that people's ratings were fitted to).
    """
    with torch.no_grad():
        theirs = features(truth)
    total = x.new_zeros(len(x))
    for mine, other in zip(features(x), theirs, strict=True):
        apart = F.normalize(mine, dim=1, eps=1e-3) - F.normalize(other, dim=1, eps=1e-3)
        total = total + apart.square().sum(1).flatten(1).mean(1)
    return total / len(theirs)
