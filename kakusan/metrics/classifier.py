"""A small picture classifier: the judge of class-conditional samples, and a space to compare pictures in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from kakusan.data.source import Pictures

_WIDTHS = (32, 64, 96, 128)


class Classifier(nn.Module):
    """Four convolutions, the mean over the picture, one linear layer. Pictures are (B, C, H, W) in [-1, 1].

    Args:
        channels: of the pictures.
        classes: how many.
        shrink: squares of this many pixels are averaged first, which keeps large pictures affordable.
    """

    def __init__(self, *, channels: int, classes: int, shrink: int = 1) -> None:
        super().__init__()
        if shrink < 1:
            raise ValueError(f"shrink is a whole number of pixels from 1 on, got {shrink}")
        self.shrink = shrink
        layers: list[nn.Module] = []
        before = channels
        for depth, width in enumerate(_WIDTHS):
            stride = 1 if depth == 0 else 2
            layers += [
                nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before, classes)

    def features(self, x: Tensor) -> Tensor:
        """What the linear layer sees: (B, D). Call under `torch.no_grad()` when no gradient is wanted."""
        hidden: Tensor = self.body(x if self.shrink == 1 else F.avg_pool2d(x, self.shrink, ceil_mode=True))
        return hidden.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, classes)."""
        scores: Tensor = self.head(self.features(x))
        return scores

    @torch.no_grad()
    def predict(self, x: Tensor, *, batch: int = 256) -> Tensor:
        """The likeliest class of each picture, (B,) int64."""
        return torch.cat([self(part).argmax(dim=1) for part in x.split(batch)])

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        """Share of pictures whose likeliest class is their label."""
        if len(x) != len(labels) or len(x) == 0:
            raise ValueError(
                f"accuracy needs as many labels as pictures and at least one, got {len(x)} and {len(labels)}"
            )
        return (self.predict(x) == labels.to(x.device)).float().mean().item()


def train_classifier(
    pictures: Pictures, *, steps: int = 300, batch: int = 64, seed: int = 0, shrink: int = 1
) -> Classifier:
    """A classifier trained on labelled pictures: deterministic from `seed` on one machine, and in eval mode.

    Training sees the pictures shifted by up to an eighth and with faint noise, so that it judges a sample by its shape
    and colours and not by its finest grain.

    Args:
        pictures: with labels.
        steps: of the optimizer.
        batch: pictures in a step.
        seed: of weights, order and disturbances.
        shrink: see `Classifier`.

    Raises:
        ValueError: pictures without labels, or fewer than two classes.
    """
    labels = pictures.labels
    if labels is None or len(pictures.spec.classes) < 2:
        raise ValueError(
            "a classifier needs pictures with labels of at least two classes; use a folder of class sub-folders"
        )
    generator = torch.Generator().manual_seed(seed)
    # Layers draw their first weights from the global generator: borrow it and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(channels=pictures.spec.channels, classes=len(pictures.spec.classes), shrink=shrink)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.15)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(pictures), generator=generator)])
        chosen, order = order[:batch], order[batch:]
        x = _disturbed(pictures.spec.to_model(pictures.read(chosen.tolist())), generator)
        loss = F.cross_entropy(model(x), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step()
    return model.eval().requires_grad_(False)


def _disturbed(x: Tensor, generator: torch.Generator) -> Tensor:
    """The batch shifted as a whole, with its edges repeated, and with noise of standard deviation 0.05."""
    reach = max(1, min(x.shape[-2:]) // 8)
    down, right = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    x = padded[..., down : down + x.shape[-2], right : right + x.shape[-1]]
    return x + 0.05 * torch.randn(x.shape, generator=generator)
